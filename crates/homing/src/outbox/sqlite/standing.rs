//! What an owner starts from: where the lanes stand, and which batches are not settled, page by page.

use super::ownership::{Fence, fenced};
use super::pins::{Epochs, parse_topic, topics};
use super::{batches, holds};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::{
    BatchId, LaneKey, LanePart, LaneState, Manifest, RowId, Span, Standing, UnsettledBatch,
};
use homing_core::{Epoch, FencingToken, Offset, Partition, Seq};
use rusqlite::{Connection, OptionalExtension, params};

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
        held: holds::held(&tx)?,
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

pub(super) fn unsettled_batches(
    connection: &Connection,
    after: Option<BatchId>,
    limit: usize,
) -> Result<Vec<UnsettledBatch>, OutboxError> {
    let read = "read the unsettled batches";
    let ids: Vec<i64> = connection
        .prepare_cached(
            "SELECT batch_id FROM homing_batch WHERE settled_at_ms IS NULL AND batch_id > ?1 \
             ORDER BY batch_id LIMIT ?2",
        )
        .and_then(|mut statement| {
            let page = params![after.map_or(i64::MIN, |after| after.0), as_limit(limit)];
            statement.query_map(page, |row| row.get(0))?.collect()
        })
        .during(read)?;
    ids.into_iter().map(|id| unsettled(connection, BatchId(id))).collect()
}

pub(super) fn unsettled_of_lane(
    connection: &Connection,
    lane: &LaneKey,
    from: Seq,
    limit: usize,
) -> Result<Vec<UnsettledBatch>, OutboxError> {
    let read = "read a lane's unsettled batches";
    let ids: Vec<i64> = connection
        .prepare_cached(
            "SELECT batch_id FROM homing_batch_lane WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 \
             AND first_seq >= ?4 AND settled_at_ms IS NULL ORDER BY first_seq LIMIT ?5",
        )
        .and_then(|mut statement| {
            let (topic, from) = (lane.topic.as_str(), i64::try_from(from.0).unwrap_or(i64::MAX));
            let page = params![topic, lane.epoch.0, lane.partition.0, from, as_limit(limit)];
            statement.query_map(page, |row| row.get(0))?.collect()
        })
        .during(read)?;
    ids.into_iter().map(|id| unsettled(connection, BatchId(id))).collect()
}

fn unsettled(connection: &Connection, batch: BatchId) -> Result<UnsettledBatch, OutboxError> {
    let (manifest, settled) = manifest(connection, batch)?;
    let unsettled = (0..settled.len()).filter(|place| !settled[*place]).collect();
    Ok(UnsettledBatch { manifest, unsettled })
}

pub(super) fn as_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A batch's manifest as far as its rows are there, and which of its parts are settled.
pub(super) fn manifest(
    connection: &Connection,
    batch: BatchId,
) -> Result<(Manifest, Vec<bool>), OutboxError> {
    let read = "read a manifest";
    let (span, bytes) = connection
        .prepare_cached("SELECT from_id, to_id, row_bytes, listed FROM homing_batch WHERE batch_id = ?1")
        .and_then(|mut statement| {
            statement.query_row([batch.0], |row| {
                let detail = row.get::<_, bool>(3)?.then(|| holds::LISTED.to_owned());
                let span = Span { from: RowId(row.get(0)?), to: RowId(row.get(1)?), detail };
                Ok((span, row.get::<_, i64>(2)? as u64))
            })
        })
        .during(read)?;
    let mut statement = connection
        .prepare_cached(
            "SELECT topic, epoch, partition, first_seq, row_count, takes_null_keys, settled_at_ms IS NOT NULL \
             FROM homing_batch_lane WHERE batch_id = ?1 AND rows_gone = 0 ORDER BY topic, epoch, partition",
        )
        .during(read)?;
    let mut found = statement.query([batch.0]).during(read)?;
    let (mut lanes, mut settled) = (Vec::new(), Vec::new());
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
        settled.push(row.get(6).during(read)?);
    }
    let rows = lanes.iter().map(|part| part.rows).sum();
    Ok((Manifest { batch, span, rows, bytes, lanes }, settled))
}

pub(super) fn batch_is_mine(
    connection: &Connection,
    batch: BatchId,
    token: FencingToken,
) -> Result<bool, OutboxError> {
    let read = "ask whose a batch is";
    let written: Option<i64> = connection
        .prepare_cached("SELECT token FROM homing_batch WHERE batch_id = ?1")
        .and_then(|mut statement| statement.query_row([batch.0], |row| row.get(0)).optional())
        .during(read)?;
    Ok(written == Some(token.0 as i64))
}

pub(super) fn note_scanned(
    connection: &mut Connection,
    fence: &Fence,
    scanned: &[(LaneKey, Offset)],
) -> Result<(), OutboxError> {
    let note = "note how far partitions were searched";
    let tx = fenced(connection, fence, note)?;
    for (lane, offset) in scanned {
        let known = tx
            .prepare_cached(
                "UPDATE homing_lane SET next_offset = MAX(next_offset, ?4) \
                 WHERE topic = ?1 AND epoch = ?2 AND partition = ?3",
            )
            .and_then(|mut statement| {
                statement.execute(params![lane.topic.as_str(), lane.epoch.0, lane.partition.0, offset.0])
            })
            .during(note)?;
        if known != 1 {
            return batches::inconsistent(note, format!("there is no lane {lane}"));
        }
    }
    tx.commit().during(note)
}
