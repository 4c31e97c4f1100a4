//! Decides which records may start now: lanes of jobs that wait for one another.
//!
//! A job's lane comes from a hash, so two keys may share one; order is kept
//! all the same, and with thousands of lanes the wait costs little. A lane is
//! in one of four states:
//!
//! ```text
//! idle ──push──▶ ready ──take──▶ running ──finish──▶ idle, or ready when more came
//!                  ▲                │ delay
//!                  └────wake_due── delayed
//! ```
//! `take` hands out a lane's waiting jobs as one run, in order; nobody else
//! gets a job of that lane before the run is finished or delayed. What of a
//! run is not done goes back to the lane's front before either. Jobs without a
//! lane are each on their own.
//!
//! Whole runs are what makes a hot key cheap: one hand-over for all that
//! waited meanwhile, instead of one for each. Jobs lie in one slab and are
//! linked by index: pushing and taking allocate nothing once it has grown.

use crate::ids::Partition;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

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

/// Names a lane by topic, partition and key.
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

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Names a lane among those of one [`Lanes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(u32);

impl From<LaneHash> for LaneId {
    #[inline]
    fn from(LaneHash(hash): LaneHash) -> Self {
        Self((hash >> 40) as u32 & (LANES - 1))
    }
}

/// A job that was handed out, and the lane to report it to.
#[derive(Debug)]
pub struct Taken<T> {
    /// Its lane, `None` when it waits for no other.
    pub lane: Option<LaneId>,
    /// The job.
    pub job: T,
}

/// How many lanes there are; a power of two. More cost memory (12 bytes each), fewer make keys
/// wait for one another by chance.
const LANES: u32 = 1 << 14;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Ready,
    Running,
    Delayed,
}

#[derive(Debug, Clone, Copy)]
struct Lane {
    head: u32,
    tail: u32,
    state: State,
}

#[derive(Debug)]
struct Node<T> {
    job: Option<T>,
    next: u32,
}

/// How much may be handed out at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeLimit {
    /// Jobs in all.
    pub jobs: usize,
    /// Lanes and jobs without a lane: what may run side by side.
    pub turns: usize,
}

/// What waits for its turn: a lane, or a job without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Lane(u32),
    Job(u32),
}

/// Jobs in lanes.
///
/// ```
/// use homing_core::schedule::{LaneHash, Lanes};
/// let mut lanes = Lanes::new();
/// let lane = Some(LaneHash::of(0, homing_core::Partition(0), b"key").into());
/// lanes.push(lane, "first");
/// lanes.push(lane, "second");
/// let mut run = Vec::new();
/// lanes.take(1, &mut run);
/// assert_eq!(run[0].job, "first");
/// lanes.take(1, &mut run);
/// assert_eq!(run.len(), 1, "the second waits until the first is finished");
/// lanes.finish(run[0].lane.expect("it has a lane"));
/// lanes.take(1, &mut run);
/// assert_eq!(run[1].job, "second");
/// ```
#[derive(Debug)]
pub struct Lanes<T> {
    nodes: Vec<Node<T>>,
    free: u32,
    lanes: Vec<Lane>,
    ready: VecDeque<Turn>,
    delayed: BinaryHeap<Reverse<(u64, Turn)>>,
    /// Jobs here, in whatever state, that are not handed out.
    waiting: usize,
    /// Lanes in the state `Running`.
    running: usize,
    /// Jobs without a lane that are handed out and not over.
    alone: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Lanes<T> {
    /// No jobs yet.
    #[must_use]
    pub fn new() -> Self {
        let lane = Lane { head: NONE, tail: NONE, state: State::Idle };
        Self {
            nodes: Vec::new(),
            free: NONE,
            lanes: vec![lane; LANES as usize],
            ready: VecDeque::new(),
            delayed: BinaryHeap::new(),
            waiting: 0,
            running: 0,
            alone: 0,
        }
    }

    /// Adds a job behind all others of its lane.
    #[inline]
    pub fn push(&mut self, lane: Option<LaneId>, job: T) {
        let node = self.store(job);
        let Some(LaneId(id)) = lane else {
            self.ready.push_back(Turn::Job(node));
            return;
        };
        let lane = &mut self.lanes[id as usize];
        if lane.head == NONE {
            lane.head = node;
        } else {
            self.nodes[lane.tail as usize].next = node;
        }
        lane.tail = node;
        if lane.state == State::Idle {
            lane.state = State::Ready;
            self.ready.push_back(Turn::Lane(id));
        }
    }

    /// Moves up to `max` jobs that may start to `out`: whole runs, one lane's jobs side by side.
    pub fn take(&mut self, max: usize, out: &mut impl Extend<Taken<T>>) {
        self.take_within(TakeLimit { jobs: max, turns: usize::MAX }, out);
    }

    /// As [`take`](Self::take), within both limits; returns how many turns were taken: runs of
    /// lanes and jobs without one.
    pub fn take_within(&mut self, limit: TakeLimit, out: &mut impl Extend<Taken<T>>) -> usize {
        let (mut left, mut turns) = (limit.jobs, 0);
        while left > 0 && turns < limit.turns {
            let taken = match self.ready.pop_front() {
                None => break,
                Some(Turn::Job(node)) => {
                    let (job, _) = self.remove(node);
                    out.extend(Some(Taken { lane: None, job }));
                    self.alone += 1;
                    1
                }
                Some(Turn::Lane(id)) => self.take_run(id, left, out),
            };
            left -= taken;
            turns += usize::from(taken > 0);
        }
        turns
    }

    fn take_run(&mut self, id: u32, max: usize, out: &mut impl Extend<Taken<T>>) -> usize {
        let mut node = self.lanes[id as usize].head;
        let mut count = 0;
        while node != NONE && count < max {
            let (job, next) = self.remove(node);
            out.extend(Some(Taken { lane: Some(LaneId(id)), job }));
            node = next;
            count += 1;
        }
        let lane = &mut self.lanes[id as usize];
        lane.head = node;
        lane.state = if count > 0 { State::Running } else { State::Idle };
        self.running += usize::from(count > 0);
        count
    }

    /// Notes that so many jobs without a lane, which were handed out, are over or come back.
    ///
    /// # Panics
    /// When fewer were handed out.
    #[inline]
    pub fn alone_over(&mut self, jobs: usize) {
        assert!(self.alone >= jobs, "only what was handed out can be over");
        self.alone -= jobs;
    }

    /// Ends a lane's run: all its jobs are done with or put back. The next run may start.
    ///
    /// # Panics
    /// When the lane is not running: a run would be ended twice.
    #[inline]
    pub fn finish(&mut self, LaneId(id): LaneId) {
        let lane = &mut self.lanes[id as usize];
        assert!(lane.state == State::Running, "only a running lane can finish, this one is {:?}", lane.state);
        self.running -= 1;
        if lane.head == NONE {
            lane.state = State::Idle;
        } else {
            lane.state = State::Ready;
            self.ready.push_back(Turn::Lane(id));
        }
    }

    /// Puts jobs of a running lane back to its front, in their order; the lane goes on running.
    ///
    /// # Panics
    /// When the lane is not running.
    pub fn put_front(&mut self, LaneId(id): LaneId, jobs: impl DoubleEndedIterator<Item = T>) {
        assert!(self.lanes[id as usize].state == State::Running, "only a running lane takes jobs back");
        for job in jobs.rev() {
            let node = self.store(job);
            let lane = &mut self.lanes[id as usize];
            self.nodes[node as usize].next = lane.head;
            if lane.head == NONE {
                lane.tail = node;
            }
            lane.head = node;
        }
    }

    /// Holds a running lane back until `due_ms`.
    ///
    /// # Panics
    /// When the lane is not running.
    pub fn delay(&mut self, LaneId(id): LaneId, due_ms: u64) {
        let lane = &mut self.lanes[id as usize];
        assert!(lane.state == State::Running, "only a running lane can be delayed");
        lane.state = State::Delayed;
        self.running -= 1;
        self.delayed.push(Reverse((due_ms, Turn::Lane(id))));
    }

    /// Holds a job without a lane back until `due_ms`.
    pub fn delay_job(&mut self, job: T, due_ms: u64) {
        let node = self.store(job);
        self.delayed.push(Reverse((due_ms, Turn::Job(node))));
    }

    /// Makes ready what is due; says whether anything was.
    pub fn wake_due(&mut self, now_ms: u64) -> bool {
        let mut any = false;
        while self.next_due_ms().is_some_and(|due| due <= now_ms) {
            let Some(Reverse((_, turn))) = self.delayed.pop() else { break };
            any = true;
            match turn {
                Turn::Job(_) => self.ready.push_back(turn),
                Turn::Lane(id) => {
                    self.lanes[id as usize].state = State::Running;
                    self.running += 1;
                    self.finish(LaneId(id));
                }
            }
        }
        any
    }

    /// When the next delayed job or lane is due.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.delayed.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes out the waiting jobs that `unwanted` picks; what was handed out is not touched.
    ///
    /// A ready or delayed lane that is left without jobs is idle again.
    pub fn purge(&mut self, mut unwanted: impl FnMut(&T) -> bool, out: &mut Vec<T>) {
        for id in 0..self.lanes.len() {
            let mut node = std::mem::replace(&mut self.lanes[id].head, NONE);
            self.lanes[id].tail = NONE;
            while node != NONE {
                let next = self.nodes[node as usize].next;
                if unwanted(self.job_at(node)) {
                    out.push(self.remove(node).0);
                } else {
                    self.append(id, node);
                }
                node = next;
            }
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|turn| !self.purge_turn(*turn, &mut unwanted, out));
        self.ready = ready;
        let mut delayed = std::mem::take(&mut self.delayed);
        delayed.retain(|Reverse((_, turn))| !self.purge_turn(*turn, &mut unwanted, out));
        self.delayed = delayed;
    }

    /// Whether the turn is void: its job is unwanted, or its lane has none left.
    fn purge_turn(&mut self, turn: Turn, unwanted: &mut impl FnMut(&T) -> bool, out: &mut Vec<T>) -> bool {
        match turn {
            Turn::Job(node) => {
                let gone = unwanted(self.job_at(node));
                if gone {
                    out.push(self.remove(node).0);
                }
                gone
            }
            Turn::Lane(id) => {
                let lane = &mut self.lanes[id as usize];
                if lane.head == NONE {
                    lane.state = State::Idle;
                }
                lane.head == NONE
            }
        }
    }

    fn append(&mut self, id: usize, node: u32) {
        self.nodes[node as usize].next = NONE;
        let lane = &mut self.lanes[id];
        if lane.head == NONE {
            lane.head = node;
        } else {
            self.nodes[lane.tail as usize].next = node;
        }
        lane.tail = node;
    }

    fn job_at(&self, node: u32) -> &T {
        self.nodes[node as usize].job.as_ref().expect("a linked node holds a job")
    }

    /// How many jobs wait here, delayed ones included.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether something may start now.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many lanes and jobs without one run, or may start now: what is in flight. All other
    /// jobs wait, behind another of their lane or for their time.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.ready.len() + self.running + self.alone
    }

    /// How many lanes and single jobs may start now.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    #[inline]
    fn store(&mut self, job: T) -> u32 {
        self.waiting += 1;
        if self.free == NONE {
            self.nodes.push(Node { job: Some(job), next: NONE });
            return u32::try_from(self.nodes.len() - 1).expect("jobs in flight are limited far below 2^32");
        }
        let at = self.free;
        let node = &mut self.nodes[at as usize];
        self.free = node.next;
        *node = Node { job: Some(job), next: NONE };
        at
    }

    #[inline]
    fn remove(&mut self, at: u32) -> (T, u32) {
        self.waiting -= 1;
        let node = &mut self.nodes[at as usize];
        let next = std::mem::replace(&mut node.next, self.free);
        let job = node.job.take().expect("a linked node holds a job");
        self.free = at;
        (job, next)
    }
}
