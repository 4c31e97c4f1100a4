//! Accepting a loss: what can never be read back is closed by name, with a reason, for ever.

use super::super::acceptance::{Word, accept};
use super::{AuditLane, AuditStore, topic};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::LaneKey;
use homing_core::{Epoch, Partition, Seq, TopicName};
use rusqlite::{Row, TransactionBehavior, params};

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
        let key = LaneKey { topic: lane.topic.clone(), epoch: lane.epoch, partition: lane.partition };
        let (topic, epoch, partition) = (key.topic.as_str(), key.epoch.0, key.partition.0);
        let to = i64::try_from(through.0).unwrap_or(i64::MAX);
        let Acceptor { by, why, now_ms } = acceptor;
        self.connection.check()?;
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).during(write)?;
        // An epoch that only another database knows has no lane here, and no message of ours.
        if through.0 > 0 {
            accept(&tx, &key, through, &Word { by, why, at_ms: now_ms })?;
        }
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
