//! Holds a partition back that has more than its share of what may wait, so that the others go on.

use super::intake::Intake;
use super::options::ConsumerOptions;
use super::status::ConsumerStatus;
use homing_core::share::{InHand, is_over_share};
use std::time::{Duration, Instant};

/// How often the shares are looked at; the pace of a partition is counted between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What may come in until the next look: half of what is free, so that a partition that gets
/// stuck is noticed before it has filled everything.
pub(crate) struct Shares {
    seen_at: Instant,
    /// Records that may wait.
    pub waiting_cap: usize,
    /// Bytes that may be in hand.
    pub bytes_cap: usize,
}

impl Shares {
    pub fn new(options: &ConsumerOptions) -> Self {
        Self {
            seen_at: Instant::now(),
            waiting_cap: options.waiting_max.div_ceil(2),
            bytes_cap: options.in_flight_bytes_max.div_ceil(2),
        }
    }
}

/// What is used, and half of what is free.
fn half_way(used: usize, max: usize) -> usize {
    used + max.saturating_sub(used).div_ceil(2)
}

impl Intake {
    /// Marks the partitions that are to be held back, with an alarm for each that is new.
    pub fn watch_shares(&mut self) {
        if self.shares.seen_at.elapsed() < LOOK_EVERY {
            return;
        }
        let (occupied, waiting) = (self.occupied(), self.waiting());
        let (all, partitions) = (self.in_hand, self.slots.iter().count());
        for slot in self.slots.iter_mut() {
            let in_hand = InHand { partition: slot.running(), all, partitions };
            let finished = std::mem::take(&mut slot.finished_lately);
            let was_over = slot.over_share;
            slot.over_share = is_over_share(in_hand, occupied, finished, was_over);
            if slot.over_share && !was_over {
                ConsumerStatus::add(&self.status.head_of_line, 1);
                let oldest = slot.tracker.oldest_unfinished().map(|offset| offset.0);
                tracing::warn!(
                    at = %slot.at, oldest, in_hand = in_hand.partition, waiting,
                    "its records wait and do not get on: reading no more of it until they do; other \
                     partitions go on"
                );
            } else if was_over && !slot.over_share {
                tracing::info!(at = %slot.at, "its records get on again");
            }
        }
        self.shares = Shares {
            seen_at: Instant::now(),
            waiting_cap: half_way(waiting, self.options.waiting_max),
            bytes_cap: half_way(self.in_hand_bytes, self.options.in_flight_bytes_max),
        };
    }

    /// How much is used of the limit that is nearest to full, from 0 to 1. What runs is not part
    /// of it: that it is full only says that there is work.
    #[allow(clippy::cast_precision_loss, reason = "shares need three digits")]
    fn occupied(&self) -> f64 {
        let of = |used: usize, max: usize| (used as f64 / max as f64).min(1.0);
        of(self.waiting(), self.options.waiting_max)
            .max(of(self.in_hand_bytes, self.options.in_flight_bytes_max))
    }
}
