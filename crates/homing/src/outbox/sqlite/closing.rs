//! Closing a topic's epoch by order: its unsettled rows are set aside or numbered again.
//!
//! One step is one transaction of a bounded number of rows; a crash between two leaves parts
//! that are settled as void like any other, and the next step goes on. The last step closes the
//! epoch and leaves the topic held, so nothing of it is numbered before a new epoch is open.

use super::SqliteOutbox;
use super::batches::{inconsistent, parts_settled, settle_part};
use super::fates::lane_runs;
use super::ownership::{Fence, fenced};
use super::pins::parse_topic;
use super::reading::read_batch;
use super::standing::manifest;
use super::{acceptance, dead_letters, holds};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::identity::Instance;
use crate::outbox::offset_runs::{Delivered, OffsetRuns};
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{
    BatchId, Close, CloseTopic, Closed, Hold, LaneKey, LaneOutlook, LanePart, Manifest, RejectCode, Rejected,
    RowId, TopicAction, TopicOrder, TopicOutlook, Voided,
};
use homing_core::{Epoch, Partition, Seq, TopicName};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

/// The most rows one step handles, though at least one part of a batch.
const STEP_ROWS: u64 = 5_000;
const CLOSE: &str = "close a topic's epoch";

pub(super) fn close(
    connection: &mut Connection,
    instance: Instance,
    fence: &Fence,
    close: &CloseTopic<'_>,
) -> Result<Closed, OutboxError> {
    let tx = fenced(connection, fence, CLOSE)?;
    let mut closed = Closed::default();
    let epoch: Option<u32> = tx
        .query_row(
            "SELECT epoch FROM homing_topic WHERE topic = ?1 AND closed_at_ms IS NULL",
            [close.topic.as_str()],
            |row| row.get(0),
        )
        .optional()
        .during(CLOSE)?;
    if let Some(epoch) = epoch {
        let of = Ending { tx: &tx, instance, close, epoch: Epoch(epoch) };
        while closed.voided + closed.replanned < STEP_ROWS {
            if let Some((batch, part)) = of.next_part("settled_at_ms IS NULL", 0)? {
                let rows = of.end_unsettled(batch, &part)?;
                match close.how {
                    Close::Void => closed.voided += rows,
                    Close::Replan { .. } => closed.replanned += rows,
                }
            } else if let Some((batch, part)) = of.next_kept()? {
                closed.replanned += of.replan_kept(batch, &part)?;
            } else {
                of.close_epoch()?;
                closed.done = true;
                break;
            }
        }
    } else {
        closed.done = true;
    }
    hold(&tx, close).during(CLOSE)?;
    tx.commit().during(CLOSE)?;
    Ok(closed)
}

/// Holds the topic: its rows wait for a new epoch. A hold that is there stays as it is.
fn hold(tx: &Transaction<'_>, close: &CloseTopic<'_>) -> rusqlite::Result<()> {
    let name = close.topic.as_str();
    let from = tx.query_row(
        "SELECT COALESCE((SELECT MIN(row_id) FROM homing_held_row WHERE topic = ?1 AND batch_id IS NULL), \
         (SELECT claimed_through + 1 FROM homing_meta))",
        [name],
        |row| row.get(0),
    )?;
    let reason = format!("its epoch was closed by {}: {}", close.by, close.why);
    let (topic, from) = (close.topic.clone(), RowId(from));
    holds::begin(tx, &Hold { topic, from, code: close.code, reason, since_ms: close.now_ms })?;
    // Re-planned rows may lie below, and count.
    tx.execute(
        "UPDATE homing_held SET from_id = MIN(from_id, ?2), row_count = \
         (SELECT COUNT(*) FROM homing_held_row h WHERE h.topic = ?1 AND h.batch_id IS NULL) WHERE topic = ?1",
        params![name, from.0],
    )
    .map(drop)
}

/// One epoch that ends.
struct Ending<'a> {
    tx: &'a Transaction<'a>,
    instance: Instance,
    close: &'a CloseTopic<'a>,
    epoch: Epoch,
}

impl Ending<'_> {
    /// The first part of the epoch, in lane and seq order, that fulfils `condition`.
    fn next_part(
        &self,
        condition: &'static str,
        above: i64,
    ) -> Result<Option<(BatchId, LanePart)>, OutboxError> {
        let sql = format!(
            "SELECT batch_id, partition, first_seq, row_count, takes_null_keys FROM homing_batch_lane \
             WHERE topic = ?1 AND epoch = ?2 AND first_seq > ?3 AND {condition} \
             ORDER BY partition, first_seq LIMIT 1"
        );
        let part = |row: &Row<'_>| {
            let part = LanePart {
                topic: self.close.topic.clone(),
                epoch: self.epoch,
                partition: Partition(row.get(1)?),
                first_seq: Seq(row.get::<_, i64>(2)? as u64),
                rows: row.get(3)?,
                takes_null_keys: row.get(4)?,
            };
            Ok((BatchId(row.get(0)?), part))
        };
        self.tx
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                let key = params![self.close.topic.as_str(), self.epoch.0, above];
                statement.query_row(key, part).optional()
            })
            .during(CLOSE)
    }

    /// The next settled part whose rows are to be numbered again.
    fn next_kept(&self) -> Result<Option<(BatchId, LanePart)>, OutboxError> {
        if self.close.how != (Close::Replan { kept: true }) {
            return Ok(None);
        }
        let pruned: i64 = self
            .tx
            .prepare_cached("SELECT MIN(pruned_seq) FROM homing_lane WHERE topic = ?1 AND epoch = ?2")
            .and_then(|mut statement| {
                statement.query_row(params![self.close.topic.as_str(), self.epoch.0], |row| row.get(0))
            })
            .during(CLOSE)?;
        self.next_part("rows_gone = 0", pruned)
    }

    fn rows_of(&self, batch: BatchId, part: &LanePart) -> Result<RowBuf, OutboxError> {
        let (whole, _) = manifest(self.tx, batch)?;
        let place = whole.lanes.iter().position(|other| other == part);
        let Some(place) = place else {
            return inconsistent(CLOSE, format!("batch {batch} lacks a part of {}", part.lane()));
        };
        let mut rows = RowBuf::default();
        let own: Manifest = whole.only(&[place]);
        read_batch(self.tx, self.instance, &own, &mut rows)?;
        Ok(rows)
    }

    /// Settles a part as void: its rows are dead letters, or held rows again.
    fn end_unsettled(&self, batch: BatchId, part: &LanePart) -> Result<u64, OutboxError> {
        let rows = self.rows_of(batch, part)?;
        let mut runs = OffsetRuns::default();
        runs.push(part.rows, Delivered::Void);
        let now_ms = self.close.now_ms;
        settle_part(self.tx, batch, part, &runs, now_ms)?;
        parts_settled(self.tx, batch, 1, now_ms)?;
        let reason = format!("its topic was closed by {}: {}", self.close.by, self.close.why);
        let voided: Vec<Voided> = rows
            .iter()
            .zip(part.first_seq.0..)
            .map(|(row, seq)| Voided {
                rejected: Rejected { row: row.id, code: RejectCode::TopicClosed, reason: reason.clone() },
                message_id: row.message_id,
                topic: part.topic.clone(),
                epoch: part.epoch,
                partition: part.partition,
                seq: Seq(seq),
            })
            .collect();
        if self.close.how == Close::Void {
            dead_letters::set_aside_voided(self.tx, self.instance, &voided, now_ms)?;
        } else {
            for void in &voided {
                dead_letters::void_seq(self.tx, void, "replanned", now_ms)?;
            }
            self.replan(part, voided.iter().map(|void| void.rejected.row))?;
        }
        Ok(rows.len() as u64)
    }

    /// Takes the rows of a settled part out of its batch, but for those that are dead letters.
    fn replan_kept(&self, batch: BatchId, part: &LanePart) -> Result<u64, OutboxError> {
        let rows = self.rows_of(batch, part)?;
        let runs = lane_runs(self.tx, part)?;
        let delivered: Vec<RowId> = rows
            .iter()
            .zip(runs.iter())
            .filter(|(_, fate)| *fate != Delivered::Void)
            .map(|(row, _)| row.id)
            .collect();
        let count = delivered.len() as u64;
        let dead: Vec<RowId> =
            rows.iter().map(|row| row.id).filter(|row| delivered.binary_search(row).is_err()).collect();
        self.replan(part, delivered.into_iter())?;
        dead_letters::delete_rows(self.tx, &dead)?;
        Ok(count)
    }

    /// Makes rows held rows of their topic; their part has no rows any more.
    fn replan(&self, part: &LanePart, rows: impl Iterator<Item = RowId>) -> Result<(), OutboxError> {
        let operation = "number rows again";
        let (topic, epoch, partition) = (part.topic.as_str(), part.epoch.0, part.partition.0);
        for row in rows {
            self.tx
                .prepare_cached(
                    "INSERT INTO homing_held_row (row_id, topic, replanned) VALUES (?1, ?2, 1) \
                     ON CONFLICT (row_id) DO UPDATE SET batch_id = NULL, replanned = 1",
                )
                .and_then(|mut statement| statement.execute(params![row.0, topic]))
                .during(operation)?;
        }
        self.tx
            .prepare_cached(
                "UPDATE homing_batch_lane SET rows_gone = 2 \
                 WHERE topic = ?1 AND epoch = ?2 AND partition = ?3 AND first_seq = ?4",
            )
            .and_then(|mut statement| {
                statement.execute(params![topic, epoch, partition, part.first_seq.0 as i64])
            })
            .during(operation)?;
        super::pruning::move_pruned(self.tx, &part.lane()).during(operation)
    }

    /// Nothing is unsettled: accepts what was not verified, ends repairs, closes the epoch.
    fn close_epoch(&self) -> Result<(), OutboxError> {
        let (name, epoch, now_ms) = (self.close.topic.as_str(), self.epoch.0, self.close.now_ms);
        let lanes: Vec<(i32, i64)> = self
            .tx
            .prepare_cached(
                "SELECT partition, settled_seq FROM homing_lane WHERE topic = ?1 AND epoch = ?2 \
                 AND MAX(verified_seq, accepted_seq) < settled_seq",
            )
            .and_then(|mut statement| {
                statement.query_map(params![name, epoch], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
            })
            .during(CLOSE)?;
        for (partition, settled) in lanes {
            let (topic, partition) = (self.close.topic.clone(), Partition(partition));
            let lane = LaneKey { topic, epoch: self.epoch, partition };
            let word = acceptance::Word { by: self.close.by, why: self.close.why, at_ms: now_ms };
            acceptance::accept(self.tx, &lane, Seq(settled as u64), &word)?;
        }
        self.tx
            .execute(
                "UPDATE homing_repair SET state = 'irreparable', reason = 'its epoch was closed', \
                 updated_at_ms = ?3 WHERE topic = ?1 AND epoch = ?2 AND state IN ('wanted', 'replayed')",
                params![name, epoch, now_ms],
            )
            .during(CLOSE)?;
        self.drop_empty_batches().during(CLOSE)?;
        self.tx
            .execute(
                "UPDATE homing_topic SET closed_at_ms = ?3 WHERE topic = ?1 AND epoch = ?2",
                params![name, epoch, now_ms],
            )
            .map(drop)
            .during(CLOSE)
    }

    /// Deletes batches that lost all their rows to others; nothing would ever prune them.
    fn drop_empty_batches(&self) -> rusqlite::Result<()> {
        let empty: Vec<i64> = self
            .tx
            .prepare_cached(
                "SELECT DISTINCT batch_id FROM homing_batch_lane l WHERE topic = ?1 AND epoch = ?2 \
                 AND rows_gone = 2 AND batch_id < (SELECT MAX(batch_id) FROM homing_batch) AND NOT EXISTS \
                 (SELECT 1 FROM homing_batch_lane o WHERE o.batch_id = l.batch_id AND o.rows_gone = 0)",
            )?
            .query_map(params![self.close.topic.as_str(), self.epoch.0], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for batch in empty {
            self.tx.prepare_cached("DELETE FROM homing_batch_lane WHERE batch_id = ?1")?.execute([batch])?;
            self.tx.prepare_cached("DELETE FROM homing_batch WHERE batch_id = ?1")?.execute([batch])?;
        }
        Ok(())
    }
}

/// Orders that wait, oldest first.
pub(super) fn orders(connection: &Connection) -> Result<Vec<TopicOrder>, OutboxError> {
    orders_where(connection, "done_at_ms IS NULL")
}

fn orders_where(connection: &Connection, condition: &str) -> Result<Vec<TopicOrder>, OutboxError> {
    let read = "read the orders about topics";
    let sql = format!(
        "SELECT id, topic, action, by_whom, why, created_at_ms, done_at_ms, result \
         FROM homing_topic_order WHERE {condition} ORDER BY id"
    );
    let mut statement = connection.prepare_cached(&sql).during(read)?;
    let mut rows = statement.query([]).during(read)?;
    let mut orders = Vec::new();
    while let Some(row) = rows.next().during(read)? {
        let topic: String = row.get(1).during(read)?;
        let action: String = row.get(2).during(read)?;
        orders.push(TopicOrder {
            id: row.get(0).during(read)?,
            topic: parse_topic(&topic, read)?,
            action: TopicAction::parse(&action).ok_or_else(|| OutboxError::Inconsistent {
                operation: read,
                what: format!("{action:?} is no order"),
            })?,
            by: row.get(3).during(read)?,
            why: row.get(4).during(read)?,
            created_at_ms: row.get(5).during(read)?,
            done_at_ms: row.get(6).during(read)?,
            result: row.get(7).during(read)?,
        });
    }
    Ok(orders)
}

pub(super) fn order_done(
    connection: &mut Connection,
    fence: &Fence,
    (order, result): (i64, &str),
    now_ms: i64,
) -> Result<(), OutboxError> {
    let note = "note what came of an order about a topic";
    let tx = fenced(connection, fence, note)?;
    tx.execute(
        "UPDATE homing_topic_order SET done_at_ms = ?2, result = ?3 WHERE id = ?1 AND done_at_ms IS NULL",
        params![order, now_ms, result],
    )
    .during(note)?;
    tx.commit().during(note)
}

impl SqliteOutbox {
    /// Orders something about a topic; the relay that owns the outbox, now or next, carries it
    /// out. Returns the order's number.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    pub fn order_topic(
        &self,
        topic: &TopicName,
        action: TopicAction,
        by: &str,
        why: &str,
    ) -> Result<i64, OutboxError> {
        let connection = self.connect()?;
        connection
            .execute(
                "INSERT INTO homing_topic_order (topic, action, by_whom, why, created_at_ms) \
                 VALUES (?1, ?2, ?3, ?4, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))",
                params![topic.as_str(), action.as_str(), by, why],
            )
            .during("order something about a topic")?;
        self.wake();
        Ok(connection.last_insert_rowid())
    }

    /// All orders about topics, done ones included, oldest first.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn topic_orders(&self) -> Result<Vec<TopicOrder>, OutboxError> {
        orders_where(&*self.connect_guarded()?, "1")
    }

    /// What closing `topic` would lose or do again; it counts the topic's rows one by one.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    pub fn topic_outlook(&self, topic: &TopicName) -> Result<TopicOutlook, OutboxError> {
        let read = "read what closing a topic would mean";
        let connection = self.connect_guarded()?;
        let tx = connection.unchecked_transaction().during(read)?;
        let count = |sql: &str| {
            tx.query_row(sql, [topic.as_str()], |row| row.get::<_, i64>(0)).map(|n| n as u64).during(read)
        };
        let mut statement = tx
            .prepare(
                "SELECT l.epoch, l.partition, l.next_seq - 1 - l.settled_seq, \
                 MAX(0, l.settled_seq - MAX(l.verified_seq, l.accepted_seq)), \
                 (SELECT COALESCE(SUM(row_count), 0) FROM homing_batch_lane b WHERE b.topic = l.topic \
                  AND b.epoch = l.epoch AND b.partition = l.partition AND rows_gone = 0 \
                  AND settled_at_ms IS NOT NULL), \
                 (SELECT COALESCE(SUM(MIN(row_count, first_seq + row_count - 1 \
                  - MAX(l.verified_seq, l.accepted_seq))), 0) FROM homing_batch_lane b WHERE b.topic = l.topic \
                  AND b.epoch = l.epoch AND b.partition = l.partition AND rows_gone = 0 \
                  AND settled_at_ms IS NOT NULL \
                  AND first_seq + row_count - 1 > MAX(l.verified_seq, l.accepted_seq)) \
                 FROM homing_lane l JOIN homing_topic t USING (topic, epoch) \
                 WHERE l.topic = ?1 AND t.closed_at_ms IS NULL ORDER BY l.partition",
            )
            .during(read)?;
        let lane = |row: &Row<'_>| {
            let number = |column| row.get::<_, i64>(column).map(|n| n.max(0) as u64);
            let (epoch, partition) = (Epoch(row.get(0)?), Partition(row.get(1)?));
            let (unverified, unverified_kept) = (number(3)?, number(5)?);
            Ok(LaneOutlook {
                lane: LaneKey { topic: topic.clone(), epoch, partition },
                unsettled: number(2)?,
                unverified_kept,
                unverified_pruned: unverified.saturating_sub(unverified_kept),
                settled_kept: number(4)?,
            })
        };
        let lanes = statement
            .query_map([topic.as_str()], lane)
            .and_then(|lanes| lanes.collect::<Result<Vec<_>, _>>())
            .during(read)?;
        Ok(TopicOutlook {
            topic: topic.clone(),
            lanes,
            held: count("SELECT COUNT(*) FROM homing_held_row WHERE topic = ?1 AND batch_id IS NULL")?,
            unclaimed: count(
                "SELECT COUNT(*) FROM homing_outbox WHERE id > (SELECT claimed_through FROM homing_meta) \
                 AND CAST(topic AS TEXT) = ?1",
            )?,
        })
    }
}
