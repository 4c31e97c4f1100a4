//! The one signal that asks every loop to stop taking, finish, and return.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Asks loops to stop; cheap to clone, and every clone sees one trigger.
///
/// ```
/// use homing::Shutdown;
/// use std::time::Duration;
/// let shutdown = Shutdown::new();
/// let seen_by_a_loop = shutdown.clone();
/// assert!(!seen_by_a_loop.wait(Duration::from_millis(1)));
/// shutdown.trigger();
/// assert!(seen_by_a_loop.wait(Duration::from_secs(60)), "returns at once");
/// ```
#[derive(Clone, Default, Debug)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Default, Debug)]
struct Inner {
    /// Guards only the flag; held for no longer than reading or setting it.
    triggered: Mutex<bool>,
    changed: Condvar,
}

impl Shutdown {
    /// A signal nobody has triggered yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everyone to stop; a second call changes nothing.
    pub fn trigger(&self) {
        *self.inner.triggered.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.inner.changed.notify_all();
    }

    /// Whether someone asked to stop.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.inner.triggered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps up to `longest`, or until triggered; returns whether it is triggered.
    #[must_use]
    pub fn wait(&self, longest: Duration) -> bool {
        let deadline = Instant::now() + longest;
        let mut triggered = self.inner.triggered.lock().unwrap_or_else(PoisonError::into_inner);
        while !*triggered {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            triggered =
                self.inner.changed.wait_timeout(triggered, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_loop_wakes_when_another_thread_triggers() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        let waiting = std::thread::spawn(move || other.wait(Duration::from_secs(30)));
        shutdown.trigger();
        assert!(waiting.join().unwrap());
        assert!(shutdown.is_triggered());
    }
}
