//! Drivers for async handlers: a few tasks, each running many handlers side by side.
//!
//! A handler that is ready at once is polled where it stands and never enters
//! the set of running ones. How many run at once is bounded where runs are handed
//! out. A handler whose partition is given up is dropped where it waits: the
//! record is the next owner's to handle.

use super::attempt::Judge;
use super::blocking::Walk;
use super::claim::Origin;
use super::dispatch::{Held, Job, Met, Report};
use super::outcome::Outcome;
use crate::kafka::native_call::SharedClient;
use crate::kafka::record::Record;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use homing_core::{LaneId, TakeLimit, Taken};
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// Jobs taken at a meeting; more would keep them from the other drivers.
const TAKE_MAX: usize = 64;

/// What all runs of one driver share.
struct Driver<H> {
    handler: Arc<H>,
    judge: Arc<Judge>,
    limit: TakeLimit,
    /// Guards what the runs have to report; only ever locked by this driver's own task.
    report: Mutex<Report>,
    /// Dropped last: it cannot be closed before its records.
    client: SharedClient,
}

type Run = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts the drivers; they end, and cancel what still runs, when the dispatch is stopped.
///
/// All of them together run no more than `running_max` handlers at once.
pub(crate) fn start<H, F>(
    runtime: &tokio::runtime::Handle,
    (drivers, running_max): (usize, usize),
    handler: H,
    judge: &Arc<Judge>,
    client: &SharedClient,
) -> Vec<tokio::task::JoinHandle<()>>
where
    H: Fn(Arc<Record>, Origin<'_>) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let handler = Arc::new(handler);
    (0..drivers)
        .map(|_| {
            let driver = Driver {
                handler: Arc::clone(&handler),
                judge: Arc::clone(judge),
                limit: TakeLimit { jobs: TAKE_MAX, turns: running_max },
                client: Arc::clone(client),
                report: Mutex::new(Report::default()),
            };
            runtime.spawn(drive(Arc::new(driver)))
        })
        .collect()
}

/// # Cancel safety
/// Dropping it cancels the handlers that run; their records stay unfinished.
async fn drive<H, F>(driver: Arc<Driver<H>>)
where
    H: Fn(Arc<Record>, Origin<'_>) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut running: FuturesUnordered<Run> = FuturesUnordered::new();
    let (mut report, mut taken) = (Report::default(), Vec::with_capacity(TAKE_MAX));
    loop {
        // Armed before looking, so that a wake-up between looking and waiting counts.
        let mut woken = pin!(driver.judge.dispatch.tasks.notified());
        woken.as_mut().enable();
        std::mem::swap(&mut report, &mut *driver.report());
        match driver.judge.dispatch.meet_briefly(&mut report, driver.limit, &mut taken) {
            Met::Stopped => return,
            Met::Work => {
                begin(&driver, &mut taken, &mut running).await;
                // Let the handlers get on before the next chunk is taken.
                poll_fn(|cx| {
                    poll_some(&mut running, cx);
                    Poll::Ready(())
                })
                .await;
                tokio::task::consume_budget().await;
            }
            Met::Nothing => {
                poll_fn(|cx| {
                    poll_some(&mut running, cx);
                    if driver.report().is_empty() { woken.as_mut().poll(cx) } else { Poll::Ready(()) }
                })
                .await;
            }
        }
    }
}

/// Polls the running handlers that were woken, up to a chunk of them to their end.
fn poll_some(running: &mut FuturesUnordered<Run>, cx: &mut Context<'_>) {
    for _ in 0..TAKE_MAX {
        match running.poll_next_unpin(cx) {
            Poll::Ready(Some(())) => {}
            Poll::Ready(None) | Poll::Pending => return,
        }
    }
    cx.waker().wake_by_ref();
}

/// Starts a chunk: one run for each lane's jobs.
async fn begin<H, F>(
    driver: &Arc<Driver<H>>,
    taken: &mut Vec<Taken<Job>>,
    running: &mut FuturesUnordered<Run>,
) where
    H: Fn(Arc<Record>, Origin<'_>) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let recall = driver.judge.dispatch.recall();
    let mut jobs = taken.drain(..).peekable();
    while let Some(first) = jobs.next() {
        let mut rest = Vec::new();
        while let Some(next) = jobs.next_if(|next| first.lane.is_some() && next.lane == first.lane) {
            rest.push(next);
        }
        let mut run: Run = Box::pin(run_lane(Arc::clone(driver), first, rest, recall));
        let ready = poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx).is_ready())).await;
        if !ready {
            running.push(run);
        }
    }
}

/// Handles one lane's jobs, one after the other.
async fn run_lane<H, F>(driver: Arc<Driver<H>>, first: Taken<Job>, rest: Vec<Taken<Job>>, recall: u64)
where
    H: Fn(Arc<Record>, Origin<'_>) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut walk = Walk::default();
    for Taken { lane, job } in std::iter::once(first).chain(rest) {
        let started = {
            let report = &mut *driver.report();
            walk.enter(lane, report);
            walk.may_start(&driver.judge, report, lane, job, recall)
        };
        let Some(job) = started else { continue };
        driver.attempt(&mut walk, lane, job).await;
    }
    let report = &mut *driver.report();
    walk.end(report);
    report.runs_over += 1;
}

impl<H> Driver<H> {
    /// Handles one job, to its end or until its partition is given up.
    ///
    /// # Cancel safety
    /// Dropping it drops the handler; its record stays unfinished.
    async fn attempt<F>(&self, walk: &mut Walk, lane: Option<LaneId>, job: Job)
    where
        H: Fn(Arc<Record>, Origin<'_>) -> F,
        F: Future<Output = Outcome>,
    {
        let (job, record) = share(job, &self.client);
        let origin = Origin::of(&self.judge.dispatch, &job);
        let mut handling =
            pin!(AssertUnwindSafe(async { (self.handler)(record, origin).await }).catch_unwind());
        let ended = match poll_fn(|cx| Poll::Ready(handling.as_mut().poll(cx))).await {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => {
                let claim = origin.claim();
                let mut over = pin!(claim.over());
                poll_fn(|cx| match handling.as_mut().poll(cx) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended)),
                    Poll::Pending => over.as_mut().poll(cx).map(|()| None),
                })
                .await
            }
        };
        let report = &mut *self.report();
        match ended {
            Some(ended) => {
                let outcome = ended.unwrap_or_else(|payload| self.judge.panicked(&*payload));
                walk.note(self.judge.judge(report, lane, job, outcome));
            }
            None => walk.give_back(report, lane, job),
        }
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the handler its own hold on the record, which keeps the client open by itself.
fn share(job: Job, client: &SharedClient) -> (Job, Arc<Record>) {
    let record = match job.record {
        Held::Own(mut record) => {
            record.keep(client);
            Arc::new(record)
        }
        Held::Shared(record) => record,
    };
    (Job { record: Held::Shared(Arc::clone(&record)), ..job }, record)
}
