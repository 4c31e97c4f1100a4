//! Homing's pure decisions: no I/O, no clock, no randomness.
//!
//! Everything here is a function of its arguments, so every rule that decides
//! whether a message may be lost can be tested against a naive model.

pub mod epoch;
pub mod gap;
pub mod ids;
pub mod lease;
pub mod message;
pub mod offset_map;
pub mod offset_set;
pub mod partitioner;
pub mod relay;
pub mod retry;
pub mod schedule;
pub mod share;
pub mod stamp;
pub mod tracker;
mod varint;

pub use gap::{
    ConfirmedGap, FilledBy, GapState, LaneDetector, Observation, OpenGap, PartitionDetector, Precision, Seen,
    StartPolicy, StateError, StreamDetector,
};
pub use ids::{Epoch, InvalidName, Lane, Offset, Partition, Seq, StreamName, TopicName};
pub use lease::{Claimant, FencingToken, LeaseDecision, LeaseState, LeaseWatch};
pub use message::{Header, Message};
pub use offset_map::{CommitMap, MapError};
pub use offset_set::OffsetSet;
pub use partitioner::{PartitionCount, murmur2, partition_for_key};
pub use retry::{InvalidRetryPolicy, RetryPolicy};
pub use schedule::{LaneHash, LaneId, Lanes, ProcessingOrder, TakeLimit, Taken};
pub use stamp::{Flags, PayloadCrc, Stamp, StampError, StampRef, header};
pub use tracker::{AssignmentEpoch, Completed, Progress, Registered, Token, Tracker};
