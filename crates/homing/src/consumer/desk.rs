//! A worker's chunk, where the poll thread can take back what has not begun.
//!
//! A chunk saves a meeting for each record, but a handler that gets stuck would
//! keep the rest of its chunk with it. So the chunk lies on a desk: the worker
//! takes one record after the other from it, and when it has not come back for a
//! while, the poll thread clears the desk for the other workers. What stands
//! behind the stuck record in its own lane stays. What became of the records before it
//! lies there too: they are committed, tried again or set aside, and their lanes go on,
//! without waiting for the rest.

use super::blocking::Walk;
use super::dispatch::{Job, Report, Then};
use homing_core::{LaneId, Taken};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A worker that has not come back for this long is taken for stuck.
const STUCK_AFTER: Duration = Duration::from_millis(5);

/// One worker's desk.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Guards the chunk; the worker holds it for the time of a pop.
    pile: Mutex<Pile>,
    /// Rises with every job taken.
    taken: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Pile {
    jobs: VecDeque<Taken<Job>>,
    /// The lane of the job taken last.
    lane: Option<LaneId>,
    /// What became of the chunk's earlier jobs.
    earlier: Report,
}

impl Extend<Taken<Job>> for Pile {
    #[inline]
    fn extend<I: IntoIterator<Item = Taken<Job>>>(&mut self, jobs: I) {
        self.jobs.extend(jobs);
    }
}

impl Desk {
    fn pile(&self) -> MutexGuard<'_, Pile> {
        self.pile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays a new chunk down by `take`; says whether there is anything in it.
    pub fn lay(&self, take: impl FnOnce(&mut Pile)) -> bool {
        let mut pile = self.pile();
        take(&mut pile);
        !pile.jobs.is_empty()
    }

    /// The next job of the chunk; what became of those before it waits here for the chunk's end,
    /// in reach of [`clear`](Self::clear), and goes back into `report` then.
    #[inline]
    pub fn next(&self, walk: &mut Walk, report: &mut Report) -> Option<Taken<Job>> {
        let mut pile = self.pile();
        let Some(taken) = pile.jobs.pop_front() else {
            walk.end(report);
            report.append(&mut pile.earlier);
            return None;
        };
        // Before the lane that is left is out of reach, in a handler that may never return.
        if walk.enter(taken.lane, report) {
            pile.earlier.append(report);
        } else {
            // What this lane put back has to stay together.
            pile.earlier.append_finished(report);
        }
        pile.lane = taken.lane;
        self.taken.store(self.taken.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Some(taken)
    }

    /// The whole chunk.
    pub fn all(&self) -> Vec<Taken<Job>> {
        self.pile().jobs.drain(..).collect()
    }

    /// Moves what is finished, and what may start elsewhere, to `report`.
    fn clear(&self, report: &mut Report) {
        let mut pile = self.pile();
        report.append(&mut pile.earlier);
        let own = pile.lane;
        let behind = pile.jobs.iter().take_while(|taken| own.is_some() && taken.lane == own).count();
        for Taken { lane, job } in pile.jobs.drain(behind..) {
            report.put_back(lane, job, Then::Ready);
        }
    }
}

/// Looks at the desks from time to time.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    /// Per desk, how many jobs it had taken, and since when that is so.
    seen: Vec<(u64, Option<Instant>)>,
}

impl Supervisor {
    /// Clears the desks of workers that seem stuck, into `report`.
    pub fn look(&mut self, desks: &[Desk], report: &mut Report) {
        self.seen.resize(desks.len(), (0, None));
        let now = Instant::now();
        for (desk, (seen, since)) in desks.iter().zip(&mut self.seen) {
            let taken = desk.taken.load(Ordering::Relaxed);
            match since {
                Some(at) if taken == *seen => {
                    if now.duration_since(*at) >= STUCK_AFTER {
                        desk.clear(report);
                    }
                }
                _ => (*seen, *since) = (taken, Some(now)),
            }
        }
    }
}
