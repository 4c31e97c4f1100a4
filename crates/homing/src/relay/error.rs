//! What ends a relay, and what only makes it wait.

use super::obstacle::Said;
use super::options::InvalidRelayOptions;
use crate::error::Retry;
use crate::kafka::NativeError;
use crate::kafka::config::ConfigError;
use crate::kafka::producer::ProducerError;
use crate::kafka::reader::ReaderError;
use crate::outbox::OutboxError;

/// Why a relay stopped; what it had not settled stays in the outbox.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Settings that cannot be used.
    #[error(transparent)]
    Options(#[from] InvalidRelayOptions),
    /// Kafka settings that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The Kafka client could not be opened or refused to go on.
    #[error(transparent)]
    Client(#[from] NativeError),
    /// The outbox cannot be worked on.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The bootstrap address leads to another cluster than before.
    #[error(
        "N02: the Kafka cluster is {found}, but this outbox is pinned to {pinned}: acknowledgements from here \
         would be for another cluster; correct kafka.bootstrap, or if the cluster really was replaced, \
         set cluster_id in homing_meta to null and say `homing topic reopen` for each of its topics (A04)"
    )]
    ClusterChanged {
        /// The pinned id.
        pinned: String,
        /// The id found now.
        found: String,
    },
    /// A thread of the relay could not be started.
    #[error("start a relay thread: {0}")]
    Thread(#[source] std::io::Error),
}

impl RelayError {
    /// Whether starting the relay again may help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Outbox(error) => error.retry(),
            Self::Thread(_) => Retry::Later,
            _ => Retry::Never,
        }
    }
}

/// Why a session does not simply go on.
#[derive(Debug)]
pub(super) enum Halt {
    /// It cannot go on now; the same step is tried again.
    Wait(Said),
    /// Asked to stop, and the time for draining is over.
    Stopped,
    /// Another relay owns the outbox.
    Fenced,
    /// It is not known whether a commit happened: begin again from what the database says.
    Restart(OutboxError),
    /// It cannot go on at all.
    Error(RelayError),
}

impl From<OutboxError> for Halt {
    fn from(error: OutboxError) -> Self {
        match (&error, error.retry()) {
            (OutboxError::Fenced { .. }, _) => Self::Fenced,
            (_, Retry::Later) => Self::Wait(Said::plain(error.to_string())),
            (_, Retry::Indeterminate) => Self::Restart(error),
            (_, Retry::Never) => Self::Error(error.into()),
        }
    }
}

impl From<RelayError> for Halt {
    fn from(error: RelayError) -> Self {
        Self::Error(error)
    }
}

impl From<ProducerError> for Halt {
    fn from(error: ProducerError) -> Self {
        match error {
            ProducerError::Config(error) => error.into(),
            ProducerError::Native(error) => Self::Error(error.into()),
        }
    }
}

impl From<ConfigError> for Halt {
    fn from(error: ConfigError) -> Self {
        // A file of a secret may just be replaced by its next version.
        if error.may_pass() {
            Self::Wait(Said::coded("N05", error.to_string()))
        } else {
            Self::Error(error.into())
        }
    }
}

impl From<ReaderError> for Halt {
    fn from(error: ReaderError) -> Self {
        match error {
            ReaderError::Config(error) => error.into(),
            ReaderError::Kafka(error) => Self::Wait(super::obstacle::of_error(&error)),
            error => Self::Wait(Said::plain(error.to_string())),
        }
    }
}
