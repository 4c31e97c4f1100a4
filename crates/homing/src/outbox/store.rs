//! What the relay asks of a database: ownership, reading rows, and the two commits of a batch.
//!
//! A store keeps rows in an order of its own that fulfils the order contract
//! (commit order per key for writers that serialise on it). Rows are inserted
//! once and never changed. A *batch* is a [`Span`] of them that a store can read
//! again at any time, row for row the same, until it is pruned. The relay
//! never sees SQL; a store never sees Kafka.
//!
//! Every write takes the owner's [`FencingToken`] and fails with
//! [`OutboxError::Fenced`] when the store knows a later one.

use super::error::OutboxError;
use super::offset_runs::{Delivered, OffsetRuns};
use super::rows::RowBuf;
use super::signals::Signals;
use homing_core::{Epoch, FencingToken, LeaseDecision, LeaseState, Offset, Partition, PartitionCount};
use homing_core::{Seq, StreamName, TopicName};
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

/// The process that owns or wants to own a relay's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Unique to one run of one relay.
    pub name: String,
    /// The host and process namespace the pid counts in; empty when unknown.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// When the process started, in the kernel's own unit; tells a reused pid apart. 0 when unknown.
    pub started: u64,
}

/// Who holds the relay's lease, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub owner: Owner,
    /// Its token and its lease's end.
    pub lease: LeaseState,
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

/// One transaction of the relay: settles finished batches and writes the next manifest.
#[derive(Debug, Default)]
pub struct Commit<'a> {
    /// Batches to settle, oldest first.
    pub settle: &'a [Settlement],
    /// The next batch, if there is one.
    pub manifest: Option<&'a Manifest>,
    /// Rows to set aside unnumbered.
    pub reject: &'a [Rejected],
    /// All rows up to here are dealt with by this manifest and these rejections.
    pub claimed_through: Option<RowId>,
    /// The time now, in milliseconds since 1970.
    pub now_ms: i64,
    /// Until when the lease is renewed by the way.
    pub lease_until_ms: i64,
}

/// What an owner starts from.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The cluster pinned at the first start.
    pub cluster_id: Option<String>,
    /// Rows up to here are in a manifest or set aside.
    pub claimed_through: RowId,
    /// The number the next batch gets.
    pub next_batch: BatchId,
    /// The open epoch of each topic.
    pub topics: Vec<TopicEpoch>,
    /// The epochs that are closed.
    pub closed: Vec<TopicEpoch>,
    /// The lanes of the open epochs.
    pub lanes: Vec<LaneState>,
    /// Batches with a manifest that are not settled, oldest first.
    pub unsettled: Vec<Manifest>,
}

/// Seqs of one lane that the auditor wants sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairOrder {
    /// Its number.
    pub id: i64,
    /// The topic of the lane.
    pub topic: TopicName,
    /// The epoch of the lane.
    pub epoch: Epoch,
    /// The partition of the lane.
    pub partition: Partition,
    /// The first seq wanted.
    pub from: Seq,
    /// The last seq wanted.
    pub to: Seq,
    /// How often it was tried.
    pub attempts: u32,
}

/// How a repair order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepairState {
    /// Waits for the relay.
    Wanted,
    /// All its records were sent again and acknowledged; the auditor closes it.
    Replayed,
    /// The auditor has read the records back.
    Repaired,
    /// The rows are gone; nothing can be sent.
    Irreparable,
    /// Tried as often as allowed.
    GivenUp,
}

impl RepairState {
    /// The state as the table spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Replayed => "replayed",
            Self::Repaired => "repaired",
            Self::Irreparable => "irreparable",
            Self::GivenUp => "given_up",
        }
    }
}

/// Reads new rows on the relay's reading thread, over a connection of its own.
pub trait RowReader: Send {
    /// Reads rows after those already read, up to `rows_max` rows or, after the
    /// first, `bytes_max` bytes, into `into` (cleared first). `None`: there are none.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read; the position stays.
    fn next(
        &mut self,
        rows_max: usize,
        bytes_max: usize,
        into: &mut RowBuf,
    ) -> Result<Option<Span>, OutboxError>;

    /// Sets the position: the next row read is the first after `row`.
    fn seek(&mut self, row: RowId);
}

/// A database that holds an outbox, as its relay sees it.
pub trait Store: Send {
    /// The stream whose outbox this is.
    fn stream(&self) -> &StreamName;

    /// The signals between this process's senders and relay.
    fn signals(&self) -> Signals;

    /// Who holds the lease; `None` when nobody ever did.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    fn holder(&self) -> Result<Option<Holder>, OutboxError>;

    /// Asks for ownership in one transaction: reads the lease, decides by
    /// [`homing_core::lease::decide`], writes it when acquired. `alive` says what
    /// is known of the present holder.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    fn acquire(
        &mut self,
        me: &Owner,
        now_ms: i64,
        lease_ms: i64,
        alive: &dyn Fn(&Holder) -> Option<bool>,
    ) -> Result<LeaseDecision, OutboxError>;

    /// Renews the lease.
    ///
    /// # Errors
    /// [`OutboxError::Fenced`] when it is lost; others when the database cannot be written.
    fn renew(&mut self, token: FencingToken, lease_until_ms: i64) -> Result<(), OutboxError>;

    /// Gives the lease back, so that the next owner need not wait.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    fn release(&mut self, token: FencingToken) -> Result<(), OutboxError>;

    /// What the owner starts from.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    fn standing(&self) -> Result<Standing, OutboxError>;

    /// Pins the cluster; a second call with the same id changes nothing.
    ///
    /// # Errors
    /// [`OutboxError::Inconsistent`] when another cluster is pinned already.
    fn pin_cluster(&mut self, token: FencingToken, cluster_id: &str) -> Result<(), OutboxError>;

    /// The last epoch a topic had, open or closed.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    fn last_epoch(&self, topic: &TopicName) -> Result<Option<Epoch>, OutboxError>;

    /// Opens a topic's epoch with a lane for each partition; `ends` are the
    /// partitions' end offsets. An earlier epoch still open is closed with it.
    ///
    /// # Errors
    /// [`OutboxError::Inconsistent`] when the earlier epoch has unsettled
    /// batches, or the epoch does not follow it.
    fn open_epoch(
        &mut self,
        token: FencingToken,
        topic: &TopicEpoch,
        ends: &[Offset],
        now_ms: i64,
    ) -> Result<(), OutboxError>;

    /// Settles and claims in one durable transaction.
    ///
    /// # Errors
    /// [`OutboxError`]; nothing of it has happened then, unless
    /// [`retry`](OutboxError::retry) says indeterminate.
    fn commit(&mut self, token: FencingToken, commit: &Commit<'_>) -> Result<(), OutboxError>;

    /// Reads a batch's rows again, the same as at the first time.
    ///
    /// # Errors
    /// [`OutboxError::Inconsistent`] when rows are gone or changed in number.
    fn read_batch(&self, manifest: &Manifest, into: &mut RowBuf) -> Result<(), OutboxError>;

    /// A reader of new rows with a connection of its own, positioned after `row`.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be opened.
    fn reader(&self, after: RowId) -> Result<Box<dyn RowReader>, OutboxError>;

    /// Notes why the relay waits (`None`: it no longer does), for other processes to see.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    fn note_trouble(
        &mut self,
        token: FencingToken,
        trouble: Option<&str>,
        now_ms: i64,
    ) -> Result<(), OutboxError>;

    /// Repair orders that wait for the relay, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    fn repairs_wanted(&self, limit: usize) -> Result<Vec<RepairOrder>, OutboxError>;

    /// The settled batch of a lane that holds `seq`; `None` when it is pruned or was never claimed.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    fn batch_of(
        &self,
        topic: &TopicName,
        epoch: Epoch,
        partition: Partition,
        seq: Seq,
    ) -> Result<Option<Manifest>, OutboxError>;

    /// The seqs of a lane's share of a batch that are void.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be read.
    fn voided(&self, part: &LanePart) -> Result<Vec<Seq>, OutboxError>;

    /// Writes how a repair order stands now, counting one attempt.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    fn repair_tried(
        &mut self,
        token: FencingToken,
        order: i64,
        state: RepairState,
        now_ms: i64,
    ) -> Result<(), OutboxError>;

    /// Deletes rows and manifests of settled batches whose lanes are all
    /// verified past them and that were settled before `settled_before_ms`,
    /// oldest first, at most `batches_max`; returns how many rows went.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    fn prune(
        &mut self,
        token: FencingToken,
        settled_before_ms: i64,
        batches_max: u32,
    ) -> Result<u64, OutboxError>;
}
