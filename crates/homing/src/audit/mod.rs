//! The auditor: reads the stream's topics back from Kafka and tells which messages are missing.
//!
//! It is a leaf: nothing in the path of a message waits for it. It knows from
//! the outbox which seqs are settled, that is, acknowledged by a broker, and
//! looks for each of them in the log.
//!
//! | step | report | a crash behind it |
//! |---|---|---|
//! | records are read and shown to the detectors | `audit.read` | they are read again: the position is that of the last commit |
//! | gaps are compared with the outbox, looked into, said | `audit.checked` | the same is found and said again |
//! | detectors, positions, gaps, orders and verified seqs are written in one transaction | `audit.committed` | it goes on from there |
//!
//! What is verified is verified in one cluster and one topic, by their ids: the state is kept for
//! each, and where another one stands now, everything settled is missing until it is read there.
//!
//! So nothing is skipped, and no record counts twice. Two auditors of one
//! outbox do no harm: the one that finds the other's commit begins again from it.

mod accepting;
mod check;
mod diagnosis;
mod error;
mod gaps;
mod options;
mod report;
mod reporting;
mod session;
mod tails;
mod topics;
mod verdict;
mod watched;

pub use crate::outbox::sqlite::GapStanding;
pub use accepting::{LossOutlook, Through};
pub use error::AuditError;
pub use options::{AuditOptions, InvalidAuditOptions, Repairing};
pub use report::{
    AcceptedReport, AuditReport, BlockedReport, Counts, DoubtReport, GapReport, LaneReport, Outcome,
    PartitionReport, RepairStanding, UnreachableReport,
};
pub use reporting::AuditStatus;
pub use verdict::{Cause, Verdict};

use crate::error::Retry;
use crate::{KafkaConfig, Shutdown, SqliteOutbox};
use session::{Extent, Session};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause before something that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long one read waits for its first record.
const READ_WAIT: Duration = Duration::from_millis(100);

/// Reads a stream's topics back and keeps account of what is missing.
#[derive(Debug)]
pub struct Auditor {
    outbox: SqliteOutbox,
    kafka: KafkaConfig,
    options: AuditOptions,
    status: Arc<AuditStatus>,
}

impl Auditor {
    /// Prepares an audit; nothing is read before it runs.
    ///
    /// # Errors
    /// [`AuditError::Options`] when settings contradict each other.
    pub fn new(outbox: SqliteOutbox, kafka: KafkaConfig, options: AuditOptions) -> Result<Self, AuditError> {
        options.validate()?;
        Ok(Self { outbox, kafka, options, status: Arc::default() })
    }

    /// Where others see what was found so far.
    #[must_use]
    pub fn status(&self) -> Arc<AuditStatus> {
        Arc::clone(&self.status)
    }

    /// Audits until told to stop; returns what it knows then.
    ///
    /// Trouble that may pass (broker away, database busy) is logged, shown in
    /// [`status`](Self::status) and waited out.
    ///
    /// # Errors
    /// [`AuditError`] for what waiting cannot mend.
    pub fn run(&self, shutdown: &Shutdown) -> Result<AuditReport, AuditError> {
        let mut session = None;
        while !shutdown.is_triggered() {
            let Err(error) = self.go_on(&mut session, shutdown) else { break };
            if error.retry() == Retry::Never {
                return Err(error);
            }
            self.status.trouble(Some(error.to_string()));
            session = None;
            if shutdown.wait(RETRY_AFTER) {
                break;
            }
        }
        match session {
            Some(mut session) => {
                session.finish()?;
                session.report()
            }
            None => self.recall(),
        }
    }

    fn go_on<'a>(&'a self, session: &mut Option<Session<'a>>, shutdown: &Shutdown) -> Result<(), AuditError> {
        let session = match session {
            Some(session) => session,
            None => session.insert(self.open(Extent::Rest)?),
        };
        let mut reported: Option<Instant> = None;
        while !shutdown.is_triggered() {
            session.step()?;
            self.status.trouble(session.trouble());
            let due = reported.is_none_or(|at| at.elapsed() >= self.options.check_every);
            // Without topics it begins again from what another auditor wrote.
            if due && session.topics_at.is_some() {
                self.status.publish(session.report()?);
                reported = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Audits all there is by now from the beginning of each log, whatever was read before, and
    /// waits until no gap is merely suspect.
    ///
    /// That takes the grace when something is missing, and no longer than reading otherwise. What
    /// could not be read is in [`AuditReport::unreachable`].
    ///
    /// # Errors
    /// [`AuditError::Unreachable`] when nothing of it could be read: nothing can be said then.
    /// Others when database or client fail.
    pub fn run_once(&self, shutdown: &Shutdown) -> Result<AuditReport, AuditError> {
        let mut session = self.open(Extent::Whole)?;
        session.look_for_topics()?;
        self.read_all(&mut session, shutdown)?;
        session.finish()?;
        let settled_by = Instant::now() + self.options.grace + 3 * self.options.check_every;
        while session.has_suspects() && Instant::now() < settled_by && !shutdown.is_triggered() {
            session.step()?;
        }
        session.finish()?;
        let report = session.report()?;
        self.status.publish(report.clone());
        Ok(report)
    }

    /// Reads each partition to its present end; one that does not get there is not judged.
    fn read_all(&self, session: &mut Session<'_>, shutdown: &Shutdown) -> Result<(), AuditError> {
        let present: Vec<usize> =
            (0..session.watched.len()).filter(|place| session.watched[*place].is_present()).collect();
        let mut left = session.ends(&present, self.options.request_timeout);
        let patience = self.options.request_timeout.max(Duration::from_secs(1)) * 3;
        let mut progress = (Instant::now(), session.records_read());
        while !left.is_empty() && !shutdown.is_triggered() && progress.0.elapsed() < patience {
            let (read, unread): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|(place, end)| session.has_read(*place, *end));
            for (place, _) in read {
                session.watched[place].judged = true;
            }
            left = unread;
            if left.is_empty() {
                break;
            }
            session.read(self.options.check_every.min(READ_WAIT))?;
            if session.records_read() != progress.1 {
                progress = (Instant::now(), session.records_read());
            }
        }
        if session.watched.iter().any(|watched| watched.judged) || session.lanes.is_empty() {
            return Ok(());
        }
        let what = session.trouble().unwrap_or_else(|| "nothing could be read to its end".to_owned());
        Err(AuditError::Unreachable { what })
    }

    /// What was found so far, from the outbox alone: nothing is read from Kafka.
    ///
    /// # Errors
    /// [`AuditError::Outbox`] when the database cannot be read.
    pub fn recall(&self) -> Result<AuditReport, AuditError> {
        reporting::recall(&self.outbox, &self.options)
    }

    fn open(&self, extent: Extent) -> Result<Session<'_>, AuditError> {
        Session::open(&self.outbox, &self.kafka, &self.options, extent)
    }
}
