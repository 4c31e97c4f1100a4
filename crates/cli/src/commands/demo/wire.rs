//! Reads our topic back from its start and looks at the continuity of every lane.

use super::orders::TOPIC;
use crate::exit::Failure;
use homing::KafkaConfig;
use homing::core::gap::{FilledBy, Limits, Observation, PartitionDetector, Seen, StartPolicy};
use homing::core::{Partition, PayloadCrc, TopicName};
use homing::kafka::partition_list::TopicPartition;
use homing::kafka::reader::{ReadFrom, TopicReader};
use homing::kafka::record::Record;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What stands on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    /// Records with a stamp.
    pub sent: u64,
    /// Records whose lane and seq stood there before.
    pub duplicates: u64,
    /// Seqs that came to be missing.
    pub gaps: u64,
    /// Of those, seqs that came later.
    pub repaired: u64,
    /// Forks, zombies, corrupted, misplaced and reordered records.
    pub other: u64,
}

/// Reads the topic from its start to its end as of now.
///
/// # Errors
/// [`Failure`] when the broker does not answer or the end is not reached in time.
pub fn read(kafka: &KafkaConfig) -> Result<Wire, Failure> {
    let mut reader = TopicReader::open(kafka)?;
    let topic = TopicName::parse(TOPIC)?;
    let mut ends = BTreeMap::new();
    let mut detectors = BTreeMap::new();
    for n in 0..kafka.topic_partitions {
        let at = TopicPartition { topic: topic.clone(), partition: Partition(n) };
        ends.insert(at.clone(), reader.watermarks(&at, ANSWER_WITHIN)?.1);
        detectors.insert(n, PartitionDetector::new(Partition(n), StartPolicy::FromFirst, Limits::default()));
    }
    let from: Vec<_> = ends.keys().map(|at| (at.clone(), ReadFrom::Start)).collect();
    reader.assign(&from)?;
    let (mut wire, mut records, mut observations) = (Wire::default(), Vec::new(), Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while !all_reached(&reader, &ends)? {
        if Instant::now() > deadline {
            return Err(Failure::new("the broker did not give the topic back in time"));
        }
        reader.read(&mut records, 10_000, Duration::from_millis(200))?;
        for record in records.drain(..) {
            if let Some(detector) = detectors.get_mut(&record.partition().0) {
                observe(detector, &record, &mut observations);
                observations.drain(..).for_each(|observation| wire.count(&observation));
                wire.sent += u64::from(record.has_stamp_header());
            }
        }
    }
    Ok(wire)
}

fn all_reached(
    reader: &TopicReader,
    ends: &BTreeMap<TopicPartition, homing::Offset>,
) -> Result<bool, Failure> {
    for (at, end) in ends {
        if end.0 > 0 && !reader.has_reached(at, *end)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn observe(detector: &mut PartitionDetector, record: &Record, observations: &mut Vec<Observation>) {
    let Some(stamp) = record.stamp_ref() else { return };
    let data_crc = PayloadCrc::of(record.key(), record.payload());
    let mut seen = Seen::of(&stamp, data_crc, record.offset(), record.timestamp_ms().unwrap_or(0));
    seen.id = record.id().map(uuid::Uuid::into_bytes);
    seen.flags = record.flags();
    detector.observe(&stamp, &seen, observations);
}

impl Wire {
    fn count(&mut self, observation: &Observation) {
        match observation {
            Observation::Duplicate { .. } => self.duplicates += 1,
            Observation::GapOpened { from, to } => self.gaps += to.0 - from.0 + 1,
            Observation::Filled { by: FilledBy::Repaired | FilledBy::Late } => self.repaired += 1,
            Observation::Fork { .. }
            | Observation::Zombie { .. }
            | Observation::Corrupted
            | Observation::Misplaced { .. } => self.other += 1,
            _ => {}
        }
    }
}
