//! Continuity of one lane: the contiguous watermark and the gaps above it.

use super::memory::{Fingerprint, Memory};
use super::{ConfirmedGap, FilledBy, GapState, Limits, Observation, OpenGap, Precision, Seen, StartPolicy};
use crate::ids::Seq;
use std::collections::VecDeque;

/// Numbers that are missing, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) since_ms: i64,
    pub(super) state: GapState,
    pub(super) precision: Precision,
}

/// Numbers up to `to` were sent, as somebody who knows said at `since_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) to: u64,
    pub(super) since_ms: i64,
}

/// How many statements of [`LaneDetector::expected_through`] are kept apart.
const EXPECTED_MAX: usize = 16;

/// Watches one lane for missing, repeated and foreign numbers.
///
/// ```
/// use homing_core::gap::{Limits, Observation, Seen, StartPolicy};
/// use homing_core::{Flags, LaneDetector, Offset, PayloadCrc, Seq};
/// let mut lane = LaneDetector::new(StartPolicy::FromFirst, Limits::default());
/// let mut said = Vec::new();
/// for seq in [1, 2, 5] {
///     let crc = PayloadCrc(7);
///     let offset = Offset(seq as i64);
///     let flags = Flags::default();
///     lane.observe(&Seen { seq: Seq(seq), id: None, crc, data_crc: crc, offset, flags, at_ms: 0 }, &mut said);
/// }
/// assert_eq!(said[2], Observation::GapOpened { from: Seq(3), to: Seq(4) });
/// assert_eq!(lane.watermark(), Some(Seq(2)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneDetector {
    pub(super) limits: Limits,
    /// The first number that counts; `None` until a reader that started mid-lane reads one.
    pub(super) start: Option<u64>,
    /// The highest number that was read, voided, or is in a gap; `start - 1` at first.
    pub(super) high: u64,
    /// Within `start..=high`, lowest first, with something read or voided between any two.
    pub(super) gaps: Vec<Gap>,
    /// Ranges above `high` that were voided, lowest first, apart from one another.
    pub(super) voided_ahead: Vec<(u64, u64)>,
    /// The highest number that was voided and forgotten, 0 at first.
    pub(super) voided_forgotten: u64,
    /// Above `high`, rising in `to`.
    pub(super) expected: VecDeque<Expected>,
    /// The highest offset of the lane's records, -1 before the first.
    pub(super) offset_high: i64,
    /// The last number, once the epoch is closed.
    pub(super) last: Option<u64>,
    /// How many numbers within `start..=high` are in no gap although they were not read.
    pub(super) unread: u64,
    pub(super) memory: Memory,
}

/// Why `high` rises to a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Raised {
    /// It was read.
    Read,
    /// It is in a gap, or voided.
    Passed,
}

impl LaneDetector {
    /// Starts without having read anything.
    #[must_use]
    pub fn new(start: StartPolicy, limits: Limits) -> Self {
        Self {
            limits,
            start: (start == StartPolicy::FromFirst).then_some(1),
            high: 0,
            gaps: Vec::new(),
            voided_ahead: Vec::new(),
            voided_forgotten: 0,
            expected: VecDeque::new(),
            offset_high: -1,
            last: None,
            unread: 0,
            memory: Memory::new(limits.memory),
        }
    }

    /// Takes in a record that was read; appends what it means to `out`.
    #[inline]
    pub fn observe(&mut self, seen: &Seen, out: &mut Vec<Observation>) {
        let seq = seen.seq.0;
        let went_back = seen.offset.0 <= self.offset_high;
        self.offset_high = self.offset_high.max(seen.offset.0);
        let intact = seen.crc == seen.data_crc && self.last.is_none();
        if intact && self.start.is_some() && self.high.checked_add(1) == Some(seq) {
            self.memory.remember(seq, Fingerprint::of(seen));
            self.raise(seq, Raised::Read);
            out.push(Observation::Advanced);
            return;
        }
        self.observe_unusual(seen, went_back, out);
    }

    fn observe_unusual(&mut self, seen: &Seen, went_back: bool, out: &mut Vec<Observation>) {
        let seq = seen.seq.0;
        if let Some(last) = self.last.filter(|last| seq > *last) {
            return out.push(Observation::BeyondEnd { last: Seq(last) });
        }
        let start = match self.start {
            _ if seq == 0 => return out.push(Observation::BeforeStart),
            Some(start) => start,
            None => self.begin(seq, out),
        };
        if seen.crc != seen.data_crc {
            out.push(Observation::Corrupted);
            if seq > self.high {
                self.open_through(seq, seen.at_ms, out);
            }
            return;
        }
        if seq < start {
            return out.push(Observation::BeforeStart);
        }
        let (is, was) = (Fingerprint::of(seen), self.memory.recall(seq));
        if let Some(was) = was.filter(|was| !was.agrees(&is)) {
            return out.push(Observation::Fork { was, is });
        }
        self.memory.remember(seq, is);
        if seq > self.high {
            if seq - self.high > 1 {
                self.open_through(seq - 1, seen.at_ms, out);
            } else {
                out.push(Observation::Advanced);
            }
            match self.high < seq {
                true => self.raise(seq, Raised::Read),
                // Passed with the voided numbers before it, as one of them.
                false => self.unread -= 1,
            }
        } else if self.fill(seq, out) {
            let by = if seen.flags.replay { FilledBy::Repaired } else { FilledBy::Late };
            out.push(Observation::Filled { by });
            if by == FilledBy::Late && !went_back {
                out.push(Observation::Reordered { after: Seq(self.high) });
            }
        } else if went_back {
            out.push(Observation::Reread);
        } else {
            out.push(Observation::Duplicate { compared: was.is_some() });
        }
    }

    /// Starts a lane that is read from somewhere within, with the first number that is read, 1 or more.
    fn begin(&mut self, seq: u64, out: &mut Vec<Observation>) -> u64 {
        self.start = Some(seq);
        self.high = seq - 1;
        self.voided_ahead.retain_mut(|(from, to)| {
            *from = seq.max(*from);
            *to >= seq
        });
        if seq > 1 {
            out.push(Observation::UnverifiedBefore(Seq(seq)));
        }
        seq
    }

    /// Takes in that no message bears this number: it is not missing.
    pub fn voided(&mut self, seq: Seq, out: &mut Vec<Observation>) {
        let seq = seq.0;
        if seq < self.start.unwrap_or(1) {
            return;
        }
        if self.start.is_some() && seq <= self.high {
            if self.fill(seq, out) {
                self.unread += 1;
                out.push(Observation::Filled { by: FilledBy::Voided });
            }
            return;
        }
        insert_range(&mut self.voided_ahead, (seq, seq));
        if self.start.is_some() {
            self.raise(self.high, Raised::Passed);
        }
        self.forget_voided(out);
    }

    /// Takes in that the numbers `from` to `to` are not asked for any more: whoever answers for the
    /// lane knows what became of them, or accepts their loss. Says whether any of them was missing
    /// or would have been.
    pub fn excuse(&mut self, from: Seq, to: Seq) -> bool {
        let (from, to) = (from.0.max(self.start.unwrap_or(1)), to.0);
        if from > to {
            return false;
        }
        let known = if self.start.is_some() { self.high } else { 0 };
        let freed = self.take_out(from, to.min(known));
        self.unread += freed;
        let ahead = (from.max(known.saturating_add(1)), to);
        if ahead.0 > ahead.1 || self.voided_ahead.iter().any(|of| of.0 <= ahead.0 && ahead.1 <= of.1) {
            return freed > 0;
        }
        insert_range(&mut self.voided_ahead, ahead);
        if self.start.is_some() {
            self.raise(self.high, Raised::Passed);
        }
        self.forget_voided(&mut Vec::new());
        true
    }

    /// Takes in that all numbers up to `seq` were sent, as the outbox or ledger knows.
    ///
    /// What is not read within the grace from `at_ms` on becomes a gap, though
    /// no higher number ever comes: the last messages of a quiet partition.
    /// Says nothing to a reader that started mid-lane and has read nothing yet.
    pub fn expected_through(&mut self, seq: Seq, at_ms: i64) {
        let known = self.expected.back().map_or(self.high, |expected| expected.to);
        if self.start.is_none() || seq.0 <= known {
            return;
        }
        let full = self.expected.len() >= EXPECTED_MAX;
        match self.expected.back_mut().filter(|_| full) {
            Some(newest) => newest.to = seq.0,
            None => self.expected.push_back(Expected { to: seq.0, since_ms: at_ms }),
        }
    }

    /// Takes in that the epoch ended with number `last`; 0 when it had none.
    pub fn close(&mut self, last: Seq, at_ms: i64) {
        self.expected_through(last, at_ms);
        self.last = Some(last.0);
    }

    /// Makes gaps certain that are open for `grace_ms`; returns each gap once.
    ///
    /// A gap that was widened after it was returned is returned again.
    pub fn confirm(&mut self, now_ms: i64, grace_ms: u64) -> Vec<ConfirmedGap> {
        self.confirm_through(Seq(u64::MAX), now_ms, grace_ms)
    }

    /// As [`confirm`](Self::confirm), but only what is missing up to `last`: what is above may
    /// still be sent. A gap on both sides of it becomes two.
    pub fn confirm_through(&mut self, last: Seq, now_ms: i64, grace_ms: u64) -> Vec<ConfirmedGap> {
        let over =
            |since_ms: i64| now_ms.saturating_sub(since_ms) >= i64::try_from(grace_ms).unwrap_or(i64::MAX);
        let mut unused = Vec::new();
        while let Some(expected) =
            self.expected.front().copied().filter(|expected| expected.to <= last.0 && over(expected.since_ms))
        {
            self.expected.pop_front();
            if expected.to > self.high {
                self.open_through(expected.to, expected.since_ms, &mut unused);
            }
        }
        let astride = |gap: &Gap| gap.from <= last.0 && gap.to > last.0 && gap.state == GapState::Suspect;
        if let Some(at) = self.gaps.iter().position(|gap| astride(gap) && over(gap.since_ms)) {
            let above = Gap { from: last.0 + 1, ..self.gaps[at] };
            self.gaps[at].to = last.0;
            self.gaps.insert(at + 1, above);
        }
        let ripe = self
            .gaps
            .iter_mut()
            .filter(|gap| gap.state == GapState::Suspect && gap.to <= last.0 && over(gap.since_ms));
        ripe.map(|gap| {
            gap.state = GapState::Confirmed;
            let Gap { from, to, since_ms, precision, .. } = *gap;
            ConfirmedGap { from: Seq(from), to: Seq(to), since_ms, precision }
        })
        .collect()
    }

    /// The number up to which none is missing; `None` when not even the first is there.
    #[must_use]
    pub fn watermark(&self) -> Option<Seq> {
        let start = self.start?;
        let contiguous = self.gaps.first().map_or(self.high, |gap| gap.from - 1);
        (contiguous >= start).then_some(Seq(contiguous))
    }

    /// How many numbers were read, each counted once, as far as is remembered for certain.
    #[must_use]
    pub fn read_count(&self) -> u64 {
        let Some(start) = self.start else { return 0 };
        let missing: u64 = self.gaps.iter().map(|gap| gap.to - gap.from + 1).sum();
        (self.high + 1).saturating_sub(start).saturating_sub(missing).saturating_sub(self.unread)
    }

    /// The first number that is judged; `None` before a reader that started mid-lane reads one.
    #[must_use]
    pub fn verified_from(&self) -> Option<Seq> {
        self.start.map(Seq)
    }

    /// The highest number known of; `None` when nothing is.
    #[must_use]
    pub fn highest(&self) -> Option<Seq> {
        self.start.filter(|start| self.high >= *start).map(|_| Seq(self.high))
    }

    /// The gaps, lowest first; with what is expected and not read yet as the last.
    pub fn open_gaps(&self) -> impl Iterator<Item = OpenGap> + '_ {
        let tail = self.expected.back().zip(self.expected.front()).map(|(newest, oldest)| OpenGap {
            from: Seq(self.high + 1),
            to: Seq(newest.to),
            since_ms: oldest.since_ms,
            state: GapState::Suspect,
            precision: match self.voided_ahead.is_empty() && self.voided_forgotten <= self.high {
                true => Precision::Exact,
                false => Precision::Coarse,
            },
        });
        let gaps = self.gaps.iter().map(|gap| {
            let Gap { from, to, since_ms, state, precision } = *gap;
            OpenGap { from: Seq(from), to: Seq(to), since_ms, state, precision }
        });
        gaps.chain(tail)
    }

    /// Moves `high` up to `seq` and over what was voided right behind it.
    #[inline]
    fn raise(&mut self, seq: u64, why: Raised) {
        self.high = self.high.max(seq);
        if !self.voided_ahead.is_empty() {
            let (high, unread) = (&mut self.high, &mut self.unread);
            self.voided_ahead.retain_mut(|(from, to)| {
                if *from <= high.saturating_add(1) {
                    *high = (*high).max(*to);
                    *unread = unread.saturating_add((*to - *from).saturating_add(1));
                    *unread -= u64::from(why == Raised::Read && (*from..=*to).contains(&seq));
                }
                *from > *high
            });
        }
        while self.expected.front().is_some_and(|expected| expected.to <= self.high) {
            self.expected.pop_front();
        }
    }

    /// Lets the highest voided numbers go when there are too many ranges of them.
    ///
    /// They become gaps when they are passed: too much seems missing, never too little.
    pub(super) fn forget_voided(&mut self, out: &mut Vec<Observation>) {
        while self.voided_ahead.len() > self.limits.gaps_max.max(1) {
            let Some((from, to)) = self.voided_ahead.pop() else { return };
            self.voided_forgotten = self.voided_forgotten.max(to);
            out.push(Observation::VoidForgotten { from: Seq(from), to: Seq(to) });
        }
    }

    /// Opens gaps for all above `high` through `to` that is not voided; `high` becomes `to`.
    fn open_through(&mut self, to: u64, at_ms: i64, out: &mut Vec<Observation>) {
        let mut from = self.high + 1;
        let voided = std::mem::take(&mut self.voided_ahead);
        for (void_from, void_to) in &voided {
            if *void_from > to {
                break;
            }
            self.open(from, *void_from - 1, at_ms, out);
            from = void_to.saturating_add(1);
        }
        self.open(from, to, at_ms, out);
        self.voided_ahead = voided;
        self.raise(to, Raised::Passed);
    }

    fn open(&mut self, from: u64, to: u64, at_ms: i64, out: &mut Vec<Observation>) {
        if from > to {
            return;
        }
        let precision = if from > self.voided_forgotten { Precision::Exact } else { Precision::Coarse };
        let gap = Gap { from, to, since_ms: at_ms, state: GapState::Suspect, precision };
        out.push(Observation::GapOpened { from: Seq(from), to: Seq(to) });
        self.gaps.push(gap);
        self.coarsen(out);
    }

    /// Takes a number out of the gap it is in, if it is in one.
    fn fill(&mut self, seq: u64, out: &mut Vec<Observation>) -> bool {
        let at = self.gaps.partition_point(|gap| gap.to < seq);
        let Some(gap) = self.gaps.get_mut(at).filter(|gap| gap.from <= seq) else {
            return false;
        };
        if gap.from == gap.to {
            self.gaps.remove(at);
        } else if gap.from == seq {
            gap.from += 1;
        } else if gap.to == seq {
            gap.to -= 1;
        } else {
            let above = Gap { from: seq + 1, ..*gap };
            gap.to = seq - 1;
            self.gaps.insert(at + 1, above);
            self.coarsen(out);
        }
        true
    }

    /// Takes a range out of the gaps; returns how many numbers of it were in one.
    fn take_out(&mut self, from: u64, to: u64) -> u64 {
        let mut freed = 0;
        let mut left = Vec::with_capacity(self.gaps.len());
        for gap in std::mem::take(&mut self.gaps) {
            if from > to || gap.to < from || gap.from > to {
                left.push(gap);
                continue;
            }
            freed += gap.to.min(to) - gap.from.max(from) + 1;
            if gap.from < from {
                left.push(Gap { to: from - 1, ..gap });
            }
            if gap.to > to {
                left.push(Gap { from: to + 1, ..gap });
            }
        }
        self.gaps = left;
        self.coarsen(&mut Vec::new());
        freed
    }

    /// Makes one of two gaps, with the fewest numbers read between them, until there are few enough.
    pub(super) fn coarsen(&mut self, out: &mut Vec<Observation>) {
        while self.gaps.len() > self.limits.gaps_max.max(1) {
            let between = |at: &usize| self.gaps[at + 1].from - self.gaps[*at].to - 1;
            let Some(at) = (0..self.gaps.len() - 1).min_by_key(between) else { return };
            let above = self.gaps.remove(at + 1);
            let gap = &mut self.gaps[at];
            gap.since_ms = gap.since_ms.min(above.since_ms);
            if above.from - gap.to > 1 || above.precision == Precision::Coarse {
                gap.precision = Precision::Coarse;
            }
            gap.to = above.to;
            if above.state == GapState::Suspect {
                gap.state = GapState::Suspect;
            }
            out.push(Observation::Coarsened { from: Seq(gap.from), to: Seq(gap.to) });
        }
    }
}

/// Adds a range to sorted ranges that do not touch.
fn insert_range(ranges: &mut Vec<(u64, u64)>, (mut from, mut to): (u64, u64)) {
    let first = ranges.partition_point(|range| range.1.saturating_add(1) < from);
    let end = ranges.partition_point(|range| range.0 <= to.saturating_add(1));
    if first < end {
        from = from.min(ranges[first].0);
        to = to.max(ranges[end - 1].1);
    }
    ranges.splice(first..end, [(from, to)]);
}
