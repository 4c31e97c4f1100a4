//! The tracker against a plain list of records, under random interleavings (I1, I3, I4, I6, I9).

#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_core::{AssignmentEpoch, Completed, Offset, OffsetSet, Progress, Registered, Token, Tracker};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Clone)]
enum Step {
    /// A record comes, after a hole of this many offsets.
    Register { hole: i64 },
    /// A record comes again.
    RegisterAgain(prop::sample::Index),
    /// One of the records handed out so far is completed, possibly again.
    Complete(prop::sample::Index),
    /// The lowest record handed out and not completed is completed.
    CompleteOldest,
    /// A completion of another assignment arrives.
    CompleteStale(prop::sample::Index, bool),
    /// A token that was never given out arrives.
    CompleteUnknown { ahead: i64 },
    /// The position moves over trailing control records.
    Skip { by: i64 },
    /// A later leader epoch shows that the map no longer holds, this far ahead of the position.
    Forget { ahead: i64 },
    /// The consumer dies and starts again from what it committed.
    /// It sees as many of the records again before the next step.
    Restart { seen: usize },
}

fn hole() -> impl Strategy<Value = i64> {
    prop_oneof![8 => Just(0), 2 => 1i64..5, 1 => 50i64..200, 1 => Just(1_000_000_000)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => hole().prop_map(|hole| Step::Register { hole }),
        1 => any::<prop::sample::Index>().prop_map(Step::RegisterAgain),
        8 => any::<prop::sample::Index>().prop_map(Step::Complete),
        3 => Just(Step::CompleteOldest),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(i, older)| Step::CompleteStale(i, older)),
        1 => (0i64..100).prop_map(|ahead| Step::CompleteUnknown { ahead }),
        1 => (0i64..100).prop_map(|by| Step::Skip { by }),
        1 => (-5i64..50).prop_map(|ahead| Step::Forget { ahead }),
        1 => (0usize..40).prop_map(|seen| Step::Restart { seen }),
    ]
}

/// Each record that came under this assignment, with whether it is finished.
struct Model {
    base: i64,
    next: i64,
    records: BTreeMap<i64, bool>,
    restored: OffsetSet,
}

impl Model {
    fn new(base: i64, restored: OffsetSet) -> Self {
        Self { base, next: base, records: BTreeMap::new(), restored }
    }

    fn committable(&self) -> i64 {
        self.records.iter().find(|(_, done)| !**done).map_or(self.next, |(offset, _)| *offset)
    }

    fn finished(&self, offset: i64) -> bool {
        offset < self.next && self.records.get(&offset).is_none_or(|done| *done)
    }

    fn in_flight(&self) -> usize {
        self.records.values().filter(|done| !**done).count()
    }

    /// All below `next` but the open records, above the committable offset, and what was restored.
    fn done(&self) -> OffsetSet {
        let mut done = OffsetSet::new();
        let mut from = self.committable();
        for (open, _) in self.records.iter().filter(|(_, done)| !**done) {
            done.insert_range(Offset(from)..Offset(*open));
            from = open + 1;
        }
        done.insert_range(Offset(from)..Offset(self.next));
        for range in self.restored.ranges() {
            done.insert_range(range.start.max(Offset(self.next))..range.end);
        }
        done
    }

    fn register(&mut self, offset: i64) -> Registered {
        if self.finished(offset) {
            return Registered::AlreadyDone;
        }
        if offset < self.next {
            return Registered::InFlight;
        }
        self.next = offset + 1;
        let already = self.restored.contains(Offset(offset));
        self.records.insert(offset, already);
        if already {
            Registered::AlreadyDone
        } else {
            Registered::Fresh(Token { assignment: AssignmentEpoch(0), offset: Offset(offset) })
        }
    }

    fn complete(&mut self, offset: i64) -> Completed {
        if offset >= self.next {
            return Completed::Unknown;
        }
        let before = self.committable();
        match self.records.get_mut(&offset) {
            Some(done) if !*done => *done = true,
            _ => return Completed::Repeated,
        }
        let committable = Offset(self.committable());
        if committable.0 > before { Completed::Advanced { committable } } else { Completed::Recorded }
    }
}

struct Pair {
    assignment: u64,
    tracker: Tracker,
    model: Model,
    handed_out: Vec<i64>,
    /// Records that will come again after a restart.
    log: VecDeque<i64>,
    /// No record below it that has not come yet ever will.
    log_end: i64,
    /// All offsets ever finished, whatever the assignment: what may be skipped (I6).
    ever_finished: OffsetSet,
}

impl Pair {
    fn start(base: i64) -> Self {
        Self {
            assignment: 1,
            tracker: Tracker::new(AssignmentEpoch(1), Offset(base)),
            model: Model::new(base, OffsetSet::new()),
            handed_out: Vec::new(),
            log: VecDeque::new(),
            log_end: base,
            ever_finished: OffsetSet::new(),
        }
    }

    fn register(&mut self, offset: i64) -> Result<(), TestCaseError> {
        let registered = self.tracker.register(Offset(offset));
        match (self.model.register(offset), registered) {
            (Registered::Fresh(_), Registered::Fresh(token)) => {
                prop_assert_eq!(token.offset, Offset(offset));
                prop_assert_eq!(token.assignment, AssignmentEpoch(self.assignment));
                self.handed_out.push(offset);
            }
            (expected, got) => prop_assert_eq!(expected, got),
        }
        let is_record = self.model.records.contains_key(&offset);
        if registered == Registered::AlreadyDone && is_record {
            prop_assert!(self.ever_finished.contains(Offset(offset)), "{} was skipped unfinished", offset);
        }
        Ok(())
    }

    fn complete(&mut self, offset: i64) -> Result<(), TestCaseError> {
        let token = Token { assignment: AssignmentEpoch(self.assignment), offset: Offset(offset) };
        let expected = self.model.complete(offset);
        if matches!(expected, Completed::Advanced { .. } | Completed::Recorded) {
            self.ever_finished.insert(Offset(offset));
        }
        prop_assert_eq!(self.tracker.complete(token), expected);
        Ok(())
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Register { hole } => {
                let offset = self.log.pop_front().unwrap_or(self.log_end + hole);
                self.register(offset)?;
            }
            Step::RegisterAgain(which) => {
                if !self.model.records.is_empty() {
                    let records: Vec<i64> = self.model.records.keys().copied().collect();
                    self.register(*which.get(&records))?;
                }
            }
            Step::Complete(which) => {
                if !self.handed_out.is_empty() {
                    self.complete(*which.get(&self.handed_out))?;
                }
            }
            Step::CompleteOldest => {
                if let Some(oldest) = self.tracker.oldest_unfinished() {
                    self.complete(oldest.0)?;
                }
            }
            Step::CompleteStale(which, older) => {
                if !self.handed_out.is_empty() {
                    let other = if *older { self.assignment - 1 } else { self.assignment + 1 };
                    let offset = Offset(*which.get(&self.handed_out));
                    let before = self.tracker.snapshot();
                    let token = Token { assignment: AssignmentEpoch(other), offset };
                    prop_assert_eq!(self.tracker.complete(token), Completed::Stale);
                    prop_assert_eq!(self.tracker.snapshot(), before);
                }
            }
            Step::CompleteUnknown { ahead } => self.complete(self.model.next + ahead)?,
            Step::Skip { .. } if !self.log.is_empty() => {}
            Step::Skip { by } => {
                let position = self.log_end + by;
                self.tracker.skip_to(Offset(position));
                self.model.next = position;
            }
            Step::Forget { ahead } => {
                let from = Offset(self.model.next + ahead);
                self.tracker.forget_restored_from(from);
                let kept = self.model.restored.ranges().map(|run| run.start..run.end.min(from));
                self.model.restored = kept.filter(|run| run.start < run.end).collect();
            }
            Step::Restart { seen } => {
                let Progress { committable, done } = self.tracker.snapshot();
                self.assignment += 1;
                self.tracker = Tracker::restore(AssignmentEpoch(self.assignment), committable, &done);
                let came_before = std::mem::replace(&mut self.model, Model::new(committable.0, done));
                self.handed_out.clear();
                // The log still holds every record from the committed offset on.
                let again = came_before.records.range(committable.0..).map(|(offset, _)| *offset);
                self.log = again.chain(self.log.drain(..)).collect();
                for _ in 0..*seen {
                    if let Some(offset) = self.log.pop_front() {
                        self.register(offset)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let (tracker, model) = (&self.tracker, &self.model);
        let progress = tracker.snapshot();
        prop_assert_eq!(tracker.committable(), Offset(model.committable()));
        prop_assert_eq!(progress.committable, tracker.committable());
        prop_assert_eq!(progress.done, model.done());
        prop_assert_eq!(tracker.in_flight(), model.in_flight());
        prop_assert_eq!(tracker.position(), Offset(model.next));
        prop_assert_eq!(tracker.span(), (model.next - model.committable()) as u64);
        let open = model.records.iter().find(|(_, done)| !**done);
        prop_assert_eq!(tracker.oldest_unfinished(), open.map(|(offset, _)| Offset(*offset)));
        prop_assert!(tracker.committable() >= Offset(model.base));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_does_what_a_plain_list_does(base in 0i64..200, steps in proptest::collection::vec(step(), 1..150)) {
        let mut pair = Pair::start(base);
        for step in &steps {
            let before = (pair.assignment, pair.tracker.committable());
            pair.take(step)?;
            pair.log_end = pair.log_end.max(pair.model.next);
            pair.check()?;
            prop_assert!(pair.tracker.committable() >= before.1, "the committable offset fell at {:?}", step);
        }
        while let Some(offset) = pair.log.pop_front() {
            pair.register(offset)?;
        }
        while let Some(oldest) = pair.tracker.oldest_unfinished() {
            pair.complete(oldest.0)?;
        }
        pair.check()?;
        prop_assert_eq!(pair.tracker.span(), 0);
    }
}

#[test]
fn a_hole_of_a_billion_offsets_costs_nothing() {
    let mut tracker = Tracker::new(AssignmentEpoch(1), Offset(0));
    let Registered::Fresh(first) = tracker.register(Offset(0)) else { panic!("it is new") };
    let mut far = Vec::new();
    for i in 1..2_000 {
        let Registered::Fresh(token) = tracker.register(Offset(i * 1_000_000_000)) else {
            panic!("it is new")
        };
        far.push(token);
    }
    for token in far.into_iter().rev() {
        assert_eq!(tracker.complete(token), Completed::Recorded);
    }
    assert_eq!(tracker.snapshot().done.range_count(), 1);
    assert_eq!(tracker.complete(first), Completed::Advanced { committable: Offset(1_999_000_000_001) });
}

#[test]
fn nothing_below_the_start_is_handed_out() {
    let mut tracker = Tracker::new(AssignmentEpoch(1), Offset(100));
    assert_eq!(tracker.register(Offset(99)), Registered::AlreadyDone);
    assert_eq!(tracker.committable(), Offset(100));
}
