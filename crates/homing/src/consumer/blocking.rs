//! Workers for blocking handlers: threads that take chunks of records and handle them in order.

use super::attempt::{Blocked, Judge, Lane};
use super::claim::Origin;
use super::desk::Desk;
use super::dispatch::{ChunkSize, Job, Met, Report, Then};
use super::outcome::{BatchOutcome, Outcome};
use crate::kafka::record::Record;
use homing_core::{LaneId, Taken};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A finished record is reported after this long even if its chunk is not done.
const REPORT_AFTER: Duration = Duration::from_millis(1);

/// Handles a chunk; what it does not finish it puts back.
pub(crate) trait Work: Send + Sync + 'static {
    fn chunk_size(&self) -> ChunkSize;
    fn chunk(&self, judge: &Judge, desk: &Desk, report: &mut Report);
}

/// Starts the workers; they end when the dispatch is stopped.
pub(crate) fn start<W: Work>(
    count: usize,
    work: W,
    judge: &Arc<Judge>,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let work = Arc::new(work);
    (0..count)
        .map(|index| {
            let (work, judge) = (Arc::clone(&work), Arc::clone(judge));
            std::thread::Builder::new()
                .name(format!("homing-work-{index}"))
                .spawn(move || run(&*work, &judge, index))
        })
        .collect()
}

fn run<W: Work>(work: &W, judge: &Judge, index: usize) {
    let (mut report, desk) = (Report::default(), judge.dispatch.desk(index));
    while judge.dispatch.meet(&mut report, work.chunk_size(), desk) == Met::Work {
        work.chunk(judge, desk, &mut report);
    }
}

/// One record a call.
pub(crate) struct Single<H>(pub H);

impl<H: Fn(&Record, Origin<'_>) -> Outcome + Send + Sync + 'static> Work for Single<H> {
    fn chunk_size(&self) -> ChunkSize {
        ChunkSize::ByTime
    }

    fn chunk(&self, judge: &Judge, desk: &Desk, report: &mut Report) {
        one_by_one(judge, desk, report, &self.0);
    }
}

fn one_by_one(
    judge: &Judge,
    desk: &Desk,
    report: &mut Report,
    handler: impl Fn(&Record, Origin<'_>) -> Outcome,
) {
    let recall = judge.dispatch.recall();
    let mut walk = Walk::default();
    let mut since = Instant::now();
    while let Some(Taken { lane, job }) = desk.next(&mut walk, report) {
        let Some(job) = walk.may_start(judge, report, lane, job, recall) else { continue };
        let outcome =
            catch_unwind(AssertUnwindSafe(|| handler(&job.record, Origin::of(&judge.dispatch, &job))))
                .unwrap_or_else(|payload| judge.panicked(&*payload));
        walk.note(judge.judge(report, lane, job, outcome));
        let now = Instant::now();
        let took = now - since;
        report.handled += 1;
        report.took += took;
        if took > REPORT_AFTER {
            judge.dispatch.report_early(report);
        }
        since = now;
    }
}

/// Follows the lanes of a chunk as its jobs pass by.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    lane: Option<LaneId>,
    blocked: Option<Blocked>,
    /// Jobs of the current lane were put back unhandled.
    returned: bool,
}

impl Walk {
    /// Comes to a job of this lane; the lane before it is done when nothing blocked it. Says
    /// whether this is another lane.
    #[inline]
    pub fn enter(&mut self, lane: Option<LaneId>, report: &mut Report) -> bool {
        let is_other = lane.is_none() || lane != self.lane;
        if is_other {
            self.end(report);
            self.lane = lane;
        }
        is_other
    }

    /// Whether the job may be handled; if not, it is put back or set aside.
    #[inline]
    pub fn may_start(
        &mut self,
        judge: &Judge,
        report: &mut Report,
        lane: Option<LaneId>,
        job: Job,
        recall: u64,
    ) -> Option<Job> {
        if let Some(blocked) = self.blocked {
            report.put_back(lane, job, blocked.then());
            return None;
        }
        if self.returned || judge.dispatch.recall() != recall {
            self.returned = true;
            report.put_back(lane, job, Then::Ready);
            return None;
        }
        let job = judge.follow_parked(report, lane, job);
        if job.is_none() {
            self.blocked = Some(Blocked::DeadLetter);
        }
        job
    }

    /// Puts a job back that was begun and not finished, as its partition is given up.
    pub fn give_back(&mut self, report: &mut Report, lane: Option<LaneId>, job: Job) {
        self.returned = true;
        report.put_back(lane, job, Then::Ready);
    }

    #[inline]
    pub fn note(&mut self, lane: Lane) {
        if let Lane::Blocked(blocked) = lane {
            self.blocked = Some(blocked);
        }
    }

    /// Comes to the end of the current lane's jobs.
    #[inline]
    pub fn end(&mut self, report: &mut Report) {
        let (lane, open) = (self.lane.take(), self.blocked.is_none() && !self.returned);
        (self.blocked, self.returned) = (None, false);
        if let (Some(lane), true) = (lane, open) {
            report.lanes_done.push(lane);
        }
    }
}

/// Many records a call: of distinct lanes, and of one lane in their order.
pub(crate) struct Batch<H> {
    pub handler: H,
    pub records_max: usize,
}

impl<H: Fn(&[&Record]) -> BatchOutcome + Send + Sync + 'static> Work for Batch<H> {
    fn chunk_size(&self) -> ChunkSize {
        ChunkSize::UpTo(self.records_max)
    }

    fn chunk(&self, judge: &Judge, desk: &Desk, report: &mut Report) {
        if judge.parked.any() {
            // Some of these may have to follow a parked key: rare, so look at each on its own.
            let only = |record: &Record, _: Origin<'_>| {
                self.call(&[record]).pop().expect("one outcome for one record")
            };
            return one_by_one(judge, desk, report, only);
        }
        let mut taken = desk.all();
        let begun = Instant::now();
        let outcomes = {
            let records: Vec<&Record> = taken.iter().map(|taken| &*taken.job.record).collect();
            catch_unwind(AssertUnwindSafe(|| self.call(&records)))
                .unwrap_or_else(|payload| vec![judge.panicked(&*payload); records.len()])
        };
        report.took += begun.elapsed();
        report.handled += u32::try_from(taken.len()).unwrap_or(u32::MAX);
        let mut walk = Walk::default();
        for (Taken { lane, job }, outcome) in taken.drain(..).zip(outcomes) {
            walk.enter(lane, report);
            match walk.blocked {
                Some(blocked) => report.put_back(lane, job, blocked.then()),
                None => walk.note(judge.judge(report, lane, job, outcome)),
            }
        }
        walk.end(report);
    }
}

impl<H: Fn(&[&Record]) -> BatchOutcome> Batch<H> {
    fn call(&self, records: &[&Record]) -> Vec<Outcome> {
        match (self.handler)(records) {
            BatchOutcome::All(outcome) => vec![outcome; records.len()],
            BatchOutcome::Each(mut outcomes) => {
                outcomes.resize_with(records.len(), || {
                    Outcome::retry("the batch handler gave no outcome for it")
                });
                outcomes
            }
        }
    }
}
