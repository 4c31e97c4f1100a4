//! The inbox on SQLite: numbers as folded ranges for ever, ids for a time.
//!
//! Another language does the same with these statements in the handler's own
//! transaction (`:homing_id` is the header's UUID as 16 bytes; number rows are
//! folded by [`Inbox::fold`] or by the next neighbour this library applies):
//!
//! ```sql
//! INSERT OR IGNORE INTO homing_inbox_lane (consumer_group, stream, epoch, topic, partition)
//! VALUES (:consumer_group, :stream, :epoch, :topic, :partition);
//!
//! INSERT INTO homing_inbox_message (lane, seq, message_id, applied_at_ms)
//! SELECT lane, :seq, :homing_id, :now_ms FROM homing_inbox_lane
//! WHERE consumer_group = :consumer_group AND stream = :stream AND epoch = :epoch
//!   AND topic = :topic AND partition = :partition
//!   AND NOT EXISTS (SELECT 1 FROM homing_inbox_message JOIN homing_inbox_lane USING (lane)
//!                   WHERE message_id = :homing_id AND consumer_group = :consumer_group);
//! -- no row inserted: applied already, so skip the effect
//!
//! INSERT INTO homing_inbox
//! SELECT :consumer_group, :stream, :epoch, :topic, :partition, :seq, :seq
//! WHERE coalesce((SELECT last_seq FROM homing_inbox
//!                 WHERE consumer_group = :consumer_group AND stream = :stream AND epoch = :epoch
//!                   AND topic = :topic AND partition = :partition AND first_seq <= :seq
//!                 ORDER BY first_seq DESC LIMIT 1), 0) < :seq;
//! -- no row inserted: the number was applied before. When it now has one row in
//! -- homing_inbox_message, which is yours, its id was forgotten: roll back and skip.
//! -- With two, a restored outbox gave it twice (X12): do the effect.
//! ```
//! A record with the flag `redrive` needs one more, which is kept for good:
//!
//! ```sql
//! INSERT OR IGNORE INTO homing_inbox_redriven VALUES (:consumer_group, :homing_id_as_text);
//! -- no row inserted: applied already
//! ```
//! A record without a stamp has no id: only its number counts, under stream `''`,
//! epoch 0, and offset + 1.

use super::entry::InboxEntry;
use super::sqlite_ids::{self as ids, LaneRow};
use super::sqlite_numbers::{self as numbers, Lane};
use crate::error::Retry;
use crate::kafka::record::Record;
use homing_core::Seq;
use rusqlite::{Connection, Transaction, params};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// What the inbox needs; may be run again on every start, also over an older inbox.
const SCHEMA: &str = "\
-- What was applied, by number, for ever: ranges of seqs.
CREATE TABLE IF NOT EXISTS homing_inbox (
    consumer_group TEXT NOT NULL,
    stream TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL CHECK (last_seq >= first_seq),
    PRIMARY KEY (consumer_group, stream, epoch, topic, partition, first_seq)
) WITHOUT ROWID;
-- What was applied, by the message's id, for as long as homing_inbox_keep says.
CREATE TABLE IF NOT EXISTS homing_inbox_lane (
    lane INTEGER PRIMARY KEY,
    consumer_group TEXT NOT NULL,
    stream TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    UNIQUE (consumer_group, stream, epoch, topic, partition)
);
CREATE TABLE IF NOT EXISTS homing_inbox_message (
    lane INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    message_id BLOB NOT NULL, -- 16 bytes
    applied_at_ms INTEGER NOT NULL,
    PRIMARY KEY (lane, seq, message_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS homing_inbox_message_id ON homing_inbox_message (message_id);
CREATE TABLE IF NOT EXISTS homing_inbox_keep (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    ids_ms INTEGER NOT NULL,
    ids_per_lane_max INTEGER NOT NULL
);
INSERT OR IGNORE INTO homing_inbox_keep VALUES (1, 604800000, 1000000);
-- Dead letters that were sent again, for ever.
CREATE TABLE IF NOT EXISTS homing_inbox_redriven (
    consumer_group TEXT NOT NULL,
    message_id TEXT NOT NULL,
    PRIMARY KEY (consumer_group, message_id)
) WITHOUT ROWID;
";

/// Whether a message is applied now or was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Do the effect, in the same transaction.
    First,
    /// Skip the effect: it was done before.
    Already,
}

/// Why the inbox could not tell. The transaction is to be rolled back.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The database refused.
    #[error("inbox: {0}")]
    Database(#[from] rusqlite::Error),
    /// SQLite's integers end before the number.
    #[error("inbox: {seq} is not a number SQLite can hold")]
    OutOfRange {
        /// The number.
        seq: Seq,
    },
}

impl InboxError {
    /// Whether the same call may succeed later: nothing was written by a failed one.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Database(_) => Retry::Later,
            Self::OutOfRange { .. } => Retry::Never,
        }
    }
}

/// Remembers what each consumer group has applied.
///
/// ```
/// use homing::core::{Epoch, Partition, Seq};
/// use homing::inbox::{Applied, Inbox, InboxEntry};
/// let mut db = rusqlite::Connection::open_in_memory()?;
/// Inbox::create(&db)?;
/// let entry = InboxEntry {
///     stream: "orders",
///     epoch: Epoch(1),
///     topic: "orders",
///     partition: Partition(0),
///     seq: Seq(1),
///     id: Some(uuid::Uuid::from_u128(7)),
///     redriven: false,
/// };
/// // The outbox was restored: the same message comes under another number.
/// let renumbered = InboxEntry { epoch: Epoch(2), ..entry.clone() };
/// let tx = db.transaction()?;
/// assert_eq!(Inbox::apply_entry_once(&tx, "billing", &entry)?, Applied::First);
/// assert_eq!(Inbox::apply_entry_once(&tx, "billing", &renumbered)?, Applied::Already);
/// tx.commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Inbox;

impl Inbox {
    /// The SQL that creates the inbox.
    #[must_use]
    pub fn schema_sql() -> &'static str {
        SCHEMA
    }

    /// Creates the inbox unless it is there; an older one gets what it lacks.
    ///
    /// # Errors
    /// [`InboxError::Database`] when the database refuses.
    pub fn create(connection: &Connection) -> Result<(), InboxError> {
        Ok(connection.execute_batch(SCHEMA)?)
    }

    /// Sets how long the ids of applied messages are kept, and how many a lane.
    ///
    /// By default 7 days and 1,000,000, at about 60 bytes each. They tell a message that comes
    /// under another number, which happens after the outbox was restored from a backup or made
    /// anew. Too short: what went out after a backup that is older than this takes effect twice
    /// when the backup is restored. Numbers are kept for ever, whatever is set here.
    ///
    /// # Errors
    /// [`InboxError::Database`] when the database refuses.
    pub fn keep_ids(connection: &Connection, keep: Duration, per_lane_max: u64) -> Result<(), InboxError> {
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let per_lane_max = i64::try_from(per_lane_max).unwrap_or(i64::MAX);
        connection.execute(
            "UPDATE homing_inbox_keep SET ids_ms = ?1, ids_per_lane_max = ?2",
            params![keep_ms, per_lane_max],
        )?;
        Ok(())
    }

    /// Remembers the record as applied by `group`, and says whether it was before.
    ///
    /// Call it in the transaction that holds the effect, before the effect.
    ///
    /// # Errors
    /// [`InboxError`]; roll the transaction back and try again.
    pub fn apply_once(tx: &Transaction<'_>, group: &str, record: &Record) -> Result<Applied, InboxError> {
        Self::apply_entry_once(tx, group, &InboxEntry::of(record))
    }

    /// As [`apply_once`](Self::apply_once), for a message that does not come as a [`Record`].
    ///
    /// # Errors
    /// As [`apply_once`](Self::apply_once).
    pub fn apply_entry_once(
        tx: &Transaction<'_>,
        group: &str,
        entry: &InboxEntry<'_>,
    ) -> Result<Applied, InboxError> {
        let by_number = Lane { tx, group, entry }.add()?;
        let Some(id) = entry.id else { return Ok(by_number) };
        if entry.redriven {
            let fresh = tx
                .prepare_cached("INSERT OR IGNORE INTO homing_inbox_redriven VALUES (?1, ?2)")?
                .execute(params![group, id.to_string()])?;
            if fresh == 0 {
                return Ok(Applied::Already);
            }
        }
        if ids::is_known(tx, group, id)? {
            return Ok(Applied::Already);
        }
        let lane = ids::lane(tx, group, entry)?;
        let seq = i64::try_from(entry.seq.0).map_err(|_| InboxError::OutOfRange { seq: entry.seq })?;
        if by_number == Applied::Already {
            // Remembered by its number alone, or its id is older than what is kept.
            let Some(other) = ids::of_number(tx, lane, seq)? else { return Ok(Applied::Already) };
            name_fork(entry, (other, id));
        }
        ids::remember(tx, (lane, seq), id, now_ms())?;
        Ok(Applied::First)
    }

    /// Joins ranges that touch, as rows written by others may; returns how many rows went away.
    ///
    /// # Errors
    /// [`InboxError::Database`] when the database refuses.
    pub fn fold(tx: &Transaction<'_>) -> Result<usize, InboxError> {
        numbers::fold(tx)
    }

    /// Deletes ids older than what is kept, `rows_max` at most; returns how many.
    ///
    /// Applying does this by the way; call it when a group applies nothing any more.
    ///
    /// # Errors
    /// [`InboxError::Database`] when the database refuses.
    pub fn forget_old_ids(tx: &Transaction<'_>, rows_max: u32) -> Result<usize, InboxError> {
        let mut lanes = tx.prepare("SELECT DISTINCT lane FROM homing_inbox_message")?;
        let lanes: Vec<LaneRow> =
            lanes.query_map([], |row| row.get(0).map(LaneRow::from_row))?.collect::<Result<_, _>>()?;
        let mut gone = 0;
        for lane in lanes {
            let left = i64::from(rows_max) - i64::try_from(gone).unwrap_or(i64::MAX);
            if left <= 0 {
                break;
            }
            gone += ids::forget(tx, lane, now_ms(), left)?;
        }
        Ok(gone)
    }
}

/// Says that a number was given to two messages; once for each doubling of how often.
fn name_fork(entry: &InboxEntry<'_>, (before, now): (Uuid, Uuid)) {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let times = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
    if times.is_power_of_two() {
        let InboxEntry { stream, epoch, topic, partition, seq, .. } = entry;
        tracing::error!(
            code = "X12", stream, %epoch, topic, %partition, %seq, %before, %now, times,
            "X12: a number was given to two messages: the outbox was restored or copied; both take effect"
        );
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
