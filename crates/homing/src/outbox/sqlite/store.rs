//! The SQLite outbox as its relay sees it: one writing connection behind the store's trait.

use super::reading::{SqliteReader, read_batch};
use super::{SqliteOutbox, batches, ownership, pins, repairs};
use crate::outbox::error::OutboxError;
use crate::outbox::rows::RowBuf;
use crate::outbox::signals::Signals;
use crate::outbox::store::{
    Commit, Holder, LanePart, Manifest, Owner, RepairOrder, RepairState, RowId, RowReader, Standing, Store,
    TopicEpoch, Weakness,
};
use homing_core::{Epoch, FencingToken, LeaseDecision, Offset, Partition, Seq, StreamName, TopicName};
use rusqlite::Connection;

/// A relay's connection to a SQLite outbox.
#[derive(Debug)]
pub struct SqliteStore {
    outbox: SqliteOutbox,
    connection: Connection,
}

impl SqliteStore {
    pub(super) fn new(outbox: SqliteOutbox) -> Result<Self, OutboxError> {
        let connection = outbox.connect()?;
        Ok(Self { outbox, connection })
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
        ownership::acquire(&mut self.connection, me, now_ms, lease_ms, alive)
    }

    fn renew(&mut self, token: FencingToken, lease_until_ms: i64) -> Result<(), OutboxError> {
        ownership::renew(&mut self.connection, token, lease_until_ms)
    }

    fn release(&mut self, token: FencingToken) -> Result<(), OutboxError> {
        ownership::renew(&mut self.connection, token, 0)
    }

    fn standing(&self) -> Result<Standing, OutboxError> {
        batches::standing(&self.connection)
    }

    fn pin_cluster(&mut self, token: FencingToken, cluster_id: &str) -> Result<(), OutboxError> {
        pins::pin_cluster(&mut self.connection, token, cluster_id)
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
        pins::open_epoch(&mut self.connection, token, topic, ends, now_ms)
    }

    fn commit(&mut self, token: FencingToken, commit: &Commit<'_>) -> Result<(), OutboxError> {
        batches::commit(&mut self.connection, self.outbox.instance(), token, commit)
    }

    fn read_batch(&self, manifest: &Manifest, into: &mut RowBuf) -> Result<(), OutboxError> {
        read_batch(&self.connection, self.outbox.instance(), manifest, into)
    }

    fn reader(&self, after: RowId) -> Result<Box<dyn RowReader>, OutboxError> {
        Ok(Box::new(SqliteReader::new(&self.outbox, after)?))
    }

    fn note_trouble(
        &mut self,
        token: FencingToken,
        trouble: Option<&str>,
        now_ms: i64,
    ) -> Result<(), OutboxError> {
        ownership::note_trouble(&mut self.connection, token, trouble, now_ms)
    }

    fn note_weakness(
        &mut self,
        token: FencingToken,
        topic: &TopicName,
        weakness: Option<&Weakness>,
        now_ms: i64,
    ) -> Result<(), OutboxError> {
        ownership::note_weakness(&mut self.connection, token, topic, weakness, now_ms)
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
        repairs::tried(&mut self.connection, token, order, state, now_ms)
    }

    fn prune(
        &mut self,
        token: FencingToken,
        settled_before_ms: i64,
        rows_max: u32,
    ) -> Result<u64, OutboxError> {
        repairs::prune(&mut self.connection, token, settled_before_ms, rows_max)
    }
}
