//! What can go wrong with an audit, and whether trying again is safe.

use super::options::InvalidAuditOptions;
use crate::error::Retry;
use crate::kafka::reader::ReaderError;
use crate::outbox::OutboxError;

/// An audit that could not go on; what was saved before stands.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The settings contradict each other.
    #[error(transparent)]
    Options(#[from] InvalidAuditOptions),
    /// The outbox database failed.
    #[error("audit: {0}")]
    Outbox(#[from] OutboxError),
    /// Kafka could not be read.
    #[error("audit: {0}")]
    Reader(#[from] ReaderError),
    /// Not everything could be read in time: nothing can be said about the rest.
    #[error("audit: {what}")]
    Unreachable {
        /// What is out of reach.
        what: String,
    },
}

impl AuditError {
    /// Whether the same call may be tried again; an audit changes nothing in Kafka, so never
    /// indeterminate.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Options(_) | Self::Reader(ReaderError::Config(_)) => Retry::Never,
            Self::Outbox(error) => match error.retry() {
                Retry::Indeterminate => Retry::Later,
                retry => retry,
            },
            Self::Reader(_) | Self::Unreachable { .. } => Retry::Later,
        }
    }
}
