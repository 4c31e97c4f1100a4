//! The alarm that one record holds its partition up: once for a record, then once a minute. Pure.

use homing_core::Offset;
use std::time::{Duration, Instant};

/// Between two words about one partition.
const WORD_EVERY: Duration = Duration::from_secs(60);

/// The alarm of one partition.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    /// The record it was last raised for.
    raised_for: Option<Offset>,
    spoken_at: Option<Instant>,
    /// Raised for other records since then.
    unspoken: u64,
}

/// What to do about a record that holds its partition up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Raised {
    /// It is another record than the last time.
    pub is_new: bool,
    /// Say so, and that so many others did the same without a word.
    pub say: Option<u64>,
}

impl Alarm {
    /// A record holds its partition up, as far as can be told at this moment.
    pub fn raise(&mut self, oldest: Offset, now: Instant) -> Raised {
        let is_new = self.raised_for != Some(oldest);
        self.raised_for = Some(oldest);
        if self.spoken_at.is_some_and(|at| now.saturating_duration_since(at) < WORD_EVERY) {
            self.unspoken += u64::from(is_new);
            return Raised { is_new, say: None };
        }
        self.spoken_at = Some(now);
        Raised { is_new, say: Some(std::mem::take(&mut self.unspoken)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_counted_once_and_a_partition_has_one_word_a_minute() {
        let (mut alarm, begun) = (Alarm::default(), Instant::now());
        let at = |ms| begun + Duration::from_millis(ms);
        assert_eq!(alarm.raise(Offset(7), at(0)), Raised { is_new: true, say: Some(0) });
        for turn in 1..2_000 {
            assert_eq!(alarm.raise(Offset(7), at(turn * 25)), Raised { is_new: false, say: None });
        }
        assert_eq!(alarm.raise(Offset(8), at(50_000)), Raised { is_new: true, say: None });
        assert_eq!(alarm.raise(Offset(9), at(50_025)), Raised { is_new: true, say: None });
        assert_eq!(alarm.raise(Offset(9), at(60_000)), Raised { is_new: false, say: Some(2) });
        assert_eq!(alarm.raise(Offset(9), at(119_999)), Raised { is_new: false, say: None });
        assert_eq!(alarm.raise(Offset(9), at(120_000)), Raised { is_new: false, say: Some(0) });
    }
}
