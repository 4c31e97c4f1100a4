//! Applied numbers as ranges, always folded, so the table stays small.
//!
//! One row is one range of numbers of one lane, both ends included. Ranges of
//! a lane neither overlap nor touch: a number that closes a hole joins its
//! neighbours. With everything applied a lane is one row, however many
//! messages went through it; a number that never comes (voided, dead-lettered)
//! costs one row more.

use super::entry::InboxEntry;
use super::sqlite::{Applied, InboxError};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Transaction, params_from_iter};

macro_rules! in_lane {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " WHERE consumer_group = ?1 AND stream = ?2 AND epoch = ?3 AND topic = ?4 AND partition = ?5 ",
            $rest
        )
    };
}

/// Joins ranges that touch, as rows written by others may; returns how many rows went away.
pub(super) fn fold(tx: &Transaction<'_>) -> Result<usize, InboxError> {
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

/// One lane of one group, and the number to add to it.
pub(super) struct Lane<'a> {
    pub tx: &'a Transaction<'a>,
    pub group: &'a str,
    pub entry: &'a InboxEntry<'a>,
}

impl Lane<'_> {
    /// Adds the number to what was applied; `Already` when it was there.
    pub fn add(&self) -> Result<Applied, InboxError> {
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
