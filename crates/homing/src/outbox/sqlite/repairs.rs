//! Repair orders of the auditor, the batches they speak of, and deleting what is verified.

use super::batches::manifest;
use super::ownership::fenced;
use super::pins::parse_topic;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::{BatchId, LanePart, Manifest, RepairOrder, RepairState};
use homing_core::{Epoch, FencingToken, Partition, Seq, TopicName};
use rusqlite::{Connection, OptionalExtension, params};

pub(super) fn wanted(connection: &Connection, limit: usize) -> Result<Vec<RepairOrder>, OutboxError> {
    let read = "read the repair orders";
    let mut statement = connection
        .prepare_cached(
            "SELECT id, topic, epoch, partition, from_seq, to_seq, attempts FROM homing_repair \
             WHERE state = 'wanted' ORDER BY id LIMIT ?1",
        )
        .during(read)?;
    let mut rows = statement.query([i64::try_from(limit).unwrap_or(i64::MAX)]).during(read)?;
    let mut orders = Vec::new();
    while let Some(row) = rows.next().during(read)? {
        let topic: String = row.get(1).during(read)?;
        orders.push(RepairOrder {
            id: row.get(0).during(read)?,
            topic: parse_topic(&topic, read)?,
            epoch: Epoch(row.get(2).during(read)?),
            partition: Partition(row.get(3).during(read)?),
            from: Seq(row.get::<_, i64>(4).during(read)? as u64),
            to: Seq(row.get::<_, i64>(5).during(read)? as u64),
            attempts: row.get(6).during(read)?,
        });
    }
    Ok(orders)
}

pub(super) fn batch_of(
    connection: &Connection,
    topic: &TopicName,
    epoch: Epoch,
    partition: Partition,
    seq: Seq,
) -> Result<Option<Manifest>, OutboxError> {
    let found: Option<i64> = connection
        .prepare_cached(
            "SELECT l.batch_id FROM (SELECT batch_id, first_seq, row_count FROM homing_batch_lane \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND first_seq <= ?4 \
             ORDER BY first_seq DESC LIMIT 1) l JOIN homing_batch b USING (batch_id) \
             WHERE l.first_seq + l.row_count > ?4 AND b.settled_at_ms IS NOT NULL",
        )
        .and_then(|mut statement| {
            let key = params![topic.as_str(), epoch.0, partition.0, seq.0 as i64];
            statement.query_row(key, |row| row.get(0)).optional()
        })
        .during("find a batch by seq")?;
    found.map(|batch| manifest(connection, BatchId(batch))).transpose()
}

pub(super) fn voided(connection: &Connection, part: &LanePart) -> Result<Vec<Seq>, OutboxError> {
    connection
        .prepare_cached(
            "SELECT seq FROM homing_void WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 \
             AND seq >= ?4 AND seq < ?4 + ?5 ORDER BY seq",
        )
        .and_then(|mut statement| {
            let (topic, first) = (part.topic.as_str(), part.first_seq.0 as i64);
            let key = params![topic, part.epoch.0, part.partition.0, first, part.rows];
            statement.query_map(key, |row| row.get::<_, i64>(0).map(|seq| Seq(seq as u64)))?.collect()
        })
        .during("read the voided seqs")
}

pub(super) fn tried(
    connection: &mut Connection,
    token: FencingToken,
    order: i64,
    state: RepairState,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let write = "write how a repair stands";
    let tx = fenced(connection, token, write)?;
    tx.execute(
        "UPDATE homing_repair SET state = ?2, attempts = attempts + 1, updated_at_ms = ?3 \
         WHERE id = ?1 AND state = 'wanted'",
        params![order, state.as_str(), now_ms],
    )
    .during(write)?;
    tx.commit().during(write)
}

pub(super) fn prune(
    connection: &mut Connection,
    token: FencingToken,
    settled_before_ms: i64,
    rows_max: u32,
) -> Result<u64, OutboxError> {
    let operation = "prune";
    let tx = fenced(connection, token, operation)?;
    let last = last_prunable(&tx, settled_before_ms, rows_max).during(operation)?;
    let Some((batch, to_id)) = last else { return Ok(0) };
    tx.execute("UPDATE homing_meta SET pruning = 1", []).during(operation)?;
    let rows = tx.execute("DELETE FROM homing_outbox WHERE id <= ?1", [to_id]).during(operation)?;
    tx.execute("DELETE FROM homing_batch_lane WHERE batch_id <= ?1", [batch]).during(operation)?;
    tx.execute("DELETE FROM homing_batch WHERE batch_id <= ?1", [batch]).during(operation)?;
    tx.execute("UPDATE homing_meta SET pruning = 0", []).during(operation)?;
    tx.commit().during(operation)?;
    Ok(rows as u64)
}

/// The last batch of the longest prefix that may go and has not much more than
/// `rows_max` rows, and its last row. The newest batch always stays: its number
/// keeps the next one unique.
fn last_prunable(
    connection: &Connection,
    settled_before_ms: i64,
    rows_max: u32,
) -> rusqlite::Result<Option<(i64, i64)>> {
    let mut batches = connection.prepare_cached(
        "SELECT batch_id, to_id, settled_at_ms IS NOT NULL AND settled_at_ms < ?1, row_count \
         FROM homing_batch WHERE batch_id < (SELECT MAX(batch_id) FROM homing_batch) ORDER BY batch_id",
    )?;
    let mut unverified = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM homing_batch_lane b JOIN homing_lane l USING (topic, epoch, partition) \
         WHERE b.batch_id = ?1 AND l.verified_seq < b.first_seq + b.row_count - 1)",
    )?;
    let mut rows = batches.query([settled_before_ms])?;
    let (mut last, mut count) = (None, 0);
    while count < rows_max
        && let Some(row) = rows.next()?
    {
        let batch: i64 = row.get(0)?;
        if !row.get::<_, bool>(2)? || unverified.query_row([batch], |row| row.get::<_, bool>(0))? {
            break;
        }
        last = Some((batch, row.get(1)?));
        count = count.saturating_add(row.get(3)?);
    }
    Ok(last)
}
