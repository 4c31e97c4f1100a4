//! What an audit found: per lane, per gap, in numbers.

use super::verdict::Verdict;
use crate::outbox::sqlite::GapStanding;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// What was counted while reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Records read, all kinds.
    pub records: u64,
    /// Without a stamp: not Homing's.
    pub foreign: u64,
    /// With a stamp that cannot be read.
    pub malformed: u64,
    /// Of other streams: their own auditors judge them.
    pub other_streams: u64,
    /// Under a number that was read before, and the same message: sent twice.
    pub duplicates: u64,
    /// Behind a higher number of their lane.
    pub reordered: u64,
    /// Under a number that was read before, and another message.
    pub forks: u64,
    /// Of an older epoch, behind a newer one's first record.
    pub zombies: u64,
    /// With a key or payload that is not the one that was stamped.
    pub corrupted: u64,
    /// Numbered for another partition.
    pub misplaced: u64,
    /// Missing seqs that a repair brought.
    pub repaired: u64,
    /// Missing seqs that came by themselves.
    pub late: u64,
    /// Missing seqs that the relay gave up.
    pub voided: u64,
    /// Numbers read that this outbox never gave: the database was restored or copied.
    pub never_given: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.foreign += other.foreign;
        self.malformed += other.malformed;
        self.other_streams += other.other_streams;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.forks += other.forks;
        self.zombies += other.zombies;
        self.corrupted += other.corrupted;
        self.misplaced += other.misplaced;
        self.repaired += other.repaired;
        self.late += other.late;
        self.voided += other.voided;
        self.never_given += other.never_given;
    }
}

/// One partition's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to read.
    pub next_offset: i64,
    /// What was counted there since the audit began.
    pub counts: Counts,
}

/// One lane as the auditor sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaneReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The epoch.
    pub epoch: u32,
    /// All seqs up to this one are settled, says the outbox; 0 when none is.
    pub settled: u64,
    /// Nothing is missing up to this one: read back, void, or accepted as lost; 0 when not even
    /// the first is there.
    pub watermark: u64,
    /// How many of the settled seqs were read back, those of `earlier` with them.
    pub read: u64,
    /// How many of these were read back by earlier audits and are no longer in the log.
    pub earlier: u64,
    /// The highest seq that was read; 0 when none was.
    pub highest: u64,
}

/// How the repair of a gap stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairStanding {
    /// Nothing is to be done, or nothing yet.
    None,
    /// The relay is to send it again.
    Ordered,
    /// The relay has sent it again; it was not read back yet.
    Replayed,
    /// Its rows are gone.
    Irreparable,
    /// It was sent again as often as allowed and never came.
    GivenUp,
    /// It is never sent again: the topic is compacted, and an old value would stand over a newer one.
    Compacted,
    /// It cannot be sent while there is no such topic, or this is another cluster.
    Nowhere,
}

/// A lane of which nothing more counts as verified, until somebody accepts what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoubtReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The epoch.
    pub epoch: u32,
    /// How often another message was read under a number read before.
    pub forks: u64,
    /// The highest such number; 0 when there is none.
    pub fork_to: u64,
    /// The highest number read that this outbox never gave; 0 when there is none.
    pub strange: u64,
    /// When it was noticed, in milliseconds since 1970.
    pub since_ms: i64,
}

/// A lane whose rows are kept because it cannot be verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockedReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The epoch.
    pub epoch: u32,
    /// It is verified up to this seq.
    pub verified: u64,
    /// So many settled seqs behind that are kept.
    pub rows: u64,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// By what.
    pub why: String,
}

/// A loss that somebody accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceptedReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The epoch.
    pub epoch: u32,
    /// The first seq.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// Who accepted it.
    pub by: String,
    /// Why.
    pub why: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

/// A partition nothing can be said of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreachableReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Why.
    pub why: String,
}

/// One gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GapReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The epoch.
    pub epoch: u32,
    /// The first seq that was missing.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// How it stands.
    pub state: GapStanding,
    /// When it was noticed, in milliseconds since 1970.
    pub opened_at_ms: i64,
    /// How its repair stands.
    pub repair: RepairStanding,
    /// What happened to its seqs, once it is confirmed.
    pub verdicts: Vec<Verdict>,
}

impl GapReport {
    /// The codes of the loss catalogue its verdicts cite.
    #[must_use]
    pub fn codes(&self) -> Vec<&'static str> {
        let mut codes = Vec::new();
        for code in self.verdicts.iter().flat_map(|verdict| verdict.cause.codes()) {
            if !codes.contains(code) {
                codes.push(*code);
            }
        }
        codes
    }

    /// How many seqs were missing when it was noticed.
    #[must_use]
    pub fn seqs(&self) -> u64 {
        self.to - self.from + 1
    }
}

/// What an audit found so far, from one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// The stream.
    pub stream: String,
    /// When this was put together, in milliseconds since 1970.
    pub at_ms: i64,
    /// The cluster that was read; `None` when none was yet.
    pub cluster: Option<String>,
    /// The cluster that the outbox was sent to, when that is another.
    pub sent_to_cluster: Option<String>,
    /// Each lane's standing, by topic, partition and epoch.
    pub lanes: Vec<LaneReport>,
    /// Each partition's numbers.
    pub partitions: Vec<PartitionReport>,
    /// The gaps that are open.
    pub gaps: Vec<GapReport>,
    /// The gaps that were closed last, newest first; at most 100.
    pub closed: Vec<GapReport>,
    /// Lanes that are not to be trusted.
    pub doubts: Vec<DoubtReport>,
    /// Lanes that keep their rows from being pruned.
    pub blocked: Vec<BlockedReport>,
    /// What was accepted, oldest first.
    pub accepted: Vec<AcceptedReport>,
    /// Rows that were set aside and not put back: Kafka never had them.
    pub set_aside: u64,
    /// Partitions nothing can be said of; not part of what the rest says.
    pub unreachable: Vec<UnreachableReport>,
    /// The numbers of all partitions together.
    pub totals: Counts,
}

/// What an audit comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every settled message is in Kafka, once under its own number.
    Clean,
    /// Something is missing or was set aside, or numbers are used twice.
    Findings,
    /// Nothing was found, but not everything could be read.
    Unknown,
}

impl AuditReport {
    /// Whether anything is missing or was set aside, or one number stands for two messages.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let sound = self.gaps.is_empty() && self.doubts.is_empty() && self.set_aside == 0;
        match (sound && self.sent_to_cluster.is_none(), self.unreachable.is_empty()) {
            (true, true) => Outcome::Clean,
            (true, false) => Outcome::Unknown,
            (false, _) => Outcome::Findings,
        }
    }

    /// The open gaps that are confirmed.
    pub fn confirmed(&self) -> impl Iterator<Item = &GapReport> {
        self.gaps.iter().filter(|gap| gap.state == GapStanding::Confirmed)
    }

    /// The open gaps that may still close by themselves.
    pub fn suspect(&self) -> impl Iterator<Item = &GapReport> {
        self.gaps.iter().filter(|gap| gap.state == GapStanding::Suspect)
    }
}
