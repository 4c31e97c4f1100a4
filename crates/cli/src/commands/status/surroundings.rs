//! What an outbox stands on: whether its database can be written, its disk has room, and who serves the broker.

use crate::config::Settings;
use crate::disk;
use crate::exit::Failure;
use homing::SqliteOutbox;
use rusqlite::{ErrorCode, TransactionBehavior};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// How long another program may keep the database to itself before that is a finding.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Debug, Serialize)]
pub struct Surroundings {
    /// What keeps the database from being written; none when it can be.
    pub database: Option<String>,
    /// The directories whose disks are full.
    pub full: Vec<String>,
    /// The embedded broker, when the settings ask for it.
    pub broker: Option<BrokerJson>,
}

/// Who serves the embedded broker.
#[derive(Debug, Serialize)]
pub struct BrokerJson {
    /// HOST:PORT; kept from one start to the next.
    pub address: String,
    /// The process that wrote it.
    pub pid: u32,
    /// Whether that process is there.
    pub alive: bool,
}

impl Surroundings {
    /// Looks; takes as long as [`LOCK_PATIENCE`] when the database is locked.
    pub fn look(settings: &Settings, outbox: &SqliteOutbox) -> Result<Self, Failure> {
        let dir = disk::dir_of(outbox.path());
        let broker_dir = settings.broker_dir()?;
        let is_embedded = settings.is_embedded();
        let mut full: Vec<_> = disk::full(dir).into_iter().collect();
        if is_embedded && broker_dir.exists() && device(&broker_dir) != device(dir) {
            full.extend(disk::full(&broker_dir));
        }
        let broker = if is_embedded { broker(&broker_dir) } else { None };
        Ok(Self { database: locked(outbox)?, full, broker })
    }

    /// Whether anything keeps messages from being written or sent.
    pub fn is_finding(&self) -> bool {
        self.database.is_some() || !self.full.is_empty()
    }
}

/// Takes the write lock and gives it back; says who has it when that fails.
fn locked(outbox: &SqliteOutbox) -> Result<Option<String>, Failure> {
    let mut connection = outbox.connect()?;
    connection.busy_timeout(LOCK_PATIENCE)?;
    match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(tx) => {
            // Nothing was written: there is nothing to take back.
            tx.rollback()?;
            Ok(None)
        }
        Err(error) => Ok(Some(match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => format!(
                "another program holds it for more than {} s: nothing can be put in or sent; look for a \
                 transaction that is left open",
                LOCK_PATIENCE.as_secs()
            ),
            _ => format!("it cannot be written: {error}"),
        })),
    }
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| meta.dev())
}

/// Reads what the serving process wrote down.
fn broker(dir: &Path) -> Option<BrokerJson> {
    let text = std::fs::read_to_string(dir.join("address")).ok()?;
    let mut words = text.split_whitespace();
    let address = words.next()?.to_owned();
    let pid: u32 = words.next()?.parse().ok()?;
    let alive = Path::new("/proc").join(pid.to_string()).exists();
    Some(BrokerJson { address, pid, alive })
}
