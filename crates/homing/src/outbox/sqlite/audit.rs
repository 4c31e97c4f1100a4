//! The auditor's tables: how far each partition is read, and the gaps that were found.
//!
//! All that one step of the auditor learns is written in one transaction, and
//! only if nobody else wrote since it was read ([`Changes::version`]): so two
//! auditors may run, and none of them works on what the other has replaced.

mod acceptance;
mod evidence;
mod types;

pub use acceptance::Acceptor;
pub use types::{
    AckedPart, AuditLane, AuditOrder, Changes, GapStanding, SavedAudit, SavedGap, SavedPartition, SeqRange,
    TOPIC_GONE, Written,
};

use super::SqliteOutbox;
use super::guard::Guarded;
use super::pins::parse_topic;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::RepairState;
use homing_core::{Epoch, Offset, Partition, Seq, TopicName};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

/// Closed gaps and orders that are kept, the newest.
const CLOSED_KEPT: i64 = 1_000;

/// The tables, part of the outbox's schema.
pub(super) const TABLES: &str = r"
-- How far the auditor has read each partition, and what it knows of it. What was read back was
-- read from this cluster and this topic; of another one nothing is known.
DROP TABLE IF EXISTS homing_audit_partition; -- as it was before it knew of clusters
CREATE TABLE IF NOT EXISTS homing_audit_state (
    cluster_id    TEXT NOT NULL,
    topic         TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    topic_id      BLOB NOT NULL,    -- all ones: there was no such topic
    next_offset   INTEGER NOT NULL, -- the next record to read
    state         BLOB NOT NULL,    -- of the continuity detector
    counts        TEXT NOT NULL,    -- JSON
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (cluster_id, topic, partition, topic_id)
) WITHOUT ROWID;

-- The gaps the auditor found, closed ones included.
CREATE TABLE IF NOT EXISTS homing_audit_gap (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    topic           TEXT NOT NULL,
    epoch           INTEGER NOT NULL,
    partition       INTEGER NOT NULL,
    from_seq        INTEGER NOT NULL,
    to_seq          INTEGER NOT NULL,
    state           TEXT NOT NULL, -- suspect, confirmed; closed: repaired, late, voided, accepted, found
    opened_at_ms    INTEGER NOT NULL,
    confirmed_at_ms INTEGER,
    closed_at_ms    INTEGER,
    verdicts        TEXT NOT NULL  -- JSON; empty until confirmed
);
CREATE INDEX IF NOT EXISTS homing_audit_gap_open ON homing_audit_gap (id) WHERE closed_at_ms IS NULL;

-- Up to this number it is accepted that numbers were read which this outbox never gave, or which
-- stand for two messages.
CREATE TABLE IF NOT EXISTS homing_audit_strange (
    topic     TEXT NOT NULL,
    epoch     INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    through   INTEGER NOT NULL,
    PRIMARY KEY (topic, epoch, partition)
) WITHOUT ROWID;

-- One row: rises with every write of an auditor.
CREATE TABLE IF NOT EXISTS homing_audit (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
);
INSERT OR IGNORE INTO homing_audit (one, version) VALUES (1, 0);
";

/// An auditor's connection to a SQLite outbox.
#[derive(Debug)]
pub struct AuditStore {
    connection: Guarded,
}

impl SqliteOutbox {
    /// What an auditor works on.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be opened.
    pub fn audit_store(&self) -> Result<AuditStore, OutboxError> {
        let connection = self.connect_guarded()?;
        connection.execute_batch(TABLES).during("create the auditor's tables")?;
        Ok(AuditStore { connection })
    }
}

impl AuditStore {
    /// What was saved last, all from one moment.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn load(&self) -> Result<SavedAudit, OutboxError> {
        let read = "read how far the audit is";
        let tx = self.connection.unchecked_transaction().during(read)?;
        let version = tx.query_row("SELECT version FROM homing_audit", [], |row| row.get(0)).during(read)?;
        let open = gaps_where(&tx, "closed_at_ms IS NULL", i64::MAX)?;
        Ok(SavedAudit { version, open })
    }

    /// What was saved of one partition of one topic of one cluster.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn partition(
        &self,
        cluster_id: &str,
        (topic, topic_id): (&TopicName, &[u8; 16]),
        partition: Partition,
    ) -> Result<Option<SavedPartition>, OutboxError> {
        self.connection
            .prepare_cached(
                "SELECT topic, partition, topic_id, next_offset, state, counts FROM homing_audit_state \
                 WHERE cluster_id = ?1 AND topic = ?2 AND partition = ?3 AND topic_id = ?4",
            )
            .and_then(|mut statement| {
                let key = params![cluster_id, topic.as_str(), partition.0, &topic_id[..]];
                statement.query_row(key, saved_partition).optional()
            })
            .during("read how far a partition is audited")
    }

    /// All partitions that were read in one cluster, whatever topic stood there.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn partitions(&self, cluster_id: &str) -> Result<Vec<SavedPartition>, OutboxError> {
        // The one that was read last comes last.
        self.connection
            .prepare(
                "SELECT topic, partition, topic_id, next_offset, state, counts FROM homing_audit_state \
                 WHERE cluster_id = ?1 ORDER BY topic, partition, updated_at_ms",
            )
            .and_then(|mut statement| statement.query_map([cluster_id], saved_partition)?.collect())
            .during("read how far the audit is")
    }

    /// The cluster that the relay is pinned to, and the one that was audited last.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn clusters(&self) -> Result<(Option<String>, Option<String>), OutboxError> {
        self.connection
            .query_row(
                "SELECT cluster_id, (SELECT cluster_id FROM homing_audit_state \
                 ORDER BY updated_at_ms DESC LIMIT 1) FROM homing_meta",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .during("read which cluster the outbox is pinned to")
    }

    /// How many rows were set aside and not put back.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn set_aside(&self) -> Result<u64, OutboxError> {
        self.connection
            .prepare_cached("SELECT COUNT(*) FROM homing_dead_letter WHERE redriven_as IS NULL")
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
            .map(|rows| rows as u64)
            .during("count the rows that were set aside")
    }

    /// The gaps that were closed last, newest first, at most `limit`.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn closed_gaps(&self, limit: usize) -> Result<Vec<SavedGap>, OutboxError> {
        gaps_where(&self.connection, "closed_at_ms IS NOT NULL", i64::try_from(limit).unwrap_or(i64::MAX))
    }

    /// All lanes of all epochs, by topic, partition and epoch.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn lanes(&self) -> Result<Vec<AuditLane>, OutboxError> {
        let read = "read the lanes to audit";
        self.connection
            .prepare_cached(
                "SELECT l.topic, l.epoch, l.partition, t.topic_id, l.next_seq, l.settled_seq, l.verified_seq, \
                 t.closed_at_ms IS NOT NULL AND (t.topic_id <> n.topic_id OR n.closed_at_ms IS NOT NULL) \
                 FROM homing_lane l JOIN homing_topic t USING (topic, epoch) \
                 JOIN (SELECT topic, topic_id, closed_at_ms, MAX(epoch) FROM homing_topic GROUP BY topic) n \
                 USING (topic) ORDER BY l.topic, l.partition, l.epoch",
            )
            .and_then(|mut statement| {
                let lane = |row: &Row<'_>| {
                    Ok(AuditLane {
                        topic: topic(row, 0)?,
                        epoch: Epoch(row.get(1)?),
                        partition: Partition(row.get(2)?),
                        topic_id: row.get(3)?,
                        next_seq: Seq(row.get::<_, i64>(4)? as u64),
                        settled: row.get::<_, i64>(5)? as u64,
                        verified: row.get::<_, i64>(6)? as u64,
                        superseded: row.get(7)?,
                    })
                };
                statement.query_map([], lane)?.collect()
            })
            .during(read)
    }

    /// The repair orders of a lane's range that are not closed as repaired.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn orders(&self, range: &SeqRange<'_>) -> Result<Vec<AuditOrder>, OutboxError> {
        self.connection
            .prepare_cached(
                "SELECT id, from_seq, to_seq, state, attempts, updated_at_ms FROM homing_repair \
                 WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND from_seq <= ?5 AND to_seq >= ?4 \
                 AND state <> 'repaired' ORDER BY id",
            )
            .and_then(|mut statement| {
                let order = |row: &Row<'_>| {
                    Ok(AuditOrder {
                        id: row.get(0)?,
                        topic: range.topic.clone(),
                        epoch: range.epoch,
                        partition: range.partition,
                        from: Seq(row.get::<_, i64>(1)? as u64),
                        to: Seq(row.get::<_, i64>(2)? as u64),
                        state: repair_state(&row.get::<_, String>(3)?),
                        attempts: row.get(4)?,
                        updated_at_ms: row.get(5)?,
                    })
                };
                statement.query_map(range_key(range), order)?.collect()
            })
            .during("read the repair orders of a gap")
    }

    /// Writes one step, all or nothing; gaps without an id get theirs.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    pub fn commit(&mut self, changes: Changes<'_>) -> Result<Written, OutboxError> {
        let write = "write what the audit found";
        self.connection.check()?;
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).during(write)?;
        let moved = tx
            .execute("UPDATE homing_audit SET version = version + 1 WHERE version = ?1", [changes.version])
            .during(write)?;
        if moved != 1 {
            return Ok(Written::Superseded);
        }
        write_changes(&tx, &changes).during(write)?;
        let mut ids = Vec::new();
        for gap in &changes.gaps {
            ids.push(write_gap(&tx, gap).during(write)?);
        }
        if changes.gaps.iter().any(|gap| gap.closed_at_ms.is_some()) {
            forget_closed(&tx).during(write)?;
        }
        tx.commit().during(write)?;
        for (gap, id) in changes.gaps.into_iter().zip(ids) {
            gap.id = Some(id);
        }
        Ok(Written::Version(changes.version + 1))
    }
}

fn write_changes(tx: &Transaction<'_>, changes: &Changes<'_>) -> rusqlite::Result<()> {
    let now_ms = changes.now_ms;
    for saved in &changes.partitions {
        tx.prepare_cached(
            "INSERT OR REPLACE INTO homing_audit_state \
             (cluster_id, topic, partition, topic_id, next_offset, state, counts, updated_at_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            changes.cluster_id,
            saved.topic.as_str(),
            saved.partition.0,
            &saved.topic_id[..],
            saved.next_offset.0,
            saved.state,
            saved.counts,
            now_ms
        ])?;
    }
    for order in &changes.orders {
        let (topic, epoch, partition, from, to) = range_key(order);
        tx.prepare_cached(
            "INSERT INTO homing_repair (topic, epoch, partition, from_seq, to_seq, reason, created_at_ms, \
             updated_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, 'gap', ?6, ?6)",
        )?
        .execute(params![topic, epoch, partition, from, to, now_ms])?;
    }
    for (order, state) in &changes.order_states {
        tx.prepare_cached("UPDATE homing_repair SET state = ?2, updated_at_ms = ?3 WHERE id = ?1")?
            .execute(params![order, state.as_str(), now_ms])?;
    }
    for (lane, verified) in &changes.verified {
        tx.prepare_cached(
            "UPDATE homing_lane SET verified_seq = ?4 \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3",
        )?
        .execute(params![lane.topic.as_str(), lane.epoch.0, lane.partition.0, *verified as i64])?;
    }
    Ok(())
}

/// Lets the oldest closed gaps and orders go.
fn forget_closed(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    for (table, closed) in
        [("homing_audit_gap", "closed_at_ms IS NOT NULL"), ("homing_repair", "state = 'repaired'")]
    {
        let sql = format!(
            "DELETE FROM {table} WHERE {closed} AND id <= \
             (SELECT id FROM {table} WHERE {closed} ORDER BY id DESC LIMIT 1 OFFSET {CLOSED_KEPT})"
        );
        tx.prepare_cached(&sql)?.execute([])?;
    }
    Ok(())
}

fn write_gap(tx: &Transaction<'_>, gap: &SavedGap) -> rusqlite::Result<i64> {
    let Some(id) = gap.id else {
        tx.prepare_cached(
            "INSERT INTO homing_audit_gap (topic, epoch, partition, from_seq, to_seq, state, opened_at_ms, \
             confirmed_at_ms, closed_at_ms, verdicts) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            gap.topic.as_str(),
            gap.epoch.0,
            gap.partition.0,
            gap.from.0 as i64,
            gap.to.0 as i64,
            gap.standing.as_str(),
            gap.opened_at_ms,
            gap.confirmed_at_ms,
            gap.closed_at_ms,
            gap.verdicts
        ])?;
        return Ok(tx.last_insert_rowid());
    };
    tx.prepare_cached(
        "UPDATE homing_audit_gap SET to_seq = ?2, state = ?3, confirmed_at_ms = ?4, closed_at_ms = ?5, \
         verdicts = ?6 WHERE id = ?1",
    )?
    .execute(params![
        id,
        gap.to.0 as i64,
        gap.standing.as_str(),
        gap.confirmed_at_ms,
        gap.closed_at_ms,
        gap.verdicts
    ])?;
    Ok(id)
}

fn gaps_where(connection: &Connection, condition: &str, limit: i64) -> Result<Vec<SavedGap>, OutboxError> {
    let read = "read the gaps";
    let sql = format!(
        "SELECT id, topic, epoch, partition, from_seq, to_seq, state, opened_at_ms, confirmed_at_ms, \
         closed_at_ms, verdicts FROM homing_audit_gap WHERE {condition} ORDER BY id DESC LIMIT ?1"
    );
    let gap = |row: &Row<'_>| {
        Ok(SavedGap {
            id: Some(row.get(0)?),
            topic: topic(row, 1)?,
            epoch: Epoch(row.get(2)?),
            partition: Partition(row.get(3)?),
            from: Seq(row.get::<_, i64>(4)? as u64),
            to: Seq(row.get::<_, i64>(5)? as u64),
            standing: GapStanding::parse(&row.get::<_, String>(6)?),
            opened_at_ms: row.get(7)?,
            confirmed_at_ms: row.get(8)?,
            closed_at_ms: row.get(9)?,
            verdicts: row.get(10)?,
        })
    };
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_map([limit], gap)?.collect())
        .during(read)
}

fn saved_partition(row: &Row<'_>) -> rusqlite::Result<SavedPartition> {
    Ok(SavedPartition {
        topic: topic(row, 0)?,
        partition: Partition(row.get(1)?),
        topic_id: row.get(2)?,
        next_offset: Offset(row.get(3)?),
        state: row.get(4)?,
        counts: row.get(5)?,
    })
}

fn topic(row: &Row<'_>, column: usize) -> rusqlite::Result<TopicName> {
    let name: String = row.get(column)?;
    parse_topic(&name, "read a topic's name").map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn range_key<'a>(range: &SeqRange<'a>) -> (&'a str, u32, i32, i64, i64) {
    let seq = |seq: Seq| i64::try_from(seq.0).unwrap_or(i64::MAX);
    (range.topic.as_str(), range.epoch.0, range.partition.0, seq(range.from), seq(range.to))
}

fn repair_state(name: &str) -> RepairState {
    let all = [RepairState::Wanted, RepairState::Replayed, RepairState::Repaired, RepairState::Irreparable];
    all.into_iter().find(|state| state.as_str() == name).unwrap_or(RepairState::GivenUp)
}
