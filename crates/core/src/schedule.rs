//! Decides which records may start now, so that those of one key run in order and never at once.
//!
//! The caller keeps the records in a slab and names each by its index there,
//! the *handle*. Records of one [`LaneHash`] stand in one lane, first come,
//! first served, one at a time; records without a lane start at once. What may
//! start is returned as a [`Start`]; the caller puts it into the queue its
//! workers take from, so records of many lanes run side by side. How many are
//! in flight is the caller's limit.
//!
//! | a record is | until | then |
//! |---|---|---|
//! | queued | the ones before it in its lane are gone | `Start` |
//! | running | [`finished`](Schedule::finished) | it leaves; the next of its lane starts |
//! | running | [`retry_later`](Schedule::retry_later) | delayed, at the head of its lane |
//! | running | [`park`](Schedule::park) | the lane is parked; it starts again, to be set aside |
//! | delayed | [`due`](Schedule::due) | `Start` again; nothing has overtaken it |
//! | queued, delayed | [`remove`](Schedule::remove) | it leaves without having been worked on |
//!
//! In a parked lane every record starts as [`Start::SetAside`]: the caller
//! writes it to where the first one went, in order, then calls `finished`. The
//! lane stays parked, even when it is empty, until [`unpark`](Schedule::unpark).
//!
//! No call allocates but to grow; all cost O(1), those on delayed records
//! O(log n), `remove` O(n).

use crate::ids::Partition;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Which records wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProcessingOrder {
    /// Records of one key in one partition run one after the other, in offset
    /// order; other records run beside them. Records without a key wait for none.
    #[default]
    Key,
    /// Records of one partition run one after the other, in offset order.
    Partition,
    /// Records run in any order, all beside one another.
    Unordered,
}

impl ProcessingOrder {
    /// The lane of a record; `None` when it waits for no other.
    ///
    /// `topic` is any number that stands for the topic in this process.
    #[inline]
    #[must_use]
    pub fn lane(self, topic: u32, partition: Partition, key: Option<&[u8]>) -> Option<LaneHash> {
        match (self, key) {
            (Self::Key, Some(key)) => Some(LaneHash::of(topic, partition, key)),
            (Self::Partition, _) => Some(LaneHash::of(topic, partition, &[])),
            (Self::Key, None) | (Self::Unordered, _) => None,
        }
    }
}

/// Names a lane of the schedule by topic, partition and key.
///
/// Two keys with one hash share a lane: they run in turn, which costs time only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneHash(pub u64);

impl LaneHash {
    /// Hashes what names a lane; the same in every process of this version.
    #[inline]
    #[must_use]
    pub fn of(topic: u32, partition: Partition, key: &[u8]) -> Self {
        const A: u64 = 0x9e37_79b9_7f4a_7c15;
        const B: u64 = 0xd6e8_feb8_6659_fd93;
        let place = u64::from(topic) << 32 | u64::from(partition.0 as u32);
        let mut hash = fold(place ^ A, key.len() as u64 ^ B);
        let (words, tail) = key.as_chunks::<8>();
        for word in words {
            hash = fold(hash ^ u64::from_le_bytes(*word), B);
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        Self(fold(hash ^ u64::from_le_bytes(last), A))
    }
}

/// A record that may start now, by its handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// Give it to the handler.
    Run(u32),
    /// Its lane is parked: set it aside without handling it.
    SetAside(u32),
}

impl Start {
    /// The record's handle.
    #[must_use]
    pub fn handle(self) -> u32 {
        match self {
            Self::Run(handle) | Self::SetAside(handle) => handle,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Queued,
    Running,
    Delayed,
}

/// One record; its index is its handle.
#[derive(Debug, Clone, Copy)]
struct Slot {
    state: State,
    lane: u32,
    /// The next record of the lane.
    next: u32,
    /// Counts the delays of this slot, so that an old one is told from the present.
    delays: u32,
}

#[derive(Debug, Clone, Copy)]
struct LaneQueue {
    hash: u64,
    /// The record that runs or is delayed; `NONE` when the lane is empty.
    head: u32,
    tail: u32,
    parked: bool,
}

const NONE: u32 = u32::MAX;
const ABSENT: Slot = Slot { state: State::Absent, lane: NONE, next: NONE, delays: 0 };

/// The lanes and the records in them.
///
/// ```
/// use homing_core::schedule::{LaneHash, Schedule, Start};
/// let mut schedule = Schedule::new();
/// let lane = Some(LaneHash(7));
/// assert_eq!(schedule.push(0, lane), Some(Start::Run(0)));
/// assert_eq!(schedule.push(1, lane), None);
/// schedule.retry_later(0, 500);
/// assert_eq!(schedule.due(499), None);
/// assert_eq!(schedule.due(500), Some(Start::Run(0)));
/// assert_eq!(schedule.finished(0), Some(Start::Run(1)));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    slots: Vec<Slot>,
    lanes: Vec<LaneQueue>,
    lanes_free: Vec<u32>,
    index: HashMap<u64, u32, BuildHasherDefault<AlreadyHashed>>,
    /// (due, handle, the slot's count of delays).
    delayed: BinaryHeap<Reverse<(u64, u32, u32)>>,
    len: usize,
}

impl Schedule {
    /// An empty schedule.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a record; says whether it may start at once.
    ///
    /// # Panics
    /// When the handle is in use, or is `u32::MAX`.
    #[inline]
    pub fn push(&mut self, handle: u32, lane: Option<LaneHash>) -> Option<Start> {
        assert!(handle != NONE, "u32::MAX is no handle");
        let at = handle as usize;
        if at >= self.slots.len() {
            self.slots.resize(at + 1, ABSENT);
        }
        assert!(self.slots[at].state == State::Absent, "handle {handle} is pushed twice");
        self.len += 1;
        let slot = &mut self.slots[at];
        slot.next = NONE;
        let Some(hash) = lane else {
            slot.state = State::Running;
            slot.lane = NONE;
            return Some(Start::Run(handle));
        };
        let lane = self.lane_of(hash);
        let (slot, queue) = (&mut self.slots[at], &mut self.lanes[lane as usize]);
        slot.lane = lane;
        if queue.head == NONE {
            (queue.head, queue.tail) = (handle, handle);
            slot.state = State::Running;
            return Some(queue.start_of(handle));
        }
        slot.state = State::Queued;
        let before = std::mem::replace(&mut queue.tail, handle);
        self.slots[before as usize].next = handle;
        None
    }

    /// Lets a running record go; says which of its lane may start now.
    ///
    /// # Panics
    /// When the record is not running: it would be completed twice.
    #[inline]
    pub fn finished(&mut self, handle: u32) -> Option<Start> {
        let slot = self.running(handle);
        slot.state = State::Absent;
        let (lane, next) = (slot.lane, slot.next);
        self.len -= 1;
        if lane == NONE { None } else { self.start_next(lane, next) }
    }

    /// Puts a running record back to the head of its lane until `due_ms`.
    ///
    /// # Panics
    /// When the record is not running.
    pub fn retry_later(&mut self, handle: u32, due_ms: u64) {
        let slot = self.running(handle);
        slot.state = State::Delayed;
        slot.delays = slot.delays.wrapping_add(1);
        let entry = (due_ms, handle, slot.delays);
        self.delayed.push(Reverse(entry));
    }

    /// The delayed record that is due first and may start again now; `None` when none is due.
    pub fn due(&mut self, now_ms: u64) -> Option<Start> {
        if self.next_due_ms()? > now_ms {
            return None;
        }
        let Reverse((_, handle, _)) = self.delayed.pop()?;
        let slot = &mut self.slots[handle as usize];
        slot.state = State::Running;
        Some(match slot.lane {
            NONE => Start::Run(handle),
            lane => self.lanes[lane as usize].start_of(handle),
        })
    }

    /// When the first delayed record is due.
    pub fn next_due_ms(&mut self) -> Option<u64> {
        while let Some(Reverse((due_ms, handle, delays))) = self.delayed.peek() {
            let slot = &self.slots[*handle as usize];
            if slot.state == State::Delayed && slot.delays == *delays {
                return Some(*due_ms);
            }
            self.delayed.pop();
        }
        None
    }

    /// Parks the lane of a running record: it and all after it are set aside.
    ///
    /// The record stays the running one of its lane and is to be set aside first.
    ///
    /// # Panics
    /// When the record is not running.
    pub fn park(&mut self, handle: u32) -> Start {
        let lane = self.running(handle).lane;
        if lane != NONE {
            self.lanes[lane as usize].parked = true;
        }
        Start::SetAside(handle)
    }

    /// Parks a lane that may be empty, as after a restart.
    ///
    /// A record of it that runs already is not called back.
    pub fn park_lane(&mut self, lane: LaneHash) {
        let lane = self.lane_of(lane);
        self.lanes[lane as usize].parked = true;
    }

    /// Ends the parking of a lane; records of it that have not started yet run again.
    pub fn unpark(&mut self, lane: LaneHash) {
        let Some(lane) = self.index.get(&lane.0).copied() else { return };
        self.lanes[lane as usize].parked = false;
        if self.lanes[lane as usize].head == NONE {
            self.drop_lane(lane);
        }
    }

    /// Says whether the lane is parked.
    #[must_use]
    pub fn is_parked(&self, lane: LaneHash) -> bool {
        self.index.get(&lane.0).is_some_and(|lane| self.lanes[*lane as usize].parked)
    }

    /// Takes out all queued and delayed records that `unwanted` names, as when their partition is revoked.
    ///
    /// Appends their handles to `removed`, in order within each lane, and what
    /// may start in their place to `starts`. Running records stay until they
    /// finish. A parked lane stays parked.
    pub fn remove(
        &mut self,
        mut unwanted: impl FnMut(u32) -> bool,
        removed: &mut Vec<u32>,
        starts: &mut Vec<Start>,
    ) {
        let before = removed.len();
        for lane in 0..self.lanes.len() as u32 {
            self.remove_from_lane(lane, &mut unwanted, removed, starts);
        }
        for handle in 0..self.slots.len() as u32 {
            let slot = &mut self.slots[handle as usize];
            if slot.lane == NONE && slot.state == State::Delayed && unwanted(handle) {
                slot.state = State::Absent;
                removed.push(handle);
            }
        }
        self.len -= removed.len() - before;
    }

    /// How many records are queued, running or delayed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether no record is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many lanes hold a record or are parked.
    #[must_use]
    pub fn lane_count(&self) -> usize {
        self.index.len()
    }

    fn running(&mut self, handle: u32) -> &mut Slot {
        let slot = self.slots.get_mut(handle as usize).filter(|slot| slot.state == State::Running);
        slot.unwrap_or_else(|| panic!("handle {handle} is not running"))
    }

    #[inline]
    fn lane_of(&mut self, hash: LaneHash) -> u32 {
        let (lanes, free) = (&mut self.lanes, &mut self.lanes_free);
        *self.index.entry(hash.0).or_insert_with(|| {
            let empty = LaneQueue { hash: hash.0, head: NONE, tail: NONE, parked: false };
            if let Some(lane) = free.pop() {
                lanes[lane as usize] = empty;
                return lane;
            }
            lanes.push(empty);
            (lanes.len() - 1) as u32
        })
    }

    /// Makes `next` the head of the lane and starts it; without one the lane goes.
    #[inline]
    fn start_next(&mut self, lane: u32, next: u32) -> Option<Start> {
        let queue = &mut self.lanes[lane as usize];
        queue.head = next;
        if next != NONE {
            self.slots[next as usize].state = State::Running;
            return Some(queue.start_of(next));
        }
        queue.tail = NONE;
        if !queue.parked {
            self.drop_lane(lane);
        }
        None
    }

    fn drop_lane(&mut self, lane: u32) {
        self.index.remove(&self.lanes[lane as usize].hash);
        self.lanes_free.push(lane);
    }

    fn remove_from_lane(
        &mut self,
        lane: u32,
        unwanted: &mut impl FnMut(u32) -> bool,
        removed: &mut Vec<u32>,
        starts: &mut Vec<Start>,
    ) {
        let head = self.lanes[lane as usize].head;
        let (mut first, mut last, mut at) = (NONE, NONE, head);
        while at != NONE {
            let Slot { state, next, .. } = self.slots[at as usize];
            if state != State::Running && unwanted(at) {
                self.slots[at as usize].state = State::Absent;
                removed.push(at);
            } else {
                match last {
                    NONE => first = at,
                    last => self.slots[last as usize].next = at,
                }
                last = at;
            }
            at = next;
        }
        if head == NONE {
            return;
        }
        if last != NONE {
            self.slots[last as usize].next = NONE;
        }
        self.lanes[lane as usize].tail = last;
        if first != head {
            starts.extend(self.start_next(lane, first));
        }
    }
}

impl LaneQueue {
    fn start_of(&self, handle: u32) -> Start {
        if self.parked { Start::SetAside(handle) } else { Start::Run(handle) }
    }
}

/// Takes a lane's hash as it is.
#[derive(Debug, Clone, Copy, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = fold(self.0 ^ u64::from(*byte), 0xd6e8_feb8_6659_fd93));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
