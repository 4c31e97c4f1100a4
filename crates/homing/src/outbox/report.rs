//! What an outbox tells about itself: receipts, numbers, dead letters.

use super::store::RowId;
use homing_core::{Epoch, Offset, Partition, Seq, StreamName, TopicName};
use uuid::Uuid;

/// The proof of one message's delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The topic it went to.
    pub topic: TopicName,
    /// The partition.
    pub partition: Partition,
    /// The offset the broker acknowledged.
    pub offset: Offset,
    /// The stream it came from.
    pub stream: StreamName,
    /// The epoch of its number.
    pub epoch: Epoch,
    /// Its number in the lane.
    pub seq: Seq,
    /// The message's identity.
    pub id: Uuid,
}

/// How one row ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is in Kafka.
    Delivered(Receipt),
    /// It is in the dead-letter table.
    DeadLetter {
        /// Why, for programs: a code of [`RejectCode`](super::RejectCode).
        code: String,
        /// Why, for people.
        reason: String,
    },
}

/// One lane's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStats {
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// Whether the epoch still takes messages.
    pub open: bool,
    /// The partition.
    pub partition: Partition,
    /// The seq its next message gets.
    pub next_seq: Seq,
    /// All seqs up to this one are settled; 0 when none is.
    pub settled: u64,
    /// All seqs up to this one were read back by the auditor; 0 when none was.
    pub verified: u64,
    /// The offset after the last settled record.
    pub next_offset: Offset,
    /// All seqs up to this one were let go by a person though they were not read back; 0 when none was.
    pub accepted: u64,
}

impl LaneStats {
    /// All seqs up to this one are verified or accepted: their rows need not be kept.
    #[must_use]
    pub fn clear(&self) -> u64 {
        self.verified.max(self.accepted)
    }
}

/// A topic whose rows wait unnumbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldStats {
    /// The topic.
    pub topic: TopicName,
    /// How many of its rows wait.
    pub rows: u64,
    /// Age of the oldest of them, in milliseconds; `None` when none waits.
    pub oldest_age_ms: Option<u64>,
    /// The finding's code.
    pub code: String,
    /// Why, for people.
    pub reason: String,
    /// Since when it is held, in milliseconds since 1970.
    pub since_ms: i64,
}

/// Who relays, and what keeps it waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStats {
    /// Unique to one run of one relay.
    pub owner: String,
    /// The host and process namespace the pid counts in.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// Its fencing token.
    pub token: u64,
    /// When its lease runs out, in milliseconds since 1970.
    pub lease_until_ms: i64,
    /// Whether the lease runs and the process is not known to be dead.
    pub alive: bool,
    /// Why it waits, in its own words; `None` when all is well.
    pub trouble: Option<String>,
    /// Since when, in milliseconds since 1970.
    pub trouble_since_ms: Option<i64>,
}

impl RelayStats {
    /// The finding's code of the trouble, when it has one.
    #[must_use]
    pub fn trouble_code(&self) -> Option<&str> {
        crate::relay::code_of(self.trouble.as_deref()?)
    }
}

/// A topic whose settings weaken what an acknowledgement means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicWarning {
    /// The topic.
    pub topic: String,
    /// The finding's code.
    pub code: String,
    /// In words, with what to do.
    pub what: String,
    /// Since when it is known, in milliseconds since 1970.
    pub since_ms: i64,
}

/// An outbox in numbers, from one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxStats {
    /// The stream.
    pub stream: StreamName,
    /// The pinned cluster, once a relay has run.
    pub cluster_id: Option<String>,
    /// Rows in the table, sent ones that are not pruned yet included.
    pub rows: u64,
    /// Rows that are in no manifest yet, held ones included.
    pub unclaimed: u64,
    /// Rows that are in a manifest and not settled.
    pub unsettled: u64,
    /// Rows that are settled and not pruned yet.
    pub settled: u64,
    /// Age of the oldest row that is not settled, in milliseconds.
    pub oldest_unsettled_ms: Option<u64>,
    /// Rows in the dead-letter table that were not redriven.
    pub dead_letters: u64,
    /// Seqs that were voided.
    pub voided: u64,
    /// Repair orders that wait for the relay.
    pub repairs_wanted: u64,
    /// Topics whose settings are weak, by name.
    pub warnings: Vec<TopicWarning>,
    /// Each lane's numbers, by topic, epoch and partition.
    pub lanes: Vec<LaneStats>,
    /// Topics whose rows are held back, by name.
    pub held: Vec<HeldStats>,
    /// The relay; `None` when none ever ran.
    pub relay: Option<RelayStats>,
}

/// A row that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number in the dead-letter table.
    pub id: i64,
    /// The row it was in the outbox.
    pub row: RowId,
    /// Column `topic`.
    pub topic: String,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The payload's bytes; when both columns were set, those of `payload`.
    pub payload: Option<Vec<u8>>,
    /// Column `headers` as it stood.
    pub headers: Option<String>,
    /// The message's identity; `None` when the column could not be read.
    pub message_id: Option<Uuid>,
    /// When the row was made, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// Why, for programs.
    pub code: String,
    /// Why, for people.
    pub reason: String,
    /// When it was set aside, in milliseconds since 1970.
    pub rejected_at_ms: i64,
    /// The number it had: epoch, partition and seq; `None` when it was rejected before numbering.
    pub voided: Option<(Epoch, Partition, Seq)>,
    /// The row it became when it was redriven.
    pub redriven_as: Option<RowId>,
}
