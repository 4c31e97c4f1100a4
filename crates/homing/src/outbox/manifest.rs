//! What a manifest says and what settles it: batches, lanes, seqs, and the proof of their delivery.

use homing_core::{Epoch, Offset, Partition, PartitionCount, Seq, TopicName};
use std::fmt;

/// A row's number in its outbox, given by the database, rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub i64);

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A batch's number, rising by one with each manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(pub i64);

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one batch covers, in the store's own terms: for SQLite all ids from `from` to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The lowest id.
    pub from: RowId,
    /// The highest id.
    pub to: RowId,
    /// What else the store needs to read the same rows again (Postgres: the two
    /// snapshots; rows that were held); `None` when the ids say all. Opaque to everybody else.
    pub detail: Option<String>,
}

/// One epoch of a topic's numbering, with what is pinned for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicEpoch {
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The topic's id in the cluster.
    pub topic_id: [u8; 16],
    /// How many partitions keys are spread over in this epoch.
    pub partitions: PartitionCount,
}

/// One lane of one outbox: the unit of numbering and of order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneKey {
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
}

impl fmt::Display for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}] epoch {}", self.topic, self.partition, self.epoch)
    }
}

/// Where one lane's numbering stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneState {
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The seq its next message gets.
    pub next_seq: Seq,
    /// How many seqs are settled: all up to this one; 0 when none is.
    pub settled: u64,
    /// Where a search for the lane's unsettled records begins: after the last
    /// settled one, or where the partition ended when the epoch was opened.
    pub next_offset: Offset,
    /// How many seqs the auditor has read back: all up to this one.
    pub verified: u64,
}

impl LaneState {
    /// Which lane this is.
    #[must_use]
    pub fn lane(&self) -> LaneKey {
        LaneKey { topic: self.topic.clone(), epoch: self.epoch, partition: self.partition }
    }

    /// Whether some of its seqs are numbered and not settled.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.settled + 1 < self.next_seq.0
    }
}

/// One lane's share of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanePart {
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The seq of the lane's first row in the batch.
    pub first_seq: Seq,
    /// How many rows of the batch go to this lane, 1 or more.
    pub rows: u32,
    /// Whether the batch's rows without a key go to this lane (one lane per topic and batch).
    pub takes_null_keys: bool,
}

impl LanePart {
    /// Which lane it is of.
    #[must_use]
    pub fn lane(&self) -> LaneKey {
        LaneKey { topic: self.topic.clone(), epoch: self.epoch, partition: self.partition }
    }

    /// The seq of the lane's last row in the batch.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        Seq(self.first_seq.0 + u64::from(self.rows) - 1)
    }
}

/// The durable list "these rows are these seqs".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The batch.
    pub batch: BatchId,
    /// Its rows.
    pub span: Span,
    /// How many rows it numbers.
    pub rows: u32,
    /// Bytes of its rows, for the limits of whoever handles them.
    pub bytes: u64,
    /// The seqs, lane by lane. Read again later, it lacks the parts whose rows are pruned or
    /// were numbered anew.
    pub lanes: Vec<LanePart>,
}

impl Manifest {
    /// The same batch with these of its lanes only; a store reads no rows of others for it.
    ///
    /// # Panics
    /// When a place is not one of [`lanes`](Self::lanes).
    #[must_use]
    pub fn only(&self, places: &[usize]) -> Self {
        let lanes: Vec<_> = places.iter().map(|place| self.lanes[*place].clone()).collect();
        let rows = lanes.iter().map(|part| part.rows).sum();
        Self { batch: self.batch, span: self.span.clone(), rows, bytes: self.bytes, lanes }
    }
}

/// A batch of which some lanes' shares are not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsettledBatch {
    /// The batch.
    pub manifest: Manifest,
    /// The places in [`Manifest::lanes`] of the parts that are not settled, rising.
    pub unsettled: Vec<usize>,
}

/// Why a row is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectCode {
    /// Kafka could not have a topic of that name.
    TopicName,
    /// There is no such topic and Homing may not create it.
    TopicMissing,
    /// Kafka does not let us write to the topic.
    NotAuthorised,
    /// Larger than the topic takes.
    TooLarge,
    /// The headers column cannot be read.
    Headers,
    /// The payload columns contradict each other or have a strange type.
    Payload,
    /// The key column has a strange type.
    Key,
    /// The message_id column is no UUID.
    MessageId,
    /// The broker refused this very record.
    Refused,
    /// A person closed its topic.
    TopicClosed,
    /// A person discarded what its topic held back.
    Discarded,
}

impl RejectCode {
    /// The code as the dead-letter table spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TopicName => "topic_name",
            Self::TopicMissing => "topic_missing",
            Self::NotAuthorised => "not_authorised",
            Self::TooLarge => "too_large",
            Self::Headers => "headers",
            Self::Payload => "payload",
            Self::Key => "key",
            Self::MessageId => "message_id",
            Self::Refused => "refused",
            Self::TopicClosed => "topic_closed",
            Self::Discarded => "discarded",
        }
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A row that is set aside before it was numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The row.
    pub row: RowId,
    /// Why, for programs.
    pub code: RejectCode,
    /// Why, for people.
    pub reason: String,
}

/// A row that is set aside after it was numbered; its seq is never used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voided {
    /// The row, and why.
    pub rejected: Rejected,
    /// Its message's identity.
    pub message_id: [u8; 16],
    /// The topic of its lane.
    pub topic: TopicName,
    /// The epoch of its lane.
    pub epoch: Epoch,
    /// The partition of its lane.
    pub partition: Partition,
    /// The seq it had.
    pub seq: Seq,
}
