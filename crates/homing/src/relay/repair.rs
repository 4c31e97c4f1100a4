//! Repairs and pruning: sending rows again that the auditor misses, deleting those it has seen.

use super::error::Halt;
use super::options::RelayOptions;
use super::sending::Encoder;
use super::session::{Mode, REPAIR_TAG, Session, now_ms};
use super::status::Count;
use crate::kafka::producer::{Refusal, Report};
use crate::outbox::numbering::number;
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{Manifest, PruneLimits, RepairOrder, RepairState};
use homing_core::{Flags, Seq};
use std::time::{Duration, Instant};

/// How often the relay looks for orders, and deals out its share of rows.
const EVERY: Duration = Duration::from_millis(100);

/// The order at work and the clocks of the side work.
#[derive(Debug)]
pub(super) struct Repairs {
    current: Option<Replay>,
    /// Tells records of this attempt from those of one that was given up.
    attempt: u32,
    looked_at: Instant,
    rows_per_look: u64,
    pruned_at: Instant,
    /// The last look found rows to delete, so there may be more.
    prune_again: bool,
}

#[derive(Debug)]
struct Replay {
    order: RepairOrder,
    next: Seq,
    waiting: u64,
    failed: bool,
}

impl Repairs {
    pub fn new(options: &RelayOptions) -> Self {
        let rows_per_look = (u64::from(options.repair_rows_per_second) / 10).max(1);
        let now = Instant::now();
        Self { current: None, attempt: 0, looked_at: now, rows_per_look, pruned_at: now, prune_again: false }
    }

    /// Takes the report of a replayed record.
    pub fn report(&mut self, tag: usize, report: Report) {
        if tag != self.attempt as usize {
            return;
        }
        if let Some(replay) = &mut self.current {
            replay.waiting = replay.waiting.saturating_sub(1);
            replay.failed |= !matches!(report, Report::At(_) | Report::Somewhere);
        }
    }

    /// The producer is gone: the order at work is begun again.
    pub fn forget_producer(&mut self) {
        self.attempt = self.attempt.wrapping_add(1) & 0x7fff_ffff;
        self.current = None;
    }
}

impl Session<'_> {
    /// A share of repairs and pruning, when it is time for them.
    pub fn side_work(&mut self) -> Result<(), Halt> {
        if self.drain_until.is_some() || self.failure.is_some() || self.mode == Mode::Isolated {
            return Ok(());
        }
        if self.repairs.looked_at.elapsed() >= EVERY {
            self.repairs.looked_at = Instant::now();
            self.repair()?;
        }
        let Some(prune) = &self.ground.options.prune else { return Ok(()) };
        let pause = if self.repairs.prune_again { EVERY.min(prune.every) } else { prune.every };
        if self.repairs.pruned_at.elapsed() >= pause {
            self.repairs.pruned_at = Instant::now();
            let limits = PruneLimits::new(now_ms(), prune.keep);
            let pruned = self.ground.store.prune(self.ground.token, limits)?;
            self.ground.status.add(Count::Pruned, pruned.rows);
            self.repairs.prune_again = pruned.more;
        }
        Ok(())
    }

    fn repair(&mut self) -> Result<(), Halt> {
        if self.repairs.current.is_none() {
            let Some(order) = self.ground.store.repairs_wanted(1)?.pop() else { return Ok(()) };
            let next = order.from;
            self.repairs.current = Some(Replay { order, next, waiting: 0, failed: false });
        }
        let Some(replay) = &self.repairs.current else { return Ok(()) };
        if replay.next > replay.order.to || replay.failed {
            if replay.waiting == 0 {
                return self.close_order();
            }
            return Ok(());
        }
        self.replay_share()
    }

    /// Sends the next rows of the order, as many as the rate allows.
    fn replay_share(&mut self) -> Result<(), Halt> {
        let mut left = self.repairs.rows_per_look;
        while left > 0 {
            let Some(replay) = &self.repairs.current else { return Ok(()) };
            let (order, next) = (replay.order.clone(), replay.next);
            if next > order.to {
                return Ok(());
            }
            let found = self.ground.store.batch_of(&order.topic, order.epoch, order.partition, next)?;
            let Some(manifest) = found else {
                tracing::error!(topic = %order.topic, partition = order.partition.0, seq = next.0,
                    "cannot be repaired: its row is gone");
                return self.end_order(&order, RepairState::Irreparable);
            };
            let sent = self.replay_from(&manifest, &order, next, left)?;
            if sent.rows == 0 && sent.next == next {
                return Ok(());
            }
            left = left.saturating_sub(sent.rows);
            if let Some(replay) = &mut self.repairs.current {
                replay.next = sent.next;
                replay.waiting += sent.rows;
            }
        }
        Ok(())
    }

    /// Sends rows of one batch from `next` on, at most `most`.
    fn replay_from(
        &mut self,
        manifest: &Manifest,
        order: &RepairOrder,
        next: Seq,
        most: u64,
    ) -> Result<Sent, Halt> {
        let mut rows = RowBuf::default();
        self.ground.store.read_batch(manifest, &mut rows)?;
        let topics = &self.topics;
        let inconsistent =
            |what: String| Halt::from(crate::outbox::OutboxError::Inconsistent { operation: "repair", what });
        let numbers = number(&rows, manifest, |part| topics.partitions(&part.topic, part.epoch))
            .map_err(|misfit| inconsistent(misfit.to_string()))?;
        let lane = manifest
            .lanes
            .iter()
            .position(|part| {
                part.topic == order.topic && part.epoch == order.epoch && part.partition == order.partition
            })
            .ok_or_else(|| {
                inconsistent(format!("batch {} lacks the lane it was found by", manifest.batch))
            })?;
        let part = &manifest.lanes[lane];
        let void = self.ground.store.voided(part)?;
        let Some(topic) = self.topics.find(&order.topic) else {
            return Err(inconsistent(format!("topic {} has no open epoch", order.topic)));
        };
        let handle = self.handle(topic)?;
        let end = Seq((part.first_seq.0 + u64::from(part.rows)).min(order.to.0 + 1));
        let tag = REPAIR_TAG | self.repairs.attempt as usize;
        let mut encoder = Encoder::default();
        let mut sent = Sent { rows: 0, next };
        for (row, numbered) in rows.iter().zip(&numbers) {
            let wanted = numbered.lane as usize == lane && numbered.seq >= sent.next && numbered.seq < end;
            if !wanted || sent.rows >= most {
                continue;
            }
            if !void.contains(&numbered.seq) {
                let flags = Flags { replay: true, ..row.flags };
                let stream = self.ground.store.stream().as_str();
                let Some(producer) = &self.producer else { break };
                match encoder.send(producer, (stream, part), (&row, numbered.seq), (handle, tag, flags)) {
                    Ok(()) => {
                        sent.rows += 1;
                        self.outstanding += 1;
                        self.ground.status.add(Count::Replayed, 1);
                    }
                    Err(Refusal::Full) => break,
                    Err(Refusal::Code(_)) => {
                        if let Some(replay) = &mut self.repairs.current {
                            replay.failed = true;
                        }
                        break;
                    }
                }
            }
            sent.next = numbered.seq.next();
        }
        Ok(sent)
    }

    /// All records of the order are reported: says how it went.
    fn close_order(&mut self) -> Result<(), Halt> {
        let Some(replay) = &self.repairs.current else { return Ok(()) };
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
        self.repairs.forget_producer();
        Ok(())
    }
}

/// How far a share of a replay came.
struct Sent {
    rows: u64,
    next: Seq,
}
