//! Which records of one assigned partition are finished, and what may be committed.
//!
//! A record is registered before it is handed out, and completed with the
//! token it got then. Only the *committable offset* is ever committed: the
//! lowest offset that is not finished. Records that finish out of order are
//! remembered beyond it and survive a restart in the commit's metadata.
//!
//! Offsets that the log does not hold (compacted, aborted, control records)
//! never come; those between two registered ones count as done.
//!
//! Inside, done offsets are bits in blocks of 64 offsets, oldest first. A
//! block that no registered record falls into does not exist, so a hole of a
//! million offsets costs nothing, and looking up an offset in a log without
//! such holes is one index.

use crate::ids::Offset;
use crate::offset_set::OffsetSet;
use std::collections::VecDeque;
use std::ops::Range;

/// Counts the assignments of a partition to this consumer; tokens of an older one are stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssignmentEpoch(pub u64);

/// Proves that a record was registered; completes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// The assignment it was registered under.
    pub assignment: AssignmentEpoch,
    /// The record's offset.
    pub offset: Offset,
}

/// What to do with a record that came from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// Hand it out, and complete it with this token.
    Fresh(Token),
    /// It was finished before (a restored map says so, or it came twice): skip it.
    AlreadyDone,
    /// It came twice and the first copy is still at work: drop this copy.
    InFlight,
}

/// What a completion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completed {
    /// The committable offset rose to this.
    Advanced {
        /// The offset to commit.
        committable: Offset,
    },
    /// The record is done; an older one is not yet.
    Recorded,
    /// The token is of another assignment; nothing changed.
    Stale,
    /// The record was done already; nothing changed.
    Repeated,
    /// The record was never registered; nothing changed.
    Unknown,
}

/// What to commit: the offset, and what is finished beyond it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The lowest offset not finished.
    pub committable: Offset,
    /// Finished offsets above it; holes between registered records count as finished.
    pub done: OffsetSet,
}

/// 64 offsets, from `index * 64` on.
#[derive(Debug, Clone, Copy)]
struct Block {
    index: i64,
    done: u64,
}

const ALL_DONE: u64 = u64::MAX;

/// Tracks the records of one partition for as long as it is assigned.
///
/// ```
/// use homing_core::{AssignmentEpoch, Completed, Offset, Registered, Tracker};
/// let mut tracker = Tracker::new(AssignmentEpoch(1), Offset(10));
/// let Registered::Fresh(first) = tracker.register(Offset(10)) else { unreachable!() };
/// let Registered::Fresh(second) = tracker.register(Offset(11)) else { unreachable!() };
/// assert_eq!(tracker.complete(second), Completed::Recorded);
/// assert_eq!(tracker.committable(), Offset(10));
/// assert_eq!(tracker.complete(first), Completed::Advanced { committable: Offset(12) });
/// ```
#[derive(Debug, Clone)]
pub struct Tracker {
    assignment: AssignmentEpoch,
    /// All below is finished.
    committable: Offset,
    /// All below was registered or is a hole; `committable <= next`.
    next: Offset,
    /// From the block of `committable` to the block of `next - 1`. Bits below
    /// `committable` are set, bits from `next` on are clear. Blocks left out are done.
    blocks: VecDeque<Block>,
    in_flight: usize,
    /// What the restored map says is done and has not come again yet, lowest first.
    restored: VecDeque<Range<Offset>>,
}

impl Tracker {
    /// Starts at `base`, the offset the partition is read from; all below counts as finished.
    ///
    /// # Panics
    /// When `base` is negative: a symbolic position is no offset.
    #[must_use]
    pub fn new(assignment: AssignmentEpoch, base: Offset) -> Self {
        Self::restore(assignment, base, &OffsetSet::new())
    }

    /// Starts at `base` and knows that the records in `done` need no work.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn restore(assignment: AssignmentEpoch, base: Offset, done: &OffsetSet) -> Self {
        assert!(base.0 >= 0, "a tracker starts at an offset, not at {base}");
        let restored = done.ranges().filter(|range| range.end > base).collect();
        Self { assignment, committable: base, next: base, blocks: VecDeque::new(), in_flight: 0, restored }
    }

    /// Takes in a record of the log, before it is handed out. Offsets rise.
    ///
    /// Offsets between the one before and this one count as done.
    ///
    /// # Panics
    /// When the offset is negative or `i64::MAX`.
    #[inline]
    pub fn register(&mut self, offset: Offset) -> Registered {
        assert!((0..i64::MAX).contains(&offset.0), "no record has the offset {offset}");
        if offset < self.next {
            return if self.is_done(offset) { Registered::AlreadyDone } else { Registered::InFlight };
        }
        if !self.restored.is_empty() && self.take_restored(offset) {
            self.skip_to(offset.next());
            return Registered::AlreadyDone;
        }
        if offset > self.next {
            self.skip_to(offset);
        }
        self.next = offset.next();
        self.in_flight += 1;
        let index = offset.0 >> 6;
        if self.blocks.back().is_none_or(|block| block.index < index) {
            self.blocks.push_back(Block { index, done: low_bits(offset) });
        }
        Registered::Fresh(Token { assignment: self.assignment, offset })
    }

    /// Says that no record below `position` will come any more but those registered.
    ///
    /// For the end of the log after trailing control records, and for what a
    /// policy skips. Does nothing when `position` is not above the last
    /// registered offset.
    pub fn skip_to(&mut self, position: Offset) {
        if position <= self.next {
            return;
        }
        // A hole in the last block is marked; further blocks of it are left out.
        let (from_index, to_index) = (self.next.0 >> 6, position.0 >> 6);
        let below = if from_index == to_index { low_bits(position) } else { ALL_DONE };
        if let Some(back) = self.blocks.back_mut().filter(|back| back.index == from_index) {
            back.done |= below & !low_bits(self.next);
        }
        self.next = position;
        if self.in_flight == 0 {
            self.committable = position;
            self.blocks.clear();
        }
    }

    /// Forgets what the restored map says from `offset` on.
    ///
    /// For a record that comes with a later leader epoch than the map was
    /// written under: the log was cut and written anew, so the map may speak
    /// of other records.
    pub fn forget_restored_from(&mut self, offset: Offset) {
        while let Some(range) = self.restored.back_mut() {
            if range.start < offset {
                range.end = range.end.min(offset);
                return;
            }
            self.restored.pop_back();
        }
    }

    /// Marks a record as finished.
    #[inline]
    pub fn complete(&mut self, token: Token) -> Completed {
        if token.assignment != self.assignment {
            return Completed::Stale;
        }
        let offset = token.offset;
        if offset >= self.next {
            return Completed::Unknown;
        }
        if offset < self.committable {
            return Completed::Repeated;
        }
        let Some(at) = self.block_of(offset) else {
            return Completed::Repeated;
        };
        let (block, bit) = (&mut self.blocks[at], 1u64 << (offset.0 & 63));
        if block.done & bit != 0 {
            return Completed::Repeated;
        }
        block.done |= bit;
        self.in_flight -= 1;
        if offset == self.committable {
            self.advance();
            return Completed::Advanced { committable: self.committable };
        }
        Completed::Recorded
    }

    /// The assignment this tracker stands for.
    #[must_use]
    pub fn assignment(&self) -> AssignmentEpoch {
        self.assignment
    }

    /// The offset to commit: the lowest that is not finished.
    #[must_use]
    pub fn committable(&self) -> Offset {
        self.committable
    }

    /// The lowest offset that may still come: one above all registered ones.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.next
    }

    /// How many records are registered and not finished.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The oldest record that is registered and not finished: what holds the commit back.
    #[must_use]
    pub fn oldest_unfinished(&self) -> Option<Offset> {
        (self.in_flight > 0).then_some(self.committable)
    }

    /// How many offsets lie between the committable offset and the position.
    #[must_use]
    pub fn span(&self) -> u64 {
        self.next.0.abs_diff(self.committable.0)
    }

    /// The committable offset and all that is done above it, from one moment.
    ///
    /// Restored records that have not come again yet are among them, even one
    /// at the committable offset itself: it rises over them as they come.
    #[must_use]
    pub fn snapshot(&self) -> Progress {
        let mut done = OffsetSet::new();
        let mut covered = self.committable;
        for block in &self.blocks {
            let start = Offset(block.index << 6);
            done.insert_range(covered..start);
            let mut bits = block.done & !low_bits_at(self.committable, start) & low_bits_at(self.next, start);
            while bits != 0 {
                let first = bits.trailing_zeros();
                let run = (!(bits >> first)).trailing_zeros();
                let at = start.0 + i64::from(first);
                done.insert_range(Offset(at)..Offset(at + i64::from(run)));
                let upto = first + run;
                bits = if upto >= 64 { 0 } else { bits & (ALL_DONE << upto) };
            }
            covered = Offset(start.0 + 64).max(self.committable);
        }
        done.insert_range(covered.min(self.next)..self.next);
        for range in &self.restored {
            done.insert_range(range.start.max(self.next)..range.end);
        }
        Progress { committable: self.committable, done }
    }

    fn is_done(&self, offset: Offset) -> bool {
        if offset < self.committable {
            return true;
        }
        match self.block_of(offset) {
            Some(at) => self.blocks[at].done & (1 << (offset.0 & 63)) != 0,
            None => true,
        }
    }

    /// The block an offset falls into; `None` when the whole block is a hole.
    #[inline]
    fn block_of(&self, offset: Offset) -> Option<usize> {
        let index = offset.0 >> 6;
        let first = self.blocks.front()?.index;
        let guess = usize::try_from(index.checked_sub(first)?).ok()?;
        // Blocks that were left out only move a block towards the front.
        match self.blocks.get(guess) {
            Some(block) if block.index == index => Some(guess),
            _ => self.blocks.binary_search_by_key(&index, |block| block.index).ok(),
        }
    }

    /// Moves the committable offset to the first that is not done; its record has just finished.
    fn advance(&mut self) {
        if self.in_flight == 0 {
            self.committable = self.next;
            self.blocks.clear();
            return;
        }
        while let Some(front) = self.blocks.front() {
            if front.done != ALL_DONE {
                let first_open = (front.index << 6) + i64::from(front.done.trailing_ones());
                self.committable = Offset(first_open);
                return;
            }
            self.blocks.pop_front();
        }
        unreachable!("a record in flight has its bit clear in some block");
    }

    /// Says whether the restored map holds `offset`, and forgets ranges below it.
    fn take_restored(&mut self, offset: Offset) -> bool {
        while let Some(range) = self.restored.front() {
            if offset < range.end {
                return range.start <= offset;
            }
            self.restored.pop_front();
        }
        false
    }
}

/// The bits of the offsets below `offset` in its own block.
fn low_bits(offset: Offset) -> u64 {
    (1u64 << (offset.0 & 63)) - 1
}

/// The bits of the offsets below `offset` in the block that starts at `start`.
fn low_bits_at(offset: Offset, start: Offset) -> u64 {
    match offset.0 - start.0 {
        ..=0 => 0,
        64.. => ALL_DONE,
        _ => low_bits(offset),
    }
}
