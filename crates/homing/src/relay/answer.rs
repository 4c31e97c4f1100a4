//! What the asking threads bring back.

use super::asking::Look;
use super::obstacle::Said;
use crate::kafka::admin::{ClusterFacts, TopicFacts};
use homing_core::epoch::EpochsInLog;
use homing_core::relay::{LaneIx, TailRead, TopicIx};
use homing_core::{Offset, PayloadCrc, Seq};

/// The cluster and the topics with an open epoch.
#[derive(Debug)]
pub(super) struct Pins {
    pub cluster: ClusterFacts,
    pub topics: Vec<(TopicIx, Look)>,
}

/// What an epoch is begun from.
#[derive(Debug, Clone)]
pub(super) struct Beginning {
    pub facts: TopicFacts,
    pub ends: Vec<Offset>,
    pub log: EpochsInLog,
}

/// An answer of one of the asking threads.
#[derive(Debug)]
pub(super) enum Answer {
    Pins { in_doubt: bool, found: Result<Pins, Said> },
    Topic(TopicIx, Look),
    Reason(TopicIx, Said),
    Epoch(TopicIx, Result<Beginning, Said>),
    Tail(TailFound),
    TailTrouble(LaneIx, Said),
}

/// What a lane's tail held.
#[derive(Debug)]
pub(super) struct TailFound {
    pub read: TailRead,
    /// The checksums of what was found, in the same order.
    pub crcs: Vec<(Seq, PayloadCrc)>,
    /// A record of the stream with a later epoch was among it.
    pub forked: bool,
}
