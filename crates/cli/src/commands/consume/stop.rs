//! When a consumer ends by itself: after so many records, or when none come any more.

use crate::exit::{During, Failure};
use homing::Shutdown;
use homing::consumer::ConsumerStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a group may take to give this member its partitions before it counts as idle.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);

/// How many records may still be begun, and how many were finished.
#[derive(Debug)]
pub struct Quota {
    max: u64,
    begun: AtomicU64,
    finished: AtomicU64,
    shutdown: Shutdown,
}

impl Quota {
    /// At most `max` records; without one there is no end.
    pub fn new(max: Option<u64>, shutdown: &Shutdown) -> Self {
        let (begun, finished) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { max: max.unwrap_or(u64::MAX), begun, finished, shutdown: shutdown.clone() }
    }

    /// Asks for `wanted` records; returns how many may be begun.
    pub fn take(&self, wanted: usize) -> usize {
        if self.max == u64::MAX {
            return wanted;
        }
        let wanted = wanted as u64;
        let mut begun = self.begun.load(Ordering::Relaxed);
        loop {
            let granted = wanted.min(self.max - begun);
            match self.begun.compare_exchange(begun, begun + granted, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return usize::try_from(granted).unwrap_or(usize::MAX),
                Err(now) => begun = now,
            }
        }
    }

    /// Gives one back that was begun and will be tried again.
    pub fn give_back(&self) {
        self.begun.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that `count` records are finished; the last one ends the run.
    pub fn done(&self, count: usize) {
        if self.finished.fetch_add(count as u64, Ordering::Relaxed) + count as u64 >= self.max {
            self.shutdown.trigger();
        }
    }
}

/// A thread that ends the run when nothing has come for a while.
pub struct StopWhenIdle(JoinHandle<()>);

impl StopWhenIdle {
    /// Starts watching.
    pub fn start(status: Arc<ConsumerStatus>, quiet: Duration, shutdown: &Shutdown) -> Result<Self, Failure> {
        let shutdown = shutdown.clone();
        let watch = move || {
            let begun = Instant::now();
            let (mut seen, mut since) = (0, Instant::now());
            while !shutdown.wait(Duration::from_millis(20)) {
                let counts = status.counts();
                let is_joining = counts.partitions == 0 && begun.elapsed() < JOIN_PATIENCE;
                // A partition whose beginning is not known yet may have records; the log says what it waits for.
                let is_beginning = counts.partitions_pending > 0;
                if is_joining || is_beginning || counts.in_flight > 0 || counts.received != seen {
                    (seen, since) = (counts.received, Instant::now());
                } else if since.elapsed() >= quiet {
                    if counts.topics_missing > 0 {
                        let why = counts.last_error.as_deref().unwrap_or("a topic does not exist");
                        say!("nothing came, and nothing can: {why}");
                    } else if counts.partitions == 0 {
                        say!("no partition was given to this member; others of the group hold them");
                    }
                    shutdown.trigger();
                }
            }
        };
        let thread = std::thread::Builder::new().name("idle".into()).spawn(watch).during("start a thread")?;
        Ok(Self(thread))
    }

    /// Waits for its end, which comes with the run's.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the thread that looks for idleness panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_never_exceeded_and_its_last_record_ends_the_run() {
        let shutdown = Shutdown::new();
        let quota = Quota::new(Some(5), &shutdown);
        assert_eq!((quota.take(3), quota.take(3), quota.take(3)), (3, 2, 0));
        quota.give_back();
        assert_eq!(quota.take(3), 1);
        quota.done(4);
        assert!(!shutdown.is_triggered());
        quota.done(1);
        assert!(shutdown.is_triggered());
    }
}
