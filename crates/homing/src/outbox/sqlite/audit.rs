//! The auditor's tables: how far each partition is read, and the gaps that were found.
//!
//! All that one step of the auditor learns is written in one transaction, and
//! only if nobody else wrote since it was read ([`Changes::version`]): so two
//! auditors may run, and none of them works on what the other has replaced.

use super::SqliteOutbox;
use super::pins::parse_topic;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::offset_runs::{Delivered, OffsetRuns};
use crate::outbox::store::RepairState;
use homing_core::{Epoch, Offset, Partition, Seq, TopicName};
use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};

/// The tables, part of the outbox's schema.
pub(super) const TABLES: &str = r"
-- How far the auditor has read each partition, and what it knows of it.
CREATE TABLE IF NOT EXISTS homing_audit_partition (
    topic         TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    topic_id      BLOB NOT NULL,
    next_offset   INTEGER NOT NULL, -- the next record to read
    state         BLOB NOT NULL,    -- of the continuity detector
    counts        TEXT NOT NULL,    -- JSON
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;

-- The gaps the auditor found, closed ones included.
CREATE TABLE IF NOT EXISTS homing_audit_gap (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    topic           TEXT NOT NULL,
    epoch           INTEGER NOT NULL,
    partition       INTEGER NOT NULL,
    from_seq        INTEGER NOT NULL,
    to_seq          INTEGER NOT NULL,
    state           TEXT NOT NULL, -- suspect, confirmed; closed: repaired, late, voided
    opened_at_ms    INTEGER NOT NULL,
    confirmed_at_ms INTEGER,
    closed_at_ms    INTEGER,
    verdicts        TEXT NOT NULL  -- JSON; empty until confirmed
);
CREATE INDEX IF NOT EXISTS homing_audit_gap_open ON homing_audit_gap (id) WHERE closed_at_ms IS NULL;

-- One row: rises with every write of an auditor.
CREATE TABLE IF NOT EXISTS homing_audit (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
);
INSERT OR IGNORE INTO homing_audit (one, version) VALUES (1, 0);
";

/// What the auditor keeps of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: Partition,
    /// The id of the topic that `next_offset` is of.
    pub topic_id: [u8; 16],
    /// The next record to read.
    pub next_offset: Offset,
    /// The detector's state.
    pub state: Vec<u8>,
    /// Counts, as JSON.
    pub counts: String,
}

/// How a gap stands, as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GapStanding {
    /// Its seqs may still be on their way.
    Suspect,
    /// They stayed away for the grace.
    Confirmed,
    /// Closed: a repair brought the last of them.
    Repaired,
    /// Closed: they came late by themselves.
    Late,
    /// Closed: the relay gave them up, no message bears them.
    Voided,
}

/// One gap as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedGap {
    /// Its number; `None` until it is written.
    pub id: Option<i64>,
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The first seq that was missing when it was opened.
    pub from: Seq,
    /// The last one.
    pub to: Seq,
    /// How it stands.
    pub standing: GapStanding,
    /// When it was noticed, in milliseconds since 1970.
    pub opened_at_ms: i64,
    /// When it was confirmed.
    pub confirmed_at_ms: Option<i64>,
    /// When its last seq was filled.
    pub closed_at_ms: Option<i64>,
    /// What happened to its seqs, as JSON.
    pub verdicts: String,
}

/// A lane as the relay keeps it, for the auditor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLane {
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The topic's id in this epoch.
    pub topic_id: [u8; 16],
    /// The seq its next message gets.
    pub next_seq: Seq,
    /// All seqs up to this one are settled; 0 when none is.
    pub settled: u64,
    /// All seqs up to this one were read back; 0 when none was.
    pub verified: u64,
}

/// A range of seqs to look up, in one lane.
#[derive(Debug, Clone, Copy)]
pub struct SeqRange<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The first seq.
    pub from: Seq,
    /// The last seq.
    pub to: Seq,
}

/// Consecutive seqs of one batch, and where the broker acknowledged the first that is not void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckedPart {
    /// The first seq.
    pub from: Seq,
    /// The last seq.
    pub to: Seq,
    /// The first seq that is not void, and its offset; `None` when all are void.
    pub first: Option<(Seq, Offset)>,
}

/// A repair order with its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditOrder {
    /// Its number.
    pub id: i64,
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The first seq.
    pub from: Seq,
    /// The last seq.
    pub to: Seq,
    /// How it stands.
    pub state: RepairState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it last changed, in milliseconds since 1970.
    pub updated_at_ms: i64,
}

/// What an auditor starts from.
#[derive(Debug, Clone)]
pub struct SavedAudit {
    /// The version this is of.
    pub version: i64,
    /// The partitions that were read.
    pub partitions: Vec<SavedPartition>,
    /// The gaps that are open.
    pub open: Vec<SavedGap>,
}

/// One step of the auditor.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// The version it builds on.
    pub version: i64,
    /// Partitions that were read on.
    pub partitions: Vec<SavedPartition>,
    /// Gaps that were opened (no id) or changed.
    pub gaps: Vec<&'a mut SavedGap>,
    /// Seqs to be sent again.
    pub orders: Vec<SeqRange<'a>>,
    /// Orders that stand otherwise now.
    pub order_states: Vec<(i64, RepairState)>,
    /// Lanes that were read back, up to these seqs.
    pub verified: Vec<(&'a AuditLane, Seq)>,
    /// The time now, in milliseconds since 1970.
    pub now_ms: i64,
}

/// Whether a step was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// It was; this is the version to build on.
    Version(i64),
    /// Another auditor wrote meanwhile: nothing was, begin again from [`AuditStore::load`].
    Superseded,
}

/// An auditor's connection to a SQLite outbox.
#[derive(Debug)]
pub struct AuditStore {
    connection: Connection,
}

impl SqliteOutbox {
    /// What an auditor works on.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be opened.
    pub fn audit_store(&self) -> Result<AuditStore, OutboxError> {
        let connection = self.connect()?;
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
        let partitions = tx
            .prepare(
                "SELECT topic, partition, topic_id, next_offset, state, counts FROM homing_audit_partition",
            )
            .and_then(|mut statement| {
                statement.query_map([], saved_partition)?.collect::<Result<Vec<_>, _>>()
            })
            .during(read)?;
        let open = gaps_where(&tx, "closed_at_ms IS NULL", i64::MAX)?;
        Ok(SavedAudit { version, partitions, open })
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
                "SELECT topic, epoch, partition, topic_id, next_seq, settled_seq, verified_seq \
                 FROM homing_lane JOIN homing_topic USING (topic, epoch) ORDER BY topic, partition, epoch",
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
                    })
                };
                statement.query_map([], lane)?.collect()
            })
            .during(read)
    }

    /// The voided seqs of a range.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn voided(&self, range: &SeqRange<'_>) -> Result<Vec<Seq>, OutboxError> {
        self.connection
            .prepare_cached(
                "SELECT seq FROM homing_void WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 \
                 AND seq BETWEEN ?4 AND ?5 ORDER BY seq",
            )
            .and_then(|mut statement| {
                let seq = |row: &Row<'_>| row.get::<_, i64>(0).map(|seq| Seq(seq as u64));
                statement.query_map(range_key(range), seq)?.collect()
            })
            .during("read the voided seqs to audit")
    }

    /// Where the settled seqs of a range were acknowledged, batch by batch, at most `limit`
    /// batches; those that are pruned or were never given are left out.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn acked(&self, range: &SeqRange<'_>, limit: usize) -> Result<Vec<AckedPart>, OutboxError> {
        let read = "read where seqs were acknowledged";
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT first_seq, row_count, offsets FROM homing_batch_lane \
                 WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND offsets IS NOT NULL \
                 AND first_seq >= COALESCE((SELECT MAX(first_seq) FROM homing_batch_lane WHERE topic = ?1 \
                     AND epoch = ?2 AND partition = ?3 AND first_seq <= ?4), ?4) \
                 AND first_seq <= ?5 ORDER BY first_seq LIMIT ?6",
            )
            .during(read)?;
        let (name, epoch, partition, from, to) = range_key(range);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = statement.query((name, epoch, partition, from, to, limit)).during(read)?;
        let mut parts = Vec::new();
        while let Some(row) = rows.next().during(read)? {
            let first = row.get::<_, i64>(0).during(read)? as u64;
            let last = first + row.get::<_, i64>(1).during(read)? as u64 - 1;
            let packed: Vec<u8> = row.get(2).during(read)?;
            let runs = OffsetRuns::decode(&packed).ok_or_else(|| OutboxError::Inconsistent {
                operation: read,
                what: format!("{}[{}] has unreadable offsets at seq {first}", range.topic, range.partition.0),
            })?;
            let (from, to) = (first.max(range.from.0), last.min(range.to.0));
            if from <= to {
                parts.push(AckedPart {
                    from: Seq(from),
                    to: Seq(to),
                    first: first_acked(&runs, first, from..=to),
                });
            }
        }
        Ok(parts)
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
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).during(write)?;
        let moved = tx
            .execute("UPDATE homing_audit SET version = version + 1 WHERE version = ?1", [changes.version])
            .during(write)?;
        if moved != 1 {
            return Ok(Written::Superseded);
        }
        write_changes(&tx, changes.now_ms, &changes).during(write)?;
        let mut ids = Vec::new();
        for gap in &changes.gaps {
            ids.push(write_gap(&tx, gap).during(write)?);
        }
        tx.commit().during(write)?;
        for (gap, id) in changes.gaps.into_iter().zip(ids) {
            gap.id = Some(id);
        }
        Ok(Written::Version(changes.version + 1))
    }
}

fn write_changes(tx: &Transaction<'_>, now_ms: i64, changes: &Changes<'_>) -> rusqlite::Result<()> {
    for saved in &changes.partitions {
        tx.prepare_cached(
            "INSERT INTO homing_audit_partition \
             (topic, partition, topic_id, next_offset, state, counts, updated_at_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (topic, partition) DO UPDATE SET \
             topic_id = ?3, next_offset = ?4, state = ?5, counts = ?6, updated_at_ms = ?7",
        )?
        .execute(params![
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
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND verified_seq < ?4",
        )?
        .execute(params![lane.topic.as_str(), lane.epoch.0, lane.partition.0, verified.0 as i64])?;
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

fn first_acked(
    runs: &OffsetRuns,
    base: u64,
    mut seqs: std::ops::RangeInclusive<u64>,
) -> Option<(Seq, Offset)> {
    seqs.find_map(|seq| match runs.get(u32::try_from(seq - base).ok()?) {
        Some(Delivered::At(offset)) => Some((Seq(seq), offset)),
        Some(Delivered::Void) | None => None,
    })
}

fn repair_state(name: &str) -> RepairState {
    let all = [RepairState::Wanted, RepairState::Replayed, RepairState::Repaired, RepairState::Irreparable];
    all.into_iter().find(|state| state.as_str() == name).unwrap_or(RepairState::GivenUp)
}

impl GapStanding {
    const ALL: [Self; 5] = [Self::Suspect, Self::Confirmed, Self::Repaired, Self::Late, Self::Voided];

    /// The word for it, in the table and in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspect => "suspect",
            Self::Confirmed => "confirmed",
            Self::Repaired => "repaired",
            Self::Late => "late",
            Self::Voided => "voided",
        }
    }

    /// An unknown word is taken as the worst, so that it is looked at again.
    fn parse(name: &str) -> Self {
        Self::ALL.into_iter().find(|standing| standing.as_str() == name).unwrap_or(Self::Confirmed)
    }
}
