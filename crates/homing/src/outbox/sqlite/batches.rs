//! The relay's one transaction: settle finished batches, set rows aside, write the next manifest.

use super::dead_letters;
use super::ownership::{fenced, set_lease};
use super::pins::{Epochs, parse_topic, topics};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::identity::Instance;
use crate::outbox::store::{
    BatchId, Commit, LanePart, LaneState, Manifest, RowId, Settlement, Span, Standing,
};
use homing_core::{Epoch, FencingToken, Offset, Partition, Seq};
use rusqlite::{Connection, Transaction, params};

pub(super) fn commit(
    connection: &mut Connection,
    instance: Instance,
    token: FencingToken,
    commit: &Commit<'_>,
) -> Result<(), OutboxError> {
    let operation = if commit.manifest.is_some() { "commit a manifest" } else { "settle" };
    let tx = fenced(connection, token, operation)?;
    for settlement in commit.settle {
        settle(&tx, instance, settlement, commit.now_ms)?;
    }
    dead_letters::set_aside_unnumbered(&tx, instance, commit.reject, commit.now_ms)?;
    if let Some(manifest) = commit.manifest {
        write_manifest(&tx, token, manifest, commit.now_ms)?;
    }
    if let Some(through) = commit.claimed_through {
        let moved = tx
            .prepare_cached("UPDATE homing_meta SET claimed_through = ?1 WHERE claimed_through < ?1")
            .and_then(|mut statement| statement.execute([through.0]))
            .during(operation)?;
        if moved != 1 {
            return inconsistent(operation, format!("rows up to {through} are claimed already"));
        }
    }
    set_lease(&tx, commit.lease_until_ms).during(operation)?;
    tx.commit().during(operation)
}

fn settle(
    tx: &Transaction<'_>,
    instance: Instance,
    settlement: &Settlement,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let operation = "settle";
    let batch = settlement.batch();
    let marked = tx
        .prepare_cached(
            "UPDATE homing_batch SET settled_at_ms = ?2 WHERE batch_id = ?1 AND settled_at_ms IS NULL",
        )
        .and_then(|mut statement| statement.execute(params![batch.0, now_ms]))
        .during(operation)?;
    if marked != 1 {
        return inconsistent(operation, format!("batch {batch} is no unsettled batch"));
    }
    for lane in settlement.lanes() {
        let part = lane.part();
        let last = part.first_seq.0 + u64::from(part.rows) - 1;
        let (topic, epoch, partition) = (part.topic.as_str(), part.epoch.0, part.partition.0);
        let first_offset = lane.runs().first().map(|offset| offset.0);
        tx.prepare_cached(
            "UPDATE homing_batch_lane SET first_offset = ?5, offsets = ?6 \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND first_seq = ?4",
        )
        .and_then(|mut statement| {
            let runs = lane.runs().encode();
            statement.execute(params![topic, epoch, partition, part.first_seq.0 as i64, first_offset, runs])
        })
        .during(operation)?;
        let moved = tx
            .prepare_cached(
                "UPDATE homing_lane SET settled_seq = ?4, next_offset = MAX(next_offset, COALESCE(?5, 0)) \
                 WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND settled_seq = ?6",
            )
            .and_then(|mut statement| {
                let end = lane.runs().end().map(|offset| offset.0);
                let before = part.first_seq.0 as i64 - 1;
                statement.execute(params![topic, epoch, partition, last as i64, end, before])
            })
            .during(operation)?;
        if moved != 1 {
            let lane = format!("{topic}[{partition}] epoch {epoch}");
            return inconsistent(operation, format!("batch {batch} does not continue lane {lane}"));
        }
    }
    dead_letters::set_aside_voided(tx, instance, settlement.voided(), now_ms)
}

fn write_manifest(
    tx: &Transaction<'_>,
    token: FencingToken,
    manifest: &Manifest,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let operation = "commit a manifest";
    tx.prepare_cached(
        "INSERT INTO homing_batch (batch_id, token, from_id, to_id, row_count, manifest_at_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .and_then(|mut statement| {
        let (from, to) = (manifest.span.from.0, manifest.span.to.0);
        statement.execute(params![manifest.batch.0, token.0 as i64, from, to, manifest.rows, now_ms])
    })
    .during(operation)?;
    for part in &manifest.lanes {
        let (topic, epoch, partition) = (part.topic.as_str(), part.epoch.0, part.partition.0);
        let first_seq = part.first_seq.0 as i64;
        tx.prepare_cached(
            "INSERT INTO homing_batch_lane \
             (topic, epoch, partition, first_seq, batch_id, row_count, takes_null_keys) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .and_then(|mut statement| {
            let (batch, nulls) = (manifest.batch.0, part.takes_null_keys);
            statement.execute(params![topic, epoch, partition, first_seq, batch, part.rows, nulls])
        })
        .during(operation)?;
        let moved = tx
            .prepare_cached(
                "UPDATE homing_lane SET next_seq = next_seq + ?5 \
                 WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND next_seq = ?4",
            )
            .and_then(|mut statement| {
                statement.execute(params![topic, epoch, partition, first_seq, part.rows])
            })
            .during(operation)?;
        if moved != 1 {
            let what = format!("seq {first_seq} is not the next of {topic}[{partition}] epoch {epoch}");
            return inconsistent(operation, what);
        }
    }
    Ok(())
}

fn inconsistent(operation: &'static str, what: String) -> Result<(), OutboxError> {
    Err(OutboxError::Inconsistent { operation, what })
}

pub(super) fn standing(connection: &Connection) -> Result<Standing, OutboxError> {
    let read = "read where the relay stands";
    let tx = connection.unchecked_transaction().during(read)?;
    let (cluster_id, claimed) = tx
        .query_row("SELECT cluster_id, claimed_through FROM homing_meta", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .during(read)?;
    // A batch number is never used twice: pruning keeps the newest batch.
    let next: i64 = tx
        .query_row("SELECT COALESCE(MAX(batch_id), 0) + 1 FROM homing_batch", [], |row| row.get(0))
        .during(read)?;
    Ok(Standing {
        cluster_id,
        claimed_through: RowId(claimed),
        next_batch: BatchId(next),
        topics: topics(&tx, Epochs::Open)?,
        closed: topics(&tx, Epochs::Closed)?,
        lanes: open_lanes(&tx)?,
        unsettled: unsettled(&tx)?,
    })
}

fn open_lanes(connection: &Connection) -> Result<Vec<LaneState>, OutboxError> {
    let read = "read the lanes";
    let mut statement = connection
        .prepare_cached(
            "SELECT topic, epoch, partition, next_seq, settled_seq, next_offset, verified_seq \
             FROM homing_lane JOIN homing_topic USING (topic, epoch) \
             WHERE closed_at_ms IS NULL ORDER BY topic, epoch, partition",
        )
        .during(read)?;
    let mut rows = statement.query([]).during(read)?;
    let mut lanes = Vec::new();
    while let Some(row) = rows.next().during(read)? {
        let topic: String = row.get(0).during(read)?;
        let number = |column| row.get::<_, i64>(column).during(read);
        lanes.push(LaneState {
            topic: parse_topic(&topic, read)?,
            epoch: Epoch(row.get(1).during(read)?),
            partition: Partition(row.get(2).during(read)?),
            next_seq: Seq(number(3)? as u64),
            settled: number(4)? as u64,
            next_offset: Offset(number(5)?),
            verified: number(6)? as u64,
        });
    }
    Ok(lanes)
}

fn unsettled(connection: &Connection) -> Result<Vec<Manifest>, OutboxError> {
    let read = "read the unsettled batches";
    let mut statement = connection
        .prepare_cached("SELECT batch_id FROM homing_batch WHERE settled_at_ms IS NULL ORDER BY batch_id")
        .during(read)?;
    let ids: Vec<i64> =
        statement.query_map([], |row| row.get(0)).and_then(|rows| rows.collect()).during(read)?;
    ids.into_iter().map(|id| manifest(connection, BatchId(id))).collect()
}

/// A batch's manifest as it was written.
pub(super) fn manifest(connection: &Connection, batch: BatchId) -> Result<Manifest, OutboxError> {
    let read = "read a manifest";
    let (span, rows) = connection
        .prepare_cached("SELECT from_id, to_id, row_count FROM homing_batch WHERE batch_id = ?1")
        .and_then(|mut statement| {
            statement.query_row([batch.0], |row| {
                Ok((Span { from: RowId(row.get(0)?), to: RowId(row.get(1)?), detail: None }, row.get(2)?))
            })
        })
        .during(read)?;
    let mut statement = connection
        .prepare_cached(
            "SELECT topic, epoch, partition, first_seq, row_count, takes_null_keys \
             FROM homing_batch_lane WHERE batch_id = ?1 ORDER BY topic, epoch, partition",
        )
        .during(read)?;
    let mut found = statement.query([batch.0]).during(read)?;
    let mut lanes = Vec::new();
    while let Some(row) = found.next().during(read)? {
        let topic: String = row.get(0).during(read)?;
        lanes.push(LanePart {
            topic: parse_topic(&topic, read)?,
            epoch: Epoch(row.get(1).during(read)?),
            partition: Partition(row.get(2).during(read)?),
            first_seq: Seq(row.get::<_, i64>(3).during(read)? as u64),
            rows: row.get(4).during(read)?,
            takes_null_keys: row.get(5).during(read)?,
        });
    }
    Ok(Manifest { batch, span, rows, lanes })
}
