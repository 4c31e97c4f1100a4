//! One partition under audit: its detector, how far it is read, and what was counted.

use super::report::Counts;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::record::Record;
use crate::outbox::sqlite::SavedPartition;
use homing_core::gap::{FilledBy, Limits, Observation, OpenGap, PartitionDetector, Seen, StartPolicy};
use homing_core::{Epoch, LaneDetector, Offset, PayloadCrc, Seq, StreamName};

/// One partition under audit.
pub(super) struct Watched {
    pub at: TopicPartition,
    pub topic_id: [u8; 16],
    /// Whether the topic is there.
    pub present: bool,
    pub next_offset: Offset,
    pub detector: PartitionDetector,
    pub counts: Counts,
    /// Whether it changed since it was saved.
    pub dirty: bool,
    /// What was filled since the gaps were last looked at.
    pub fills: Vec<Fill>,
    observations: Vec<Observation>,
}

/// A seq that was missing and no longer is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    pub epoch: Epoch,
    pub seq: Seq,
    pub by: FilledBy,
}

impl Watched {
    /// A partition that was never read; `low` is where its log begins.
    pub fn fresh(at: TopicPartition, topic_id: [u8; 16], low: Offset, limits: Limits) -> Self {
        let start = if low.0 == 0 { StartPolicy::FromFirst } else { StartPolicy::MidLane };
        let detector = PartitionDetector::new(at.partition, start, limits);
        Self {
            at,
            topic_id,
            present: true,
            next_offset: low,
            detector,
            counts: Counts::default(),
            dirty: true,
            fills: Vec::new(),
            observations: Vec::new(),
        }
    }

    /// A partition as it was saved; `None` when the state cannot be read, and it begins again.
    pub fn restore(saved: SavedPartition, limits: Limits) -> Option<Self> {
        let at = TopicPartition { topic: saved.topic, partition: saved.partition };
        let detector = PartitionDetector::decode(&saved.state, limits);
        let counts = serde_json::from_str(&saved.counts);
        match (detector, counts) {
            (Ok(detector), Ok(counts)) => Some(Self {
                detector,
                counts,
                dirty: false,
                next_offset: saved.next_offset,
                ..Self::fresh(at, saved.topic_id, Offset(0), limits)
            }),
            (detector, _) => {
                let error = detector.err();
                tracing::warn!(%at, ?error, "the audit's saved state cannot be read; it is read anew");
                None
            }
        }
    }

    /// Begins again, after what was read is no longer in the log.
    pub fn begin_again(&mut self, low: Offset, limits: Limits) {
        let counts = self.counts;
        *self = Self { counts, ..Self::fresh(self.at.clone(), self.topic_id, low, limits) };
    }

    pub fn saved(&self) -> SavedPartition {
        SavedPartition {
            topic: self.at.topic.clone(),
            partition: self.at.partition,
            topic_id: self.topic_id,
            next_offset: self.next_offset,
            state: self.detector.encode(),
            counts: serde_json::to_string(&self.counts).expect("numbers are JSON"),
        }
    }

    /// Takes in the next record of the partition.
    pub fn observe(&mut self, stream: &StreamName, record: &Record, now_ms: i64) {
        let offset = record.offset();
        if offset < self.next_offset {
            return;
        }
        self.next_offset = offset.next();
        self.dirty = true;
        self.counts.records += 1;
        let Some(stamp) = record.stamp_ref() else {
            let counter = match record.has_stamp_header() {
                true => &mut self.counts.malformed,
                false => &mut self.counts.foreign,
            };
            *counter += 1;
            return;
        };
        if stamp.stream != stream.as_str() {
            self.counts.other_streams += 1;
            return;
        }
        let mut seen = Seen::of(&stamp, PayloadCrc::of(record.key(), record.payload()), offset, now_ms);
        seen.id = record.id().map(uuid::Uuid::into_bytes);
        seen.flags = record.flags();
        self.detector.observe(&stamp, &seen, &mut self.observations);
        if self.observations.as_slice() == [Observation::Advanced] {
            self.observations.clear();
            return;
        }
        self.count(stamp.epoch, stamp.seq, offset);
    }

    #[cold]
    fn count(&mut self, epoch: Epoch, seq: Seq, offset: Offset) {
        let counts = &mut self.counts;
        for observation in self.observations.drain(..) {
            match observation {
                Observation::Duplicate { .. } => counts.duplicates += 1,
                Observation::Reordered { .. } => counts.reordered += 1,
                Observation::Zombie { .. } | Observation::BeyondEnd { .. } => counts.zombies += 1,
                Observation::Corrupted => counts.corrupted += 1,
                Observation::Misplaced { .. } => counts.misplaced += 1,
                Observation::Fork { was, is } => {
                    counts.forks += 1;
                    tracing::error!(at = %self.at, epoch = epoch.0, seq = seq.0, offset = offset.0, %was, %is,
                        "fork: one number stands for two messages (X12: database restored or copied)");
                    continue;
                }
                Observation::Filled { by } => {
                    match by {
                        FilledBy::Repaired => counts.repaired += 1,
                        FilledBy::Late => counts.late += 1,
                        FilledBy::Voided => counts.voided += 1,
                    }
                    self.fills.push(Fill { epoch, seq, by });
                    continue;
                }
                _ => continue,
            }
            let at = &self.at;
            match observation {
                Observation::Duplicate { .. } => {
                    tracing::debug!(%at, epoch = epoch.0, seq = seq.0, offset = offset.0, "sent twice");
                }
                _ => tracing::warn!(%at, epoch = epoch.0, seq = seq.0, offset = offset.0,
                    "unexpected record: it {observation}"),
            }
        }
    }

    /// Takes in that these seqs are void.
    pub fn voided(&mut self, stream: &StreamName, epoch: Epoch, seqs: &[Seq]) {
        for seq in seqs {
            let Some(lane) = self.lane_mut(stream, epoch) else { return };
            let mut said = Vec::new();
            lane.voided(*seq, &mut said);
            self.dirty = true;
            if said.contains(&Observation::Filled { by: FilledBy::Voided }) {
                self.counts.voided += 1;
                self.fills.push(Fill { epoch, seq: *seq, by: FilledBy::Voided });
            }
        }
    }

    pub fn lane(&self, stream: &StreamName, epoch: Epoch) -> Option<&LaneDetector> {
        self.detector.stream(stream)?.lane(epoch)
    }

    pub fn lane_mut(&mut self, stream: &StreamName, epoch: Epoch) -> Option<&mut LaneDetector> {
        self.detector.stream_mut(stream)?.lane_mut(epoch)
    }

    /// The stream's epochs that are under audit, oldest first.
    pub fn epochs(&self, stream: &StreamName) -> Vec<Epoch> {
        self.detector
            .stream(stream)
            .map_or_else(Vec::new, |stream| stream.lanes().map(|lane| lane.0).collect())
    }

    /// A lane's open gaps, lowest first.
    pub fn open_gaps(&self, stream: &StreamName, epoch: Epoch) -> Vec<OpenGap> {
        self.lane(stream, epoch).map_or_else(Vec::new, |lane| lane.open_gaps().collect())
    }
}
