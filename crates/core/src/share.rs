//! Decides when one partition has more than its share of what may be in hand.
//!
//! Records that wait behind a stuck or slow one fill the consumer's limits, and
//! then nothing is read from any partition. So a partition may have as much as is
//! still free for the others, and no more: with n partitions stuck there is always
//! a part of 1/(n+1) left. The limit counts only for a partition that is far from
//! working off what it has: one that makes way needs no holding back, and holding
//! back costs reading again what was read ahead.

/// How many records are in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InHand {
    /// Of the partition that is looked at.
    pub partition: usize,
    /// Of all partitions.
    pub all: usize,
    /// How many partitions are held.
    pub partitions: usize,
}

/// A partition is stuck when at its pace of the last look, what it has would take so many looks.
const STUCK_LOOKS: u64 = 32;
/// And makes way again when it would take no more than so many.
const MOVING_LOOKS: u64 = 8;
/// What a partition may have beside the mean of all before it can count as more than its share.
const ABOVE_MEAN: f64 = 1.25;

/// Whether a partition is to be read on, given what it has and did.
///
/// `occupied` is how much of the limit that is nearest to full is used, from 0 to 1. `finished`
/// counts the partition's records since the last look. `held_back` is what was decided then.
///
/// ```
/// use homing_core::share::{InHand, is_over_share};
/// let stuck = InHand { partition: 600, all: 610, partitions: 6 };
/// assert!(is_over_share(stuck, 0.61, 0, false), "600 wait and 390 places are free");
/// assert!(!is_over_share(stuck, 0.20, 0, false), "there is room enough for all");
/// assert!(!is_over_share(stuck, 0.61, 100, false), "it makes way");
/// ```
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "shares need three digits")]
pub fn is_over_share(in_hand: InHand, occupied: f64, finished: u64, held_back: bool) -> bool {
    let InHand { partition, all, partitions } = in_hand;
    if partition == 0 || partitions < 2 {
        return false;
    }
    let share = partition as f64 / all.max(partition) as f64;
    let (used, free) = (share * occupied, 1.0 - occupied);
    let has = partition as u64;
    if held_back {
        return used * 2.0 > free && finished.saturating_mul(MOVING_LOOKS) < has;
    }
    used > free && share * partitions as f64 > ABOVE_MEAN && finished.saturating_mul(STUCK_LOOKS) < has
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 10_000;

    /// Partitions are read in turn; the first `stuck` of them finish nothing, the others all at
    /// once. Returns what the stuck ones have when nothing more of them is read.
    fn settle(partitions: usize, stuck: usize) -> Vec<usize> {
        let (mut has, mut held) = (vec![0usize; partitions], vec![false; partitions]);
        for _ in 0..LIMIT {
            let all: usize = has.iter().sum();
            for at in 0..partitions {
                let in_hand = InHand { partition: has[at], all, partitions };
                held[at] = is_over_share(in_hand, all as f64 / LIMIT as f64, 0, held[at]);
            }
            for at in 0..stuck {
                if !held[at] && has.iter().sum::<usize>() < LIMIT {
                    has[at] += 1;
                }
            }
        }
        has
    }

    #[test]
    fn whatever_is_stuck_leaves_room_for_the_others() {
        for (partitions, stuck) in [(2, 1), (6, 1), (6, 2), (6, 4), (100, 1), (100, 20)] {
            let has = settle(partitions, stuck);
            let free = LIMIT - has.iter().sum::<usize>();
            assert!(free >= LIMIT / (stuck + 2), "{stuck} of {partitions} stuck leave {free}");
        }
    }

    #[test]
    fn partitions_that_are_equally_slow_are_all_read_on() {
        for partitions in [1, 2, 6, 50] {
            let in_hand = InHand { partition: LIMIT / partitions, all: LIMIT, partitions };
            assert!(!is_over_share(in_hand, 1.0, 0, false), "{partitions}");
        }
    }

    #[test]
    fn a_partition_goes_on_when_it_moves_again_or_has_little() {
        let has = |partition| InHand { partition, all: 600, partitions: 3 };
        assert!(is_over_share(has(550), 0.6, 0, true));
        assert!(!is_over_share(has(550), 0.6, 69, true), "it would be through within eight looks");
        assert!(!is_over_share(has(190), 0.6, 0, true), "19 of 100 are less than half of what is free");
    }
}
