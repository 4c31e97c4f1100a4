//! Which batches are in memory, and which may leave it.
//!
//! At most [`Limits::batches_max`](super::Limits) are there because they were
//! just numbered, and as many again because lanes that catch up need them,
//! whatever is blocked: a batch whose remaining parts are all of lanes that
//! cannot go on leaves when its place is needed.

use super::event::{Action, NewPart};
use super::lane::Part;
use super::machine::Machine;
use super::{BatchNo, LaneIx, LanePhase, Now};

/// A batch in memory.
#[derive(Debug)]
pub(super) struct Flight {
    pub batch: BatchNo,
    /// Just numbered, not read again.
    pub live: bool,
    pub parts: Vec<NewPart>,
    pub since: Now,
}

/// What a part in memory is to its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Settled, or its lane is over.
    Done,
    /// Its lane cannot go on now, or is not that far.
    Blocked,
    /// It is being sent or waited for.
    Needed,
}

impl Machine {
    pub(super) fn use_of(&self, part: &NewPart, now: Now) -> Use {
        let lane = &self.lanes[part.lane.0 as usize];
        let end = part.first.0 + u64::from(part.rows);
        if lane.phase == LanePhase::Closed || lane.settled_to.0 >= end {
            return Use::Done;
        }
        let decided = lane.fates.cover(part.first, crate::Seq(end));
        let works = lane.works(now) && self.topics[lane.topic.0 as usize].sends();
        // Behind rows that are not in memory: whoever kept its place for it would wait for itself.
        let behind = lane.wants_loading().is_some_and(|missing| missing < part.first);
        if decided && lane.queued_to.0 >= end || !works || behind {
            return Use::Blocked;
        }
        Use::Needed
    }

    /// A batch that is in memory for nothing.
    pub(super) fn finished_flight(&self, now: Now) -> Option<Action> {
        let done = |flight: &&Flight| flight.parts.iter().all(|part| self.use_of(part, now) == Use::Done);
        self.flights.iter().find(done).map(|flight| Action::Unload(flight.batch))
    }

    /// Whether a batch of this kind may come in; else a batch that may leave for it, if there is one.
    pub(super) fn room(&self, live: bool, now: Now) -> Result<(), Option<Action>> {
        let same = || self.flights.iter().filter(|flight| flight.live == live);
        let most = if live { self.limits.batches_max } else { self.limits.batches_max.max(1) };
        if same().count() < most {
            return Ok(());
        }
        let mut blocked =
            same().filter(|flight| flight.parts.iter().all(|part| self.use_of(part, now) != Use::Needed));
        Err(blocked.next().map(|flight| Action::Unload(flight.batch)))
    }

    pub(super) fn unloaded(&mut self, batch: BatchNo) {
        let Some(at) = self.flights.iter().position(|flight| flight.batch == batch) else { return };
        for part in self.flights.remove(at).parts {
            self.lane(part.lane).unload(batch);
            self.attend(part.lane);
        }
    }

    /// Gives the lanes what they can use of a batch that came into memory.
    pub(super) fn loaded(&mut self, batch: BatchNo, parts: Vec<NewPart>, live: bool, now: Now) {
        for part in &parts {
            self.attach(batch, part);
            self.attend(part.lane);
            self.note_ready(part.lane, now);
        }
        self.flights.push(Flight { batch, live, parts, since: now });
    }

    /// Queues a part for its lane when it is the next one, or the one whose rows were dropped.
    fn attach(&mut self, batch: BatchNo, part: &NewPart) {
        let lane = self.lane(part.lane);
        if let Some(known) = lane.part_mut(batch) {
            (known.loaded, known.place) = (true, part.place);
        } else if part.first == lane.queued_to {
            let NewPart { place, first, rows, .. } = *part;
            lane.queue(Part { batch, place, first, rows, loaded: true });
        }
    }

    /// Serves a lane that wants rows from a batch that is in memory anyway; false when there is none.
    pub(super) fn attach_from_memory(&mut self, ix: LaneIx, now: Now) -> bool {
        let Some(wanted) = self.lanes[ix.0 as usize].wants_loading() else { return false };
        let holds = |part: &NewPart| {
            part.lane == ix && part.first <= wanted && wanted.0 < part.first.0 + u64::from(part.rows)
        };
        let found = self
            .flights
            .iter()
            .find_map(|flight| Some((flight.batch, *flight.parts.iter().find(|part| holds(part))?)));
        let Some((batch, part)) = found else { return false };
        self.attach(batch, &part);
        self.note_ready(ix, now);
        true
    }

    /// Notes whether a lane's first part is decided.
    pub(super) fn note_ready(&mut self, ix: LaneIx, now: Now) {
        let lane = self.lane(ix);
        if lane.is_ready() && lane.phase != LanePhase::Closed {
            lane.ready_since.get_or_insert(now);
            self.ready.insert(ix);
        } else {
            lane.ready_since = None;
            self.ready.remove(&ix);
        }
    }
}
