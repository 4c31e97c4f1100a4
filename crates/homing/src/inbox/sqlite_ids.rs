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

/// The row of the entry's lane, made when there is none.
pub(super) fn lane(tx: &Transaction<'_>, group: &str, entry: &InboxEntry<'_>) -> Result<LaneRow, InboxError> {
    let key = params![group, entry.stream, entry.epoch.0, entry.topic, entry.partition.0];
    let found = tx
        .prepare_cached(
            "SELECT lane FROM homing_inbox_lane WHERE consumer_group = ?1 AND stream = ?2 AND epoch = ?3 \
             AND topic = ?4 AND partition = ?5",
        )?
        .query_row(key, |row| row.get(0))
        .optional()?;
    if let Some(lane) = found {
        return Ok(LaneRow(lane));
    }
    tx.prepare_cached(
        "INSERT INTO homing_inbox_lane (consumer_group, stream, epoch, topic, partition) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(key)?;
    Ok(LaneRow(tx.last_insert_rowid()))
}

/// Whether the group has applied the message, under whatever number.
pub(super) fn is_known(tx: &Transaction<'_>, group: &str, id: Uuid) -> Result<bool, InboxError> {
    Ok(tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM homing_inbox_message JOIN homing_inbox_lane USING (lane) \
             WHERE message_id = ?1 AND consumer_group = ?2)",
        )?
        .query_row(params![id.as_bytes(), group], |row| row.get(0))?)
}

/// A message that was applied under this number, if its id is still kept.
pub(super) fn of_number(tx: &Transaction<'_>, lane: LaneRow, seq: i64) -> Result<Option<Uuid>, InboxError> {
    let found: Option<[u8; 16]> = tx
        .prepare_cached("SELECT message_id FROM homing_inbox_message WHERE lane = ?1 AND seq = ?2 LIMIT 1")?
        .query_row([lane.0, seq], |row| row.get(0))
        .optional()?;
    Ok(found.map(Uuid::from_bytes))
}

/// Remembers the message under its number, and forgets a few that are older than what is kept.
pub(super) fn remember(
    tx: &Transaction<'_>,
    (lane, seq): (LaneRow, i64),
    id: Uuid,
    now_ms: i64,
) -> Result<(), InboxError> {
    tx.prepare_cached(
        "INSERT INTO homing_inbox_message (lane, seq, message_id, applied_at_ms) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![lane.0, seq, id.as_bytes(), now_ms])?;
    if seq % TIDY_EVERY == 0 {
        forget(tx, lane, now_ms, TIDY_ROWS)?;
        if let Some(oldest) = oldest_lane(tx)?.filter(|oldest| *oldest != lane) {
            forget(tx, oldest, now_ms, TIDY_ROWS)?;
        }
    }
    Ok(())
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
