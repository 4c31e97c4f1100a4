//! Losses a person let go: recorded for ever, with who and why.

use super::SqliteOutbox;
use super::batches::inconsistent;
use super::pins::parse_topic;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::{Acceptance, LaneKey};
use homing_core::{Epoch, Partition, Seq};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

/// Whose word it is.
pub(super) struct Word<'a> {
    pub by: &'a str,
    pub why: &'a str,
    pub at_ms: i64,
}

/// Lets go what of a lane is not verified up to `through`; `None` when nothing is.
pub(super) fn accept(
    tx: &Transaction<'_>,
    lane: &LaneKey,
    through: Seq,
    word: &Word<'_>,
) -> Result<Option<Acceptance>, OutboxError> {
    let operation = "accept a loss";
    let (topic, epoch, partition) = (lane.topic.as_str(), lane.epoch.0, lane.partition.0);
    let found: Option<(i64, i64)> = tx
        .query_row(
            "SELECT MAX(verified_seq, accepted_seq), settled_seq FROM homing_lane \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3",
            params![topic, epoch, partition],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .during(operation)?;
    let Some((clear, settled)) = found else {
        return inconsistent(operation, format!("there is no lane {lane}"));
    };
    if through.0 > settled as u64 {
        let what =
            format!("seq {through} of {lane} is not settled yet ({settled} is): it is still on its way");
        return inconsistent(operation, what);
    }
    let from = Seq(clear as u64 + 1);
    if through < from {
        return Ok(None);
    }
    tx.execute(
        "INSERT INTO homing_acceptance (topic, epoch, partition, from_seq, to_seq, by_whom, why, at_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![topic, epoch, partition, from.0 as i64, through.0 as i64, word.by, word.why, word.at_ms],
    )
    .during(operation)?;
    tx.execute(
        "UPDATE homing_lane SET accepted_seq = ?4 WHERE topic = ?1 AND epoch = ?2 AND partition = ?3",
        params![topic, epoch, partition, through.0 as i64],
    )
    .during(operation)?;
    let (by, why) = (word.by.to_owned(), word.why.to_owned());
    Ok(Some(Acceptance { lane: lane.clone(), from, to: through, by, why, at_ms: word.at_ms }))
}

impl SqliteOutbox {
    /// Lets go what of a lane was not read back up to `through`: it no longer holds back pruning.
    /// Who and why are kept for ever. `None` when all of it is verified or accepted already.
    ///
    /// # Errors
    /// [`OutboxError::Inconsistent`] when there is no such lane, or `through` is not settled;
    /// others when the database cannot be written.
    pub fn accept_loss(
        &self,
        lane: &LaneKey,
        through: Seq,
        by: &str,
        why: &str,
        now_ms: i64,
    ) -> Result<Option<Acceptance>, OutboxError> {
        let operation = "accept a loss";
        let mut connection = self.connect_guarded()?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).during(operation)?;
        let accepted = accept(&tx, lane, through, &Word { by, why, at_ms: now_ms })?;
        tx.commit().during(operation)?;
        Ok(accepted)
    }

    /// All that was accepted, oldest first.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn acceptances(&self) -> Result<Vec<Acceptance>, OutboxError> {
        let read = "read what was accepted";
        let connection = self.connect_guarded()?;
        let mut statement = connection
            .prepare(
                "SELECT topic, epoch, partition, from_seq, to_seq, by_whom, why, at_ms \
                 FROM homing_acceptance ORDER BY id",
            )
            .during(read)?;
        let mut rows = statement.query([]).during(read)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().during(read)? {
            let topic: String = row.get(0).during(read)?;
            let (epoch, partition) = (Epoch(row.get(1).during(read)?), Partition(row.get(2).during(read)?));
            all.push(Acceptance {
                lane: LaneKey { topic: parse_topic(&topic, read)?, epoch, partition },
                from: Seq(row.get::<_, i64>(3).during(read)? as u64),
                to: Seq(row.get::<_, i64>(4).during(read)? as u64),
                by: row.get(5).during(read)?,
                why: row.get(6).during(read)?,
                at_ms: row.get(7).during(read)?,
            });
        }
        Ok(all)
    }
}
