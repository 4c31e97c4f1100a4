//! The SQLite outbox as its relay sees it: one writing connection behind the store's trait.

use super::guard::Guarded;
use super::ownership::Fence;
use super::reading::{SqliteReader, read_batch};
use super::{SqliteOutbox, batches, closing, holds, ownership, pins, pruning, repairs, standing};
use crate::outbox::error::OutboxError;
use crate::outbox::rows::RowBuf;
use crate::outbox::signals::Signals;
use crate::outbox::store::{
    BatchId, CloseTopic, Closed, Commit, Holder, LaneKey, LanePart, Manifest, Owner, PruneBlocker,
    PruneLimits, Pruned, RepairOrder, RepairState, RowId, RowReader, Standing, Store, TopicEpoch, TopicOrder,
    UnsettledBatch, Weakness,
};
use homing_core::{Epoch, FencingToken, LeaseDecision, Offset, Partition, Seq, StreamName, TopicName};
use std::sync::Arc;

/// A relay's connection to a SQLite outbox.
#[derive(Debug)]
pub struct SqliteStore {
    outbox: SqliteOutbox,
    connection: Guarded,
    /// Who asked for the lease over this connection last; empty before.
    owner: Arc<str>,
}

impl SqliteStore {
    pub(super) fn new(outbox: SqliteOutbox) -> Result<Self, OutboxError> {
        let connection = outbox.connect_guarded()?;
        Ok(Self { outbox, connection, owner: Arc::from("") })
    }

    /// What a write has to prove, once the files are seen to be still the ones that are open.
    fn fence(&self, token: FencingToken) -> Result<Fence, OutboxError> {
        self.connection.check()?;
        Ok(Fence { token, owner: Arc::clone(&self.owner) })
    }
}

impl Store for SqliteStore {
    fn stream(&self) -> &StreamName {
        self.outbox.stream()
    }

    fn signals(&self) -> Signals {
        self.outbox.signals().clone()
    }

    fn holder(&self) -> Result<Option<Holder>, OutboxError> {
        ownership::holder(&self.connection)
    }

    fn acquire(
        &mut self,
        me: &Owner,
        now_ms: i64,
        lease_ms: i64,
        alive: &dyn Fn(&Holder) -> Option<bool>,
    ) -> Result<LeaseDecision, OutboxError> {
        self.connection.check()?;
        self.owner = Arc::from(me.name.as_str());
        ownership::acquire(&mut self.connection, me, now_ms, lease_ms, alive)
    }

    fn renew(&mut self, token: FencingToken, lease_until_ms: i64) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        ownership::renew(&mut self.connection, &fence, lease_until_ms)
    }

    fn release(&mut self, token: FencingToken) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        ownership::renew(&mut self.connection, &fence, 0)
    }

    fn standing(&self) -> Result<Standing, OutboxError> {
        standing::standing(&self.connection)
    }

    fn pin_cluster(&mut self, token: FencingToken, cluster_id: &str) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        pins::pin_cluster(&mut self.connection, &fence, cluster_id)
    }

    fn last_epoch(&self, topic: &TopicName) -> Result<Option<Epoch>, OutboxError> {
        pins::last_epoch(&self.connection, topic)
    }

    fn open_epoch(
        &mut self,
        token: FencingToken,
        topic: &TopicEpoch,
        ends: &[Offset],
        now_ms: i64,
    ) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        pins::open_epoch(&mut self.connection, &fence, topic, ends, now_ms)
    }

    fn commit(&mut self, token: FencingToken, commit: &Commit<'_>) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        batches::commit(&mut self.connection, self.outbox.instance(), &fence, commit)
    }

    fn batch_is_mine(&self, batch: BatchId, token: FencingToken) -> Result<bool, OutboxError> {
        standing::batch_is_mine(&self.connection, batch, token)
    }

    fn unsettled_batches(
        &self,
        after: Option<BatchId>,
        limit: usize,
    ) -> Result<Vec<UnsettledBatch>, OutboxError> {
        standing::unsettled_batches(&self.connection, after, limit)
    }

    fn unsettled_of_lane(
        &self,
        lane: &LaneKey,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<UnsettledBatch>, OutboxError> {
        standing::unsettled_of_lane(&self.connection, lane, from, limit)
    }

    fn note_scanned(
        &mut self,
        token: FencingToken,
        scanned: &[(LaneKey, Offset)],
    ) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        standing::note_scanned(&mut self.connection, &fence, scanned)
    }

    fn read_batch(&self, manifest: &Manifest, into: &mut RowBuf) -> Result<(), OutboxError> {
        read_batch(&self.connection, self.outbox.instance(), manifest, into)
    }

    fn reader(&self, after: RowId) -> Result<Box<dyn RowReader>, OutboxError> {
        Ok(Box::new(SqliteReader::new(&self.outbox, after)?))
    }

    fn held_reader(&self, topic: &TopicName) -> Result<Box<dyn RowReader>, OutboxError> {
        Ok(Box::new(SqliteReader::held(&self.outbox, topic)?))
    }

    fn update_hold(
        &mut self,
        token: FencingToken,
        topic: &TopicName,
        code: &str,
        reason: &str,
    ) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        holds::update(&mut self.connection, &fence, topic, code, reason)
    }

    fn topic_orders(&self) -> Result<Vec<TopicOrder>, OutboxError> {
        closing::orders(&self.connection)
    }

    fn topic_order_done(
        &mut self,
        token: FencingToken,
        order: i64,
        result: &str,
        now_ms: i64,
    ) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        closing::order_done(&mut self.connection, &fence, (order, result), now_ms)
    }

    fn close_topic(&mut self, token: FencingToken, close: &CloseTopic<'_>) -> Result<Closed, OutboxError> {
        let fence = self.fence(token)?;
        closing::close(&mut self.connection, self.outbox.instance(), &fence, close)
    }

    fn note_trouble(
        &mut self,
        token: FencingToken,
        trouble: Option<&str>,
        now_ms: i64,
    ) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        ownership::note_trouble(&mut self.connection, &fence, trouble, now_ms)
    }

    fn note_weakness(
        &mut self,
        token: FencingToken,
        topic: &TopicName,
        weakness: Option<&Weakness>,
        now_ms: i64,
    ) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        ownership::note_weakness(&mut self.connection, &fence, topic, weakness, now_ms)
    }

    fn repairs_wanted(&self, limit: usize) -> Result<Vec<RepairOrder>, OutboxError> {
        repairs::wanted(&self.connection, limit)
    }

    fn batch_of(
        &self,
        topic: &TopicName,
        epoch: Epoch,
        partition: Partition,
        seq: Seq,
    ) -> Result<Option<Manifest>, OutboxError> {
        repairs::batch_of(&self.connection, topic, epoch, partition, seq)
    }

    fn voided(&self, part: &LanePart) -> Result<Vec<Seq>, OutboxError> {
        repairs::voided(&self.connection, part)
    }

    fn repair_tried(
        &mut self,
        token: FencingToken,
        order: i64,
        state: RepairState,
        now_ms: i64,
    ) -> Result<(), OutboxError> {
        let fence = self.fence(token)?;
        repairs::tried(&mut self.connection, &fence, order, state, now_ms)
    }

    fn prune(&mut self, token: FencingToken, limits: PruneLimits) -> Result<Pruned, OutboxError> {
        let fence = self.fence(token)?;
        pruning::prune(&mut self.connection, &fence, limits)
    }

    fn prune_blockers(&self, settled_before_ms: i64) -> Result<Vec<PruneBlocker>, OutboxError> {
        pruning::blockers(&self.connection, settled_before_ms)
    }
}
