//! What the outbox knows of single seqs: voided, acknowledged where, accepted as lost.

use super::{AckedPart, AuditStore, SeqRange, range_key};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::offset_runs::{Delivered, OffsetRuns};
use homing_core::{Offset, Seq};
use rusqlite::{Row, params};

impl AuditStore {
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

    /// The first seq of a lane that is known to have been acknowledged at or behind an offset;
    /// `None` when no batch that is kept has one.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn first_at_or_behind(
        &self,
        range: &SeqRange<'_>,
        offset: Offset,
    ) -> Result<Option<Seq>, OutboxError> {
        let (topic, epoch, partition, ..) = range_key(range);
        self.connection
            .prepare_cached(
                "SELECT MIN(first_seq) FROM homing_batch_lane WHERE topic = ?1 AND epoch = ?2 \
                 AND partition = ?3 AND first_offset >= ?4",
            )
            .and_then(|mut statement| {
                statement.query_row(params![topic, epoch, partition, offset.0], |row| {
                    Ok(row.get::<_, Option<i64>>(0)?.map(|seq| Seq(seq as u64)))
                })
            })
            .during("find what was acknowledged behind an offset")
    }
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
