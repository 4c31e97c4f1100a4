//! Accepting a loss: what can never be read back is closed by name, with a reason, for ever.

use super::{AuditLane, AuditStore, SeqRange, range_key, topic};
use crate::outbox::error::{During, OutboxError};
use homing_core::{Epoch, Partition, Seq, TopicName};
use rusqlite::{Row, TransactionBehavior, params};

/// Seqs of a lane whose loss somebody accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
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
    /// Who accepted it.
    pub by: String,
    /// Why.
    pub why: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

/// Who accepts a loss, and why.
#[derive(Debug, Clone, Copy)]
pub struct Acceptor<'a> {
    /// A name.
    pub by: &'a str,
    /// The reason, for whoever reads it later.
    pub why: &'a str,
    /// The time now, in milliseconds since 1970.
    pub now_ms: i64,
}

impl AuditStore {
    /// All losses that were accepted, oldest first.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn acceptances(&self) -> Result<Vec<Acceptance>, OutboxError> {
        self.connection
            .prepare_cached(
                "SELECT topic, epoch, partition, from_seq, to_seq, by_whom, why, at_ms \
                 FROM homing_acceptance ORDER BY rowid",
            )
            .and_then(|mut statement| {
                let acceptance = |row: &Row<'_>| {
                    Ok(Acceptance {
                        topic: topic(row, 0)?,
                        epoch: Epoch(row.get(1)?),
                        partition: Partition(row.get(2)?),
                        from: Seq(row.get::<_, i64>(3)? as u64),
                        to: Seq(row.get::<_, i64>(4)? as u64),
                        by: row.get(5)?,
                        why: row.get(6)?,
                        at_ms: row.get(7)?,
                    })
                };
                statement.query_map([], acceptance)?.collect()
            })
            .during("read the losses that were accepted")
    }

    /// Up to which number each lane's numbers that this outbox never gave are accepted.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn strange_accepted(&self) -> Result<Vec<(TopicName, Epoch, Partition, Seq)>, OutboxError> {
        self.connection
            .prepare_cached("SELECT topic, epoch, partition, through FROM homing_audit_strange")
            .and_then(|mut statement| {
                let known = |row: &Row<'_>| {
                    let through = Seq(row.get::<_, i64>(3)? as u64);
                    Ok((topic(row, 0)?, Epoch(row.get(1)?), Partition(row.get(2)?), through))
                };
                statement.query_map([], known)?.collect()
            })
            .during("read which strange numbers are accepted")
    }

    /// Writes down that the loss of a lane's seqs up to `through` is accepted, with the numbers up
    /// to `strange` that this outbox never gave: they count as verified from now on, their gaps are
    /// closed, their repair orders ended. All or nothing; running auditors begin again from there.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    pub fn accept(
        &mut self,
        lane: &AuditLane,
        through: Seq,
        strange: Option<Seq>,
        acceptor: Acceptor<'_>,
    ) -> Result<(), OutboxError> {
        let write = "accept a loss";
        let (topic, epoch, partition) = (&lane.topic, lane.epoch, lane.partition);
        let range = SeqRange { topic, epoch, partition, from: Seq(lane.verified).next(), to: through };
        let (topic, epoch, partition, from, to) = range_key(&range);
        let Acceptor { by, why, now_ms } = acceptor;
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).during(write)?;
        tx.execute(
            "INSERT INTO homing_acceptance (topic, epoch, partition, from_seq, to_seq, by_whom, why, at_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![topic, epoch, partition, from.min(to), to, by, why, now_ms],
        )
        .during(write)?;
        tx.execute(
            "UPDATE homing_lane SET verified_seq = MAX(verified_seq, ?4) \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3",
            params![topic, epoch, partition, to],
        )
        .during(write)?;
        if let Some(strange) = strange {
            tx.execute(
                "INSERT OR REPLACE INTO homing_audit_strange VALUES (?1, ?2, ?3, ?4)",
                params![topic, epoch, partition, strange.0 as i64],
            )
            .during(write)?;
        }
        tx.execute(
            "UPDATE homing_audit_gap SET state = 'accepted', closed_at_ms = ?5 WHERE topic = ?1 AND epoch = ?2 \
             AND partition = ?3 AND to_seq <= ?4 AND closed_at_ms IS NULL",
            params![topic, epoch, partition, to, now_ms],
        )
        .during(write)?;
        tx.execute(
            "UPDATE homing_repair SET state = 'given_up', reason = 'accepted', updated_at_ms = ?5 \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND to_seq <= ?4 \
             AND state IN ('wanted', 'replayed')",
            params![topic, epoch, partition, to, now_ms],
        )
        .during(write)?;
        tx.execute("UPDATE homing_audit SET version = version + 1", []).during(write)?;
        tx.commit().during(write)
    }
}
