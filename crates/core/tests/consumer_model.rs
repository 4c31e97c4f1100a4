//! Tracker, commit map and lanes together, as a consumer uses them, through crashes and rebalances.
//!
//! One partition of a log is consumed by one consumer after the other; only
//! the committed offset and its metadata pass between them. Checked are the
//! invariants of design.md §6 that need no clock and no network: I1, I3, I4,
//! I6, I7, I8, I9, I11, I13.

#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_core::{
    AssignmentEpoch, CommitMap, Completed, LaneHash, LaneId, Lanes, Offset, Partition, ProcessingOrder,
    Registered, Taken, Token, Tracker,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    /// A record is written, behind this many offsets that are never read.
    Write {
        key: u8,
        hole: i64,
    },
    Poll {
        records: usize,
    },
    Take {
        max: usize,
    },
    /// Of one run that is out, so many are handled; the rest is put back, perhaps with a pause.
    Handle {
        run: usize,
        done: usize,
        pause: bool,
    },
    Pass {
        ms: u64,
    },
    Commit,
    /// The metadata is damaged by somebody, at one character.
    Damage {
        at: prop::sample::Index,
    },
    /// The consumer dies.
    Crash,
    /// The partition is revoked: what waits is dropped, what was done is committed.
    Revoke,
    /// A handler of an earlier assignment comes back.
    Stale {
        which: prop::sample::Index,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0u8..5, prop_oneof![5 => Just(0i64), 1 => 1i64..200]).prop_map(|(key, hole)| Step::Write { key, hole }),
        6 => (1usize..8).prop_map(|records| Step::Poll { records }),
        6 => (1usize..6).prop_map(|max| Step::Take { max }),
        10 => (0usize..5, 0usize..4, any::<bool>()).prop_map(|(run, done, pause)| Step::Handle { run, done, pause }),
        2 => (0u64..40).prop_map(|ms| Step::Pass { ms }),
        3 => Just(Step::Commit),
        1 => any::<prop::sample::Index>().prop_map(|at| Step::Damage { at }),
        1 => Just(Step::Crash),
        1 => Just(Step::Revoke),
        1 => any::<prop::sample::Index>().prop_map(|which| Step::Stale { which }),
    ]
}

const TOPIC_ID: [u8; 16] = [7; 16];

#[derive(Debug, Clone, Copy)]
struct Job {
    token: Token,
    key: u8,
}

/// What outlives a consumer.
#[derive(Default)]
struct World {
    /// Each record's key by its offset.
    log: BTreeMap<i64, u8>,
    end: i64,
    /// Records whose handler succeeded, at least once.
    done: BTreeSet<i64>,
    committed: i64,
    metadata: String,
    /// Records that the last commit says are done.
    committed_done: BTreeSet<i64>,
    now_ms: u64,
}

/// What dies with it.
struct Consumer {
    tracker: Tracker,
    lanes: Lanes<Job>,
    position: i64,
    runs: Vec<(Option<LaneId>, Vec<Job>)>,
}

impl Consumer {
    fn start(world: &World, assignment: u64) -> Self {
        let committed = Offset(world.committed);
        let done = match CommitMap::decode_for(&world.metadata, &TOPIC_ID, committed) {
            Ok(map) => map.done,
            Err(_) => Default::default(),
        };
        Self {
            tracker: Tracker::restore(AssignmentEpoch(assignment), committed, &done),
            lanes: Lanes::new(),
            position: world.committed,
            runs: Vec::new(),
        }
    }

    fn poll(&mut self, world: &World, order: ProcessingOrder, records: usize) -> Result<(), TestCaseError> {
        for (offset, key) in world.log.range(self.position..).take(records) {
            self.position = offset + 1;
            match self.tracker.register(Offset(*offset)) {
                Registered::Fresh(token) => {
                    let again = world.committed_done.contains(offset);
                    prop_assert!(!again, "{} was committed as done and is handled again (I13)", offset);
                    let lane = order
                        .lane(0, Partition(0), Some(&[*key]))
                        .map(|LaneHash(hash)| LaneHash(hash).into());
                    self.lanes.push(lane, Job { token, key: *key });
                }
                Registered::AlreadyDone => {
                    prop_assert!(
                        world.done.contains(offset),
                        "{} is skipped and was never done (I6)",
                        offset
                    );
                }
                Registered::InFlight => prop_assert!(false, "{} came twice", offset),
            }
        }
        Ok(())
    }

    fn take(&mut self, max: usize) {
        let mut taken = Vec::new();
        self.lanes.take(max, &mut taken);
        for Taken { lane, job } in taken {
            match self.runs.last_mut().filter(|(last, _)| lane.is_some() && *last == lane) {
                Some((_, run)) => run.push(job),
                None => self.runs.push((lane, vec![job])),
            }
        }
    }

    fn handle(
        &mut self,
        world: &mut World,
        order: ProcessingOrder,
        run: usize,
        done: usize,
        pause: bool,
    ) -> Result<(), TestCaseError> {
        if self.runs.is_empty() {
            return Ok(());
        }
        let (lane, mut jobs) = self.runs.remove(run % self.runs.len());
        let rest = jobs.split_off(done.min(jobs.len()));
        for Job { token, key } in jobs {
            let before = world.log.range(..token.offset.0).filter(|(_, of)| match order {
                ProcessingOrder::Key => **of == key,
                ProcessingOrder::Partition => true,
                ProcessingOrder::Unordered => false,
            });
            for (offset, _) in before {
                prop_assert!(world.done.contains(offset), "{} overtook {} (I8)", token.offset, offset);
            }
            world.done.insert(token.offset.0);
            let completed = self.tracker.complete(token);
            prop_assert!(
                matches!(completed, Completed::Advanced { .. } | Completed::Recorded),
                "{:?}",
                completed
            );
        }
        let due_ms = world.now_ms + if pause { 20 } else { 0 };
        let Some(lane) = lane else {
            rest.into_iter().for_each(|job| self.lanes.delay_job(job, due_ms));
            return Ok(());
        };
        let failed = !rest.is_empty();
        self.lanes.put_front(lane, rest.into_iter());
        match failed && pause {
            true => self.lanes.delay(lane, due_ms),
            false => self.lanes.finish(lane),
        }
        Ok(())
    }

    fn commit(&self, world: &mut World) -> Result<(), TestCaseError> {
        let progress = self.tracker.snapshot();
        let committed = progress.committable.0;
        prop_assert!(committed >= world.committed, "the committed offset falls (I3)");
        for (offset, _) in world.log.range(..committed) {
            prop_assert!(world.done.contains(offset), "{} is committed and not done (I1)", offset);
        }
        let map = CommitMap {
            topic_id: TOPIC_ID,
            leader_epoch: 0,
            base: progress.committable,
            done: progress.done,
        };
        world.committed = committed;
        world.metadata = map.encode(CommitMap::CHARS_MAX);
        let is_done = |offset: &i64| *offset < committed || map.done.contains(Offset(*offset));
        world.committed_done = world.log.keys().filter(|offset| is_done(offset)).copied().collect();
        prop_assert!(world.committed_done.is_subset(&world.done), "the map claims too much (I6)");
        Ok(())
    }

    /// Every record that was read and is not done is queued, running or delayed (I7).
    fn check(&self) -> Result<(), TestCaseError> {
        let out: usize = self.runs.iter().map(|(_, run)| run.len()).sum();
        prop_assert_eq!(self.tracker.in_flight(), self.lanes.waiting() + out);
        Ok(())
    }
}

fn take(
    world: &mut World,
    consumer: &mut Consumer,
    stale: &mut Vec<Token>,
    order: ProcessingOrder,
    step: &Step,
) -> Result<(), TestCaseError> {
    match step {
        Step::Write { key, hole } => {
            world.log.insert(world.end + hole, *key);
            world.end += hole + 1;
        }
        Step::Poll { records } => consumer.poll(world, order, *records)?,
        Step::Take { max } => consumer.take(*max),
        Step::Handle { run, done, pause } => consumer.handle(world, order, *run, *done, *pause)?,
        Step::Pass { ms } => {
            world.now_ms += ms;
            consumer.lanes.wake_due(world.now_ms);
        }
        Step::Commit => consumer.commit(world)?,
        Step::Damage { at } => {
            if !world.metadata.is_empty() {
                let at = at.index(world.metadata.len());
                world.metadata.replace_range(at..=at, "~");
                // Nothing but the offset counts now.
                let committed = world.committed;
                world.committed_done.retain(|offset| *offset < committed);
            }
        }
        Step::Revoke => {
            let mut dropped = Vec::new();
            consumer.lanes.purge(|_| true, &mut dropped);
            prop_assert_eq!(consumer.lanes.waiting(), 0);
            stale.extend(dropped.iter().map(|job| job.token));
            consumer.commit(world)?;
            next(world, consumer, stale);
        }
        Step::Crash => next(world, consumer, stale),
        Step::Stale { which } => {
            if !stale.is_empty() {
                let before = consumer.tracker.snapshot();
                prop_assert_eq!(consumer.tracker.complete(*which.get(stale)), Completed::Stale);
                prop_assert_eq!(consumer.tracker.snapshot(), before, "a stale completion counts (I4)");
            }
        }
    }
    Ok(())
}

/// The next consumer takes over from what is committed.
fn next(world: &World, consumer: &mut Consumer, stale: &mut Vec<Token>) {
    stale.extend(consumer.runs.iter().flat_map(|(_, run)| run.iter().map(|job| job.token)));
    *consumer = Consumer::start(world, consumer.tracker.assignment().0 + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn no_history_skips_a_record_or_stalls(
        order in prop_oneof![
            3 => Just(ProcessingOrder::Key),
            1 => Just(ProcessingOrder::Partition),
            1 => Just(ProcessingOrder::Unordered),
        ],
        steps in proptest::collection::vec(step(), 1..250),
    ) {
        let mut world = World::default();
        let mut consumer = Consumer::start(&world, 1);
        let mut stale = Vec::new();
        for step in &steps {
            take(&mut world, &mut consumer, &mut stale, order, step)?;
            consumer.check()?;
        }
        // Once handlers succeed, the lag goes to 0 (I11), holes or not (I9).
        let mut rounds = 0;
        loop {
            world.now_ms += 100;
            consumer.lanes.wake_due(world.now_ms);
            consumer.poll(&world, order, 50)?;
            consumer.take(50);
            while !consumer.runs.is_empty() {
                consumer.handle(&mut world, order, 0, usize::MAX, false)?;
            }
            consumer.commit(&mut world)?;
            if world.committed == world.end {
                break;
            }
            rounds += 1;
            prop_assert!(rounds < 600, "stuck at {} of {}", world.committed, world.end);
        }
        prop_assert!(world.log.keys().all(|offset| world.done.contains(offset)));
    }
}
