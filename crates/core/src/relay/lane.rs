//! One lane: what of it is numbered, in memory, handed over, decided and settled.
//!
//! `settled_to ≤ queued_to ≤ next_seq`: parts from `settled_to` to `queued_to`
//! are known here; what lies between `queued_to` and `next_seq` waits in the
//! manifests alone. All before `handed_to` is out or decided.

use super::fates::{Fates, Run};
use super::{BatchNo, LaneIx, LanePhase, Now, PartRef, TailQuestion, TopicIx, Trouble};
use crate::{Offset, Partition, Seq};
use std::collections::VecDeque;

/// One lane's share of a batch, not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The batch.
    pub batch: BatchNo,
    /// Its place in the manifest.
    pub place: u32,
    /// The first seq.
    pub first: Seq,
    /// How many.
    pub rows: u32,
    /// Whether its rows are in memory.
    pub loaded: bool,
}

impl Part {
    /// The seq after its last.
    #[must_use]
    pub fn end(&self) -> Seq {
        Seq(self.first.0 + u64::from(self.rows))
    }
}

#[derive(Debug)]
pub(super) struct Lane {
    pub topic: TopicIx,
    pub partition: Partition,
    pub phase: LanePhase,
    pub trouble: Option<Trouble>,
    /// The seq its next row gets.
    pub next_seq: Seq,
    pub settled_to: Seq,
    pub queued_to: Seq,
    pub handed_to: Seq,
    pub parts: VecDeque<Part>,
    pub fates: Fates,
    /// Records handed over and not reported.
    pub out: u32,
    /// From where its tail is to be read.
    pub read_from: Offset,
    /// When something was acknowledged last, or began to be waited for.
    pub moved_at: Now,
    /// Tries of the probe producer in a row that failed.
    pub attempt: u32,
    /// Whether it is to be tried by the probe producer before the main one has it again.
    pub refused: bool,
    /// All before this seq goes one by one: some of it was refused.
    pub isolate_to: Seq,
    /// When its first part became ready to be settled.
    pub ready_since: Option<Now>,
    /// Whether its tail was read once, or its epoch began in this session.
    pub looked_at: bool,
    /// Whether it is in the list of lanes to look at.
    pub listed: bool,
}

impl Lane {
    pub fn new(topic: TopicIx, phase: LanePhase, settled: u64, next_seq: Seq, read_from: Offset) -> Self {
        let first = Seq(settled + 1);
        Self {
            topic,
            partition: Partition(0),
            phase,
            trouble: None,
            next_seq,
            settled_to: first,
            queued_to: first,
            handed_to: first,
            parts: VecDeque::new(),
            fates: Fates::default(),
            out: 0,
            read_from,
            moved_at: Now::default(),
            attempt: 0,
            refused: false,
            isolate_to: first,
            ready_since: None,
            looked_at: phase == LanePhase::Cold,
            listed: false,
        }
    }

    pub fn has_unsettled(&self) -> bool {
        self.settled_to < self.next_seq
    }

    /// The next seq to hand over; `next_seq` or more: there is none.
    pub fn next_unsent(&self) -> Seq {
        self.fates.first_undecided(self.handed_to.max(self.settled_to))
    }

    pub fn has_unsent(&self) -> bool {
        self.next_unsent() < self.next_seq
    }

    pub fn part_of(&self, seq: Seq) -> Option<&Part> {
        let at = self.parts.partition_point(|part| part.end() <= seq);
        self.parts.get(at).filter(|part| part.first <= seq)
    }

    pub fn part_mut(&mut self, batch: BatchNo) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.batch == batch)
    }

    /// The parts at the front whose every record is decided, at most `max`.
    pub fn ready(&self, ix: LaneIx, max: usize) -> Vec<PartRef> {
        let decided = self.fates.first_undecided(self.settled_to);
        let ready = self.parts.iter().take_while(|part| part.end() <= decided).take(max);
        ready
            .map(|part| PartRef {
                batch: part.batch,
                lane: ix,
                place: part.place,
                first: part.first,
                rows: part.rows,
            })
            .collect()
    }

    pub fn is_ready(&self) -> bool {
        self.parts.front().is_some_and(|part| self.fates.cover(part.first, part.end()))
    }

    /// Whether the lane needs its rows in memory.
    pub fn works(&self, now: Now) -> bool {
        match self.phase {
            LanePhase::Cold | LanePhase::Flowing | LanePhase::Probing => true,
            LanePhase::Refused { retry_at } => retry_at <= now,
            LanePhase::Unread { .. } | LanePhase::Silent | LanePhase::Closed => false,
        }
    }

    /// The seq to read from the manifests, when a lane that works has nothing in memory to go on with.
    pub fn wants_loading(&self) -> Option<Seq> {
        let unsent = self.next_unsent();
        if unsent < self.queued_to {
            return self.part_of(unsent).filter(|part| !part.loaded).map(|part| part.first);
        }
        (self.queued_to < self.next_seq).then_some(self.queued_to)
    }

    /// Takes a part in at the end; its rows are in memory.
    pub fn queue(&mut self, part: Part) {
        assert_eq!(part.first, self.queued_to, "a lane's parts are queued in order");
        self.queued_to = part.end();
        self.parts.push_back(part);
    }

    /// The rows of a batch leave memory; parts from it on that were never begun are read again later.
    pub fn unload(&mut self, batch: BatchNo) {
        let Some(at) = self.parts.iter().position(|part| part.batch == batch) else { return };
        self.parts[at].loaded = false;
        let begun = self.handed_to > self.parts[at].first;
        let decided = self.fates.first_undecided(self.parts[at].first) > self.parts[at].first;
        if !begun && !decided {
            self.queued_to = self.parts[at].first;
            self.parts.truncate(at);
        }
    }

    pub fn acked(&mut self, run: Run, reported: u32, now: Now) -> u64 {
        self.out = self.out.saturating_sub(reported);
        self.moved_at = now;
        self.fates.add(run)
    }

    /// Its producer is gone: what is not decided is unsent, or only the log can tell.
    pub fn forget_producer(&mut self) {
        self.handed_to = self.settled_to;
        self.out = 0;
    }

    pub fn settled(&mut self, part: &PartRef, now: Now) {
        let front = self.parts.pop_front().expect("a settled part was its lane's first");
        assert_eq!((front.batch, front.first), (part.batch, part.first), "parts settle in order");
        self.settled_to = front.end();
        self.handed_to = self.handed_to.max(self.settled_to);
        for run in self.fates.within(front.first, front.end()) {
            if let Some(at) = run.at {
                self.read_from = self.read_from.max(Offset(at.0 + run.rows.cast_signed()));
            }
        }
        self.fates.forget_before(self.settled_to);
        self.ready_since = self.is_ready().then_some(now);
    }

    pub fn tail_question(&self, lane: LaneIx) -> TailQuestion {
        TailQuestion { lane, from: self.read_from, first: self.settled_to }
    }
}
