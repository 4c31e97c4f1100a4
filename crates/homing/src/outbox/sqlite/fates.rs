//! How rows ended: receipts computed from the manifest, by any process, without a write per row.

use super::SqliteOutbox;
use super::dead_letters;
use super::guard::Guarded;
use super::pins::{Epochs, topics};
use super::reading::read_batch;
use super::standing::manifest;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::numbering::number;
use crate::outbox::offset_runs::{Delivered, OffsetRuns};
use crate::outbox::report::{Fate, Receipt};
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{BatchId, LanePart, RowId};
use homing_core::{Epoch, PartitionCount, TopicName};
use rusqlite::{Connection, OptionalExtension, params};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Answers how rows ended, over one connection it keeps.
#[derive(Debug)]
pub struct FateReader {
    outbox: SqliteOutbox,
    connection: Guarded,
    /// Batches that were looked at and are not wholly settled.
    looked: RefCell<HashMap<BatchId, Look>>,
}

/// What the last look at a batch saw; while it stays, another look would find nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    settled_parts: usize,
    rows_left: usize,
    last_row: RowId,
}

impl FateReader {
    /// All rows up to here have a fate: they are settled or set aside.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn decided_through(&self) -> Result<RowId, OutboxError> {
        self.connection
            .prepare_cached(
                "SELECT MIN(claimed_through, \
                 COALESCE((SELECT from_id - 1 FROM homing_batch WHERE settled_at_ms IS NULL \
                           ORDER BY from_id LIMIT 1), claimed_through), \
                 COALESCE((SELECT MIN(from_id) - 1 FROM homing_held WHERE row_count > 0), claimed_through)) \
                 FROM homing_meta",
            )
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map(RowId)
            .during("read how far the outbox is settled")
    }

    /// All rows up to here are numbered, held or set aside; none above has a fate.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn claimed_through(&self) -> Result<RowId, OutboxError> {
        self.connection
            .prepare_cached("SELECT claimed_through FROM homing_meta")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map(RowId)
            .during("read how far the outbox is claimed")
    }

    /// The fates of `rows` (ascending), those without one yet or no longer (pruned) left out.
    ///
    /// A row has its fate as soon as its own lane's share of its batch is settled.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn fates(&self, rows: &[RowId]) -> Result<Vec<(RowId, Fate)>, OutboxError> {
        let read = "read how rows ended";
        // All from one moment: a batch may be pruned meanwhile.
        let _moment = self.connection.unchecked_transaction().during(read)?;
        let mut fates = Vec::with_capacity(rows.len());
        let mut by_batch: BTreeMap<BatchId, Vec<RowId>> = BTreeMap::new();
        let held = self.held_between(rows).during(read)?;
        let mut live: Option<(RowId, BatchId)> = None;
        for row in rows {
            let batch = match held.get(row) {
                Some(batch) => *batch,
                None => match live {
                    Some((to, batch)) if *row <= to => Some(batch),
                    _ => {
                        live = self.live_batch_with(*row).during(read)?;
                        live.map(|(_, batch)| batch)
                    }
                },
            };
            match batch {
                Some(batch) => by_batch.entry(batch).or_default().push(*row),
                None => self.push_dead(*row, &mut fates)?,
            }
        }
        let mut looked = HashMap::new();
        for (batch, rows) in by_batch {
            if let Some(look) = self.batch_fates(batch, &rows, &mut fates)? {
                looked.insert(batch, look);
            }
        }
        *self.looked.borrow_mut() = looked;
        fates.sort_by_key(|(row, _)| *row);
        Ok(fates)
    }

    /// Of rows that are or were held, the batch they went in.
    fn held_between(&self, rows: &[RowId]) -> rusqlite::Result<HashMap<RowId, Option<BatchId>>> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(HashMap::new()) };
        let any: bool = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM homing_held_row WHERE row_id BETWEEN ?1 AND ?2)")?
            .query_row([first.0, last.0], |row| row.get(0))?;
        let mut held = HashMap::new();
        let mut statement =
            self.connection.prepare_cached("SELECT batch_id FROM homing_held_row WHERE row_id = ?1")?;
        for row in rows.iter().filter(|_| any) {
            let batch: Option<Option<i64>> = statement.query_row([row.0], |found| found.get(0)).optional()?;
            held.extend(batch.map(|batch| (*row, batch.map(BatchId))));
        }
        Ok(held)
    }

    /// The batch of new rows that spans `row`, with its last row.
    fn live_batch_with(&self, row: RowId) -> rusqlite::Result<Option<(RowId, BatchId)>> {
        self.connection
            .prepare_cached(
                "SELECT to_id, batch_id FROM (SELECT batch_id, to_id FROM homing_batch \
                 WHERE listed = 0 AND from_id <= ?1 ORDER BY from_id DESC LIMIT 1) WHERE to_id >= ?1",
            )?
            .query_row([row.0], |found| Ok((RowId(found.get(0)?), BatchId(found.get(1)?))))
            .optional()
    }

    /// Adds the fates that rows of one batch have; says what was seen when some have none yet.
    fn batch_fates(
        &self,
        batch: BatchId,
        wanted: &[RowId],
        fates: &mut Vec<(RowId, Fate)>,
    ) -> Result<Option<Look>, OutboxError> {
        let read = "read how rows ended";
        let settled_parts: i64 = self
            .connection
            .prepare_cached(
                "SELECT COUNT(*) FROM homing_batch_lane WHERE batch_id = ?1 AND settled_at_ms IS NOT NULL",
            )
            .and_then(|mut statement| statement.query_row([batch.0], |row| row.get(0)))
            .during(read)?;
        let last_row = *wanted.last().expect("whoever asks wants a row");
        let mut look = Look { settled_parts: settled_parts as usize, rows_left: wanted.len(), last_row };
        if self.looked.borrow().get(&batch) == Some(&look) {
            return Ok(Some(look));
        }
        let (manifest, settled) = manifest(&self.connection, batch)?;
        let places: Vec<usize> = (0..settled.len()).filter(|place| settled[*place]).collect();
        let manifest = manifest.only(&places);
        let mut rows = RowBuf::default();
        read_batch(&self.connection, self.outbox.instance(), &manifest, &mut rows)?;
        let counts = partition_counts(&self.connection)?;
        let numbers = number(&rows, &manifest, |part| counts.get(&(part.topic.clone(), part.epoch)).copied())
            .map_err(|misfit| OutboxError::Inconsistent { operation: read, what: misfit.to_string() })?;
        let runs = manifest
            .lanes
            .iter()
            .map(|part| lane_runs(&self.connection, part))
            .collect::<Result<Vec<_>, _>>()?;
        let before = fates.len();
        let mut delivered = HashMap::new();
        let mut offsets: Vec<_> = runs.iter().map(OffsetRuns::iter).collect();
        for (row, numbered) in rows.iter().zip(numbers) {
            let part = &manifest.lanes[numbered.lane as usize];
            let Some(Delivered::At(offset)) = offsets[numbered.lane as usize].next() else { continue };
            if wanted.binary_search(&row.id).is_err() {
                continue;
            }
            let receipt = Receipt {
                topic: part.topic.clone(),
                partition: part.partition,
                offset,
                stream: self.outbox.stream().clone(),
                epoch: part.epoch,
                seq: numbered.seq,
                id: Uuid::from_bytes(row.message_id),
            };
            delivered.insert(row.id, receipt);
        }
        for row in wanted {
            match delivered.remove(row) {
                Some(receipt) => fates.push((*row, Fate::Delivered(receipt))),
                None => self.push_dead(*row, fates)?,
            }
        }
        look.rows_left -= fates.len() - before;
        Ok((look.rows_left > 0).then_some(look))
    }

    /// Adds the fate of a row that was set aside; one that is nowhere has none.
    fn push_dead(&self, row: RowId, fates: &mut Vec<(RowId, Fate)>) -> Result<(), OutboxError> {
        let found = dead_letters::of_row(&self.connection, row).during("read how rows ended")?;
        fates.extend(found.map(|(code, reason)| (row, Fate::DeadLetter { code, reason })));
        Ok(())
    }
}

fn partition_counts(
    connection: &Connection,
) -> Result<HashMap<(TopicName, Epoch), PartitionCount>, OutboxError> {
    Ok(topics(connection, Epochs::All)?.into_iter().map(|t| ((t.topic, t.epoch), t.partitions)).collect())
}

/// Where a settled part's records are.
pub(super) fn lane_runs(connection: &Connection, part: &LanePart) -> Result<OffsetRuns, OutboxError> {
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
        let connection = self.connect_guarded()?;
        Ok(FateReader { outbox: self.clone(), connection, looked: RefCell::default() })
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
