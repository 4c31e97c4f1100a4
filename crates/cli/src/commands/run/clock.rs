//! Notices when the wall clock was set while we run.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A step smaller than this is a clock being corrected.
const STEP_MIN: Duration = Duration::from_secs(2);
/// Two readings further apart than this say nothing: we were paused between them.
const READING_MAX: Duration = Duration::from_millis(100);

/// Compares the wall clock with one that only runs forward.
#[derive(Debug, Default)]
pub struct ClockWatch {
    begun: Option<Instant>,
    /// Wall clock minus running clock, in milliseconds.
    difference_ms: Option<i64>,
}

/// The wall clock's step; positive is ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    by_ms: i64,
}

impl ClockWatch {
    /// The step since the last look, when there was one.
    pub fn look(&mut self) -> Option<Jump> {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let before = begun.elapsed();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if begun.elapsed() - before > READING_MAX {
            return None;
        }
        self.compare(before, wall)
    }

    fn compare(&mut self, running: Duration, wall: Duration) -> Option<Jump> {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let difference = ms(wall) - ms(running);
        let before = self.difference_ms.replace(difference)?;
        let by_ms = difference - before;
        (by_ms.unsigned_abs() >= STEP_MIN.as_millis() as u64).then_some(Jump { by_ms })
    }
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.by_ms.unsigned_abs().div_ceil(1000);
        let how = if self.by_ms < 0 {
            format!("the wall clock was set back by {seconds} s")
        } else {
            format!("the wall clock went ahead by {seconds} s: it was set, or this machine slept")
        };
        write!(
            f,
            "{how}; what waits here goes by another clock, but ages in `homing status` and records' timestamps \
             follow it, and another host may see this lease end early or late (which is safe)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_is_seen_once_and_a_slow_correction_never() {
        let mut watch = ClockWatch::default();
        let at = |s: f64| Duration::from_secs_f64(s);
        assert_eq!(watch.compare(at(0.0), at(1000.0)), None);
        assert_eq!(watch.compare(at(60.0), at(1060.5)), None);
        assert_eq!(watch.compare(at(61.0), at(1000.5)), Some(Jump { by_ms: -61_000 }));
        assert_eq!(watch.compare(at(62.0), at(1001.5)), None);
        let ahead = watch.compare(at(63.0), at(4602.5)).unwrap();
        assert_eq!(ahead, Jump { by_ms: 3_600_000 });
        assert!(ahead.to_string().contains("ahead by 3600 s"), "{ahead}");
    }

    #[test]
    fn the_clocks_of_this_machine_agree() {
        let mut watch = ClockWatch::default();
        assert_eq!((watch.look(), watch.look()), (None, None));
    }
}
