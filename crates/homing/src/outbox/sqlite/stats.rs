//! The outbox in numbers, read in one transaction.

use super::SqliteOutbox;
use super::holds;
use super::ownership::holder;
use super::pins::parse_topic;
use crate::liveness;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::report::{HeldStats, LaneStats, OutboxStats, RelayStats, TopicWarning};
use homing_core::{Epoch, Offset, Partition, Seq};
use rusqlite::{Connection, OptionalExtension};
use std::time::{SystemTime, UNIX_EPOCH};

impl SqliteOutbox {
    /// The outbox in numbers, all from one moment.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn stats(&self) -> Result<OutboxStats, OutboxError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let read = "read the outbox's numbers";
        let connection = self.connect_guarded()?;
        let tx = connection.unchecked_transaction().during(read)?;
        let count = |sql: &str| -> Result<u64, OutboxError> {
            tx.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64).during(read)
        };
        let (cluster_id, claimed, kept): (Option<String>, i64, i64) = tx
            .query_row("SELECT cluster_id, claimed_through, kept_rows FROM homing_meta", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .during(read)?;
        // Ids have no holes above the claimed ones (the insert trigger sees to it), and what is
        // claimed is counted as it comes and goes: nothing here reads the rows.
        let last: i64 = tx
            .query_row("SELECT COALESCE(MAX(id), 0) FROM homing_outbox", [], |row| row.get(0))
            .during(read)?;
        let new = last.saturating_sub(claimed).max(0) as u64;
        let kept = kept.max(0) as u64;
        let lanes = lanes(&tx)?;
        let held = held(&tx, now_ms)?;
        let held_rows: u64 = held.iter().map(|held| held.rows).sum();
        let unsettled: u64 = lanes.iter().map(|lane| lane.next_seq.0 - 1 - lane.settled).sum();
        let oldest = oldest_unsettled(&tx, claimed).during(read)?;
        Ok(OutboxStats {
            stream: self.stream().clone(),
            cluster_id,
            rows: new + kept,
            unclaimed: new + held_rows,
            unsettled,
            settled: kept.saturating_sub(held_rows + unsettled),
            oldest_unsettled_ms: oldest.map(|created| now_ms.saturating_sub(created).max(0) as u64),
            dead_letters: count("SELECT COUNT(*) FROM homing_dead_letter WHERE redriven_as IS NULL")?,
            voided: count("SELECT COUNT(*) FROM homing_void")?,
            repairs_wanted: count("SELECT COUNT(*) FROM homing_repair WHERE state = 'wanted'")?,
            warnings: warnings(&tx).during("read the topics' warnings")?,
            lanes,
            held,
            relay: relay(&tx, now_ms)?,
        })
    }
}

/// When the oldest row was made that is not settled: new, held or in an unsettled batch.
fn oldest_unsettled(connection: &Connection, claimed: i64) -> rusqlite::Result<Option<i64>> {
    let first_of_batch: Option<i64> = connection.query_row(
        "SELECT MIN(from_id) FROM homing_batch WHERE settled_at_ms IS NULL",
        [],
        |row| row.get(0),
    )?;
    let mut oldest: Option<i64> = None;
    for from in [Some(claimed.saturating_add(1)), first_of_batch].into_iter().flatten() {
        let created: Option<i64> = connection
            .query_row(
                "SELECT CAST(created_at_ms AS INTEGER) FROM homing_outbox WHERE id >= ?1 ORDER BY id LIMIT 1",
                [from],
                |row| row.get(0),
            )
            .optional()?;
        oldest = [oldest, created].into_iter().flatten().min();
    }
    let held: Option<i64> = connection.query_row(
        "SELECT MIN(CAST(created_at_ms AS INTEGER)) FROM homing_held JOIN homing_outbox ON id = (\
         SELECT row_id FROM homing_held_row h WHERE h.topic = homing_held.topic AND h.batch_id IS NULL \
         ORDER BY row_id LIMIT 1)",
        [],
        |row| row.get(0),
    )?;
    Ok([oldest, held].into_iter().flatten().min())
}

fn held(connection: &Connection, now_ms: i64) -> Result<Vec<HeldStats>, OutboxError> {
    let read = "read the held topics' numbers";
    let mut all = Vec::new();
    for held in holds::held(connection)? {
        let oldest: Option<i64> = connection
            .prepare_cached(
                "SELECT CAST(created_at_ms AS INTEGER) FROM homing_held_row h \
                 JOIN homing_outbox o ON o.id = h.row_id \
                 WHERE h.topic = ?1 AND h.batch_id IS NULL ORDER BY h.row_id LIMIT 1",
            )
            .and_then(|mut statement| statement.query_row([held.topic.as_str()], |row| row.get(0)).optional())
            .during(read)?;
        all.push(HeldStats {
            topic: held.topic,
            rows: held.rows,
            oldest_age_ms: oldest.map(|created| now_ms.saturating_sub(created).max(0) as u64),
            code: held.code,
            reason: held.reason,
            since_ms: held.since_ms,
        });
    }
    Ok(all)
}

fn warnings(connection: &Connection) -> rusqlite::Result<Vec<TopicWarning>> {
    connection
        .prepare("SELECT topic, code, what, since_ms FROM homing_topic_warning ORDER BY topic")?
        .query_map([], |row| {
            Ok(TopicWarning {
                topic: row.get(0)?,
                code: row.get(1)?,
                what: row.get(2)?,
                since_ms: row.get(3)?,
            })
        })?
        .collect()
}

fn lanes(connection: &Connection) -> Result<Vec<LaneStats>, OutboxError> {
    let read = "read the lanes' numbers";
    let mut statement = connection
        .prepare(
            "SELECT topic, epoch, closed_at_ms IS NULL, partition, next_seq, settled_seq, verified_seq, next_offset, \
             accepted_seq FROM homing_lane JOIN homing_topic USING (topic, epoch) ORDER BY topic, epoch, partition",
        )
        .during(read)?;
    let mut rows = statement.query([]).during(read)?;
    let mut lanes = Vec::new();
    while let Some(row) = rows.next().during(read)? {
        let topic: String = row.get(0).during(read)?;
        let number = |column| row.get::<_, i64>(column).during(read);
        lanes.push(LaneStats {
            topic: parse_topic(&topic, read)?,
            epoch: Epoch(row.get(1).during(read)?),
            open: row.get(2).during(read)?,
            partition: Partition(row.get(3).during(read)?),
            next_seq: Seq(number(4)? as u64),
            settled: number(5)? as u64,
            verified: number(6)? as u64,
            next_offset: Offset(number(7)?),
            accepted: number(8)? as u64,
        });
    }
    Ok(lanes)
}

fn relay(connection: &Connection, now_ms: i64) -> Result<Option<RelayStats>, OutboxError> {
    let Some(holder) = holder(connection)? else { return Ok(None) };
    let (trouble, trouble_since_ms) = connection
        .query_row("SELECT trouble, trouble_since_ms FROM homing_relay WHERE one = 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .during("read why the relay waits")?;
    let alive = holder.lease.until_ms > now_ms && liveness::alive(&holder.owner) != Some(false);
    Ok(Some(RelayStats {
        owner: holder.owner.name,
        host: holder.owner.host,
        pid: holder.owner.pid,
        token: holder.lease.token.0,
        lease_until_ms: holder.lease.until_ms,
        alive,
        trouble,
        trouble_since_ms,
    }))
}
