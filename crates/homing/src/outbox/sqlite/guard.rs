//! A connection that knows whether the file at its path is still the one it has open.
//!
//! A database file or write-ahead log that was removed or replaced stays open under its old
//! inode: what is written there nobody will read, and a checkpoint would write old pages over
//! the new owner's, or remove its log. So each write compares device and inode first, and a
//! connection that lost its file closes without a checkpoint.

use super::connect;
use crate::outbox::error::{During, OutboxError};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

/// What tells a file from every other on this host.
type FileId = (u64, u64);

/// A connection with the identity of its files.
#[derive(Debug)]
pub(super) struct Guarded {
    connection: Connection,
    path: PathBuf,
    database: Option<FileId>,
    wal: Option<(PathBuf, FileId)>,
}

impl Guarded {
    pub(super) fn open(path: &Path) -> Result<Self, OutboxError> {
        let before = file_id(path);
        let connection = connect(path)?;
        // The log is opened by the first read.
        connection
            .query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
            .during("open the outbox database")?;
        let wal = connection.path().map(|path| PathBuf::from(format!("{path}-wal")));
        let wal = wal.and_then(|path| file_id(&path).map(|id| (path, id)));
        let guarded = Self { connection, path: path.to_owned(), database: before, wal };
        guarded.check()?;
        Ok(guarded)
    }

    /// That database and log are still the files this connection has open.
    ///
    /// # Errors
    /// [`OutboxError::Replaced`] when they are not; the connection must not write any more.
    pub(super) fn check(&self) -> Result<(), OutboxError> {
        let replaced = |what| Err(OutboxError::Replaced { path: self.path.clone(), what });
        if let Some(opened) = self.database {
            match file_id(&self.path) {
                None => return replaced("was removed"),
                Some(now) if now != opened => return replaced("was replaced by another file"),
                Some(_) => {}
            }
        }
        if let Some((path, opened)) = &self.wal
            && file_id(path) != Some(*opened)
        {
            return replaced("lost its write-ahead log (the file with -wal at its end)");
        }
        Ok(())
    }
}

#[cfg(unix)]
fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Without device and inode nothing is compared.
#[cfg(not(unix))]
fn file_id(_path: &Path) -> Option<FileId> {
    None
}

impl Deref for Guarded {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.check().is_err()
            && let Err(error) =
                self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        {
            tracing::error!(%error, "the checkpoint of a database that was replaced cannot be kept from running");
        }
    }
}
