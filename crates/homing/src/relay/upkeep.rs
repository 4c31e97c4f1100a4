//! Repairs and pruning: sending rows again that the auditor misses, deleting those it has seen.
//!
//! Side work: it holds no lane back and ends no relay. Repairs have a producer of
//! their own, which is open while there are orders.

use super::error::Halt;
use super::options::RelayOptions;
use super::producing::{Encoder, Envelope};
use super::session::{Session, now_ms};
use super::status::Count;
use crate::kafka::producer::{Grouping, Producer, Refusal, Report, TopicHandle};
use crate::outbox::numbering::number;
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{LanePart, Manifest, PruneLimits, RepairOrder, RepairState};
use homing_core::{Flags, Seq};
use std::time::{Duration, Instant};

/// How often the relay looks for orders, and deals out its share of rows.
const EVERY: Duration = Duration::from_millis(100);
/// How long a failed look is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// The order at work and the clocks of the side work.
pub(super) struct Upkeep {
    current: Option<Replay>,
    looked_at: Instant,
    rows_per_look: u64,
    pruned_at: Instant,
    /// The last look found rows to delete, so there may be more.
    prune_again: bool,
    encoder: Encoder,
}

struct Replay {
    order: RepairOrder,
    next: Seq,
    producer: Producer,
    topic: TopicHandle,
    /// The batch at work: read once, however many shares it is sent in.
    batch: Option<ReplayBatch>,
    waiting: u64,
    failed: bool,
    begun: Instant,
}

struct ReplayBatch {
    part: LanePart,
    rows: RowBuf,
    /// The lane's rows in seq order.
    order: Vec<u32>,
    void: Vec<Seq>,
}

impl Upkeep {
    pub fn new(options: &RelayOptions) -> Self {
        let rows_per_look = (u64::from(options.repair_rows_per_second) / 10).max(1);
        let now = Instant::now();
        let encoder = Encoder::default();
        Self { current: None, looked_at: now, rows_per_look, pruned_at: now, prune_again: false, encoder }
    }

    pub fn is_repairing(&self) -> bool {
        self.current.is_some()
    }
}

/// Why an order is not sent on now.
enum Ends {
    /// Its rows, or its topic's kind, do not allow it.
    Never(String),
    /// It waits.
    NotNow,
}

impl Session<'_> {
    /// A share of repairs and pruning, when it is time for them. Trouble with it is its own.
    pub fn upkeep(&mut self) -> Result<(), Halt> {
        if self.upkeep.looked_at.elapsed() >= EVERY {
            self.upkeep.looked_at = Instant::now();
            if let Err(halt) = self.repair() {
                self.put_off("repair", halt)?;
            }
        }
        if let Err(halt) = self.prune() {
            self.put_off("prune", halt)?;
        }
        Ok(())
    }

    /// Only what ends the whole session goes on; the rest is tried again later.
    fn put_off(&mut self, what: &'static str, halt: Halt) -> Result<(), Halt> {
        match halt {
            Halt::Wait(said) => {
                tracing::debug!(what, why = said.what, "put off");
                self.upkeep.looked_at = Instant::now() + PAUSE;
                Ok(())
            }
            halt => Err(halt),
        }
    }

    fn prune(&mut self) -> Result<(), Halt> {
        let Some(prune) = &self.ground.options.prune else { return Ok(()) };
        let pause = if self.upkeep.prune_again { EVERY.min(prune.every) } else { prune.every };
        if self.upkeep.pruned_at.elapsed() < pause {
            return Ok(());
        }
        self.upkeep.pruned_at = Instant::now();
        let pruned = self.ground.store.prune(self.ground.token, PruneLimits::new(now_ms(), prune.keep))?;
        self.ground.status.add(Count::Pruned, pruned.rows);
        self.upkeep.prune_again = pruned.more;
        Ok(())
    }

    fn repair(&mut self) -> Result<(), Halt> {
        if let Some(replay) = &mut self.upkeep.current {
            let polled = replay.producer.poll(Duration::ZERO, |_, report| {
                replay.waiting = replay.waiting.saturating_sub(1);
                replay.failed |= !matches!(report, Report::At(_) | Report::Somewhere);
            });
            let fatal = polled.errors.iter().any(|error| error.fatal);
            // Nothing came back for long: given up for this time, so that other orders have their turn.
            let stuck = replay.begun.elapsed() > self.ground.options.lease * 6;
            if fatal || stuck {
                (replay.failed, replay.waiting) = (true, 0);
            }
            if replay.next > replay.order.to || replay.failed {
                return if replay.waiting == 0 { self.close_order() } else { Ok(()) };
            }
            return self.replay_share();
        }
        for order in self.ground.store.repairs_wanted(16)? {
            match self.may_repair(&order) {
                Ok(()) => {
                    self.begin_order(order)?;
                    return self.replay_share();
                }
                Err(Ends::NotNow) => {}
                Err(Ends::Never(why)) => self.irreparable(&order, &why)?,
            }
        }
        Ok(())
    }

    /// A compacted topic is never repaired: an old value would stand over a newer one.
    fn may_repair(&mut self, order: &RepairOrder) -> Result<(), Ends> {
        let Some(ix) = self.machine.find(&order.topic) else {
            return Err(Ends::Never("its topic has no epoch in this outbox any more".to_owned()));
        };
        if self.topics.epoch(ix).is_none_or(|open| open.epoch != order.epoch) {
            return Err(Ends::Never("its epoch is closed".to_owned()));
        }
        if !matches!(self.machine.topic_phase(ix), homing_core::relay::TopicPhase::Open) {
            return Err(Ends::NotNow);
        }
        match self.topics.get(ix).compacted {
            None => Err(Ends::NotNow),
            Some(true) => Err(Ends::Never(
                "its topic is compacted: the old value would stand over a newer one of its key".to_owned(),
            )),
            Some(false) => Ok(()),
        }
    }

    fn irreparable(&mut self, order: &RepairOrder, why: &str) -> Result<(), Halt> {
        tracing::error!(topic = %order.topic, partition = order.partition.0, from = order.from.0, to = order.to.0,
            "cannot be repaired: {why}");
        self.end_order(order, RepairState::Irreparable)
    }

    fn begin_order(&mut self, order: RepairOrder) -> Result<(), Halt> {
        let limit = self.topics.smallest_message_limit() * 19 / 20;
        let grouping = Grouping { bytes_max: limit, isolated: true, records_max: 10_000 };
        let mut producer = Producer::open(self.ground.kafka, grouping)?;
        let topic = producer.topic(&order.topic).map_err(super::RelayError::from)?;
        let next = order.from;
        let begun = Instant::now();
        let replay = Replay { order, next, producer, topic, batch: None, waiting: 0, failed: false, begun };
        self.upkeep.current = Some(replay);
        Ok(())
    }

    /// Sends the next rows of the order, as many as the rate allows.
    fn replay_share(&mut self) -> Result<(), Halt> {
        let mut left = self.upkeep.rows_per_look;
        while left > 0 {
            let Some(mut replay) = self.upkeep.current.take() else { return Ok(()) };
            if replay.next > replay.order.to || replay.failed {
                self.upkeep.current = Some(replay);
                return Ok(());
            }
            let at_work = replay.batch.as_ref().is_some_and(|batch| batch.part.last_seq() >= replay.next);
            if !at_work {
                match self.replay_batch(&replay.order, replay.next) {
                    Ok(batch) => replay.batch = Some(batch),
                    Err(ReplayError::Gone(why)) => return self.irreparable(&replay.order, &why),
                    Err(ReplayError::Halt(halt)) => {
                        self.upkeep.current = Some(replay);
                        return Err(halt);
                    }
                }
            }
            let sent = replay.send(&mut self.upkeep.encoder, (self.ground.store.stream(), left));
            self.ground.status.add(Count::Replayed, sent.rows);
            left = left.saturating_sub(sent.rows);
            self.upkeep.current = Some(replay);
            if sent.full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the lane's share of the batch that holds a seq.
    fn replay_batch(&self, order: &RepairOrder, seq: Seq) -> Result<ReplayBatch, ReplayError> {
        let gone = |why: String| ReplayError::Gone(why);
        let store = &self.ground.store;
        let found = store.batch_of(&order.topic, order.epoch, order.partition, seq)?;
        let manifest = found.ok_or_else(|| gone(format!("the row of seq {seq} is gone")))?;
        let of_lane = |part: &LanePart| {
            part.topic == order.topic && part.epoch == order.epoch && part.partition == order.partition
        };
        let place = manifest.lanes.iter().position(of_lane);
        let place = place.ok_or_else(|| gone(format!("the row of seq {seq} is gone")))?;
        let manifest: Manifest = manifest.only(&[place]);
        let mut rows = RowBuf::default();
        store.read_batch(&manifest, &mut rows)?;
        let ix = self.machine.find(&order.topic);
        number(&rows, &manifest, |part| self.topics.partitions(ix, &part.topic, part.epoch))
            .map_err(|misfit| gone(misfit.to_string()))?;
        let part = manifest.lanes[0].clone();
        let void = store.voided(&part)?;
        // Of one lane only: in row order, which is seq order.
        let order = (0..part.rows).collect();
        Ok(ReplayBatch { part, rows, order, void })
    }

    /// All records of the order are reported: says how it went.
    fn close_order(&mut self) -> Result<(), Halt> {
        let Some(replay) = &self.upkeep.current else { return Ok(()) };
        let order = replay.order.clone();
        let state = match replay.failed {
            false => RepairState::Replayed,
            true if order.attempts + 1 >= self.ground.options.repair_attempts_max => RepairState::GivenUp,
            true => RepairState::Wanted,
        };
        self.end_order(&order, state)
    }

    fn end_order(&mut self, order: &RepairOrder, state: RepairState) -> Result<(), Halt> {
        self.ground.store.repair_tried(self.ground.token, order.id, state, now_ms())?;
        self.upkeep.current = None;
        Ok(())
    }
}

enum ReplayError {
    Gone(String),
    Halt(Halt),
}

impl From<crate::outbox::OutboxError> for ReplayError {
    fn from(error: crate::outbox::OutboxError) -> Self {
        match error {
            // Rows that contradict their manifest are no reason to stop a relay.
            crate::outbox::OutboxError::Inconsistent { what, .. } => Self::Gone(what),
            error => Self::Halt(error.into()),
        }
    }
}

/// How far a share of a replay came.
struct Sent {
    rows: u64,
    full: bool,
}

impl Replay {
    fn send(&mut self, encoder: &mut Encoder, (stream, most): (&homing_core::StreamName, u64)) -> Sent {
        let mut sent = Sent { rows: 0, full: false };
        let Some(batch) = &self.batch else { return sent };
        let end = Seq(batch.part.last_seq().0.min(self.order.to.0) + 1);
        while self.next < end && sent.rows < most {
            let seq = self.next;
            if !batch.void.contains(&seq) {
                let nth = (seq.0 - batch.part.first_seq.0) as usize;
                let row = batch.rows.get(batch.order[nth] as usize);
                let flags = Flags { replay: true, ..row.flags };
                let (part, topic) = (&batch.part, self.topic);
                let envelope = Envelope { stream, part, seq, topic, tag: 0, flags };
                match encoder.send(&self.producer, &row, &envelope) {
                    Ok(()) => {
                        sent.rows += 1;
                        self.waiting += 1;
                    }
                    Err(Refusal::Full) => {
                        sent.full = true;
                        return sent;
                    }
                    Err(Refusal::Code(_)) => {
                        (self.failed, sent.full) = (true, true);
                        return sent;
                    }
                }
            }
            self.next = seq.next();
        }
        sent
    }
}
