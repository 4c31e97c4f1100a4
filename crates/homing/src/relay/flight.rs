//! One batch under way: what became of each of its rows, until it can be settled.

use super::plan::Plan;
use crate::outbox::numbering::Numbered;
use crate::outbox::offset_runs::{Delivered, OffsetRuns};
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{LaneSettlement, Manifest, RejectCode, Rejected, Voided};
use homing_core::Offset;
use std::time::Instant;

/// What is known of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowFate {
    /// Not handed to this producer.
    Unsent,
    /// Handed over, no report yet.
    Sent,
    /// In Kafka at this offset.
    At(Offset),
    /// Acknowledged at an offset nobody told, or failed: only the log can tell.
    Unknown,
    /// Refused for good.
    Void,
}

/// A batch between its manifest and its settlement.
#[derive(Debug)]
pub(super) struct Flight {
    pub manifest: Manifest,
    pub rows: RowBuf,
    pub numbers: Vec<Numbered>,
    /// Each manifest lane's place in `Topics`.
    pub places: Vec<(usize, usize)>,
    pub claimed: Instant,
    /// Whether any of it may have been sent by an earlier producer.
    pub resend: bool,
    fates: Vec<RowFate>,
    undecided: usize,
    voids: Vec<(usize, RejectCode, String)>,
}

impl Flight {
    pub fn new(plan: Plan, rows: RowBuf, resend: bool) -> Self {
        let fates = vec![RowFate::Unsent; rows.len()];
        Self {
            manifest: plan.manifest,
            undecided: rows.len(),
            rows,
            numbers: plan.numbers,
            places: plan.places,
            claimed: Instant::now(),
            resend,
            fates,
            voids: Vec::new(),
        }
    }

    pub fn fate(&self, row: usize) -> RowFate {
        self.fates[row]
    }

    pub fn sent(&mut self, row: usize) {
        self.fates[row] = RowFate::Sent;
    }

    /// Takes an acknowledgement or a find of the tail read; the first one counts.
    pub fn found(&mut self, row: usize, offset: Offset) -> bool {
        let fresh = !matches!(self.fates[row], RowFate::At(_) | RowFate::Void);
        if fresh {
            self.fates[row] = RowFate::At(offset);
            self.undecided -= 1;
        }
        fresh
    }

    pub fn unknown(&mut self, row: usize) {
        if !matches!(self.fates[row], RowFate::At(_) | RowFate::Void) {
            self.fates[row] = RowFate::Unknown;
        }
    }

    pub fn void(&mut self, row: usize, code: RejectCode, reason: String) {
        if !matches!(self.fates[row], RowFate::At(_) | RowFate::Void) {
            self.fates[row] = RowFate::Void;
            self.undecided -= 1;
            self.voids.push((row, code, reason));
        }
    }

    /// The producer is gone: what is not decided is to be looked for and sent again.
    pub fn forget_producer(&mut self) {
        self.resend = true;
        for fate in &mut self.fates {
            if matches!(fate, RowFate::Sent | RowFate::Unknown) {
                *fate = RowFate::Unsent;
            }
        }
    }

    /// Whether every row is in Kafka or void.
    pub fn is_complete(&self) -> bool {
        self.undecided == 0
    }

    pub fn voided(&self) -> usize {
        self.voids.len()
    }

    /// The proofs that the batch is delivered, lane by lane in the manifest's order.
    ///
    /// # Panics
    /// When it is not: a row would be marked sent that nobody acknowledged.
    pub fn settlements(&self) -> Vec<LaneSettlement> {
        let mut runs = vec![OffsetRuns::default(); self.manifest.lanes.len()];
        for (fate, numbered) in self.fates.iter().zip(&self.numbers) {
            runs[numbered.lane as usize].push(
                1,
                match fate {
                    RowFate::At(offset) => Delivered::At(*offset),
                    RowFate::Void => Delivered::Void,
                    fate => panic!("batch {} is not delivered: a row is {fate:?}", self.manifest.batch),
                },
            );
        }
        let mut voided = vec![Vec::new(); runs.len()];
        for (row, code, reason) in &self.voids {
            voided[self.numbers[*row].lane as usize].push(self.voided_row(*row, *code, reason));
        }
        let lanes = self.manifest.lanes.iter().cloned().zip(runs).zip(voided);
        lanes
            .map(|((part, runs), voided)| LaneSettlement::new(self.manifest.batch, part, runs, voided))
            .collect()
    }

    fn voided_row(&self, row: usize, code: RejectCode, reason: &str) -> Voided {
        let numbered = self.numbers[row];
        let part = &self.manifest.lanes[numbered.lane as usize];
        let row = self.rows.get(row);
        Voided {
            rejected: Rejected { row: row.id, code, reason: reason.to_owned() },
            message_id: row.message_id,
            topic: part.topic.clone(),
            epoch: part.epoch,
            partition: part.partition,
            seq: numbered.seq,
        }
    }
}
