//! One partition under audit: its detector, how far it is read, and what was counted.

use super::report::Counts;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::record::Record;
use crate::outbox::sqlite::{SavedPartition, TOPIC_GONE};
use homing_core::gap::{FilledBy, Limits, Observation, OpenGap, PartitionDetector, Seen, StartPolicy};
use homing_core::{Epoch, LaneDetector, Offset, PayloadCrc, Seq, StreamName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// One partition under audit, of one topic of one cluster: whatever else had its name is another.
pub(super) struct Watched {
    pub at: TopicPartition,
    /// The topic's id; [`TOPIC_GONE`] when there is no such topic or partition.
    pub topic_id: [u8; 16],
    pub next_offset: Offset,
    pub detector: PartitionDetector,
    pub counts: Counts,
    /// By epoch: why its lane is not to be trusted.
    pub doubts: BTreeMap<u32, Doubt>,
    /// By epoch: how many of its seqs were read back before and are no longer in the log.
    pub earlier: BTreeMap<u32, u64>,
    /// Whether it changed since it was saved.
    pub unsaved: Unsaved,
    pub saved_at: Option<Instant>,
    /// Whether it is judged already. A whole audit judges nothing that it has not read to its end.
    pub judged: bool,
    /// What was filled since the gaps were last written.
    pub fills: Vec<Fill>,
    /// The last record of the stream that was read.
    anchor: Option<Anchor>,
    /// Where the anchor was found to be another record, until that is looked into.
    pub was_cut: bool,
    observations: Vec<Observation>,
}

/// What is there that was not saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unsaved {
    Nothing,
    /// It was read on: after a crash that much is read again.
    Progress,
    /// Something that must be written with the list of gaps.
    Findings,
}

/// A seq that was missing and no longer is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    pub epoch: Epoch,
    pub seq: Seq,
    pub by: FilledBy,
}

/// Why nothing more of a lane counts as verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Doubt {
    /// How often another message was read under a number read before.
    pub forks: u64,
    /// The lowest such number, and the highest.
    pub fork_from: u64,
    pub fork_to: u64,
    /// The highest number read that this outbox never gave; 0 when there is none.
    pub strange: u64,
    /// When it was noticed first.
    pub since_ms: i64,
}

/// A record that was read, to be found again where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Anchor {
    offset: i64,
    epoch: u32,
    seq: u64,
    crc: u32,
}

/// What is saved beside the detector.
#[derive(Serialize, Deserialize)]
struct Extras {
    #[serde(flatten)]
    counts: Counts,
    #[serde(default)]
    doubts: BTreeMap<u32, Doubt>,
    #[serde(default)]
    earlier: BTreeMap<u32, u64>,
    #[serde(default)]
    anchor: Option<Anchor>,
}

impl Watched {
    /// A partition that was never read, from where its log begins. Every lane begins with seq 1:
    /// what is not there and was not seen before is missing.
    pub fn fresh(at: TopicPartition, topic_id: [u8; 16], low: Offset, limits: Limits) -> Self {
        let detector = PartitionDetector::new(at.partition, StartPolicy::FromFirst, limits);
        Self {
            at,
            topic_id,
            next_offset: low,
            detector,
            counts: Counts::default(),
            doubts: BTreeMap::new(),
            earlier: BTreeMap::new(),
            unsaved: Unsaved::Findings,
            saved_at: None,
            judged: true,
            fills: Vec::new(),
            anchor: None,
            was_cut: false,
            observations: Vec::new(),
        }
    }

    /// A partition as it was saved; `None` when the state cannot be read, and it begins again.
    pub fn restore(saved: SavedPartition, limits: Limits) -> Option<Self> {
        let at = TopicPartition { topic: saved.topic, partition: saved.partition };
        let detector = PartitionDetector::decode(&saved.state, limits);
        let extras = serde_json::from_str(&saved.counts);
        match (detector, extras) {
            (Ok(detector), Ok(Extras { counts, doubts, earlier, anchor })) => Some(Self {
                detector,
                counts,
                doubts,
                earlier,
                anchor,
                unsaved: Unsaved::Nothing,
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

    /// Whether there is a topic to read.
    pub fn is_present(&self) -> bool {
        self.topic_id != TOPIC_GONE
    }

    pub fn changed(&mut self, how: Unsaved) {
        self.unsaved = self.unsaved.max(how);
    }

    pub fn saved(&self) -> SavedPartition {
        let Self { counts, anchor, .. } = *self;
        let extras = Extras { counts, doubts: self.doubts.clone(), earlier: self.earlier.clone(), anchor };
        SavedPartition {
            topic: self.at.topic.clone(),
            partition: self.at.partition,
            topic_id: self.topic_id,
            next_offset: self.next_offset,
            state: self.detector.encode(),
            counts: serde_json::to_string(&extras).expect("numbers are JSON"),
        }
    }

    /// Where to begin to read: at the last record that was read, to see that it is still there.
    pub fn read_from(&self) -> Offset {
        match self.anchor {
            Some(anchor) if anchor.offset + 1 == self.next_offset.0 => Offset(anchor.offset),
            _ => self.next_offset,
        }
    }

    /// The last record that was read is no longer in the log, whose beginning is this now.
    pub fn forget_anchor(&mut self, low: Offset) {
        self.anchor = self.anchor.filter(|anchor| anchor.offset >= low.0);
    }

    /// Takes in the next record of the partition.
    pub fn observe(&mut self, stream: &StreamName, record: &Record, now_ms: i64) {
        let offset = record.offset();
        if offset < self.next_offset {
            self.was_cut |= self
                .anchor
                .is_some_and(|anchor| anchor.offset == offset.0 && anchor_of(stream, record) != self.anchor);
            return;
        }
        self.next_offset = offset.next();
        self.changed(Unsaved::Progress);
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
        self.anchor =
            Some(Anchor { offset: offset.0, epoch: stamp.epoch.0, seq: stamp.seq.0, crc: stamp.crc.0 });
        let mut seen = Seen::of(&stamp, PayloadCrc::of(record.key(), record.payload()), offset, now_ms);
        seen.id = record.id().map(uuid::Uuid::into_bytes);
        seen.flags = record.flags();
        self.detector.observe(&stamp, &seen, &mut self.observations);
        let first = |of: &Observation| matches!(of, Observation::Advanced | Observation::GapOpened { .. });
        if seen.flags.replay && self.observations.iter().any(first) {
            // Sent again, and the first one that is read: what stood there before is gone.
            let by = FilledBy::Repaired;
            self.observations.retain(|of| *of != Observation::Advanced);
            self.observations.push(Observation::Filled { by });
        }
        if self.observations.as_slice() == [Observation::Advanced] {
            self.observations.clear();
            return;
        }
        self.count((stamp.epoch, stamp.seq), offset, now_ms);
    }

    #[cold]
    fn count(&mut self, (epoch, seq): (Epoch, Seq), offset: Offset, now_ms: i64) {
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
                    self.doubts.entry(epoch.0).or_default().fork(seq, now_ms);
                    self.unsaved = Unsaved::Findings;
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
                    self.unsaved = Unsaved::Findings;
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
            self.changed(Unsaved::Findings);
            if said.contains(&Observation::Filled { by: FilledBy::Voided }) {
                self.counts.voided += 1;
                self.fills.push(Fill { epoch, seq: *seq, by: FilledBy::Voided });
            }
        }
    }

    /// Takes in that these seqs are not asked for any more; says whether that is new.
    pub fn excuse(&mut self, stream: &StreamName, epoch: Epoch, (from, to): (Seq, Seq)) -> bool {
        let next_offset = self.next_offset;
        let lane = self.detector.expect(stream).and_then(|stream| stream.expect(epoch, next_offset));
        let new = lane.is_some_and(|lane| lane.excuse(from, to));
        if new {
            self.changed(Unsaved::Findings);
        }
        new
    }

    pub fn lane(&self, stream: &StreamName, epoch: Epoch) -> Option<&LaneDetector> {
        self.detector.stream(stream)?.lane(epoch)
    }

    pub fn lane_mut(&mut self, stream: &StreamName, epoch: Epoch) -> Option<&mut LaneDetector> {
        self.detector.stream_mut(stream)?.lane_mut(epoch)
    }

    /// Up to which seq nothing is missing; 0 when not even the first is there.
    pub fn watermark(&self, stream: &StreamName, epoch: Epoch) -> u64 {
        self.lane(stream, epoch).and_then(LaneDetector::watermark).map_or(0, |seq| seq.0)
    }

    /// The highest seq known of; 0 when none is.
    pub fn highest(&self, stream: &StreamName, epoch: Epoch) -> u64 {
        self.lane(stream, epoch).and_then(LaneDetector::highest).map_or(0, |seq| seq.0)
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

impl Doubt {
    fn fork(&mut self, seq: Seq, now_ms: i64) {
        self.note(now_ms);
        self.fork_from = if self.forks == 0 { seq.0 } else { self.fork_from.min(seq.0) };
        self.fork_to = self.fork_to.max(seq.0);
        self.forks += 1;
    }

    /// Notes the time at which it began.
    pub fn note(&mut self, now_ms: i64) {
        if *self == Self::default() {
            self.since_ms = now_ms;
        }
    }
}

fn anchor_of(stream: &StreamName, record: &Record) -> Option<Anchor> {
    let stamp = record.stamp_ref().filter(|stamp| stamp.stream == stream.as_str())?;
    let (epoch, seq, crc) = (stamp.epoch.0, stamp.seq.0, stamp.crc.0);
    Some(Anchor { offset: record.offset().0, epoch, seq, crc })
}
