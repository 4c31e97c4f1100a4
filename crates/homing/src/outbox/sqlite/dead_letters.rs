//! The dead-letter table: setting rows aside, listing them, and sending them again as new rows.

use super::SqliteOutbox;
use super::pruning::{allow_deletes, count_gone};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::identity::{self, Instance};
use crate::outbox::report::{DeadLetter, Redriven};
use crate::outbox::store::{Rejected, RowId, Voided};
use homing_core::{Epoch, Partition, Seq};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use uuid::Uuid;

/// The most dead letters one transaction of a redrive looks at.
const REDRIVE_ROWS: i64 = 1_000;
/// After so many bytes of payload a transaction of a redrive ends.
const REDRIVE_BYTES: i64 = 8 << 20;

const COPY: &str = "\
INSERT INTO homing_dead_letter (row_id, topic, message_key, payload, payload_text, headers, message_id, \
 created_at_ms, code, reason, rejected_at_ms, epoch, partition, seq) \
SELECT id, CAST(topic AS TEXT), message_key, payload, payload_text, headers, COALESCE(message_id, ?2), \
 created_at_ms, ?3, ?4, ?5, ?6, ?7, ?8 FROM homing_outbox WHERE id = ?1";

/// Moves rows that never had a number: they leave the outbox in this transaction.
pub(super) fn set_aside_unnumbered(
    tx: &Transaction<'_>,
    instance: Instance,
    rejected: &[Rejected],
    now_ms: i64,
) -> Result<(), OutboxError> {
    let operation = "set a row aside";
    if rejected.is_empty() {
        return Ok(());
    }
    allow_deletes(tx, true).during(operation)?;
    for row in rejected {
        let id = derived_id(tx, instance, row.row).during(operation)?;
        copy(tx, row, id, None, now_ms)?;
        tx.prepare_cached("DELETE FROM homing_outbox WHERE id = ?1")
            .and_then(|mut statement| statement.execute([row.row.0]))
            .during(operation)?;
    }
    allow_deletes(tx, false).during(operation)
}

/// Deletes claimed rows that nothing needs any more, held ones with their place in the list.
pub(super) fn delete_rows(tx: &Transaction<'_>, rows: &[RowId]) -> Result<(), OutboxError> {
    let operation = "delete rows";
    if rows.is_empty() {
        return Ok(());
    }
    allow_deletes(tx, true).during(operation)?;
    for sql in ["DELETE FROM homing_outbox WHERE id = ?1", "DELETE FROM homing_held_row WHERE row_id = ?1"] {
        let mut statement = tx.prepare_cached(sql).during(operation)?;
        for row in rows {
            statement.execute([row.0]).during(operation)?;
        }
    }
    allow_deletes(tx, false).during(operation)?;
    count_gone(tx, rows.len() as u64).during(operation)
}

/// Copies rows whose seq is void; they stay in the outbox until their batch is pruned.
pub(super) fn set_aside_voided(
    tx: &Transaction<'_>,
    voided: &[Voided],
    now_ms: i64,
) -> Result<(), OutboxError> {
    for void in voided {
        copy(tx, &void.rejected, Some(void.message_id), Some(void), now_ms)?;
        void_seq(tx, void, void.rejected.code.as_str(), now_ms)?;
    }
    Ok(())
}

/// Notes that a seq will never be in Kafka.
pub(super) fn void_seq(
    tx: &Transaction<'_>,
    void: &Voided,
    code: &str,
    now_ms: i64,
) -> Result<(), OutboxError> {
    tx.prepare_cached(
        "INSERT INTO homing_void (topic, epoch, partition, seq, row_id, code, reason, voided_at_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            void.topic.as_str(),
            void.epoch.0,
            void.partition.0,
            void.seq.0 as i64,
            void.rejected.row.0,
            code,
            void.rejected.reason,
            now_ms
        ])
    })
    .map(drop)
    .during("void a seq")
}

fn copy(
    tx: &Transaction<'_>,
    rejected: &Rejected,
    id: Option<[u8; 16]>,
    void: Option<&Voided>,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let operation = "write a dead letter";
    let copied = tx
        .prepare_cached(COPY)
        .and_then(|mut statement| {
            statement.execute(params![
                rejected.row.0,
                id.as_ref().map(|id| &id[..]),
                rejected.code.as_str(),
                rejected.reason,
                now_ms,
                void.map(|void| void.epoch.0),
                void.map(|void| void.partition.0),
                void.map(|void| void.seq.0 as i64),
            ])
        })
        .during(operation)?;
    if copied == 1 {
        return Ok(());
    }
    Err(OutboxError::Inconsistent { operation, what: format!("row {} is gone", rejected.row) })
}

/// The id a row without one has been given, so that a redrive keeps it.
fn derived_id(tx: &Transaction<'_>, instance: Instance, row: RowId) -> rusqlite::Result<Option<[u8; 16]>> {
    let created: Option<i64> = tx
        .prepare_cached(
            "SELECT CAST(created_at_ms AS INTEGER) FROM homing_outbox WHERE id = ?1 AND message_id IS NULL",
        )?
        .query_row([row.0], |found| found.get(0))
        .optional()?;
    Ok(created.map(|created| identity::derive(instance, row.0, created)))
}

impl SqliteOutbox {
    /// The rows that were set aside, oldest first: at most `limit` of those
    /// after dead letter `after` (0: from the start).
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn dead_letters(&self, after: i64, limit: u32) -> Result<Vec<DeadLetter>, OutboxError> {
        let read = "list the dead letters";
        let connection = self.connect()?;
        let mut statement = connection
            .prepare(
                "SELECT id, row_id, topic, message_key, payload, payload_text, headers, message_id, \
                 created_at_ms, code, reason, rejected_at_ms, epoch, partition, seq, redriven_as \
                 FROM homing_dead_letter WHERE id > ?1 ORDER BY id LIMIT ?2",
            )
            .during(read)?;
        statement.query_map(params![after, limit], dead_letter).and_then(|rows| rows.collect()).during(read)
    }

    /// The number of the newest dead letter; 0 when there never was one.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn last_dead_letter(&self) -> Result<i64, OutboxError> {
        let connection = self.connect()?;
        connection
            .query_row("SELECT COALESCE(MAX(id), 0) FROM homing_dead_letter", [], |row| row.get(0))
            .during("look for the newest dead letter")
    }

    /// Puts dead letters back into the outbox as new rows, in their old order:
    /// each gets a new number and the `redrive` flag and keeps its message id.
    /// `ids` of `None` means all. Those redriven before are passed over.
    ///
    /// A row that was set aside for what is in it has to be mended first, with
    /// plain SQL in `homing_dead_letter`; the outbox refuses it otherwise.
    ///
    /// It works in transactions of bounded size, so others can write between two; after a crash
    /// or an error the same call goes on where this one stopped.
    ///
    /// # Errors
    /// [`OutboxError`]; what was put back before it stays so and is not put back twice.
    pub fn redrive(&self, ids: Option<&[i64]>) -> Result<Redriven, OutboxError> {
        let mut connection = self.connect_guarded()?;
        let mut redriven = Redriven::default();
        let mut after = 0;
        while let Some(last) = redrive_some(&mut connection, ids, after, &mut redriven)? {
            after = last;
            self.wake();
        }
        Ok(redriven)
    }
}

/// One transaction of a redrive, of dead letters above `after`; returns the last one it looked at.
fn redrive_some(
    connection: &mut Connection,
    ids: Option<&[i64]>,
    after: i64,
    redriven: &mut Redriven,
) -> Result<Option<i64>, OutboxError> {
    let operation = "redrive dead letters";
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).during(operation)?;
    let waiting: Vec<(i64, i64)> = tx
        .prepare_cached(
            "SELECT id, COALESCE(length(payload), 0) + COALESCE(length(payload_text), 0) \
             FROM homing_dead_letter WHERE redriven_as IS NULL AND id > ?1 ORDER BY id LIMIT ?2",
        )
        .and_then(|mut statement| {
            statement.query_map([after, REDRIVE_ROWS], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .during(operation)?;
    let (mut last, mut bytes) = (None, 0);
    for (id, size) in waiting {
        last = Some(id);
        if ids.is_some_and(|ids| !ids.contains(&id)) {
            continue;
        }
        let inserted = tx
            .prepare_cached(
                "INSERT INTO homing_outbox \
                 (topic, message_key, payload, payload_text, headers, message_id, flags) \
                 SELECT topic, message_key, payload, payload_text, headers, message_id, 'redrive' \
                 FROM homing_dead_letter WHERE id = ?1",
            )
            .and_then(|mut statement| statement.insert([id]));
        let row = match inserted {
            Ok(row) => row,
            // The outbox's own checks: it would never go as it is.
            Err(rusqlite::Error::SqliteFailure(error, Some(why)))
                if error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_TRIGGER =>
            {
                redriven.refused.push((id, why));
                continue;
            }
            Err(error) => return Err(error).during(operation),
        };
        tx.prepare_cached("UPDATE homing_dead_letter SET redriven_as = ?2 WHERE id = ?1")
            .and_then(|mut statement| statement.execute([id, row]))
            .during(operation)?;
        redriven.rows.push((id, RowId(row)));
        bytes += size;
        if bytes >= REDRIVE_BYTES {
            break;
        }
    }
    tx.commit().during(operation)?;
    Ok(last)
}

fn dead_letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let bytes = |column| {
        row.get_ref(column).map(|value| match value {
            ValueRef::Null => None,
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
            ValueRef::Integer(n) => Some(n.to_string().into_bytes()),
            ValueRef::Real(x) => Some(x.to_string().into_bytes()),
        })
    };
    let text = |column| {
        Ok::<_, rusqlite::Error>(bytes(column)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let seq: Option<i64> = row.get(14)?;
    Ok(DeadLetter {
        id: row.get(0)?,
        row: RowId(row.get(1)?),
        topic: text(2)?.unwrap_or_default(),
        key: bytes(3)?,
        payload: match bytes(4)? {
            Some(payload) => Some(payload),
            None => bytes(5)?,
        },
        headers: text(6)?,
        message_id: bytes(7)?.and_then(|cell| identity::parse(&cell).ok()).map(Uuid::from_bytes),
        created_at_ms: row.get(8)?,
        code: row.get(9)?,
        reason: row.get(10)?,
        rejected_at_ms: row.get(11)?,
        voided: match seq {
            Some(seq) => Some((Epoch(row.get(12)?), Partition(row.get(13)?), Seq(seq as u64))),
            None => None,
        },
        redriven_as: row.get::<_, Option<i64>>(15)?.map(RowId),
    })
}

/// The code and reason of a row that was set aside.
pub(super) fn of_row(
    connection: &Connection,
    row: RowId,
) -> Result<Option<(String, String)>, rusqlite::Error> {
    connection
        .prepare_cached("SELECT code, reason FROM homing_dead_letter WHERE row_id = ?1")?
        .query_row([row.0], |found| Ok((found.get(0)?, found.get(1)?)))
        .optional()
}
