//! Claiming and settling: the relay's one transaction, and what memory does after it.

use super::error::Halt;
use super::flight::Flight;
use super::plan::plan;
use super::reading::ReadBatch;
use super::session::{Session, now_ms};
use super::status::Count;
use crate::outbox::store::{BatchId, Claimed, Commit, LaneSettlement};

impl Session<'_> {
    /// Settles the complete flights at the front and, in the same commit, claims `batch`.
    ///
    /// With a `batch` its topics are open and its rows fit. On success a
    /// claimed batch's flight is at the back; its rows were moved out of `batch`.
    pub fn settle(&mut self, batch: Option<&mut ReadBatch>) -> Result<(), Halt> {
        let settle = self.settlements()?;
        let planned =
            batch.as_ref().map(|batch| plan(self.next_batch, batch.span.clone(), &batch.rows, &self.topics));
        if settle.is_empty() && batch.is_none() {
            return Ok(());
        }
        if !settle.is_empty() {
            self.ground.options.steps.reached("relay.all_acked");
        }
        let manifest = planned.as_ref().map(|plan| &plan.manifest).filter(|manifest| manifest.rows > 0);
        let commit = Commit {
            settle: &settle,
            manifest,
            reject: batch.as_ref().map_or(&[], |batch| batch.rows.faults()),
            hold: &[],
            claimed: batch.as_ref().map(|batch| Claimed::Live(batch.span.to)),
            now_ms: now_ms(),
            lease_until_ms: self.lease_until_ms(),
        };
        self.ground.store.commit(self.ground.token, &commit)?;
        let claimed = manifest.is_some();
        self.renewed();
        self.after_settle(&settle);
        if let (Some(batch), Some(plan)) = (batch, planned) {
            self.ground.status.add(Count::Rejected, batch.rows.faults().len() as u64);
            if claimed {
                for (part, (topic, at)) in plan.manifest.lanes.iter().zip(&plan.places) {
                    self.topics.list[*topic].lanes[*at].next_seq += u64::from(part.rows);
                }
                self.next_batch = BatchId(self.next_batch.0 + 1);
                self.ground.status.add(Count::Claimed, u64::from(plan.manifest.rows));
                let rows = std::mem::take(&mut batch.rows);
                self.flights.push_back(Flight::new(plan, rows, false));
                self.ground.options.steps.reached("relay.manifest_committed");
            } else if !batch.rows.faults().is_empty() {
                // Whoever waits for those rows finds them among the dead letters.
                self.ground.store.signals().settled.ring();
            }
        }
        self.ground.status.set_oldest(self.flights.front().map(|flight| flight.claimed));
        Ok(())
    }

    /// The proofs of the complete flights at the front, as far as the cluster is beyond doubt.
    fn settlements(&mut self) -> Result<Vec<LaneSettlement>, Halt> {
        let complete = self.flights.iter().take_while(|flight| flight.is_complete()).count();
        if complete == 0 {
            return Ok(Vec::new());
        }
        let settle: Vec<_> = self.flights.iter().take(complete).flat_map(Flight::settlements).collect();
        let places = self.flights.iter().take(complete).flat_map(|flight| &flight.places);
        for (lane, (topic, at)) in settle.iter().zip(places) {
            let from = self.topics.list[*topic].lanes[*at].next_offset;
            if lane.runs().first().is_some_and(|first| first < from) {
                // Offsets that go back: another log than the one settled before.
                self.pins.doubt();
            }
        }
        if self.pins.in_doubt() {
            self.check_pins()?;
        }
        Ok(settle)
    }

    fn after_settle(&mut self, mut settled: &[LaneSettlement]) {
        if settled.is_empty() {
            return;
        }
        while !settled.is_empty() {
            let flight = self.flights.pop_front().expect("a settled flight was the first");
            self.first_flight = self.first_flight.wrapping_add(1);
            let (own, others) = settled.split_at(flight.places.len());
            settled = others;
            for (lane, (topic, at)) in own.iter().zip(&flight.places) {
                let lane_now = &mut self.topics.list[*topic].lanes[*at];
                lane_now.next_offset =
                    lane_now.next_offset.max(lane.runs().end().unwrap_or(lane_now.next_offset));
            }
            self.ground.status.add(Count::Settled, u64::from(flight.manifest.rows));
            self.ground.status.add(Count::Voided, flight.voided() as u64);
            self.ground.status.add(Count::Batches, 1);
            self.recycle(flight.rows);
        }
        self.ground.store.signals().settled.ring();
        self.ground.options.steps.reached("relay.settled");
    }

    /// Sends the flight that was just claimed.
    pub fn fly(&mut self) -> Result<(), Halt> {
        self.send_flight(self.flights.len() - 1)
    }
}
