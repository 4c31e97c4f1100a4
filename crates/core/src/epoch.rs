//! Which epoch a topic's numbering begins: one that nobody can have used before.
//!
//! A database restored from a backup, or made anew, does not know the numbers
//! it once gave; the log does, as long as it keeps them. So the log is asked
//! before every epoch, the first one too, and the next epoch lies above all
//! that either of them knows. Where the log cannot tell, because records were
//! deleted or the search would have had to go too far back, the epoch is taken
//! from the clock, which no earlier start of the numbering had reached.

use crate::Epoch;

/// Where the numbers that come from the clock begin: 2026-01-01T00:00:00Z, in seconds since 1970.
pub const CLOCK_EPOCHS_BEGIN_S: u64 = 1_767_225_600;

/// What a search of a topic's partitions for a stream's own stamps found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochsInLog {
    /// The highest epoch seen; `None` when no record of the stream was.
    pub highest: Option<Epoch>,
    /// Whether every partition showed its last record of the stream, or was read down to
    /// offset 0 without one. False: there may have been others.
    pub complete: bool,
}

/// The epoch to begin after `last` (the database's own memory) and what the log says.
///
/// `now_s` is the time in seconds since 1970; it only matters when the log could not tell.
/// `None` when the numbers are used up.
///
/// ```
/// use homing_core::epoch::{CLOCK_EPOCHS_BEGIN_S, EpochsInLog, next};
/// use homing_core::Epoch;
/// let untouched = EpochsInLog { highest: None, complete: true };
/// assert_eq!(next(None, untouched, 0), Some(Epoch(1)));
/// let restored = EpochsInLog { highest: Some(Epoch(4)), complete: true };
/// assert_eq!(next(Some(Epoch(1)), restored, 0), Some(Epoch(5)));
/// let expired = EpochsInLog { highest: None, complete: false };
/// assert_eq!(next(Some(Epoch(1)), expired, CLOCK_EPOCHS_BEGIN_S + 86_400), Some(Epoch(86_400)));
/// ```
#[must_use]
pub fn next(last: Option<Epoch>, log: EpochsInLog, now_s: u64) -> Option<Epoch> {
    let known = last.max(log.highest).map_or(0, |epoch| epoch.0);
    let above = known.checked_add(1)?;
    if log.complete {
        return Some(Epoch(above));
    }
    let by_clock = u32::try_from(now_s.saturating_sub(CLOCK_EPOCHS_BEGIN_S)).unwrap_or(u32::MAX);
    Some(Epoch(above.max(by_clock)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However often a backup is restored, no epoch is begun twice.
        #[test]
        fn no_epoch_is_begun_twice_whatever_is_restored_or_expires(
            steps in proptest::collection::vec((0usize..8, any::<bool>(), 1u64..50), 1..40),
        ) {
            let (mut used, mut log, mut now) = (Vec::<u32>::new(), Vec::<u32>::new(), CLOCK_EPOCHS_BEGIN_S);
            for (backup, expired, pause_s) in steps {
                now += pause_s;
                // A database of any age: it knows a prefix of what was begun.
                let last = used.get(..backup.min(used.len())).and_then(<[u32]>::last).copied().map(Epoch);
                if expired {
                    log.clear();
                }
                let complete = !expired && log.len() == used.len();
                let found = EpochsInLog { highest: log.iter().max().copied().map(Epoch), complete };
                let begun = next(last, found, now).expect("the numbers are not used up").0;
                // Two restores within one second of each other, both blind, are the one limit.
                prop_assert!(!used.contains(&begun), "{begun} of {used:?}");
                used.push(begun);
                log.push(begun);
            }
        }
    }

    #[test]
    fn the_last_number_is_not_passed() {
        let log = EpochsInLog { highest: Some(Epoch(u32::MAX)), complete: true };
        assert_eq!(next(None, log, 0), None);
    }
}
