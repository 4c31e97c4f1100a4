//! One batch in memory: its rows, by lane and in the order of their seqs.

use crate::outbox::numbering::Numbered;
use crate::outbox::rows::{RowBuf, RowRef};
use crate::outbox::store::{LanePart, Manifest, RejectCode, Rejected, Voided};
use homing_core::Seq;
use homing_core::relay::{LaneIx, NewPart};
use std::time::Instant;

/// A batch's rows with their lanes.
#[derive(Debug)]
pub(super) struct Loaded {
    pub manifest: Manifest,
    pub rows: RowBuf,
    /// Each manifest lane's place in the machine.
    pub lanes: Vec<LaneIx>,
    /// Each manifest lane's rows, in seq order.
    order: Vec<Vec<u32>>,
    /// Rows handed over, for the steps that tests watch.
    pub handed: usize,
    /// Whether any of it may have been sent before it was read again.
    pub resend: bool,
    pub since: Instant,
}

impl Loaded {
    pub fn new(manifest: Manifest, rows: RowBuf, numbers: &[Numbered], lanes: Vec<LaneIx>) -> Self {
        let mut order: Vec<Vec<u32>> =
            manifest.lanes.iter().map(|part| Vec::with_capacity(part.rows as usize)).collect();
        for (row, numbered) in (0..).zip(numbers) {
            order[numbered.lane as usize].push(row);
        }
        Self { manifest, rows, lanes, order, handed: 0, resend: false, since: Instant::now() }
    }

    /// What the machine is told of it.
    pub fn parts(&self) -> Vec<NewPart> {
        let parts = self.manifest.lanes.iter().zip(&self.lanes);
        (0..)
            .zip(parts)
            .map(|(place, (part, lane))| NewPart {
                lane: *lane,
                place,
                first: part.first_seq,
                rows: part.rows,
            })
            .collect()
    }

    /// A lane's share.
    pub fn part(&self, lane: LaneIx) -> Option<(usize, &LanePart)> {
        let place = self.lanes.iter().position(|known| *known == lane)?;
        Some((place, &self.manifest.lanes[place]))
    }

    /// The row of a seq of the lane at `place`.
    pub fn row(&self, place: usize, seq: Seq) -> Option<RowRef<'_>> {
        let nth = seq.0.checked_sub(self.manifest.lanes[place].first_seq.0)?;
        let row = *self.order[place].get(usize::try_from(nth).ok()?)?;
        Some(self.rows.get(row as usize))
    }

    /// Why a seq of the lane at `place` is set aside.
    pub fn voided(&self, place: usize, seq: Seq, (code, reason): (RejectCode, String)) -> Option<Voided> {
        let part = &self.manifest.lanes[place];
        let row = self.row(place, seq)?;
        Some(Voided {
            rejected: Rejected { row: row.id, code, reason },
            message_id: row.message_id,
            topic: part.topic.clone(),
            epoch: part.epoch,
            partition: part.partition,
            seq,
        })
    }
}
