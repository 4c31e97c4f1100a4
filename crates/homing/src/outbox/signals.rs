//! Wakes this process's relay when something was enqueued, and its senders when something settled.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A counter that threads can wait on; cheap to clone, every clone is the same one.
#[derive(Clone, Default, Debug)]
pub struct Bell {
    inner: Arc<(Mutex<u64>, Condvar)>,
}

impl Bell {
    /// Rings: whoever waits for more than the present count wakes up.
    pub fn ring(&self) {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.inner.1.notify_all();
    }

    /// How often it was rung.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits up to `longest` until it was rung more than `heard` times; returns the count.
    pub fn wait(&self, heard: u64, longest: Duration) -> u64 {
        let deadline = Instant::now() + longest;
        let mut count = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *count <= heard {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            count = self.inner.1.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *count
    }
}

/// The two bells of one outbox within one process.
///
/// They only save waiting: whoever inserts from another process or by plain
/// SQL is found by the relay's poll, and whoever waits for a relay in another
/// process polls for its receipts.
#[derive(Clone, Default, Debug)]
pub struct Signals {
    /// Rung after a commit with new rows.
    pub enqueued: Bell,
    /// Rung after a commit that settled a batch.
    pub settled: Bell,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_missed() {
        let bell = Bell::default();
        let heard = bell.count();
        bell.ring();
        assert_eq!(bell.wait(heard, Duration::from_secs(60)), heard + 1);
        assert_eq!(bell.wait(heard + 1, Duration::from_millis(1)), heard + 1);
    }
}
