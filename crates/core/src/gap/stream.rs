//! Continuity of a partition: its streams, and each stream's epochs.

use super::lane::LaneDetector;
use super::{Limits, Observation, Seen, StartPolicy};
use crate::ids::{Epoch, Offset, Partition, StreamName};
use crate::stamp::StampRef;

/// One epoch of a stream: its lane, and the offset of its first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EpochLane {
    pub(super) epoch: Epoch,
    pub(super) began_at: i64,
    pub(super) lane: LaneDetector,
}

/// Watches one stream in one partition, over its epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamDetector {
    pub(super) start: StartPolicy,
    pub(super) limits: Limits,
    /// Lowest epoch first.
    pub(super) epochs: Vec<EpochLane>,
}

impl StreamDetector {
    /// Starts without having read anything.
    #[must_use]
    pub fn new(start: StartPolicy, limits: Limits) -> Self {
        Self { start, limits, epochs: Vec::new() }
    }

    /// Takes in a record of this stream; appends what it means to `out`.
    ///
    /// A record of an older epoch that stands in the log behind the newer
    /// epoch's first one is a zombie's, unless a repair sent it. Its number
    /// still counts for its own epoch.
    #[inline]
    pub fn observe(&mut self, epoch: Epoch, seen: &Seen, out: &mut Vec<Observation>) {
        match self.epochs.last_mut() {
            Some(newest) if newest.epoch == epoch => newest.lane.observe(seen, out),
            Some(newest) if newest.epoch > epoch => self.observe_older(epoch, seen, out),
            _ => self.begin(epoch, seen, out),
        }
    }

    /// The lane of an epoch that is remembered.
    #[must_use]
    pub fn lane(&self, epoch: Epoch) -> Option<&LaneDetector> {
        let at = self.epochs.binary_search_by_key(&epoch, |of| of.epoch).ok()?;
        Some(&self.epochs[at].lane)
    }

    /// The lane of an epoch that is remembered, to tell it what else is known.
    pub fn lane_mut(&mut self, epoch: Epoch) -> Option<&mut LaneDetector> {
        let at = self.epochs.binary_search_by_key(&epoch, |of| of.epoch).ok()?;
        Some(&mut self.epochs[at].lane)
    }

    /// The lanes that are remembered, oldest epoch first.
    pub fn lanes(&self) -> impl DoubleEndedIterator<Item = (Epoch, &LaneDetector)> + ExactSizeIterator {
        self.epochs.iter().map(|of| (of.epoch, &of.lane))
    }

    /// All lanes that are remembered, to confirm their gaps.
    pub fn lanes_mut(
        &mut self,
    ) -> impl DoubleEndedIterator<Item = (Epoch, &mut LaneDetector)> + ExactSizeIterator {
        self.epochs.iter_mut().map(|of| (of.epoch, &mut of.lane))
    }

    /// The lane of an epoch that has sent, as the outbox or ledger knows, though nothing of it was
    /// read up to the offset `read_to`: its number 1 must come. `None` when it is too old to be
    /// remembered.
    pub fn expect(&mut self, epoch: Epoch, read_to: Offset) -> Option<&mut LaneDetector> {
        if let Err(at) = self.epochs.binary_search_by_key(&epoch, |of| of.epoch) {
            if self.epochs.len() >= self.limits.epochs_max.max(1) {
                if at == 0 {
                    return None;
                }
                self.epochs.remove(0);
            }
            let at = self.epochs.partition_point(|of| of.epoch < epoch);
            let lane = LaneDetector::new(StartPolicy::FromFirst, self.limits);
            self.epochs.insert(at, EpochLane { epoch, began_at: read_to.0, lane });
        }
        self.lane_mut(epoch)
    }

    /// The newest epoch.
    #[must_use]
    pub fn newest_epoch(&self) -> Option<Epoch> {
        self.epochs.last().map(|of| of.epoch)
    }

    fn begin(&mut self, epoch: Epoch, seen: &Seen, out: &mut Vec<Observation>) {
        // Only the first epoch a reader meets may be under way already.
        let start = if self.epochs.is_empty() { self.start } else { StartPolicy::FromFirst };
        let mut lane = LaneDetector::new(start, self.limits);
        out.push(Observation::EpochBegan(epoch));
        lane.observe(seen, out);
        self.epochs.push(EpochLane { epoch, began_at: seen.offset.0, lane });
        if self.epochs.len() > self.limits.epochs_max.max(1) {
            let oldest = self.epochs.remove(0);
            out.push(Observation::EpochForgotten(oldest.epoch));
        }
    }

    fn observe_older(&mut self, epoch: Epoch, seen: &Seen, out: &mut Vec<Observation>) {
        let newer = self.epochs.iter().filter(|of| of.epoch > epoch);
        let behind_newer = newer.map(|of| of.began_at).min().is_some_and(|began_at| seen.offset.0 > began_at);
        if behind_newer && !seen.flags.replay {
            out.push(Observation::Zombie { newest: self.epochs[self.epochs.len() - 1].epoch });
        }
        if let Some(lane) = self.lane_mut(epoch) {
            lane.observe(seen, out);
        }
    }
}

/// Watches all streams of one partition; its state moves with the partition.
///
/// ```
/// use homing_core::gap::{Limits, Observation, Seen, StartPolicy};
/// use homing_core::{Offset, Partition, PartitionDetector, PayloadCrc, StampRef};
/// let mut detector = PartitionDetector::new(Partition(3), StartPolicy::FromFirst, Limits::default());
/// let stamp = StampRef::decode(b"orders/1/3/1/00000000")?;
/// let mut said = Vec::new();
/// detector.observe(&stamp, &Seen::of(&stamp, PayloadCrc::of(None, None), Offset(0), 0), &mut said);
/// assert_eq!(said.last(), Some(&Observation::Advanced));
/// # Ok::<(), homing_core::StampError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDetector {
    pub(super) partition: Partition,
    pub(super) start: StartPolicy,
    pub(super) limits: Limits,
    /// In the order they were met; few.
    pub(super) streams: Vec<(StreamName, StreamDetector)>,
}

impl PartitionDetector {
    /// Starts without having read anything of `partition`.
    #[must_use]
    pub fn new(partition: Partition, start: StartPolicy, limits: Limits) -> Self {
        Self { partition, start, limits, streams: Vec::new() }
    }

    /// Takes in a stamped record that was read here; appends what it means to `out`.
    #[inline]
    pub fn observe(&mut self, stamp: &StampRef<'_>, seen: &Seen, out: &mut Vec<Observation>) {
        if stamp.partition != self.partition {
            return out.push(Observation::Misplaced { numbered_for: stamp.partition });
        }
        match self.streams.iter_mut().find(|(name, _)| name.as_str() == stamp.stream) {
            Some((_, stream)) => stream.observe(stamp.epoch, seen, out),
            None => self.observe_new(stamp, seen, out),
        }
    }

    /// The partition that is watched.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// Where it began.
    #[must_use]
    pub fn start(&self) -> StartPolicy {
        self.start
    }

    /// One stream, when records of it were read.
    #[must_use]
    pub fn stream(&self, name: &StreamName) -> Option<&StreamDetector> {
        self.streams.iter().find(|(of, _)| of == name).map(|(_, stream)| stream)
    }

    /// One stream, to tell its lanes what else is known.
    pub fn stream_mut(&mut self, name: &StreamName) -> Option<&mut StreamDetector> {
        self.streams.iter_mut().find(|(of, _)| of == name).map(|(_, stream)| stream)
    }

    /// A stream that has sent here, as the outbox or ledger knows, to tell it what else is known;
    /// `None` when there are more streams than are remembered.
    pub fn expect(&mut self, name: &StreamName) -> Option<&mut StreamDetector> {
        if !self.streams.iter().any(|(of, _)| of == name) {
            if self.streams.len() >= self.limits.streams_max.max(1) {
                return None;
            }
            self.streams.push((name.clone(), StreamDetector::new(self.start, self.limits)));
        }
        self.stream_mut(name)
    }

    /// All streams that were met.
    pub fn streams(&self) -> impl ExactSizeIterator<Item = (&StreamName, &StreamDetector)> {
        self.streams.iter().map(|(name, stream)| (name, stream))
    }

    /// All streams that were met, to confirm their gaps.
    pub fn streams_mut(&mut self) -> impl ExactSizeIterator<Item = (&StreamName, &mut StreamDetector)> {
        self.streams.iter_mut().map(|(name, stream)| (&*name, stream))
    }

    fn observe_new(&mut self, stamp: &StampRef<'_>, seen: &Seen, out: &mut Vec<Observation>) {
        if self.streams.len() >= self.limits.streams_max.max(1) {
            return out.push(Observation::StreamUntracked);
        }
        let mut stream = StreamDetector::new(self.start, self.limits);
        stream.observe(stamp.epoch, seen, out);
        self.streams.push((stamp.to_stamp().stream, stream));
    }
}
