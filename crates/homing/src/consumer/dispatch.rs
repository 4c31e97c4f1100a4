//! Where the poll thread and the workers meet: jobs go one way, reports the other, in chunks.
//!
//! One mutex guards the lanes and the reports. A worker takes it once a chunk:
//! it hands in what became of the last chunk and leaves with the next, so at
//! full speed the cost of meeting is a few nanoseconds a record. How large a
//! chunk is follows from how long handlers take: about 100 µs of work, so slow
//! handlers get one record at a time and nobody waits behind them.
//!
//! A slot (a partition held by this consumer) is *open* under one assignment
//! epoch. Jobs of a closed slot are never handed out again: what a worker puts
//! back for it is released instead.

use super::claim::Claims;
use super::desk::{Desk, Supervisor};
use super::error::ConsumerError;
use super::report::Returned;
pub(crate) use super::report::{Aside, Collected, Finished, Report, Then};
use crate::kafka::bell::Bell;
use crate::kafka::native_call::SharedClient;
use crate::kafka::record::Record;
use homing_core::{AssignmentEpoch, LaneId, Lanes, TakeLimit, Taken, Token};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The place of a partition among those this consumer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SlotIndex(pub u32);

/// A record on its way to a handler.
#[derive(Debug)]
pub(crate) struct Job {
    pub record: Held,
    pub slot: SlotIndex,
    pub token: Token,
    /// Attempts that have failed.
    pub failures: u32,
}

/// A record, owned here alone or with an async handler.
pub(crate) enum Held {
    Own(Record),
    Shared(Arc<Record>),
}

/// As the record's: the words reach people.
impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl Deref for Held {
    type Target = Record;

    #[inline]
    fn deref(&self) -> &Record {
        match self {
            Self::Own(record) => record,
            Self::Shared(record) => record,
        }
    }
}

#[derive(Debug)]
struct State {
    lanes: Lanes<Job>,
    collected: Collected,
    /// The assignment under which each slot is open.
    open: Vec<Option<AssignmentEpoch>>,
    failure: Option<ConsumerError>,
    /// Nothing more is handed out.
    halted: bool,
    stopped: bool,
    idle: usize,
    /// Runs of async handlers under way.
    runs: usize,
    /// A handler's recent mean time, in nanoseconds.
    handler_ns: u64,
}

/// The meeting point; shared by the poll thread and all workers.
pub(crate) struct Dispatch {
    /// Guards lanes and reports; never held while a handler runs.
    state: Mutex<State>,
    work: Condvar,
    /// Wakes async drivers, which cannot wait on a condition variable.
    pub tasks: tokio::sync::Notify,
    bell: Arc<Bell>,
    /// Ring the bell once so many are finished; 0 is never.
    wanted: AtomicUsize,
    /// Rises when slots close or all stops, so that workers give back what they have not begun.
    recall: AtomicU64,
    started: Instant,
    /// What handlers are told of partitions that go while they run.
    pub claims: Claims,
    /// One for each blocking worker.
    desks: Vec<Desk>,
    /// Closed only after every record that lies here or with a worker is dropped: destroying a
    /// client waits for its records. Hence the last field, and every worker holds the dispatch.
    _client: SharedClient,
}

/// What a worker leaves a meeting with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// Jobs to do.
    Work,
    /// Nothing to do at the moment; only for those who do not wait.
    Nothing,
    /// It is over.
    Stopped,
}

/// How many jobs a worker takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkSize {
    /// About 100 µs of work.
    ByTime,
    /// As many as there are, up to this.
    UpTo(usize),
}

/// A handler's assumed time before one has run: long, so that the first chunks are small.
const HANDLER_NS_FIRST: u64 = 1_000_000;
const CHUNK_NS: u64 = 100_000;
const CHUNK_MAX: u64 = 128;

impl Dispatch {
    pub fn new(bell: Arc<Bell>, client: SharedClient, desks: usize) -> Self {
        let state = State {
            lanes: Lanes::new(),
            collected: Collected::default(),
            open: Vec::new(),
            failure: None,
            halted: false,
            stopped: false,
            idle: 0,
            runs: 0,
            handler_ns: HANDLER_NS_FIRST,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            tasks: tokio::sync::Notify::new(),
            bell,
            wanted: AtomicUsize::new(0),
            recall: AtomicU64::new(0),
            started: Instant::now(),
            claims: Claims::default(),
            desks: std::iter::repeat_with(Desk::default).take(desks).collect(),
            _client: client,
        }
    }

    /// Milliseconds on the clock that delays are counted with.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Changes when workers are to give back what they have not begun.
    #[inline]
    pub fn recall(&self) -> u64 {
        self.recall.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- the workers' side ----

    /// Hands a report in and takes the next chunk, waiting for one.
    pub fn meet(&self, report: &mut Report, size: ChunkSize, desk: &Desk) -> Met {
        let mut state = self.lock();
        self.hand_in(&mut state, report);
        loop {
            if state.stopped {
                return Met::Stopped;
            }
            if state.take_chunk(size, desk) {
                self.wake_another(&state);
                return Met::Work;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// As [`meet`](Self::meet), for up to `limit.jobs` jobs and without waiting; at all drivers
    /// together no more than `limit.turns` runs are under way.
    pub fn meet_briefly(&self, report: &mut Report, limit: TakeLimit, taken: &mut Vec<Taken<Job>>) -> Met {
        let mut state = self.lock();
        if !report.is_empty() {
            self.hand_in(&mut state, report);
        }
        if state.stopped {
            return Met::Stopped;
        }
        if !state.halted && state.lanes.has_ready() {
            let turns = limit.turns.saturating_sub(state.runs);
            let begun = state.lanes.take_within(TakeLimit { turns, ..limit }, taken);
            state.runs += begun;
        }
        if taken.is_empty() { Met::Nothing } else { Met::Work }
    }

    /// Stops everything: the consumer cannot go on.
    pub fn fail(&self, error: ConsumerError) {
        let mut state = self.lock();
        state.halted = true;
        state.failure.get_or_insert(error);
        drop(state);
        self.recall.fetch_add(1, Ordering::Relaxed);
        self.bell.ring();
    }

    /// Reports what is finished in the middle of a chunk; the lane that is not through stays taken.
    pub fn report_early(&self, report: &mut Report) {
        let mut early = Report {
            handled: std::mem::take(&mut report.handled),
            took: std::mem::take(&mut report.took),
            ..Report::default()
        };
        early.append_finished(report);
        let mut state = self.lock();
        self.hand_in(&mut state, &mut early);
        self.wake(state);
    }

    fn hand_in(&self, state: &mut State, report: &mut Report) {
        if report.handled > 0 {
            let mean = u64::try_from(report.took.as_nanos()).unwrap_or(u64::MAX) / u64::from(report.handled);
            state.handler_ns = (state.handler_ns.saturating_mul(3).saturating_add(mean) / 4).max(1);
            report.handled = 0;
        }
        state.runs -= std::mem::take(&mut report.runs_over);
        state.lanes.alone_over(report.alone_over());
        report.alone_finished = 0;
        let urgent = !report.aside.is_empty() || !report.returned.is_empty();
        state.collected.finished.append(&mut report.finished);
        state.collected.aside.append(&mut report.aside);
        for lane in report.lanes_done.drain(..) {
            state.lanes.finish(lane);
        }
        for returned in report.returned.drain(..) {
            state.take_back(returned);
        }
        let wanted = self.wanted.load(Ordering::Relaxed);
        if urgent || (wanted > 0 && state.collected.finished.len() >= wanted) {
            self.bell.ring();
        }
    }

    /// Wakes one more worker when what is left is worth its while.
    fn wake_another(&self, state: &State) {
        if state.idle > 0 && state.lanes.has_ready() && state.work_ns() > CHUNK_NS / 4 {
            self.work.notify_one();
        }
    }

    // ---- the poll thread's side ----

    /// Adds jobs; says how many records run or may start now.
    pub fn push(&self, jobs: &mut Vec<(Option<LaneId>, Job)>) -> usize {
        let mut state = self.lock();
        for (lane, job) in jobs.drain(..) {
            state.lanes.push(lane, job);
        }
        let in_flight = state.lanes.in_flight();
        self.wake(state);
        in_flight
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let wake = state.idle > 0 && state.lanes.has_ready();
        drop(state);
        if wake {
            self.work.notify_one();
        }
        self.tasks.notify_waiters();
    }

    /// Moves what workers reported into `into`, which is empty.
    pub fn collect(&self, into: &mut Collected) {
        let mut state = self.lock();
        std::mem::swap(&mut state.collected, into);
        into.in_flight = state.lanes.in_flight();
    }

    /// Asks for a ring of the bell once `count` are finished; says how many are already.
    pub fn want(&self, count: usize) -> usize {
        self.wanted.store(count, Ordering::Relaxed);
        let state = self.lock();
        state.collected.finished.len() + state.collected.aside.len() + state.collected.released.len()
    }

    /// The desk of a worker.
    pub fn desk(&self, worker: usize) -> &Desk {
        &self.desks[worker]
    }

    /// Hands to others what lies on the desks of workers that are stuck in a handler, and wakes
    /// one when something may start and everybody counted on somebody else.
    pub fn supervise(&self, supervisor: &mut Supervisor) {
        let mut report = Report::default();
        supervisor.look(&self.desks, &mut report);
        let mut state = self.lock();
        self.hand_in(&mut state, &mut report);
        if state.idle > 0 && state.lanes.has_ready() {
            self.work.notify_one();
        }
    }

    /// Makes due retries ready; says when the next is due.
    pub fn wake_due(&self) -> Option<u64> {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        let woken = state.lanes.wake_due(now_ms);
        let next = state.lanes.next_due_ms();
        if woken {
            self.wake(state);
        }
        next
    }

    /// Opens a slot for jobs of this assignment.
    pub fn open(&self, slot: SlotIndex, assignment: AssignmentEpoch) {
        self.claims.open(slot, assignment);
        let mut state = self.lock();
        let at = slot.0 as usize;
        if state.open.len() <= at {
            state.open.resize(at + 1, None);
        }
        state.open[at] = Some(assignment);
    }

    /// Closes slots: none of their waiting jobs starts any more; they are released.
    pub fn close(&self, slots: &[SlotIndex]) {
        let mut state = self.lock();
        for slot in slots {
            if let Some(open) = state.open.get_mut(slot.0 as usize) {
                *open = None;
            }
        }
        let State { lanes, collected, open, .. } = &mut *state;
        lanes.purge(|job| !is_open(open, job), &mut collected.released);
        drop(state);
        self.recall.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets a lane go on behind a record that was set aside.
    pub fn release_lane(&self, lane: LaneId) {
        let mut state = self.lock();
        state.lanes.finish(lane);
        self.wake(state);
    }

    /// The error that stops everything, if there is one.
    pub fn failure(&self) -> Option<ConsumerError> {
        self.lock().failure.clone()
    }

    /// Hands nothing out any more; what runs may finish.
    pub fn halt(&self) {
        self.lock().halted = true;
        self.recall.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends the workers home.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.recall.fetch_add(1, Ordering::Relaxed);
        self.work.notify_all();
        self.tasks.notify_waiters();
    }
}

impl State {
    /// What the waiting jobs will take, roughly.
    fn work_ns(&self) -> u64 {
        (self.lanes.waiting() as u64).saturating_mul(self.handler_ns)
    }

    fn take_chunk(&mut self, size: ChunkSize, desk: &Desk) -> bool {
        if self.halted || !self.lanes.has_ready() {
            return false;
        }
        let chunk = match size {
            ChunkSize::UpTo(most) => most,
            // Leave a share to each idle worker as well.
            ChunkSize::ByTime => {
                let share = self.lanes.waiting() / (self.idle + 1) + 1;
                share.min((CHUNK_NS / self.handler_ns).clamp(1, CHUNK_MAX) as usize)
            }
        };
        desk.lay(|pile| self.lanes.take(chunk, pile))
    }

    fn take_back(&mut self, Returned { lane, mut jobs, then }: Returned) {
        let released = &mut self.collected.released;
        jobs = jobs
            .into_iter()
            .filter_map(|job| {
                if is_open(&self.open, &job) {
                    return Some(job);
                }
                released.push(job);
                None
            })
            .collect();
        match (lane, then) {
            (None, Then::Delay { due_ms }) => {
                jobs.into_iter().for_each(|job| self.lanes.delay_job(job, due_ms))
            }
            (None, Then::Ready | Then::Hold) => jobs.into_iter().for_each(|job| self.lanes.push(None, job)),
            (Some(lane), then) => {
                let empty = jobs.is_empty();
                self.lanes.put_front(lane, jobs.into_iter());
                match then {
                    Then::Delay { due_ms } if !empty => self.lanes.delay(lane, due_ms),
                    Then::Delay { .. } | Then::Ready => self.lanes.finish(lane),
                    Then::Hold => {}
                }
            }
        }
    }
}

fn is_open(open: &[Option<AssignmentEpoch>], job: &Job) -> bool {
    open.get(job.slot.0 as usize).copied().flatten() == Some(job.token.assignment)
}
