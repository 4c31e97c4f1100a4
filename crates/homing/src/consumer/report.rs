//! What workers have to say at a meeting: what is finished, set aside, or comes back.

use super::dispatch::{Job, SlotIndex};
use homing_core::{LaneId, Token};
use std::time::Duration;

/// Proof that a record's handler said Ok, or that its dead letter is acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finished {
    pub slot: SlotIndex,
    pub token: Token,
    pub bytes: usize,
}

impl Finished {
    pub fn of(job: &Job) -> Self {
        Self { slot: job.slot, token: job.token, bytes: job.record.size_bytes() }
    }
}

/// A record to be set aside. Its lane is held until that is done.
#[derive(Debug)]
pub(crate) struct Aside {
    pub lane: Option<LaneId>,
    pub job: Job,
    pub reason: String,
    /// It was not handled: it follows its parked key.
    pub follows: bool,
}

/// What becomes of a lane after jobs of it were put back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Then {
    /// They may start again at once.
    Ready,
    /// They wait until this time.
    Delay { due_ms: u64 },
    /// They wait until the dead letter before them is acknowledged.
    Hold,
}

/// Jobs of one lane that a worker does not finish now.
#[derive(Debug)]
pub(super) struct Returned {
    pub lane: Option<LaneId>,
    pub jobs: Vec<Job>,
    pub then: Then,
}

/// What a worker has to say since it was here last.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub finished: Vec<Finished>,
    pub lanes_done: Vec<LaneId>,
    pub aside: Vec<Aside>,
    pub(super) returned: Vec<Returned>,
    /// Of the finished, those without a lane.
    pub alone_finished: usize,
    /// Runs of async handlers that are over.
    pub runs_over: usize,
    pub handled: u32,
    pub took: Duration,
}

impl Report {
    /// Puts a job back; jobs of one lane in their order, with the same `then`.
    pub fn put_back(&mut self, lane: Option<LaneId>, job: Job, then: Then) {
        match self.returned.last_mut() {
            Some(last) if lane.is_some() && last.lane == lane => last.jobs.push(job),
            _ => self.returned.push(Returned { lane, jobs: vec![job], then }),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.finished.is_empty()
            && self.lanes_done.is_empty()
            && self.aside.is_empty()
            && self.returned.is_empty()
            && self.runs_over == 0
    }

    /// Takes over what another has to say of lanes that are through.
    pub fn append(&mut self, other: &mut Self) {
        self.append_finished(other);
        if !other.aside.is_empty() || !other.returned.is_empty() {
            self.aside.append(&mut other.aside);
            self.returned.append(&mut other.returned);
        }
    }

    /// Takes over what another has finished.
    #[inline]
    pub fn append_finished(&mut self, other: &mut Self) {
        self.finished.append(&mut other.finished);
        self.lanes_done.append(&mut other.lanes_done);
        self.alone_finished += std::mem::take(&mut other.alone_finished);
    }

    /// Jobs without a lane that this report ends or brings back.
    pub fn alone_over(&self) -> usize {
        let aside = self.aside.iter().filter(|aside| aside.lane.is_none()).count();
        let returned = self.returned.iter().filter(|returned| returned.lane.is_none());
        self.alone_finished + aside + returned.map(|returned| returned.jobs.len()).sum::<usize>()
    }
}

/// What the poll thread collects.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub finished: Vec<Finished>,
    pub aside: Vec<Aside>,
    /// Jobs of closed slots that were let go unfinished.
    pub released: Vec<Job>,
    /// Records that run or may start, at this moment; all others in hand wait.
    pub in_flight: usize,
}
