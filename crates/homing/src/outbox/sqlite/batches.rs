//! The relay's one transaction: settle lanes' shares of batches, set rows aside, write the next manifest.

use super::ownership::{Fence, fenced, set_lease};
use super::{dead_letters, holds};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::identity::Instance;
use crate::outbox::offset_runs::OffsetRuns;
use crate::outbox::store::{BatchId, Claimed, Commit, LanePart, LaneSettlement, Manifest, RowId};
use homing_core::FencingToken;
use rusqlite::{Connection, Transaction, params};

pub(super) fn commit(
    connection: &mut Connection,
    instance: Instance,
    fence: &Fence,
    commit: &Commit<'_>,
) -> Result<(), OutboxError> {
    let operation = if commit.manifest.is_some() { "commit a manifest" } else { "settle" };
    let tx = fenced(connection, fence, operation)?;
    settle_all(&tx, instance, commit.settle, commit.now_ms)?;
    dead_letters::set_aside_unnumbered(&tx, instance, commit.reject, commit.now_ms)?;
    for hold in commit.hold {
        holds::begin(&tx, hold).during(operation)?;
    }
    match &commit.claimed {
        Some(Claimed::Live(through)) => claim_live(&tx, fence.token, commit, *through)?,
        Some(Claimed::Held { topic, through, done }) => {
            holds::claim(&tx, commit, holds::Share { topic, through: *through, done: *done })?;
            if let Some(manifest) = commit.manifest {
                write_manifest(&tx, fence.token, manifest, commit.now_ms)?;
            }
        }
        None if commit.manifest.is_some() => {
            return inconsistent(operation, "a manifest without a word on which rows it claims".to_owned());
        }
        None => {}
    }
    set_lease(&tx, commit.lease_until_ms).during(operation)?;
    tx.commit().during(operation)
}

/// New rows up to `through`: those of held topics are listed as held, the others are the manifest's.
fn claim_live(
    tx: &Transaction<'_>,
    token: FencingToken,
    commit: &Commit<'_>,
    through: RowId,
) -> Result<(), OutboxError> {
    let operation = "claim rows";
    let before: i64 = tx
        .prepare_cached("SELECT claimed_through FROM homing_meta")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .during(operation)?;
    if through.0 <= before {
        return inconsistent(operation, format!("rows up to {through} are claimed already"));
    }
    let held = holds::take_in(tx, RowId(before), through)?;
    let mut numbered = 0;
    if let Some(manifest) = commit.manifest {
        if manifest.span.from.0 <= before || manifest.span.to > through {
            let what = format!("a batch from {} to {}", manifest.span.from, manifest.span.to);
            return inconsistent(operation, format!("{what} is not within {before} to {through}"));
        }
        if let Some(topic) = held.topics.iter().find(|held| manifest.lanes.iter().any(|l| l.topic == **held))
        {
            return inconsistent(operation, format!("rows of {topic} are numbered though it is held"));
        }
        write_manifest(tx, token, manifest, commit.now_ms)?;
        numbered = u64::from(manifest.rows);
    }
    tx.prepare_cached("UPDATE homing_meta SET claimed_through = ?1, kept_rows = kept_rows + ?2")
        .and_then(|mut statement| statement.execute([through.0, (numbered + held.rows) as i64]))
        .map(drop)
        .during(operation)
}

fn settle_all(
    tx: &Transaction<'_>,
    instance: Instance,
    settlements: &[LaneSettlement],
    now_ms: i64,
) -> Result<(), OutboxError> {
    let mut at = 0;
    while let Some(first) = settlements.get(at) {
        let batch = first.batch();
        let mut parts = 0;
        for settlement in settlements[at..].iter().take_while(|settlement| settlement.batch() == batch) {
            settle_part(tx, batch, settlement.part(), settlement.runs(), now_ms)?;
            dead_letters::set_aside_voided(tx, instance, settlement.voided(), now_ms)?;
            parts += 1;
        }
        parts_settled(tx, batch, parts, now_ms)?;
        at += parts;
    }
    Ok(())
}

/// Marks one lane's share of a batch settled; the batch is told by [`parts_settled`].
pub(super) fn settle_part(
    tx: &Transaction<'_>,
    batch: BatchId,
    part: &LanePart,
    runs: &OffsetRuns,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let operation = "settle";
    let (topic, epoch, partition) = (part.topic.as_str(), part.epoch.0, part.partition.0);
    let first_offset = runs.first().map(|offset| offset.0);
    let marked = tx
        .prepare_cached(
            "UPDATE homing_batch_lane SET settled_at_ms = ?7, first_offset = ?5, offsets = ?6 \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND first_seq = ?4 \
             AND batch_id = ?8 AND row_count = ?9 AND settled_at_ms IS NULL",
        )
        .and_then(|mut statement| {
            let (first, packed) = (part.first_seq.0 as i64, runs.encode());
            let what =
                params![topic, epoch, partition, first, first_offset, packed, now_ms, batch.0, part.rows];
            statement.execute(what)
        })
        .during(operation)?;
    if marked != 1 {
        let lane = part.lane();
        return inconsistent(operation, format!("batch {batch} has no unsettled part of {lane} like this"));
    }
    let moved = tx
        .prepare_cached(
            "UPDATE homing_lane SET settled_seq = ?4, next_offset = MAX(next_offset, COALESCE(?5, 0)) \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND settled_seq = ?6",
        )
        .and_then(|mut statement| {
            let (last, before) = (part.last_seq().0 as i64, part.first_seq.0 as i64 - 1);
            let end = runs.end().map(|offset| offset.0);
            statement.execute(params![topic, epoch, partition, last, end, before])
        })
        .during(operation)?;
    if moved != 1 {
        return inconsistent(operation, format!("batch {batch} does not continue lane {}", part.lane()));
    }
    Ok(())
}

/// Counts settled parts of a batch; the last one settles it.
pub(super) fn parts_settled(
    tx: &Transaction<'_>,
    batch: BatchId,
    parts: usize,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let operation = "settle";
    let counted = tx
        .prepare_cached(
            "UPDATE homing_batch SET unsettled_parts = unsettled_parts - ?2, \
             settled_at_ms = CASE WHEN unsettled_parts = ?2 THEN ?3 END \
             WHERE batch_id = ?1 AND unsettled_parts >= ?2",
        )
        .and_then(|mut statement| statement.execute(params![batch.0, parts as i64, now_ms]))
        .during(operation)?;
    if counted == 1 {
        return Ok(());
    }
    inconsistent(operation, format!("batch {batch} has not {parts} unsettled parts"))
}

fn write_manifest(
    tx: &Transaction<'_>,
    token: FencingToken,
    manifest: &Manifest,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let operation = "commit a manifest";
    tx.prepare_cached(
        "INSERT INTO homing_batch (batch_id, token, from_id, to_id, row_count, manifest_at_ms, row_bytes, \
         listed, unsettled_parts) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )
    .and_then(|mut statement| {
        let (from, to) = (manifest.span.from.0, manifest.span.to.0);
        let (bytes, listed) = (i64::try_from(manifest.bytes).unwrap_or(i64::MAX), holds::is_listed(manifest));
        let (batch, parts) = (manifest.batch.0, manifest.lanes.len() as i64);
        let token = token.0 as i64;
        statement.execute(params![batch, token, from, to, manifest.rows, now_ms, bytes, listed, parts])
    })
    .during(operation)?;
    for part in &manifest.lanes {
        let (topic, epoch, partition) = (part.topic.as_str(), part.epoch.0, part.partition.0);
        let first_seq = part.first_seq.0 as i64;
        tx.prepare_cached(
            "INSERT INTO homing_batch_lane \
             (topic, epoch, partition, first_seq, batch_id, row_count, takes_null_keys) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .and_then(|mut statement| {
            let (batch, nulls) = (manifest.batch.0, part.takes_null_keys);
            statement.execute(params![topic, epoch, partition, first_seq, batch, part.rows, nulls])
        })
        .during(operation)?;
        let moved = tx
            .prepare_cached(
                "UPDATE homing_lane SET next_seq = next_seq + ?5 \
                 WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND next_seq = ?4",
            )
            .and_then(|mut statement| {
                statement.execute(params![topic, epoch, partition, first_seq, part.rows])
            })
            .during(operation)?;
        if moved != 1 {
            let what = format!("seq {first_seq} is not the next of {}", part.lane());
            return inconsistent(operation, what);
        }
    }
    Ok(())
}

pub(super) fn inconsistent<T>(operation: &'static str, what: String) -> Result<T, OutboxError> {
    Err(OutboxError::Inconsistent { operation, what })
}
