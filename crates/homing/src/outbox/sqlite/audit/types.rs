//! What an auditor reads from and writes to an outbox: lanes, gaps, orders, steps.

use crate::outbox::store::RepairState;
use homing_core::{Epoch, Offset, Partition, Seq, TopicName};

/// Stands for the id of a topic that is not there; Kafka gives no such id.
pub const TOPIC_GONE: [u8; 16] = [0xff; 16];

/// What the auditor keeps of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: Partition,
    /// The id of the topic that `next_offset` is of; [`TOPIC_GONE`] when there was none.
    pub topic_id: [u8; 16],
    /// The next record to read.
    pub next_offset: Offset,
    /// The detector's state.
    pub state: Vec<u8>,
    /// Counts, as JSON.
    pub counts: String,
}

/// How a gap stands, as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GapStanding {
    /// Its seqs may still be on their way.
    Suspect,
    /// They stayed away for the grace.
    Confirmed,
    /// Closed: a repair brought the last of them.
    Repaired,
    /// Closed: they came late by themselves.
    Late,
    /// Closed: the relay gave them up, no message bears them.
    Voided,
    /// Closed: somebody accepted their loss, by name.
    Accepted,
    /// Closed: they are there after all; Kafka, or the topic, was another one for a while.
    Found,
}

/// One gap as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedGap {
    /// Its number; `None` until it is written.
    pub id: Option<i64>,
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The first seq that was missing when it was opened.
    pub from: Seq,
    /// The last one.
    pub to: Seq,
    /// How it stands.
    pub standing: GapStanding,
    /// When it was noticed, in milliseconds since 1970.
    pub opened_at_ms: i64,
    /// When it was confirmed.
    pub confirmed_at_ms: Option<i64>,
    /// When its last seq was filled.
    pub closed_at_ms: Option<i64>,
    /// What happened to its seqs, as JSON.
    pub verdicts: String,
}

/// A lane as the relay keeps it, for the auditor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLane {
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The topic's id in this epoch.
    pub topic_id: [u8; 16],
    /// The seq its next message gets.
    pub next_seq: Seq,
    /// All seqs up to this one are settled; 0 when none is.
    pub settled: u64,
    /// All seqs up to this one were read back; 0 when none was.
    pub verified: u64,
    /// Whether its epoch was ended by a decision (the topic was closed, or begun anew as another
    /// one), so that what was read back of it once is not asked for again.
    pub superseded: bool,
}

/// A range of seqs to look up, in one lane.
#[derive(Debug, Clone, Copy)]
pub struct SeqRange<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The first seq.
    pub from: Seq,
    /// The last seq.
    pub to: Seq,
}

/// Consecutive seqs of one batch, and where the broker acknowledged the first that is not void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckedPart {
    /// The first seq.
    pub from: Seq,
    /// The last seq.
    pub to: Seq,
    /// The first seq that is not void, and its offset; `None` when all are void.
    pub first: Option<(Seq, Offset)>,
}

/// A repair order with its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditOrder {
    /// Its number.
    pub id: i64,
    /// The topic.
    pub topic: TopicName,
    /// The epoch.
    pub epoch: Epoch,
    /// The partition.
    pub partition: Partition,
    /// The first seq.
    pub from: Seq,
    /// The last seq.
    pub to: Seq,
    /// How it stands.
    pub state: RepairState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it last changed, in milliseconds since 1970.
    pub updated_at_ms: i64,
}

/// What an auditor starts from.
#[derive(Debug, Clone)]
pub struct SavedAudit {
    /// The version this is of.
    pub version: i64,
    /// The gaps that are open.
    pub open: Vec<SavedGap>,
}

/// One step of the auditor.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// The version it builds on.
    pub version: i64,
    /// The cluster that was read.
    pub cluster_id: &'a str,
    /// Partitions that were read on.
    pub partitions: Vec<SavedPartition>,
    /// Gaps that were opened (no id) or changed.
    pub gaps: Vec<&'a mut SavedGap>,
    /// Seqs to be sent again.
    pub orders: Vec<SeqRange<'a>>,
    /// Orders that stand otherwise now.
    pub order_states: Vec<(i64, RepairState)>,
    /// Lanes that count as read back up to these seqs from now on; 0: not even the first.
    pub verified: Vec<(&'a AuditLane, u64)>,
    /// The time now, in milliseconds since 1970.
    pub now_ms: i64,
}

/// Whether a step was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// It was; this is the version to build on.
    Version(i64),
    /// Another auditor wrote meanwhile: nothing was, begin again from `AuditStore::load`.
    Superseded,
}

impl GapStanding {
    const ALL: [Self; 7] = [
        Self::Suspect,
        Self::Confirmed,
        Self::Repaired,
        Self::Late,
        Self::Voided,
        Self::Accepted,
        Self::Found,
    ];

    /// The word for it, in the table and in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspect => "suspect",
            Self::Confirmed => "confirmed",
            Self::Repaired => "repaired",
            Self::Late => "late",
            Self::Voided => "voided",
            Self::Accepted => "accepted",
            Self::Found => "found",
        }
    }

    /// An unknown word is taken as the worst, so that it is looked at again.
    pub(super) fn parse(name: &str) -> Self {
        Self::ALL.into_iter().find(|standing| standing.as_str() == name).unwrap_or(Self::Confirmed)
    }
}
