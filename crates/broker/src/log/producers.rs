//! What a partition remembers of idempotent producers: the last five batches of each.
//!
//! The rules are Apache Kafka's (`ProducerAppendInfo`, `ProducerStateEntry`): a
//! batch that is among the last five is acknowledged again with its first
//! offset, a gap in the sequences is refused, an older epoch is fenced, and a
//! producer that is not known (any more) may start at any sequence.

use super::batch::BatchHeader;
use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

/// As many batches as a client may have in flight.
const BATCHES_KEPT: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Appended {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Producer {
    epoch: i16,
    last_appended_ms: i64,
    batches: VecDeque<Appended>,
}

/// Every producer that a partition knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producers {
    by_id: HashMap<i64, Producer>,
}

/// What is to be done with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequenced {
    /// It is new: append it.
    New,
    /// It stands in the log already, at this base offset.
    Duplicate(i64),
}

impl Producers {
    /// Decides on an arriving batch; changes nothing.
    ///
    /// # Errors
    /// `INVALID_PRODUCER_EPOCH` for an older epoch, `OUT_OF_ORDER_SEQUENCE_NUMBER` for a gap.
    pub fn check(&self, batch: &BatchHeader) -> Result<Sequenced, ResponseError> {
        if !batch.is_idempotent() {
            return Ok(Sequenced::New);
        }
        let Some(producer) = self.by_id.get(&batch.producer_id) else { return Ok(Sequenced::New) };
        if batch.producer_epoch < producer.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        if batch.producer_epoch > producer.epoch {
            return if batch.base_sequence == 0 {
                Ok(Sequenced::New)
            } else {
                Err(ResponseError::OutOfOrderSequenceNumber)
            };
        }
        let same = |seen: &&Appended| {
            seen.first_sequence == batch.base_sequence && seen.last_sequence == batch.last_sequence()
        };
        if let Some(seen) = producer.batches.iter().find(same) {
            return Ok(Sequenced::Duplicate(seen.base_offset));
        }
        let expected = producer.batches.back().map(|last| last.last_sequence.checked_add(1).unwrap_or(0));
        if expected.is_none_or(|expected| expected == batch.base_sequence) {
            Ok(Sequenced::New)
        } else {
            Err(ResponseError::OutOfOrderSequenceNumber)
        }
    }

    /// Remembers a batch that was appended at `base_offset` at `now_ms`. The batch's own
    /// timestamps are the client's and may lie years back: by them a busy producer would be
    /// forgotten at once.
    pub fn appended(&mut self, batch: &BatchHeader, base_offset: i64, now_ms: i64) {
        if !batch.is_idempotent() {
            return;
        }
        let producer = self.by_id.entry(batch.producer_id).or_insert_with(|| Producer {
            epoch: batch.producer_epoch,
            last_appended_ms: now_ms,
            batches: VecDeque::new(),
        });
        if producer.epoch != batch.producer_epoch {
            producer.epoch = batch.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == BATCHES_KEPT {
            producer.batches.pop_front();
        }
        producer.last_appended_ms = producer.last_appended_ms.max(now_ms);
        producer.batches.push_back(Appended {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset,
        });
    }

    /// Forgets producers that appended nothing since `before_ms` (`producer.id.expiration.ms`, P17).
    pub fn forget_before(&mut self, before_ms: i64) {
        self.by_id.retain(|_, producer| producer.last_appended_ms >= before_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::tests::batch;
    use super::*;

    fn header(records: i32, epoch: i16, sequence: i32) -> BatchHeader {
        BatchHeader::parse(&batch(records, (9, epoch, sequence), b"")).unwrap()
    }

    #[test]
    fn a_resent_batch_is_known_by_its_sequences_and_a_gap_is_refused() {
        let mut producers = Producers::default();
        for n in 0..7 {
            let batch = header(2, 0, n * 2);
            assert_eq!(producers.check(&batch), Ok(Sequenced::New));
            producers.appended(&batch, i64::from(n) * 2, 0);
        }
        assert_eq!(producers.check(&header(2, 0, 12)), Ok(Sequenced::Duplicate(12)));
        assert_eq!(producers.check(&header(2, 0, 4)), Ok(Sequenced::Duplicate(4)));
        // The sixth from the end is forgotten; it must not be appended again.
        assert_eq!(producers.check(&header(2, 0, 2)), Err(ResponseError::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(&header(2, 0, 16)), Err(ResponseError::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(&header(2, 0, 14)), Ok(Sequenced::New));
    }

    #[test]
    fn a_new_epoch_starts_at_zero_and_fences_the_old_one() {
        let mut producers = Producers::default();
        producers.appended(&header(1, 1, 5), 0, 0);
        assert_eq!(producers.check(&header(1, 0, 6)), Err(ResponseError::InvalidProducerEpoch));
        assert_eq!(producers.check(&header(1, 2, 3)), Err(ResponseError::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(&header(1, 2, 0)), Ok(Sequenced::New));
    }

    #[test]
    fn an_unknown_producer_may_start_anywhere() {
        assert_eq!(Producers::default().check(&header(1, 3, 42)), Ok(Sequenced::New));
    }
}
