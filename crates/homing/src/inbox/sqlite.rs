//! The inbox on SQLite: applied numbers as ranges, always folded, so the table stays small.
//!
//! One row is one range of numbers of one lane, both ends included. Ranges of
//! a lane neither overlap nor touch: a number that closes a hole joins its
//! neighbours. With everything applied a lane is one row, however many
//! messages went through it; a number that never comes (voided, dead-lettered)
//! costs one row more.
//!
//! Another language does the same with one statement in the handler's own
//! transaction (its rows are folded by [`Inbox::fold`] or by the next
//! neighbour this library applies):
//!
//! ```sql
//! INSERT INTO homing_inbox
//! SELECT :consumer_group, :stream, :epoch, :topic, :partition, :seq, :seq
//! WHERE coalesce((SELECT last_seq FROM homing_inbox
//!                 WHERE consumer_group = :consumer_group AND stream = :stream AND epoch = :epoch
//!                   AND topic = :topic AND partition = :partition AND first_seq <= :seq
//!                 ORDER BY first_seq DESC LIMIT 1), 0) < :seq;
//! -- no row inserted: applied already, so skip the effect
//! ```
//! A record with the flag `redrive` needs a second one, keyed by its `homing-id`:
//!
//! ```sql
//! INSERT OR IGNORE INTO homing_inbox_redriven VALUES (:consumer_group, :homing_id);
//! -- no row inserted: applied already
//! ```
//! A record without a stamp goes under stream `''`, epoch 0, and offset + 1.

use super::entry::InboxEntry;
use crate::error::Retry;
use crate::kafka::record::Record;
use homing_core::Seq;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, params, params_from_iter};

/// What the inbox needs; may be run again on every start.
const SCHEMA: &str = "\
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
CREATE TABLE IF NOT EXISTS homing_inbox_redriven (
    consumer_group TEXT NOT NULL,
    message_id TEXT NOT NULL,
    PRIMARY KEY (consumer_group, message_id)
) WITHOUT ROWID;
";

macro_rules! in_lane {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " WHERE consumer_group = ?1 AND stream = ?2 AND epoch = ?3 AND topic = ?4 AND partition = ?5 ",
            $rest
        )
    };
}

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
///     redriven: None,
/// };
/// let tx = db.transaction()?;
/// assert_eq!(Inbox::apply_entry_once(&tx, "billing", &entry)?, Applied::First);
/// assert_eq!(Inbox::apply_entry_once(&tx, "billing", &entry)?, Applied::Already);
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

    /// Creates the inbox unless it is there.
    ///
    /// # Errors
    /// [`InboxError::Database`] when the database refuses.
    pub fn create(connection: &Connection) -> Result<(), InboxError> {
        Ok(connection.execute_batch(SCHEMA)?)
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
        let by_seq = Lane { tx, group, entry }.add()?;
        let Some(id) = entry.redriven else { return Ok(by_seq) };
        let by_id = tx
            .prepare_cached("INSERT OR IGNORE INTO homing_inbox_redriven VALUES (?1, ?2)")?
            .execute(params![group, id.to_string()])?;
        Ok(if by_id == 0 { Applied::Already } else { by_seq })
    }

    /// Joins ranges that touch, as rows written by others may; returns how many rows went away.
    ///
    /// # Errors
    /// [`InboxError::Database`] when the database refuses.
    pub fn fold(tx: &Transaction<'_>) -> Result<usize, InboxError> {
        // Each island of touching ranges, with its last number and how many rows it takes.
        let sql = "\
            WITH marked AS (
                SELECT *, first_seq > 1 + coalesce(lag(last_seq) OVER lane, -1) AS begins
                FROM homing_inbox
                WINDOW lane AS (PARTITION BY consumer_group, stream, epoch, topic, partition ORDER BY first_seq)
            ), numbered AS (
                SELECT *, sum(begins) OVER (PARTITION BY consumer_group, stream, epoch, topic, partition
                                            ORDER BY first_seq) AS island
                FROM marked
            )
            SELECT consumer_group, stream, epoch, topic, partition, min(first_seq), max(last_seq), count(*)
            FROM numbered
            GROUP BY consumer_group, stream, epoch, topic, partition, island HAVING count(*) > 1";
        let mut islands = tx.prepare(sql)?;
        let mut rows = islands.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let values: Vec<Value> = (0..7).map(|i| row.get(i)).collect::<Result<_, _>>()?;
            found.push((values, row.get::<_, u32>(7)?));
        }
        let mut gone = 0;
        for (values, count) in found {
            let values = params_from_iter(values);
            tx.execute(
                in_lane!("DELETE FROM homing_inbox", "AND first_seq > ?6 AND last_seq <= ?7"),
                values.clone(),
            )?;
            tx.execute(in_lane!("UPDATE homing_inbox SET last_seq = ?7", "AND first_seq = ?6"), values)?;
            gone += count as usize - 1;
        }
        Ok(gone)
    }
}

/// One lane of one group, and the number to add to it.
struct Lane<'a> {
    tx: &'a Transaction<'a>,
    group: &'a str,
    entry: &'a InboxEntry<'a>,
}

impl Lane<'_> {
    fn add(&self) -> Result<Applied, InboxError> {
        let number = self.entry.seq;
        let seq = i64::try_from(number.0)
            .ok()
            .filter(|seq| *seq < i64::MAX)
            .ok_or(InboxError::OutOfRange { seq: number })?;
        let below = self.range_at_or_below(seq)?;
        if below.is_some_and(|(_, last)| last >= seq) {
            return Ok(Applied::Already);
        }
        let touching = below.filter(|(_, last)| *last == seq - 1);
        let above = self.last_of_range_from(seq + 1)?;
        if above.is_some() {
            self.delete(seq + 1)?;
        }
        let last = above.unwrap_or(seq);
        match touching {
            Some((first, _)) => self.extend(first, last)?,
            None => self.insert(seq, last)?,
        }
        Ok(Applied::First)
    }

    fn range_at_or_below(&self, seq: i64) -> Result<Option<(i64, i64)>, InboxError> {
        let sql = in_lane!(
            "SELECT first_seq, last_seq FROM homing_inbox",
            "AND first_seq <= ?6 ORDER BY first_seq DESC LIMIT 1"
        );
        let mut statement = self.tx.prepare_cached(sql)?;
        let row = statement.query_row(self.params(&[seq]).as_slice(), |row| Ok((row.get(0)?, row.get(1)?)));
        Ok(row.optional()?)
    }

    fn last_of_range_from(&self, first: i64) -> Result<Option<i64>, InboxError> {
        let sql = in_lane!("SELECT last_seq FROM homing_inbox", "AND first_seq = ?6");
        let mut statement = self.tx.prepare_cached(sql)?;
        Ok(statement.query_row(self.params(&[first]).as_slice(), |row| row.get(0)).optional()?)
    }

    fn delete(&self, first: i64) -> Result<(), InboxError> {
        self.execute(in_lane!("DELETE FROM homing_inbox", "AND first_seq = ?6"), &[first])
    }

    fn extend(&self, first: i64, last: i64) -> Result<(), InboxError> {
        self.execute(in_lane!("UPDATE homing_inbox SET last_seq = ?7", "AND first_seq = ?6"), &[first, last])
    }

    fn insert(&self, first: i64, last: i64) -> Result<(), InboxError> {
        self.execute("INSERT INTO homing_inbox VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", &[first, last])
    }

    fn execute(&self, sql: &str, numbers: &[i64]) -> Result<(), InboxError> {
        self.tx.prepare_cached(sql)?.execute(self.params(numbers).as_slice())?;
        Ok(())
    }

    fn params<'b>(&'b self, numbers: &'b [i64]) -> Vec<&'b dyn rusqlite::ToSql> {
        let lane: [&dyn rusqlite::ToSql; 5] = [
            &self.group,
            &self.entry.stream,
            &self.entry.epoch.0,
            &self.entry.topic,
            &self.entry.partition.0,
        ];
        lane.into_iter().chain(numbers.iter().map(|n| n as &dyn rusqlite::ToSql)).collect()
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
