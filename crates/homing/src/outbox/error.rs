//! What can go wrong with an outbox, and whether trying again is safe.

use crate::error::Retry;
use std::path::PathBuf;

/// A message that cannot be put into an outbox; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A header's name is reserved for Homing.
    #[error("header {name:?}: names that start with homing- are Homing's own")]
    ReservedHeader {
        /// The header's name.
        name: String,
    },
    /// A header without a name.
    #[error("a header's name may not be empty")]
    EmptyHeaderName,
    /// Key, payload and headers together are larger than any outbox takes.
    #[error("message of {bytes} bytes is larger than the outbox takes ({max})")]
    TooLarge {
        /// Bytes of key, payload and headers.
        bytes: usize,
        /// The most an outbox takes.
        max: usize,
    },
}

/// An outbox operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The message itself cannot be taken.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// There is no database file.
    #[error("no outbox at {path}: the file does not exist; create it with `homing init`")]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The database holds no outbox.
    #[error("{path} has no homing tables; create them with `homing init`")]
    NotAnOutbox {
        /// The database file.
        path: PathBuf,
    },
    /// The tables belong to another stream.
    #[error(
        "{path} is the outbox of stream {found:?}, not of {asked:?}: one table set is one stream; \
         use the name {found:?} or another database file"
    )]
    OtherStream {
        /// The database file.
        path: PathBuf,
        /// The stream it belongs to.
        found: String,
        /// The stream that was asked for.
        asked: String,
    },
    /// The tables have a layout this version does not know.
    #[error("{path} has outbox schema version {found}; this version of Homing knows {known}")]
    SchemaVersion {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The version this code knows.
        known: i64,
    },
    /// The tables must be brought to this version's layout, and a relay still works on them.
    #[error(
        "{path} has outbox schema version {found} and the relay {owner} works on it: stop that relay, \
         then this version of Homing brings the tables to its own"
    )]
    InUse {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The relay.
        owner: String,
    },
    /// The database file or its write-ahead log is not the one that was opened; nothing is written any more.
    #[error(
        "{path} {what} while Homing had it open: rows written there since are not seen by this process, \
         and what it had not sent yet may be gone; nothing more is written. Put the file back if you still \
         have it, then start again"
    )]
    Replaced {
        /// Where the database was opened.
        path: PathBuf,
        /// What happened to it.
        what: &'static str,
    },
    /// Another relay owns the outbox now; nothing was written.
    #[error("{operation}: another relay owns this outbox now (token {token} is no longer the current one)")]
    Fenced {
        /// What was attempted.
        operation: &'static str,
        /// The token of the one who tried.
        token: u64,
    },
    /// The disk or the database's page limit is full; nothing was written.
    #[error("{operation}: no space left for the outbox database: {source}")]
    Full {
        /// What was attempted.
        operation: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Another writer held the database for longer than the busy timeout; nothing was written.
    #[error("{operation}: the outbox database is busy: {source}")]
    Busy {
        /// What was attempted.
        operation: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// What the tables say contradicts itself; work on them must stop.
    #[error("{operation}: the outbox contradicts itself: {what}")]
    Inconsistent {
        /// What was attempted.
        operation: &'static str,
        /// The contradiction.
        what: String,
    },
    /// Any other database error.
    #[error("{operation}: {source}")]
    Database {
        /// What was attempted.
        operation: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl OutboxError {
    /// Sorts a database error by what it means for the caller.
    pub(crate) fn database(operation: &'static str, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { operation, source },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { operation, source },
            _ => Self::Database { operation, source },
        }
    }

    /// Whether the same call may be tried again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        use rusqlite::ErrorCode;
        match self {
            Self::Full { .. } | Self::Busy { .. } => Retry::Later,
            Self::Database { source, .. } => match source.sqlite_error_code() {
                // A failed fsync: the pages may or may not be on disk.
                Some(ErrorCode::SystemIoFailure) => Retry::Indeterminate,
                Some(ErrorCode::OutOfMemory | ErrorCode::OperationInterrupted) => Retry::Later,
                _ => Retry::Never,
            },
            _ => Retry::Never,
        }
    }
}

/// Puts the operation's name on a database error.
pub(crate) trait During<T> {
    /// Says what was attempted when the error came.
    fn during(self, operation: &'static str) -> Result<T, OutboxError>;
}

impl<T> During<T> for Result<T, rusqlite::Error> {
    fn during(self, operation: &'static str) -> Result<T, OutboxError> {
        self.map_err(|source| OutboxError::database(operation, source))
    }
}
