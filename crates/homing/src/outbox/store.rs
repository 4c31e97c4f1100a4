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
pub use super::manifest::{
    BatchId, LaneDelivery, LanePart, LaneState, Manifest, RejectCode, Rejected, RowId, Settlement, Span,
    TopicEpoch, Voided,
};
use super::rows::RowBuf;
use super::signals::Signals;
use homing_core::{
    Epoch, FencingToken, LeaseDecision, LeaseState, Offset, Partition, Seq, StreamName, TopicName,
};

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

/// A setting of a topic that weakens what an acknowledgement means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weakness {
    /// The finding's code.
    pub code: &'static str,
    /// In words, with what to do.
    pub what: String,
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
    /// batches, or the epoch does not lie above it.
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

    /// Notes what is weak about a topic's settings (`None`: nothing is), for other processes to see.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    fn note_weakness(
        &mut self,
        token: FencingToken,
        topic: &TopicName,
        weakness: Option<&Weakness>,
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
    /// oldest first, until `rows_max` rows or a batch more; returns how many rows went.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be written.
    fn prune(
        &mut self,
        token: FencingToken,
        settled_before_ms: i64,
        rows_max: u32,
    ) -> Result<u64, OutboxError>;
}
