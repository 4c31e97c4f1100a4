//! A wake-up that is never lost: rung from any thread, waited for by one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wakes the one thread that waits for it; a ring before the wait counts.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    /// Guards nothing but the moment between looking at `rung` and waiting.
    gate: Mutex<()>,
    woken: Condvar,
}

impl Bell {
    /// Wakes the waiting thread, or lets its next wait return at once.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            self.woken.notify_one();
        }
    }

    /// Waits for a ring, at most `timeout`; says whether there was one.
    pub fn wait(&self, timeout: Duration) -> bool {
        if self.rung.swap(false, Ordering::AcqRel) {
            return true;
        }
        let until = Instant::now() + timeout;
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.rung.swap(false, Ordering::AcqRel) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            gate = self.woken.wait_timeout(gate, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_ring_before_the_wait_is_not_lost() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert!(bell.wait(Duration::ZERO));
        assert!(!bell.wait(Duration::ZERO), "two rings before a wait are one wake-up");
    }

    #[test]
    fn a_ring_from_another_thread_ends_the_wait() {
        let bell = Arc::new(Bell::default());
        let other = Arc::clone(&bell);
        let ringer = std::thread::spawn(move || other.ring());
        assert!(bell.wait(Duration::from_secs(10)));
        ringer.join().unwrap();
    }
}
