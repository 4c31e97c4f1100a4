//! Continuity: tells from the records read whether any number of a lane is missing.
//!
//! Every reader of a partition can be an auditor: it shows each stamped record
//! to a [`PartitionDetector`] and hears what that means. Numbers that should
//! be there and are not form a *gap*:
//!
//! | a gap is | because | and becomes |
//! |---|---|---|
//! | suspect | a higher number was read, or [`expected_through`](LaneDetector::expected_through) says it was sent | confirmed after the grace; smaller by a fill |
//! | confirmed | it stayed open for the grace ([`confirm`](LaneDetector::confirm)) | smaller by a fill; reported once |
//! | gone | every number of it was read or voided | |
//!
//! Nothing else ends a gap. All memory is bounded. Where a bound is met the
//! detector claims less, never more: two gaps become one over what was read
//! between them ([`Observation::Coarsened`]), so the watermark stays low and a
//! repair sends too much rather than too little.
//!
//! The state is durable ([`PartitionDetector::encode`]) and moves with the
//! partition. Time is passed in, in milliseconds since 1970.

mod lane;
mod memory;
mod state;
mod stream;
mod words;

pub use lane::LaneDetector;
pub use memory::Fingerprint;
pub use state::StateError;
pub use stream::{PartitionDetector, StreamDetector};

use crate::ids::{Epoch, Offset, Partition, Seq};
use crate::stamp::{Flags, PayloadCrc, StampRef};

/// A stamped record as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The number in its stamp.
    pub seq: Seq,
    /// The message's identity, when the record has one.
    pub id: Option<[u8; 16]>,
    /// The checksum in its stamp.
    pub crc: PayloadCrc,
    /// The checksum of the key and payload that were read.
    pub data_crc: PayloadCrc,
    /// Where it was read.
    pub offset: Offset,
    /// Its flags.
    pub flags: Flags,
    /// When it was read.
    pub at_ms: i64,
}

/// Where a detector that has no saved state begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartPolicy {
    /// The partition is read from its beginning: number 1 must come.
    FromFirst,
    /// The partition is read from somewhere: what came before is not judged.
    MidLane,
}

/// How much a detector remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open gaps per lane; default 1024. Too low: gaps run together soon.
    /// Too high: 32 bytes each, and a lane full of gaps costs time.
    pub gaps_max: usize,
    /// Recent numbers per lane whose identity is remembered; default 256.
    /// Too low: a fork looks like a duplicate. Too high: 24 bytes each.
    pub memory: usize,
    /// Epochs per stream; default 8. Too low: a gap of an old epoch is forgotten.
    pub epochs_max: usize,
    /// Streams per partition; default 64. Too low: records of more streams go unchecked.
    pub streams_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { gaps_max: 1024, memory: 256, epochs_max: 8, streams_max: 64 }
    }
}

/// What a record, or what is known about it, means for its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// It is the next one.
    Advanced,
    /// Numbers before it are missing: a suspect gap, both ends included.
    GapOpened {
        /// The first number missing.
        from: Seq,
        /// The last number missing.
        to: Seq,
    },
    /// It was read before, at a lower offset.
    Duplicate {
        /// Whether its identity was compared with the first one's.
        compared: bool,
    },
    /// It was read before, at this offset or a higher one: the reader went back.
    Reread,
    /// It was missing.
    Filled {
        /// What brought it.
        by: FilledBy,
    },
    /// It stands behind a higher number in the log.
    Reordered {
        /// The highest number before it.
        after: Seq,
    },
    /// It bears the number of another message: a database was restored, or two relays number one lane.
    Fork {
        /// What was read first under this number.
        was: Fingerprint,
        /// What was read now.
        is: Fingerprint,
    },
    /// The reader starts within the lane: nothing is known about lower numbers.
    UnverifiedBefore(Seq),
    /// Its number is below where the reader started.
    BeforeStart,
    /// Its key or payload was changed; it counts as missing.
    Corrupted,
    /// It was numbered for another partition.
    Misplaced {
        /// The partition in its stamp.
        numbered_for: Partition,
    },
    /// Its stream began a new epoch here.
    EpochBegan(Epoch),
    /// It is of an older epoch and was written after a newer one began.
    Zombie {
        /// The newest epoch.
        newest: Epoch,
    },
    /// Its epoch was closed before its number.
    BeyondEnd {
        /// The last number of the epoch.
        last: Seq,
    },
    /// There are more gaps than are remembered: two became one, with numbers in it that were read.
    Coarsened {
        /// The first number of the gap.
        from: Seq,
        /// The last number of the gap.
        to: Seq,
    },
    /// There are more voided numbers than are remembered: these will seem missing when they are passed.
    VoidForgotten {
        /// The first number.
        from: Seq,
        /// The last number.
        to: Seq,
    },
    /// There are more epochs than are remembered: this one is no longer checked.
    EpochForgotten(Epoch),
    /// There are more streams than are remembered: the record's stream is not checked.
    StreamUntracked,
}

/// What took a number out of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilledBy {
    /// A repair sent it again.
    Repaired,
    /// It came late by itself.
    Late,
    /// The relay gave the number up: no message bears it.
    Voided,
}

/// Whether a gap is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapState {
    /// Its numbers may still be on their way.
    Suspect,
    /// It stayed open for the grace.
    Confirmed,
}

/// Whether all numbers of a gap are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Every number in it is missing.
    Exact,
    /// Some of its numbers may have been read or voided; that was forgotten to bound memory.
    Coarse,
}

/// Numbers that are missing, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenGap {
    /// The first number.
    pub from: Seq,
    /// The last number.
    pub to: Seq,
    /// When it was noticed.
    pub since_ms: i64,
    /// Whether it is certain.
    pub state: GapState,
    /// Whether all its numbers are missing.
    pub precision: Precision,
}

/// A gap that has just become certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmedGap {
    /// The first number.
    pub from: Seq,
    /// The last number.
    pub to: Seq,
    /// When it was noticed.
    pub since_ms: i64,
    /// Whether all its numbers are missing.
    pub precision: Precision,
}

impl Seen {
    /// Puts together what is known about a record that was just read.
    #[must_use]
    pub fn of(stamp: &StampRef<'_>, data_crc: PayloadCrc, offset: Offset, at_ms: i64) -> Self {
        Self { seq: stamp.seq, id: None, crc: stamp.crc, data_crc, offset, flags: Flags::default(), at_ms }
    }
}
