//! Repair orders of the auditor, and the batches they speak of.

use super::ownership::{Fence, fenced};
use super::pins::parse_topic;
use super::standing::manifest;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::{BatchId, LanePart, Manifest, RepairOrder, RepairState};
use homing_core::{Epoch, Partition, Seq, TopicName};
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
            "SELECT batch_id FROM (SELECT * FROM homing_batch_lane \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND first_seq <= ?4 \
             ORDER BY first_seq DESC LIMIT 1) \
             WHERE first_seq + row_count > ?4 AND settled_at_ms IS NOT NULL AND rows_gone = 0",
        )
        .and_then(|mut statement| {
            let key = params![topic.as_str(), epoch.0, partition.0, seq.0 as i64];
            statement.query_row(key, |row| row.get(0)).optional()
        })
        .during("find a batch by seq")?;
    found.map(|batch| Ok(manifest(connection, BatchId(batch))?.0)).transpose()
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
    fence: &Fence,
    order: i64,
    state: RepairState,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let write = "write how a repair stands";
    let tx = fenced(connection, fence, write)?;
    tx.execute(
        "UPDATE homing_repair SET state = ?2, attempts = attempts + 1, updated_at_ms = ?3 \
         WHERE id = ?1 AND state = 'wanted'",
        params![order, state.as_str(), now_ms],
    )
    .during(write)?;
    tx.commit().during(write)
}
