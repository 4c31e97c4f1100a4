//! The outbox in numbers, read in one transaction.

use super::SqliteOutbox;
use super::ownership::holder;
use super::pins::parse_topic;
use crate::liveness;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::report::{LaneStats, OutboxStats, RelayStats, TopicWarning};
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
        let connection = self.connect()?;
        let tx = connection.unchecked_transaction().during(read)?;
        let count = |sql: &str| -> Result<u64, OutboxError> {
            tx.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64).during(read)
        };
        let (cluster_id, claimed): (Option<String>, i64) = tx
            .query_row("SELECT cluster_id, claimed_through FROM homing_meta", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .during(read)?;
        let rows = count("SELECT COUNT(*) FROM homing_outbox")?;
        let unclaimed: u64 = tx
            .query_row("SELECT COUNT(*) FROM homing_outbox WHERE id > ?1", [claimed], |row| {
                row.get::<_, i64>(0)
            })
            .map(|n| n as u64)
            .during(read)?;
        let unsettled =
            count("SELECT COALESCE(SUM(row_count), 0) FROM homing_batch WHERE settled_at_ms IS NULL")?;
        let oldest: Option<i64> = tx
            .query_row(
                "SELECT created_at_ms FROM homing_outbox WHERE id >= COALESCE((SELECT from_id FROM homing_batch \
                 WHERE settled_at_ms IS NULL ORDER BY batch_id LIMIT 1), ?1) ORDER BY id LIMIT 1",
                [claimed + 1],
                |row| row.get(0),
            )
            .optional()
            .during(read)?;
        Ok(OutboxStats {
            stream: self.stream().clone(),
            cluster_id,
            rows,
            unclaimed,
            unsettled,
            settled: rows.saturating_sub(unclaimed + unsettled),
            oldest_unsettled_ms: oldest.map(|created| now_ms.saturating_sub(created).max(0) as u64),
            dead_letters: count("SELECT COUNT(*) FROM homing_dead_letter WHERE redriven_as IS NULL")?,
            voided: count("SELECT COUNT(*) FROM homing_void")?,
            repairs_wanted: count("SELECT COUNT(*) FROM homing_repair WHERE state = 'wanted'")?,
            warnings: warnings(&tx).during("read the topics' warnings")?,
            lanes: lanes(&tx)?,
            relay: relay(&tx, now_ms)?,
        })
    }
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
            "SELECT topic, epoch, closed_at_ms IS NULL, partition, next_seq, settled_seq, verified_seq, next_offset \
             FROM homing_lane JOIN homing_topic USING (topic, epoch) ORDER BY topic, epoch, partition",
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
