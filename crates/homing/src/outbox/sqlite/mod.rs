//! The SQLite outbox: creating, opening and checking the database, and the connections to it.

mod acceptance;
mod audit;
mod batches;
mod checks;
mod closing;
mod dead_letters;
mod enqueue;
mod fates;
mod guard;
mod holds;
mod migration;
mod ownership;
mod pins;
mod pruning;
mod reading;
mod repairs;
mod schema;
mod standing;
mod stats;
mod store;

pub use audit::{
    Acceptor, AckedPart, AuditLane, AuditOrder, AuditStore, Changes, GapStanding, SavedAudit, SavedGap,
    SavedPartition, SeqRange, TOPIC_GONE, Written,
};
pub use fates::FateReader;
pub use schema::SCHEMA_VERSION;
pub use store::SqliteStore;

use super::error::{During, OutboxError};
use super::identity::Instance;
use super::signals::Signals;
pub(crate) use guard::Guarded;
use homing_core::StreamName;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a write waits for another writer before it fails as busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// An outbox in a SQLite database; cheap to clone.
///
/// The database may be the application's own: the tables all start with
/// `homing_` and one database holds one stream. Clones in one process share
/// the [`Signals`] that wake the relay; every call opens what it needs, so a
/// handle holds no connection.
#[derive(Debug, Clone)]
pub struct SqliteOutbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    stream: StreamName,
    instance: Instance,
    signals: Signals,
}

impl SqliteOutbox {
    /// Creates the tables for `stream` in the database at `path`, which is made
    /// when it does not exist; an outbox that is already there is opened.
    ///
    /// # Errors
    /// [`OutboxError::OtherStream`] when the tables belong to another stream;
    /// others when the database cannot be written.
    pub fn create(path: impl AsRef<Path>, stream: &StreamName) -> Result<Self, OutboxError> {
        let path = path.as_ref();
        let create = "create the outbox";
        let connection = Connection::open(path).during(create)?;
        connection.busy_timeout(BUSY_TIMEOUT).during(create)?;
        if Meta::read(&connection)?.is_none() {
            connection.execute_batch(&Self::schema_sql(stream)).during(create)?;
        }
        drop(connection);
        Self::open(path, stream)
    }

    /// Opens the outbox of `stream` in the database at `path`.
    /// An outbox of an earlier schema version is brought to this one.
    ///
    /// # Errors
    /// [`OutboxError::NotFound`] without a file, [`OutboxError::NotAnOutbox`]
    /// without the tables, [`OutboxError::OtherStream`] when they belong to
    /// another stream, [`OutboxError::SchemaVersion`] when they are laid out
    /// otherwise, and others when the database cannot be read.
    pub fn open(path: impl AsRef<Path>, stream: &StreamName) -> Result<Self, OutboxError> {
        let path = path.as_ref();
        if !path.exists() {
            return Err(OutboxError::NotFound { path: path.to_owned() });
        }
        let mut connection = connect(path)?;
        let meta =
            Meta::read(&connection)?.ok_or_else(|| OutboxError::NotAnOutbox { path: path.to_owned() })?;
        if !(1..=SCHEMA_VERSION).contains(&meta.version) {
            return Err(OutboxError::SchemaVersion {
                path: path.to_owned(),
                found: meta.version,
                known: SCHEMA_VERSION,
            });
        }
        if meta.stream != stream.as_str() {
            return Err(OutboxError::OtherStream {
                path: path.to_owned(),
                found: meta.stream,
                asked: stream.as_str().to_owned(),
            });
        }
        if meta.version < SCHEMA_VERSION {
            migration::migrate(&mut connection, path)?;
        }
        let instance = Instance(meta.instance);
        let (path, stream, signals) = (path.to_owned(), stream.clone(), Signals::default());
        Ok(Self { inner: Arc::new(Inner { path, stream, instance, signals }) })
    }

    /// The script that creates the tables, as `homing init --sql` prints it.
    #[must_use]
    pub fn schema_sql(stream: &StreamName) -> String {
        schema::schema_sql(stream)
    }

    /// A connection for the application's transactions: WAL, `synchronous=FULL`
    /// (a commit is on disk when it returns), and a busy timeout of 10 s.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be opened.
    pub fn connect(&self) -> Result<Connection, OutboxError> {
        connect(&self.inner.path)
    }

    /// Begins a transaction that holds the database's one place for writers from its start on.
    ///
    /// An application that reads first and writes then (`SELECT` … `INSERT`) needs it: an ordinary
    /// transaction fails at once when another one, as the relay's, wrote between the two, whatever
    /// its busy timeout; this one waits for the place and then cannot fail so. Begin it before the
    /// first read and keep it short.
    ///
    /// # Errors
    /// [`OutboxError::Busy`] when another writer kept its place for longer than the busy timeout.
    pub fn begin(connection: &mut Connection) -> Result<rusqlite::Transaction<'_>, OutboxError> {
        connection.transaction_with_behavior(TransactionBehavior::Immediate).during("begin a transaction")
    }

    /// A connection that notices when its files are removed or replaced.
    pub(crate) fn connect_guarded(&self) -> Result<Guarded, OutboxError> {
        Guarded::open(&self.inner.path)
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The stream whose outbox this is.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.inner.stream
    }

    /// The bytes that tell this outbox from every other.
    #[must_use]
    pub fn instance(&self) -> Instance {
        self.inner.instance
    }

    /// The signals between this process's senders and relay.
    #[must_use]
    pub fn signals(&self) -> &Signals {
        &self.inner.signals
    }

    /// Tells a relay in this process that rows were committed, so that it need not wait for its poll.
    pub fn wake(&self) {
        self.inner.signals.enqueued.ring();
    }

    /// What a relay works on.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be opened.
    pub fn store(&self) -> Result<SqliteStore, OutboxError> {
        SqliteStore::new(self.clone())
    }
}

fn connect(path: &Path) -> Result<Connection, OutboxError> {
    let open = "open the outbox database";
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).during(open)?;
    connection.busy_timeout(BUSY_TIMEOUT).during(open)?;
    connection.pragma_update(None, "journal_mode", "wal").during(open)?;
    connection.pragma_update(None, "synchronous", "full").during(open)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

struct Meta {
    version: i64,
    stream: String,
    instance: [u8; 16],
}

impl Meta {
    /// The one row; `None` when the database has no such table or the table no row.
    fn read(connection: &Connection) -> Result<Option<Self>, OutboxError> {
        let read = "read the outbox's description";
        let there: bool = connection
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'homing_meta')",
                [],
                |row| row.get(0),
            )
            .during(read)?;
        if !there {
            return Ok(None);
        }
        connection
            .query_row("SELECT schema_version, stream, instance FROM homing_meta", [], |row| {
                Ok(Self { version: row.get(0)?, stream: row.get(1)?, instance: row.get(2)? })
            })
            .optional()
            .during(read)
    }
}
