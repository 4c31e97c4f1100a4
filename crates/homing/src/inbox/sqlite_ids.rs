//! The ids of applied messages, kept for a time: what knows a message under another number.
//!
//! A row is one message under one number. Rows of a lane are written about in
//! the order of their numbers, so the oldest are found at its low end; a few of
//! them are deleted by the way, whenever some have been added.

use super::entry::InboxEntry;
use super::sqlite::InboxError;
use rusqlite::{OptionalExtension, Transaction, params};
use uuid::Uuid;

/// Rows are looked through for old ones once in so many numbers …
const TIDY_EVERY: i64 = 64;
/// … and at most so many are deleted then, of the lane at hand and of the oldest one each.
const TIDY_ROWS: i64 = 256;

/// A lane's row number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneRow(i64);

impl LaneRow {
    pub fn from_row(lane: i64) -> Self {
        Self(lane)
    }
}

/// Whether a message's id was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Id {
    /// It is remembered now, under the entry's number.
    New,
    /// The group has applied the message, under whatever number.
    Known,
}

/// Remembers the message under its number unless the group knows it, and forgets a few ids that
/// are older than what is kept.
pub(super) fn add(
    tx: &Transaction<'_>,
    (group, entry): (&str, &InboxEntry<'_>),
    id: Uuid,
    now_ms: i64,
) -> Result<Id, InboxError> {
    let seq = i64::try_from(entry.seq.0).map_err(|_| InboxError::OutOfRange { seq: entry.seq })?;
    let lane_key = params![group, entry.stream, entry.epoch.0, entry.topic, entry.partition.0];
    // The usual way is one statement; a lane's first message finds no lane to stand in.
    let insert = || -> Result<bool, InboxError> {
        let mut statement = tx.prepare_cached(
            "INSERT INTO homing_inbox_message (lane, seq, message_id, applied_at_ms) \
             SELECT lane, ?6, ?7, ?8 FROM homing_inbox_lane WHERE consumer_group = ?1 AND stream = ?2 \
             AND epoch = ?3 AND topic = ?4 AND partition = ?5 \
             AND NOT EXISTS (SELECT 1 FROM homing_inbox_message JOIN homing_inbox_lane USING (lane) \
                             WHERE message_id = ?7 AND consumer_group = ?1)",
        )?;
        let (stream, epoch, topic, partition) = (entry.stream, entry.epoch.0, entry.topic, entry.partition.0);
        let added =
            statement.execute(params![group, stream, epoch, topic, partition, seq, id.as_bytes(), now_ms])?;
        Ok(added > 0)
    };
    let mut added = insert()?;
    if !added {
        let made = tx
            .prepare_cached(
                "INSERT OR IGNORE INTO homing_inbox_lane (consumer_group, stream, epoch, topic, partition) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(lane_key)?;
        added = made > 0 && insert()?;
    }
    if added && seq % TIDY_EVERY == 0 {
        let own = lane(tx, group, entry)?;
        forget(tx, own, now_ms, TIDY_ROWS)?;
        if let Some(oldest) = oldest_lane(tx)?.filter(|oldest| *oldest != own) {
            forget(tx, oldest, now_ms, TIDY_ROWS)?;
        }
    }
    Ok(if added { Id::New } else { Id::Known })
}

fn lane(tx: &Transaction<'_>, group: &str, entry: &InboxEntry<'_>) -> Result<LaneRow, InboxError> {
    Ok(tx
        .prepare_cached(
            "SELECT lane FROM homing_inbox_lane WHERE consumer_group = ?1 AND stream = ?2 AND epoch = ?3 \
             AND topic = ?4 AND partition = ?5",
        )?
        .query_row(params![group, entry.stream, entry.epoch.0, entry.topic, entry.partition.0], |row| {
            row.get(0)
        })
        .map(LaneRow)?)
}

/// Another message that was applied under this number, if its id is still kept.
pub(super) fn other_of_number(
    tx: &Transaction<'_>,
    (group, entry): (&str, &InboxEntry<'_>),
    id: Uuid,
) -> Result<Option<Uuid>, InboxError> {
    let seq = i64::try_from(entry.seq.0).map_err(|_| InboxError::OutOfRange { seq: entry.seq })?;
    let found: Option<[u8; 16]> = tx
        .prepare_cached(
            "SELECT message_id FROM homing_inbox_message WHERE lane = ?1 AND seq = ?2 AND message_id <> ?3 LIMIT 1",
        )?
        .query_row(params![lane(tx, group, entry)?.0, seq, id.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(found.map(Uuid::from_bytes))
}

/// The lane that was begun first among those with ids: a closed epoch's, sooner or later.
fn oldest_lane(tx: &Transaction<'_>) -> Result<Option<LaneRow>, InboxError> {
    let lane: Option<i64> =
        tx.prepare_cached("SELECT MIN(lane) FROM homing_inbox_message")?.query_row([], |row| row.get(0))?;
    Ok(lane.map(LaneRow))
}

/// Deletes up to `rows_max` ids of a lane that are older, or further back, than what is kept.
pub(super) fn forget(
    tx: &Transaction<'_>,
    lane: LaneRow,
    now_ms: i64,
    rows_max: i64,
) -> Result<usize, InboxError> {
    Ok(tx
        .prepare_cached(
            "DELETE FROM homing_inbox_message WHERE lane = ?1 \
             AND seq <= (SELECT MAX(seq) FROM (SELECT seq FROM homing_inbox_message WHERE lane = ?1 \
                         ORDER BY seq LIMIT ?3)) \
             AND (applied_at_ms < ?2 - (SELECT ids_ms FROM homing_inbox_keep) \
                  OR seq <= (SELECT MAX(seq) FROM homing_inbox_message WHERE lane = ?1) \
                            - (SELECT ids_per_lane_max FROM homing_inbox_keep))",
        )?
        .execute(params![lane.0, now_ms, rows_max])?)
}
