//! The proof that one lane's share of a batch is delivered; the only thing that can settle it.

use super::manifest::{BatchId, LanePart, Voided};
use super::offset_runs::{Delivered, OffsetRuns};

/// The proof that every record of one lane's share of a batch is at its offset, or void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSettlement {
    batch: BatchId,
    part: LanePart,
    runs: OffsetRuns,
    voided: Vec<Voided>,
}

impl LaneSettlement {
    /// Takes where the part's records are, in seq order, and why some are nowhere.
    ///
    /// # Panics
    /// When there are not as many records as the manifest gives the lane, or the
    /// voids are not those that have a reason: settling such a part would mark a
    /// row sent that nobody acknowledged.
    #[must_use]
    pub fn new(batch: BatchId, part: LanePart, runs: OffsetRuns, mut voided: Vec<Voided>) -> Self {
        assert_eq!(runs.len(), part.rows, "batch {batch}: every record of a lane needs its delivery");
        voided.sort_by_key(|void| void.seq);
        let void_seqs = runs.voids().map(|index| part.first_seq.0 + u64::from(index));
        let of_this_lane = |void: &Voided| {
            void.topic == part.topic && void.epoch == part.epoch && void.partition == part.partition
        };
        assert!(
            voided.iter().all(of_this_lane) && void_seqs.eq(voided.iter().map(|void| void.seq.0)),
            "batch {batch}: each voided seq of {}[{}] has its reason",
            part.topic,
            part.partition
        );
        Self { batch, part, runs, voided }
    }

    /// As [`new`](Self::new), from the records' fates one by one.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn from_fates(
        batch: BatchId,
        part: LanePart,
        fates: impl IntoIterator<Item = Delivered>,
        voided: Vec<Voided>,
    ) -> Self {
        Self::new(batch, part, fates.into_iter().collect(), voided)
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> BatchId {
        self.batch
    }

    /// The lane's share of the batch.
    #[must_use]
    pub fn part(&self) -> &LanePart {
        &self.part
    }

    /// Where the records are.
    #[must_use]
    pub fn runs(&self) -> &OffsetRuns {
        &self.runs
    }

    /// The seqs that are void, with their rows, rising.
    #[must_use]
    pub fn voided(&self) -> &[Voided] {
        &self.voided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::manifest::{RejectCode, Rejected, RowId};
    use homing_core::{Epoch, Offset, Partition, Seq, TopicName};
    use std::time::{Duration, Instant};

    fn part(rows: u32) -> LanePart {
        let topic = TopicName::parse("t").unwrap();
        let (epoch, partition, first_seq) = (Epoch(1), Partition(0), Seq(11));
        LanePart { topic, epoch, partition, first_seq, rows, takes_null_keys: false }
    }

    fn void(seq: u64) -> Voided {
        let rejected = Rejected { row: RowId(1), code: RejectCode::Refused, reason: String::new() };
        let topic = TopicName::parse("t").unwrap();
        let (epoch, partition, seq) = (Epoch(1), Partition(0), Seq(seq));
        Voided { rejected, message_id: [0; 16], topic, epoch, partition, seq }
    }

    #[test]
    fn a_proof_that_lacks_a_record_or_a_reason_is_none() {
        let at = |offset| Delivered::At(Offset(offset));
        let of = |fates: &[Delivered], voided: &[Voided]| {
            let (fates, voided) = (fates.to_vec(), voided.to_vec());
            std::panic::catch_unwind(move || LaneSettlement::from_fates(BatchId(1), part(3), fates, voided))
        };
        assert!(of(&[at(5), Delivered::Void, at(6)], &[void(12)]).is_ok());
        assert!(
            of(&[Delivered::Void, at(5), Delivered::Void], &[void(13), void(11)]).is_ok(),
            "in any order"
        );
        assert!(of(&[at(5), at(6)], &[]).is_err(), "a record is missing");
        assert!(of(&[at(5), Delivered::Void, at(6)], &[]).is_err(), "no reason");
        assert!(of(&[at(5), Delivered::Void, at(6)], &[void(11)]).is_err(), "another seq's reason");
    }

    /// Every second record follows a foreign one, so that there is a run for each.
    #[test]
    fn a_proof_of_many_runs_takes_no_time() {
        let rows = 200_000;
        let began = Instant::now();
        let fates = (0..i64::from(rows)).map(|n| Delivered::At(Offset(n * 2)));
        let settlement = LaneSettlement::from_fates(BatchId(1), part(rows), fates, Vec::new());
        assert_eq!(settlement.runs().len(), rows);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
