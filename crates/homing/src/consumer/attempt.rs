//! What follows from one handler's outcome, the same for blocking, batch and async handlers.

use super::dispatch::{Aside, Dispatch, Finished, Job, Report, Then};
use super::error::ConsumerError;
use super::outcome::Outcome;
use super::parked::Parked;
use super::status::ConsumerStatus;
use crate::kafka::partition_list::TopicPartition;
use crate::testing::Steps;
use homing_core::{LaneId, RetryPolicy, TopicName};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What every worker needs to judge an outcome; shared by all of them.
pub(crate) struct Judge {
    pub dispatch: Arc<Dispatch>,
    pub parked: Arc<Parked>,
    pub status: Arc<ConsumerStatus>,
    pub retry: RetryPolicy,
    pub steps: Steps,
    random: AtomicU64,
}

/// Whether the jobs behind this one of its lane may be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The next one may.
    GoesOn,
    /// Those behind it go back, and wait.
    Blocked(Blocked),
}

/// What the rest of a lane waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// The record before them, which is to be tried again or has stopped the consumer. They go
    /// where it went.
    Behind,
    /// The dead letter of the record before them.
    DeadLetter,
}

impl Blocked {
    /// Where a job behind the blocking one goes. The first `put_back` of a lane decides.
    pub fn then(self) -> Then {
        match self {
            Self::Behind => Then::Ready,
            Self::DeadLetter => Then::Hold,
        }
    }
}

impl Judge {
    pub fn new(
        dispatch: Arc<Dispatch>,
        parked: Arc<Parked>,
        status: Arc<ConsumerStatus>,
        retry: RetryPolicy,
        steps: Steps,
    ) -> Self {
        let seed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        Self { dispatch, parked, status, retry, steps, random: AtomicU64::new(seed) }
    }

    /// Records the outcome of one attempt in `report`.
    #[inline]
    pub fn judge(&self, report: &mut Report, lane: Option<LaneId>, job: Job, outcome: Outcome) -> Lane {
        match outcome {
            Outcome::Ok => {
                self.steps.reached("consumer.handled");
                report.finished.push(Finished::of(&job));
                report.alone_finished += usize::from(lane.is_none());
                Lane::GoesOn
            }
            other => self.judge_failure(report, lane, job, other),
        }
    }

    #[cold]
    fn judge_failure(
        &self,
        report: &mut Report,
        lane: Option<LaneId>,
        mut job: Job,
        outcome: Outcome,
    ) -> Lane {
        if self.dispatch.claims.is_over(job.slot, job.token) {
            // Another member's to handle by now: it is not ours to count, retry or set aside.
            report.put_back(lane, job, Then::Ready);
            return Lane::Blocked(Blocked::Behind);
        }
        job.failures += 1;
        let (after, reason) = match outcome {
            Outcome::Ok => unreachable!("an Ok is no failure"),
            Outcome::Fatal { reason } => {
                let (at, offset) = (place(&job), job.token.offset);
                self.dispatch.fail(ConsumerError::Fatal { at, offset, reason });
                report.put_back(lane, job, Then::Ready);
                return Lane::Blocked(Blocked::Behind);
            }
            Outcome::Reject { reason } => return aside(report, lane, job, reason),
            Outcome::Retry { after, reason } => (after, reason),
        };
        let Some(pause) = self.retry.delay(job.failures, self.random()) else {
            return aside(report, lane, job, reason);
        };
        ConsumerStatus::add(&self.status.retried, 1);
        self.status.failed(format!("{:?}: {reason}", job.record));
        let pause_ms = u64::try_from(after.unwrap_or(pause).as_millis()).unwrap_or(u64::MAX);
        let due_ms = self.dispatch.now_ms().saturating_add(pause_ms);
        report.put_back(lane, job, Then::Delay { due_ms });
        Lane::Blocked(Blocked::Behind)
    }

    /// A handler that panicked: a failed attempt with the panic's text.
    pub fn panicked(&self, payload: &(dyn std::any::Any + Send)) -> Outcome {
        ConsumerStatus::add(&self.status.panicked, 1);
        let reason = super::outcome::panic_text(payload);
        tracing::warn!(reason, "a handler panicked; counted as a failed attempt");
        Outcome::retry(reason)
    }

    /// Sets a job aside unhandled when its key is parked; gives it back otherwise.
    #[inline]
    pub fn follow_parked(&self, report: &mut Report, lane: Option<LaneId>, job: Job) -> Option<Job> {
        if !self.parked.any() {
            return Some(job);
        }
        let Some(first) = self.parked.first_of(&job) else { return Some(job) };
        let reason = format!("follows its parked key behind offset {first}");
        report.aside.push(Aside { lane, job, reason, follows: true });
        None
    }

    /// SplitMix64; for spreading retries, nothing more.
    fn random(&self) -> u64 {
        let mut word = self.random.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}

fn aside(report: &mut Report, lane: Option<LaneId>, job: Job, reason: String) -> Lane {
    report.aside.push(Aside { lane, job, reason, follows: false });
    Lane::Blocked(Blocked::DeadLetter)
}

/// The partition a job's record lies in.
pub(crate) fn place(job: &Job) -> TopicPartition {
    let topic =
        TopicName::parse(job.record.topic()).expect("Kafka gave the record a topic with a valid name");
    TopicPartition { topic, partition: job.record.partition() }
}
