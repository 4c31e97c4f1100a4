//! Shows every record taken in to the gap detector, so that each consumer is an auditor.
//!
//! The state is not kept across assignments: a consumer starts mid-lane and
//! judges what it reads. What it sees is counted and logged, never acted upon;
//! the auditor decides.

use super::status::ConsumerStatus;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::record::Record;
use homing_core::gap::{Limits, Observation, PartitionDetector, Seen, StartPolicy};
use homing_core::{Partition, PayloadCrc};

/// A header of every dead letter ([`super::dead_letter::header::OFFSET`]).
const LETTERS_OFFSET: &std::ffi::CStr = c"homing-dlq-offset";

/// Watches one partition.
pub(crate) struct Continuity {
    detector: PartitionDetector,
    observations: Vec<Observation>,
}

impl Continuity {
    pub fn new(partition: Partition) -> Self {
        let detector = PartitionDetector::new(partition, StartPolicy::MidLane, Limits::default());
        Self { detector, observations: Vec::new() }
    }

    /// Looks at the next record of the partition.
    ///
    /// A dead letter bears the number it had in the partition it was given up in, which says nothing here.
    #[inline]
    pub fn observe(&mut self, record: &Record, now_ms: i64, at: &TopicPartition, status: &ConsumerStatus) {
        let Some(stamp) = record.stamp_ref() else {
            ConsumerStatus::add(&status.foreign, 1);
            return;
        };
        if record.header(LETTERS_OFFSET).is_some() {
            return;
        }
        let data_crc = PayloadCrc::of(record.key(), record.payload());
        let mut seen = Seen::of(&stamp, data_crc, record.offset(), now_ms);
        seen.id = record.id().map(uuid::Uuid::into_bytes);
        seen.flags = record.flags();
        self.detector.observe(&stamp, &seen, &mut self.observations);
        for observation in self.observations.drain(..) {
            if observation != Observation::Advanced {
                count(observation, record, at, status);
            }
        }
    }
}

#[cold]
fn count(observation: Observation, record: &Record, at: &TopicPartition, status: &ConsumerStatus) {
    let counter = match observation {
        Observation::GapOpened { .. } => &status.gaps,
        Observation::Duplicate { .. } => &status.duplicates,
        Observation::Filled { .. } => &status.filled,
        Observation::Fork { .. } => &status.forks,
        Observation::Zombie { .. } | Observation::BeyondEnd { .. } => &status.zombies,
        Observation::Corrupted | Observation::Misplaced { .. } => &status.corrupted,
        _ => return,
    };
    ConsumerStatus::add(counter, 1);
    let (offset, seq) = (record.offset().0, record.stamp_ref().map(|stamp| stamp.seq.0));
    match observation {
        Observation::Duplicate { .. } => tracing::debug!(%at, offset, "{observation}"),
        _ => tracing::warn!(%at, offset, seq, "unexpected record: it {observation}"),
    }
}
