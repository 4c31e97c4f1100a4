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
//! So nothing is skipped, and no record counts twice. Two auditors of one
//! outbox do no harm: the one that finds the other's commit begins again from it.

mod check;
mod diagnosis;
mod error;
mod gaps;
mod options;
mod report;
mod reporting;
mod session;
mod verdict;
mod watched;

pub use crate::outbox::sqlite::GapStanding;
pub use error::AuditError;
pub use options::{AuditOptions, InvalidAuditOptions, Repairing};
pub use report::{AuditReport, Counts, GapReport, LaneReport, Outcome, PartitionReport, RepairStanding};
pub use reporting::AuditStatus;
pub use verdict::{Cause, Verdict};

use crate::error::Retry;
use crate::{KafkaConfig, Shutdown, SqliteOutbox};
use session::Session;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause before something that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
            self.status.trouble(Some(&error));
            session = None;
            if shutdown.wait(RETRY_AFTER) {
                break;
            }
        }
        match session {
            Some(mut session) => {
                session.check()?;
                session.report()
            }
            None => self.recall(),
        }
    }

    fn go_on<'a>(&'a self, session: &mut Option<Session<'a>>, shutdown: &Shutdown) -> Result<(), AuditError> {
        let session = match session {
            Some(session) => session,
            None => session.insert(self.open()?),
        };
        let mut reported: Option<Instant> = None;
        while !shutdown.is_triggered() {
            session.step()?;
            self.status.trouble(None);
            if reported.is_none_or(|at| at.elapsed() >= self.options.check_every) {
                self.status.publish(session.report()?);
                reported = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Audits all there is by now, and waits until no gap is merely suspect.
    ///
    /// That takes the grace when something is missing, and no longer than reading otherwise.
    ///
    /// # Errors
    /// [`AuditError::Unreachable`] when the log could not be read to its present end: nothing
    /// can be said then. Others when database or client fail.
    pub fn run_once(&self, shutdown: &Shutdown) -> Result<AuditReport, AuditError> {
        let mut session = self.open()?;
        session.look_for_topics()?;
        let ends = session.ends()?;
        let mut progress = (Instant::now(), 0);
        for (at, end) in &ends {
            while !session.has_read(at, *end)? {
                let patience = self.options.request_timeout.max(Duration::from_secs(1)) * 3;
                if shutdown.is_triggered() || progress.0.elapsed() >= patience {
                    let what = format!("{at} could not be read to its end at offset {}", end.0);
                    return Err(AuditError::Unreachable { what });
                }
                session.step()?;
                let records = session.records_read();
                if records != progress.1 {
                    progress = (Instant::now(), records);
                }
            }
        }
        session.check()?;
        let settled_by = Instant::now() + self.options.grace + 3 * self.options.check_every;
        while session.has_suspects() && Instant::now() < settled_by && !shutdown.is_triggered() {
            session.step()?;
        }
        session.check()?;
        let report = session.report()?;
        self.status.publish(report.clone());
        Ok(report)
    }

    /// What was found so far, from the outbox alone: nothing is read from Kafka.
    ///
    /// # Errors
    /// [`AuditError::Outbox`] when the database cannot be read.
    pub fn recall(&self) -> Result<AuditReport, AuditError> {
        reporting::recall(&self.outbox, &self.options)
    }

    fn open(&self) -> Result<Session<'_>, AuditError> {
        Session::open(&self.outbox, &self.kafka, &self.options)
    }
}
