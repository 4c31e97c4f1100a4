//! Held topics: which of their rows wait unnumbered, and claiming them when the topic is there.
//!
//! While a topic is held, each claim of new rows lists the topic's rows among them in
//! `homing_held_row`. Claiming them later writes the batch's number there, so a batch of held
//! rows is the list's rows with its number, and the ids of a batch of new rows are its own but
//! for those that are listed. The hold ends in the transaction that claims its last row: rows
//! after `claimed_through` are new rows again, so none overtakes another.

use super::batches::inconsistent;
use super::ownership::{Fence, fenced};
use super::pins::parse_topic;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::{Commit, Held, Hold, Manifest, RowId};
use homing_core::TopicName;
use rusqlite::{Connection, Transaction, params};

/// What a span's detail says when its rows are listed.
pub(super) const LISTED: &str = "held";

pub(super) fn is_listed(manifest: &Manifest) -> bool {
    manifest.span.detail.as_deref() == Some(LISTED)
}

/// Begins a hold; one that is there stays as it is.
pub(super) fn begin(tx: &Transaction<'_>, hold: &Hold) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO homing_held (topic, from_id, code, reason, since_ms) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (topic) DO NOTHING",
    )?
    .execute(params![hold.topic.as_str(), hold.from.0, hold.code, hold.reason, hold.since_ms])
    .map(drop)
}

/// What a claim of new rows passed by.
pub(super) struct PassedBy {
    /// All topics that are held.
    pub topics: Vec<TopicName>,
    /// How many rows were listed.
    pub rows: u64,
}

/// Lists the rows of held topics after `before` up to `through`.
pub(super) fn take_in(tx: &Transaction<'_>, before: RowId, through: RowId) -> Result<PassedBy, OutboxError> {
    let operation = "hold rows back";
    let names: Vec<String> = tx
        .prepare_cached("SELECT topic FROM homing_held")
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .during(operation)?;
    let topics = names.iter().map(|name| parse_topic(name, operation)).collect::<Result<Vec<_>, _>>()?;
    let mut rows = 0;
    for topic in &names {
        let listed = tx
            .prepare_cached(
                "INSERT INTO homing_held_row (row_id, topic) SELECT id, ?3 FROM homing_outbox \
                 WHERE id > ?1 AND id <= ?2 AND CAST(topic AS TEXT) = ?3",
            )
            .and_then(|mut statement| statement.execute(params![before.0, through.0, topic]))
            .during(operation)?;
        if listed > 0 {
            add_rows(tx, topic, listed as i64).during(operation)?;
            rows += listed as u64;
        }
    }
    Ok(PassedBy { topics, rows })
}

/// Counts rows that are held from now on (or no longer).
pub(super) fn add_rows(tx: &Transaction<'_>, topic: &str, rows: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE homing_held SET row_count = row_count + ?2 WHERE topic = ?1")?
        .execute(params![topic, rows])
        .map(drop)
}

/// Which of a topic's held rows a commit deals with.
pub(super) struct Share<'a> {
    pub topic: &'a TopicName,
    pub through: RowId,
    pub done: bool,
}

/// Gives held rows to the commit's manifest; its rejected rows have left the outbox already.
pub(super) fn claim(tx: &Transaction<'_>, commit: &Commit<'_>, share: Share<'_>) -> Result<(), OutboxError> {
    let operation = "claim held rows";
    let topic = share.topic.as_str();
    for rejected in commit.reject {
        let listed = tx
            .prepare_cached(
                "DELETE FROM homing_held_row WHERE row_id = ?1 AND topic = ?2 AND batch_id IS NULL",
            )
            .and_then(|mut statement| statement.execute(params![rejected.row.0, topic]))
            .during(operation)?;
        if listed != 1 {
            return inconsistent(operation, format!("row {} is no held row of {topic}", rejected.row));
        }
    }
    let mut numbered = 0;
    if let Some(manifest) = commit.manifest {
        if !is_listed(manifest) || manifest.span.to > share.through {
            return inconsistent(operation, format!("batch {} is not of held rows", manifest.batch));
        }
        numbered = u64::from(manifest.rows);
    }
    let claimed = tx
        .prepare_cached(
            "UPDATE homing_held_row SET batch_id = ?3 WHERE topic = ?1 AND batch_id IS NULL AND row_id <= ?2",
        )
        .and_then(|mut statement| {
            let batch = commit.manifest.map(|manifest| manifest.batch.0);
            statement.execute(params![topic, share.through.0, batch])
        })
        .during(operation)?;
    if claimed as u64 != numbered {
        let what = format!("{claimed} rows of {topic} are held up to {}, not {numbered}", share.through);
        return inconsistent(operation, what);
    }
    let rejected = commit.reject.len() as i64;
    tx.execute("UPDATE homing_meta SET kept_rows = kept_rows - ?1", [rejected]).during(operation)?;
    let moved = tx
        .execute(
            "UPDATE homing_held SET from_id = MAX(from_id, ?2), row_count = row_count - ?3 WHERE topic = ?1",
            params![topic, share.through.0.saturating_add(1), numbered as i64 + rejected],
        )
        .during(operation)?;
    if moved != 1 {
        return inconsistent(operation, format!("topic {topic} is not held"));
    }
    if share.done { end(tx, topic) } else { Ok(()) }
}

fn end(tx: &Transaction<'_>, topic: &str) -> Result<(), OutboxError> {
    let operation = "end a hold";
    let left: bool = tx
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM homing_held_row WHERE topic = ?1 AND batch_id IS NULL)",
            [topic],
            |row| row.get(0),
        )
        .during(operation)?;
    if left {
        return inconsistent(operation, format!("rows of {topic} are still held"));
    }
    tx.execute("DELETE FROM homing_held WHERE topic = ?1", [topic]).map(drop).during(operation)
}

/// The topics that are held, by name.
pub(super) fn held(connection: &Connection) -> Result<Vec<Held>, OutboxError> {
    let read = "read the held topics";
    let mut statement = connection
        .prepare_cached(
            "SELECT topic, from_id, code, reason, since_ms, row_count FROM homing_held ORDER BY topic",
        )
        .during(read)?;
    let mut rows = statement.query([]).during(read)?;
    let mut held = Vec::new();
    while let Some(row) = rows.next().during(read)? {
        let topic: String = row.get(0).during(read)?;
        held.push(Held {
            topic: parse_topic(&topic, read)?,
            from: RowId(row.get(1).during(read)?),
            code: row.get(2).during(read)?,
            reason: row.get(3).during(read)?,
            since_ms: row.get(4).during(read)?,
            rows: row.get::<_, i64>(5).during(read)?.max(0) as u64,
        });
    }
    Ok(held)
}

pub(super) fn update(
    connection: &mut Connection,
    fence: &Fence,
    topic: &TopicName,
    code: &str,
    reason: &str,
) -> Result<(), OutboxError> {
    let note = "note why a topic is held";
    let tx = fenced(connection, fence, note)?;
    tx.execute(
        "UPDATE homing_held SET code = ?2, reason = ?3 WHERE topic = ?1",
        params![topic.as_str(), code, reason],
    )
    .during(note)?;
    tx.commit().during(note)
}
