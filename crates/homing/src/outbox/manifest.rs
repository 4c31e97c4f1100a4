//! What a manifest says and what settles it: batches, lanes, seqs, and the proof of their delivery.

use super::offset_runs::{Delivered, OffsetRuns};
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
    /// snapshots); `None` when the ids say all.
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

/// The durable list "these rows are these seqs".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The batch.
    pub batch: BatchId,
    /// Its rows.
    pub span: Span,
    /// How many rows it numbers.
    pub rows: u32,
    /// The seqs, lane by lane.
    pub lanes: Vec<LanePart>,
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

/// The proof that each record of one lane of a batch is at its offset, or void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneDelivery {
    part: LanePart,
    runs: OffsetRuns,
}

impl LaneDelivery {
    /// Takes the fates of the lane's records in seq order.
    ///
    /// # Panics
    /// When there are not as many fates as the manifest has rows for the lane:
    /// settling such a batch would mark a row sent that nobody acknowledged.
    #[must_use]
    pub fn new(part: LanePart, fates: impl IntoIterator<Item = Delivered>) -> Self {
        let runs: OffsetRuns = fates.into_iter().collect();
        assert_eq!(runs.len(), part.rows, "every record of a lane needs its delivery");
        Self { part, runs }
    }

    /// The lane's share of the batch.
    #[must_use]
    pub fn part(&self) -> &LanePart {
        &self.part
    }

    /// Where the records are.
    #[must_use]
    pub fn runs(&self) -> &OffsetRuns {
        &self.runs
    }
}

/// The proof that a whole batch is delivered; the only thing that can settle it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    batch: BatchId,
    lanes: Vec<LaneDelivery>,
    voided: Vec<Voided>,
}

impl Settlement {
    /// Puts the lanes' deliveries of one manifest together.
    ///
    /// # Panics
    /// When the lanes are not those of the manifest, or the voids not those of
    /// the deliveries: the settlement would not be a proof.
    #[must_use]
    pub fn new(manifest: &Manifest, lanes: Vec<LaneDelivery>, voided: Vec<Voided>) -> Self {
        assert!(
            lanes.len() == manifest.lanes.len()
                && lanes.iter().zip(&manifest.lanes).all(|(delivery, part)| delivery.part() == part),
            "batch {} is settled by its own manifest's lanes",
            manifest.batch
        );
        let voids: usize = lanes
            .iter()
            .flat_map(|lane| (0..lane.part.rows).map(|index| lane.runs.get(index)))
            .filter(|fate| *fate == Some(Delivered::Void))
            .count();
        assert_eq!(voids, voided.len(), "batch {}: each voided seq has its reason", manifest.batch);
        Self { batch: manifest.batch, lanes, voided }
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> BatchId {
        self.batch
    }

    /// The lanes' deliveries, in the manifest's order.
    #[must_use]
    pub fn lanes(&self) -> &[LaneDelivery] {
        &self.lanes
    }

    /// The seqs that are void, with their rows.
    #[must_use]
    pub fn voided(&self) -> &[Voided] {
        &self.voided
    }
}
