//! Deleting rows that are verified or accepted, lane by lane, and what holds others back.
//!
//! A lane's parts are *clear* up to what is verified or accepted. A batch whose parts are all
//! clear goes as a whole, by its ids. A batch that another lane holds back for long is taken
//! apart: the rows of its clear parts are found again by their keys and deleted by id, and the
//! parts are marked, until the last one is clear and the rest goes too.

use super::SqliteOutbox;
use super::ownership::{Fence, fenced};
use super::pins::parse_topic;
use super::reading::{LaneFilter, cell};
use super::standing::manifest;
use super::{dead_letters, holds};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::{BatchId, LaneKey, Manifest, PruneBlocker, PruneLimits, Pruned, RowId};
use homing_core::{Epoch, Partition, Seq};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::collections::BTreeSet;

/// How many parts one step looks at, shared out among the lanes that have any.
const PARTS_MAX: usize = 4_000;
const PRUNE: &str = "prune";

pub(super) fn prune(
    connection: &mut Connection,
    fence: &Fence,
    limits: PruneLimits,
) -> Result<Pruned, OutboxError> {
    let tx = fenced(connection, fence, PRUNE)?;
    let mut pruned = Pruned::default();
    let mut bytes = 0;
    let mut touched = BTreeSet::new();
    for batch in candidates(&tx, &limits)? {
        if pruned.rows >= u64::from(limits.rows_max) || bytes >= limits.bytes_max {
            break;
        }
        let (manifest, settled) = manifest(&tx, batch)?;
        let clear = clear_parts(&tx, &manifest, &settled, &limits)?;
        let whole = clear.len() == manifest.lanes.len() && all_settled(&tx, batch).during(PRUNE)?;
        let rows = if whole {
            bytes += bytes_of(&tx, &manifest).during(PRUNE)?;
            delete_batch(&tx, &manifest)?
        } else {
            let old: Vec<usize> = clear.iter().filter(|part| part.old).map(|part| part.place).collect();
            let share = manifest.only(&old);
            bytes += manifest.bytes * u64::from(share.rows) / u64::from(manifest.rows.max(1));
            delete_parts(&tx, &share)?
        };
        if rows > 0 || whole {
            touched.extend(manifest.lanes.iter().map(|part| part.lane()));
        }
        pruned.rows += rows;
    }
    for lane in &touched {
        move_pruned(&tx, lane).during(PRUNE)?;
    }
    let records = delete_records(&tx, &limits).during(PRUNE)?;
    if touched.is_empty() && records == 0 {
        return Ok(Pruned::default());
    }
    tx.commit().during(PRUNE)?;
    pruned.more = pruned.rows > 0 || records > 0;
    Ok(pruned)
}

/// Batches with a part that may go, oldest first. The newest batch always stays: its number
/// keeps the next one unique.
fn candidates(tx: &Transaction<'_>, limits: &PruneLimits) -> Result<BTreeSet<BatchId>, OutboxError> {
    let lanes: Vec<(String, u32, i32, i64, i64)> = tx
        .prepare_cached(
            "SELECT topic, epoch, partition, pruned_seq, MAX(verified_seq, accepted_seq) FROM homing_lane \
             WHERE pruned_seq < MIN(settled_seq, MAX(verified_seq, accepted_seq))",
        )
        .and_then(|mut statement| {
            let lane = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
            statement.query_map([], lane)?.collect()
        })
        .during(PRUNE)?;
    let share = (PARTS_MAX / lanes.len().max(1)).max(1);
    let mut batches = BTreeSet::new();
    let mut statement = tx
        .prepare_cached(
            "SELECT batch_id FROM homing_batch_lane WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 \
             AND first_seq > ?4 AND first_seq + row_count - 1 <= ?5 AND rows_gone = 0 AND settled_at_ms < ?6 \
             AND batch_id < (SELECT MAX(batch_id) FROM homing_batch) ORDER BY first_seq LIMIT ?7",
        )
        .during(PRUNE)?;
    for (topic, epoch, partition, pruned, clear) in &lanes {
        let before = limits.settled_before_ms;
        let found = statement
            .query_map(params![topic, epoch, partition, pruned, clear, before, share as i64], |row| {
                row.get(0).map(BatchId)
            })
            .during(PRUNE)?;
        for batch in found {
            batches.insert(batch.during(PRUNE)?);
        }
    }
    Ok(batches)
}

/// A part that is clear.
struct ClearPart {
    place: usize,
    /// Settled so long ago that its batch is taken apart for it.
    old: bool,
}

fn clear_parts(
    tx: &Transaction<'_>,
    manifest: &Manifest,
    settled: &[bool],
    limits: &PruneLimits,
) -> Result<Vec<ClearPart>, OutboxError> {
    let mut clear = Vec::new();
    let mut statement = tx
        .prepare_cached(
            "SELECT b.settled_at_ms FROM homing_batch_lane b JOIN homing_lane l USING (topic, epoch, partition) \
             WHERE b.topic = ?1 AND b.epoch = ?2 AND b.partition = ?3 AND b.first_seq = ?4 \
             AND b.settled_at_ms < ?5 AND b.first_seq + b.row_count - 1 <= MAX(verified_seq, accepted_seq)",
        )
        .during(PRUNE)?;
    for (place, part) in manifest.lanes.iter().enumerate().filter(|(place, _)| settled[*place]) {
        let (topic, first) = (part.topic.as_str(), part.first_seq.0 as i64);
        let key = params![topic, part.epoch.0, part.partition.0, first, limits.settled_before_ms];
        let at: Option<i64> = statement.query_row(key, |row| row.get(0)).optional().during(PRUNE)?;
        clear.extend(at.map(|at| ClearPart { place, old: at < limits.split_before_ms }));
    }
    Ok(clear)
}

fn all_settled(tx: &Transaction<'_>, batch: BatchId) -> rusqlite::Result<bool> {
    tx.prepare_cached("SELECT settled_at_ms IS NOT NULL FROM homing_batch WHERE batch_id = ?1")?
        .query_row([batch.0], |row| row.get(0))
}

/// The bytes of a batch's rows; those of an outbox that did not note them are measured.
fn bytes_of(tx: &Transaction<'_>, manifest: &Manifest) -> rusqlite::Result<u64> {
    if manifest.bytes > 0 {
        return Ok(manifest.bytes);
    }
    tx.prepare_cached(
        "SELECT COALESCE(SUM(COALESCE(length(message_key), 0) + COALESCE(length(payload), 0) \
         + COALESCE(length(payload_text), 0) + COALESCE(length(headers), 0)), 0) \
         FROM homing_outbox WHERE id BETWEEN ?1 AND ?2",
    )?
    .query_row([manifest.span.from.0, manifest.span.to.0], |row| row.get::<_, i64>(0))
    .map(|bytes| bytes as u64)
}

/// Deletes all that is left of a batch.
fn delete_batch(tx: &Transaction<'_>, manifest: &Manifest) -> Result<u64, OutboxError> {
    let batch = manifest.batch.0;
    allow_deletes(tx, true).during(PRUNE)?;
    let rows = if holds::is_listed(manifest) {
        let rows = tx
            .prepare_cached(
                "DELETE FROM homing_outbox WHERE id IN (SELECT row_id FROM homing_held_row WHERE batch_id = ?1)",
            )
            .and_then(|mut statement| statement.execute([batch]))
            .during(PRUNE)?;
        tx.execute("DELETE FROM homing_held_row WHERE batch_id = ?1", [batch]).during(PRUNE)?;
        rows
    } else {
        tx.prepare_cached(
            "DELETE FROM homing_outbox WHERE id BETWEEN ?1 AND ?2 AND id NOT IN \
             (SELECT row_id FROM homing_held_row WHERE row_id BETWEEN ?1 AND ?2)",
        )
        .and_then(|mut statement| statement.execute([manifest.span.from.0, manifest.span.to.0]))
        .during(PRUNE)?
    };
    allow_deletes(tx, false).during(PRUNE)?;
    tx.execute("DELETE FROM homing_batch_lane WHERE batch_id = ?1", [batch]).during(PRUNE)?;
    tx.execute("DELETE FROM homing_batch WHERE batch_id = ?1", [batch]).during(PRUNE)?;
    count_gone(tx, rows as u64).during(PRUNE)?;
    Ok(rows as u64)
}

/// Deletes the rows of a manifest's lanes and marks the parts.
fn delete_parts(tx: &Transaction<'_>, share: &Manifest) -> Result<u64, OutboxError> {
    if share.lanes.is_empty() {
        return Ok(0);
    }
    let ids = row_ids(tx, share)?;
    dead_letters::delete_rows(tx, &ids)?;
    for part in &share.lanes {
        let (topic, first) = (part.topic.as_str(), part.first_seq.0 as i64);
        tx.prepare_cached(
            "UPDATE homing_batch_lane SET rows_gone = 1 \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND first_seq = ?4",
        )
        .and_then(|mut statement| statement.execute(params![topic, part.epoch.0, part.partition.0, first]))
        .during(PRUNE)?;
    }
    Ok(ids.len() as u64)
}

/// The rows of a manifest's lanes, without reading what is in them but for the key.
fn row_ids(tx: &Transaction<'_>, share: &Manifest) -> Result<Vec<RowId>, OutboxError> {
    let filter = LaneFilter::new(tx, share)?;
    let (sql, key) = if holds::is_listed(share) {
        let sql = "SELECT id, o.topic, message_key FROM homing_held_row h CROSS JOIN homing_outbox o \
                   ON o.id = h.row_id WHERE h.batch_id = ?1 AND ?2 = ?2 ORDER BY h.row_id";
        (sql, [share.batch.0, 0])
    } else {
        let sql = "SELECT id, topic, message_key FROM homing_outbox WHERE id BETWEEN ?1 AND ?2 AND id NOT IN \
                   (SELECT row_id FROM homing_held_row WHERE row_id BETWEEN ?1 AND ?2) ORDER BY id";
        (sql, [share.span.from.0, share.span.to.0])
    };
    let mut statement = tx.prepare_cached(sql).during(PRUNE)?;
    let mut rows = statement.query(key).during(PRUNE)?;
    let (mut ids, mut given) = (Vec::new(), vec![0u32; share.lanes.len()]);
    while let Some(row) = rows.next().during(PRUNE)? {
        let topic = cell(row.get_ref(1).during(PRUNE)?);
        let Some(lane) = filter.lane(topic, cell(row.get_ref(2).during(PRUNE)?)) else { continue };
        given[lane as usize] += 1;
        ids.push(RowId(row.get(0).during(PRUNE)?));
    }
    filter.whole(&given, 0)?;
    Ok(ids)
}

/// Lets deletes pass the trigger, within this transaction.
pub(super) fn allow_deletes(tx: &Transaction<'_>, allowed: bool) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE homing_meta SET pruning = ?1")?.execute([allowed]).map(drop)
}

/// Claimed rows have left the outbox.
pub(super) fn count_gone(tx: &Transaction<'_>, rows: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE homing_meta SET kept_rows = kept_rows - ?1")?.execute([rows as i64]).map(drop)
}

/// Moves a lane's `pruned_seq` to before its first part whose rows are there.
pub(super) fn move_pruned(tx: &Transaction<'_>, lane: &LaneKey) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE homing_lane SET pruned_seq = COALESCE((SELECT first_seq - 1 FROM homing_batch_lane b \
         WHERE b.topic = ?1 AND b.epoch = ?2 AND b.partition = ?3 AND b.first_seq > homing_lane.pruned_seq \
         AND b.rows_gone = 0 ORDER BY b.first_seq LIMIT 1), next_seq - 1) \
         WHERE topic = ?1 AND epoch = ?2 AND partition = ?3",
    )?
    .execute(params![lane.topic.as_str(), lane.epoch.0, lane.partition.0])
    .map(drop)
}

/// Deletes records that speak of nothing that is there any more. Voided seqs stay as long as
/// their epoch may be read again: without them an audit from the start would find gaps.
fn delete_records(tx: &Transaction<'_>, limits: &PruneLimits) -> rusqlite::Result<u64> {
    let key = params![limits.records_before_ms, limits.rows_max];
    let mut gone = 0;
    for sql in [
        "DELETE FROM homing_dead_letter WHERE id IN (SELECT id FROM homing_dead_letter \
         WHERE redriven_as IS NOT NULL AND rejected_at_ms < ?1 AND redriven_as <= \
         (SELECT claimed_through FROM homing_meta) AND NOT EXISTS (SELECT 1 FROM homing_outbox o \
         WHERE o.id IN (homing_dead_letter.redriven_as, homing_dead_letter.row_id)) ORDER BY id LIMIT ?2)",
        "DELETE FROM homing_repair WHERE id IN (SELECT id FROM homing_repair \
         WHERE state NOT IN ('wanted', 'replayed') AND updated_at_ms < ?1 ORDER BY id LIMIT ?2)",
        "DELETE FROM homing_audit_gap WHERE id IN (SELECT id FROM homing_audit_gap \
         WHERE closed_at_ms < ?1 ORDER BY id LIMIT ?2)",
        "DELETE FROM homing_topic_order WHERE id IN (SELECT id FROM homing_topic_order \
         WHERE done_at_ms < ?1 ORDER BY id LIMIT ?2)",
        "DELETE FROM homing_void WHERE (topic, epoch, partition, seq) IN \
         (SELECT v.topic, v.epoch, v.partition, v.seq FROM homing_void v JOIN homing_topic t USING (topic, epoch) \
         JOIN homing_lane l USING (topic, epoch, partition) WHERE t.closed_at_ms < ?1 AND v.voided_at_ms < ?1 \
         AND v.seq <= l.pruned_seq LIMIT ?2)",
    ] {
        gone += tx.prepare_cached(sql)?.execute(key)? as u64;
    }
    Ok(gone)
}

pub(super) fn blockers(
    connection: &Connection,
    settled_before_ms: i64,
) -> Result<Vec<PruneBlocker>, OutboxError> {
    let read = "read what holds back pruning";
    let mut statement = connection
        .prepare_cached(
            "SELECT topic, epoch, partition, verified, accepted, settled_seq, closed, \
             (SELECT settled_at_ms FROM homing_batch_lane b WHERE b.topic = l.topic AND b.epoch = l.epoch \
              AND b.partition = l.partition AND b.first_seq >= COALESCE((SELECT MAX(first_seq) \
                  FROM homing_batch_lane c WHERE c.topic = l.topic AND c.epoch = l.epoch \
                  AND c.partition = l.partition AND c.first_seq <= MAX(verified, accepted) + 1), 0) \
              AND b.first_seq + b.row_count - 1 > MAX(verified, accepted) ORDER BY b.first_seq LIMIT 1) AS since \
             FROM (SELECT topic, epoch, partition, verified_seq AS verified, accepted_seq AS accepted, \
                   settled_seq, closed_at_ms IS NOT NULL AS closed \
                   FROM homing_lane JOIN homing_topic USING (topic, epoch) \
                   WHERE MAX(verified_seq, accepted_seq) < settled_seq) l \
             WHERE since < ?1 ORDER BY since",
        )
        .during(read)?;
    let mut rows = statement.query([settled_before_ms]).during(read)?;
    let mut blockers = Vec::new();
    while let Some(row) = rows.next().during(read)? {
        let topic: String = row.get(0).during(read)?;
        let number = |column| row.get::<_, i64>(column).map(|n| n as u64).during(read);
        let (verified, accepted, settled) = (number(3)?, number(4)?, number(5)?);
        let closed: bool = row.get(6).during(read)?;
        let clear = verified.max(accepted);
        let epoch = Epoch(row.get(1).during(read)?);
        let of = if closed { " of a closed epoch" } else { "" };
        let why = format!("seqs {} to {settled}{of} were never read back from Kafka", clear + 1);
        blockers.push(PruneBlocker {
            lane: LaneKey {
                topic: parse_topic(&topic, read)?,
                epoch,
                partition: Partition(row.get(2).during(read)?),
            },
            from: Seq(clear + 1),
            through: Seq(settled),
            oldest_settled_ms: row.get(7).during(read)?,
            rows: settled - clear,
            why,
        });
    }
    Ok(blockers)
}

impl SqliteOutbox {
    /// Lanes with rows settled before `settled_before_ms` that stay because nobody has read their
    /// records back, the oldest first.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn prune_blockers(&self, settled_before_ms: i64) -> Result<Vec<PruneBlocker>, OutboxError> {
        blockers(&*self.connect_guarded()?, settled_before_ms)
    }
}
