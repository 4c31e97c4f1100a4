//! How rows ended: receipts computed from the manifest, by any process, without a write per row.

use super::SqliteOutbox;
use super::batches::manifest;
use super::dead_letters;
use super::pins::{Epochs, topics};
use super::reading::read_batch;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::numbering::number;
use crate::outbox::offset_runs::{Delivered, OffsetRuns};
use crate::outbox::report::{Fate, Receipt};
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{BatchId, LanePart, Manifest, RowId};
use homing_core::{Epoch, PartitionCount, TopicName};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use uuid::Uuid;

/// Answers how rows ended, over one connection it keeps.
#[derive(Debug)]
pub struct FateReader {
    outbox: SqliteOutbox,
    connection: Connection,
}

impl FateReader {
    /// All rows up to here have a fate: they are settled or set aside.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn decided_through(&self) -> Result<RowId, OutboxError> {
        self.connection
            .prepare_cached(
                "SELECT COALESCE((SELECT from_id - 1 FROM homing_batch WHERE settled_at_ms IS NULL \
                 ORDER BY batch_id LIMIT 1), (SELECT claimed_through FROM homing_meta))",
            )
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map(RowId)
            .during("read how far the outbox is settled")
    }

    /// The fates of `rows` (ascending), those without one yet or no longer (pruned) left out.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn fates(&self, rows: &[RowId]) -> Result<Vec<(RowId, Fate)>, OutboxError> {
        let read = "read how rows ended";
        let mut fates = Vec::with_capacity(rows.len());
        let mut at = 0;
        while at < rows.len() {
            let row = rows[at];
            if let Some((code, reason)) = dead_letters::of_row(&self.connection, row).during(read)? {
                fates.push((row, Fate::DeadLetter { code, reason }));
                at += 1;
                continue;
            }
            let Some(batch) = self.settled_batch_with(row).during(read)? else {
                at += 1;
                continue;
            };
            let manifest = manifest(&self.connection, batch)?;
            let share = rows[at..].iter().take_while(|row| **row <= manifest.span.to).count();
            self.batch_fates(&manifest, &rows[at..at + share], &mut fates)?;
            at += share;
        }
        Ok(fates)
    }

    fn settled_batch_with(&self, row: RowId) -> Result<Option<BatchId>, rusqlite::Error> {
        self.connection
            .prepare_cached(
                "SELECT batch_id FROM (SELECT batch_id, to_id, settled_at_ms FROM homing_batch \
                 WHERE from_id <= ?1 ORDER BY from_id DESC LIMIT 1) \
                 WHERE to_id >= ?1 AND settled_at_ms IS NOT NULL",
            )?
            .query_row([row.0], |found| found.get(0).map(BatchId))
            .optional()
    }

    fn batch_fates(
        &self,
        manifest: &Manifest,
        wanted: &[RowId],
        fates: &mut Vec<(RowId, Fate)>,
    ) -> Result<(), OutboxError> {
        let read = "read how rows ended";
        let mut rows = RowBuf::default();
        read_batch(&self.connection, self.outbox.instance(), manifest, &mut rows)?;
        let counts = partition_counts(&self.connection)?;
        let numbers = number(&rows, manifest, |part| counts.get(&(part.topic.clone(), part.epoch)).copied())
            .map_err(|misfit| OutboxError::Inconsistent { operation: read, what: misfit.to_string() })?;
        let runs = manifest
            .lanes
            .iter()
            .map(|part| lane_runs(&self.connection, part))
            .collect::<Result<Vec<_>, _>>()?;
        let mut wanted = wanted.iter().copied().peekable();
        for (row, numbered) in rows.iter().zip(numbers) {
            while wanted.next_if(|id| *id < row.id).is_some_and(|id| self.push_dead(id, fates)) {}
            if wanted.peek() != Some(&row.id) {
                continue;
            }
            wanted.next();
            let part = &manifest.lanes[numbered.lane as usize];
            let index = u32::try_from(numbered.seq.0 - part.first_seq.0).expect("a batch is small");
            match runs[numbered.lane as usize].get(index) {
                Some(Delivered::At(offset)) => {
                    let receipt = Receipt {
                        topic: part.topic.clone(),
                        partition: part.partition,
                        offset,
                        stream: self.outbox.stream().clone(),
                        epoch: part.epoch,
                        seq: numbered.seq,
                        id: Uuid::from_bytes(row.message_id),
                    };
                    fates.push((row.id, Fate::Delivered(receipt)));
                }
                Some(Delivered::Void) | None => {
                    self.push_dead(row.id, fates);
                }
            }
        }
        for id in wanted {
            self.push_dead(id, fates);
        }
        Ok(())
    }

    /// Adds the fate of a row that is in no lane; one that is nowhere has none.
    fn push_dead(&self, row: RowId, fates: &mut Vec<(RowId, Fate)>) -> bool {
        if let Ok(Some((code, reason))) = dead_letters::of_row(&self.connection, row) {
            fates.push((row, Fate::DeadLetter { code, reason }));
        }
        true
    }
}

fn partition_counts(
    connection: &Connection,
) -> Result<HashMap<(TopicName, Epoch), PartitionCount>, OutboxError> {
    Ok(topics(connection, Epochs::All)?.into_iter().map(|t| ((t.topic, t.epoch), t.partitions)).collect())
}

fn lane_runs(connection: &Connection, part: &LanePart) -> Result<OffsetRuns, OutboxError> {
    let read = "read a lane's offsets";
    let packed: Option<Vec<u8>> = connection
        .prepare_cached(
            "SELECT offsets FROM homing_batch_lane \
             WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND first_seq = ?4",
        )
        .and_then(|mut statement| {
            let key = params![part.topic.as_str(), part.epoch.0, part.partition.0, part.first_seq.0 as i64];
            statement.query_row(key, |row| row.get(0))
        })
        .during(read)?;
    packed.as_deref().and_then(OffsetRuns::decode).ok_or_else(|| OutboxError::Inconsistent {
        operation: read,
        what: format!("the settled lane {}[{}] has no readable offsets", part.topic, part.partition),
    })
}

impl SqliteOutbox {
    /// Opens a reader of fates.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be opened.
    pub fn fate_reader(&self) -> Result<FateReader, OutboxError> {
        Ok(FateReader { outbox: self.clone(), connection: self.connect()? })
    }

    /// How one row ended; `None` while it is on its way, or when it is pruned.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn fate(&self, row: RowId) -> Result<Option<Fate>, OutboxError> {
        Ok(self.fate_reader()?.fates(&[row])?.pop().map(|(_, fate)| fate))
    }

    /// The receipt of one row; `None` while it is on its way, when it was set aside, or when it is pruned.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn receipt(&self, row: RowId) -> Result<Option<Receipt>, OutboxError> {
        Ok(match self.fate(row)? {
            Some(Fate::Delivered(receipt)) => Some(receipt),
            Some(Fate::DeadLetter { .. }) | None => None,
        })
    }
}
