//! The schedule against plain queues: order and no overlap per lane, nothing forgotten (I7, I8).

#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_core::Partition;
use homing_core::schedule::{LaneHash, ProcessingOrder, Schedule, Start};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Clone)]
enum Step {
    Push { lane: Option<u64> },
    Finish(prop::sample::Index),
    RetryLater(prop::sample::Index, u64),
    Park(prop::sample::Index),
    ParkLane(u64),
    Unpark(u64),
    Pass { ms: u64 },
    Remove { every: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        12 => proptest::option::weighted(0.9, 0u64..6).prop_map(|lane| Step::Push { lane }),
        10 => index().prop_map(Step::Finish),
        3 => (index(), 0u64..50).prop_map(|(which, ms)| Step::RetryLater(which, ms)),
        1 => index().prop_map(Step::Park),
        1 => (0u64..6).prop_map(Step::ParkLane),
        2 => (0u64..6).prop_map(Step::Unpark),
        3 => (0u64..40).prop_map(|ms| Step::Pass { ms }),
        1 => (1u32..4).prop_map(|every| Step::Remove { every }),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Queued,
    Running,
    Delayed(u64),
}

/// Records by handle and lanes as lists of handles, searched from the front each time.
#[derive(Default)]
struct Model {
    records: BTreeMap<u32, (Option<u64>, At)>,
    lanes: BTreeMap<u64, VecDeque<u32>>,
    parked: BTreeSet<u64>,
    free: Vec<u32>,
    now_ms: u64,
}

impl Model {
    fn start(&mut self, handle: u32) -> Start {
        let (lane, at) = self.records.get_mut(&handle).unwrap();
        *at = At::Running;
        if lane.is_some_and(|lane| self.parked.contains(&lane)) {
            Start::SetAside(handle)
        } else {
            Start::Run(handle)
        }
    }

    fn start_head(&mut self, lane: u64) -> Option<Start> {
        let head = *self.lanes.get(&lane)?.front()?;
        (self.records[&head].1 == At::Queued).then(|| self.start(head))
    }

    fn push(&mut self, handle: u32, lane: Option<u64>) -> Option<Start> {
        self.records.insert(handle, (lane, At::Queued));
        let Some(lane) = lane else { return Some(self.start(handle)) };
        let queue = self.lanes.entry(lane).or_default();
        queue.push_back(handle);
        self.start_head(lane)
    }

    fn take_out(&mut self, handle: u32) -> Option<u64> {
        let (lane, _) = self.records.remove(&handle).unwrap();
        self.free.push(handle);
        if let Some(lane) = lane {
            self.lanes.get_mut(&lane).unwrap().retain(|other| *other != handle);
        }
        lane
    }

    fn running(&self) -> Vec<u32> {
        self.records.iter().filter(|(_, (_, at))| *at == At::Running).map(|(handle, _)| *handle).collect()
    }

    fn due_ms(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.records.iter().filter_map(|(handle, (_, at))| match at {
            At::Delayed(due_ms) => Some((*due_ms, *handle)),
            _ => None,
        })
    }
}

fn take(model: &mut Model, schedule: &mut Schedule, step: Step) -> Result<(), TestCaseError> {
    let running = model.running();
    match step {
        Step::Push { lane } => {
            let handle = model.free.pop().unwrap_or(model.records.len() as u32);
            prop_assert_eq!(schedule.push(handle, lane.map(LaneHash)), model.push(handle, lane));
        }
        Step::ParkLane(lane) => {
            model.parked.insert(lane);
            schedule.park_lane(LaneHash(lane));
        }
        Step::Unpark(lane) => {
            model.parked.remove(&lane);
            schedule.unpark(LaneHash(lane));
        }
        Step::Pass { ms } => {
            model.now_ms += ms;
            loop {
                let due = model.due_ms().min().filter(|(due_ms, _)| *due_ms <= model.now_ms);
                let expected = due.map(|(_, handle)| model.start(handle));
                prop_assert_eq!(schedule.due(model.now_ms), expected);
                if expected.is_none() {
                    break;
                }
            }
        }
        Step::Remove { every } => remove(model, schedule, every)?,
        Step::Finish(_) | Step::RetryLater(..) | Step::Park(_) if running.is_empty() => {}
        Step::Finish(which) => {
            let handle = *which.get(&running);
            let expected = model.take_out(handle).and_then(|lane| model.start_head(lane));
            prop_assert_eq!(schedule.finished(handle), expected);
        }
        Step::RetryLater(which, ms) => {
            let handle = *which.get(&running);
            model.records.get_mut(&handle).unwrap().1 = At::Delayed(model.now_ms + ms);
            schedule.retry_later(handle, model.now_ms + ms);
        }
        Step::Park(which) => {
            let handle = *which.get(&running);
            model.parked.extend(model.records[&handle].0);
            prop_assert_eq!(schedule.park(handle), Start::SetAside(handle));
        }
    }
    Ok(())
}

fn remove(model: &mut Model, schedule: &mut Schedule, every: u32) -> Result<(), TestCaseError> {
    let (mut removed, mut starts) = (Vec::new(), Vec::new());
    schedule.remove(|handle| handle % every == 0, &mut removed, &mut starts);
    let unwanted: Vec<u32> = model
        .records
        .iter()
        .filter(|(handle, (_, at))| *handle % every == 0 && *at != At::Running)
        .map(|(handle, _)| *handle)
        .collect();
    let by_lane = |handles: &[u32]| {
        let mut lanes: BTreeMap<Option<u64>, Vec<u32>> = BTreeMap::new();
        handles.iter().for_each(|handle| lanes.entry(model.records[handle].0).or_default().push(*handle));
        lanes
    };
    for (lane, handles) in by_lane(&removed) {
        let Some(lane) = lane else { continue };
        let in_order: Vec<u32> =
            model.lanes[&lane].iter().filter(|h| unwanted.contains(h)).copied().collect();
        prop_assert_eq!(handles, in_order);
    }
    removed.sort_unstable();
    prop_assert_eq!(&removed, &unwanted);
    for handle in unwanted {
        model.take_out(handle);
    }
    let lanes: Vec<u64> = model.lanes.keys().copied().collect();
    let mut expected: Vec<Start> = lanes.into_iter().filter_map(|lane| model.start_head(lane)).collect();
    expected.sort_by_key(|start| start.handle());
    starts.sort_by_key(|start| start.handle());
    prop_assert_eq!(starts, expected);
    Ok(())
}

fn check(model: &Model, schedule: &mut Schedule) -> Result<(), TestCaseError> {
    prop_assert_eq!(schedule.len(), model.records.len());
    prop_assert_eq!(schedule.is_empty(), model.records.is_empty());
    prop_assert_eq!(schedule.next_due_ms(), model.due_ms().min().map(|(due_ms, _)| due_ms));
    let lanes = (0..6).filter(|lane| {
        model.parked.contains(lane) || model.lanes.get(lane).is_some_and(|queue| !queue.is_empty())
    });
    prop_assert_eq!(schedule.lane_count(), lanes.count());
    for lane in 0..6 {
        prop_assert_eq!(schedule.is_parked(LaneHash(lane)), model.parked.contains(&lane));
    }
    for queue in model.lanes.values() {
        for (place, handle) in queue.iter().enumerate() {
            // Only the head is at work, and the head always is (I7, I8).
            prop_assert_eq!(model.records[handle].1 == At::Queued, place > 0);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_starts_what_plain_queues_start(steps in proptest::collection::vec(step(), 1..200)) {
        let (mut model, mut schedule) = (Model::default(), Schedule::new());
        for step in steps {
            take(&mut model, &mut schedule, step)?;
            check(&model, &mut schedule)?;
        }
        // Everything that was pushed comes to an end once nothing fails any more.
        take(&mut model, &mut schedule, Step::Pass { ms: 1_000 })?;
        while let Some(handle) = model.running().first().copied() {
            let expected = model.take_out(handle).and_then(|lane| model.start_head(lane));
            prop_assert_eq!(schedule.finished(handle), expected);
        }
        prop_assert!(schedule.is_empty());
    }

    #[test]
    fn only_the_order_asked_for_ties_records_together(
        a in (0u32..3, 0i32..3, proptest::option::of("[a-c]{0,12}")),
        b in (0u32..3, 0i32..3, proptest::option::of("[a-c]{0,12}")),
    ) {
        let lane = |order: ProcessingOrder, record: &(u32, i32, Option<String>)| {
            order.lane(record.0, Partition(record.1), record.2.as_ref().map(String::as_bytes))
        };
        let tied = |order| lane(order, &a).is_some() && lane(order, &a) == lane(order, &b);
        prop_assert!(!tied(ProcessingOrder::Unordered));
        prop_assert_eq!(tied(ProcessingOrder::Partition), (a.0, a.1) == (b.0, b.1));
        prop_assert_eq!(tied(ProcessingOrder::Key), a == b && a.2.is_some());
    }
}

#[test]
fn keys_spread_over_lanes_without_collision() {
    let lanes: BTreeSet<u64> = (0..200_000u32)
        .map(|i| LaneHash::of(0, Partition(0), format!("customer-{i}").as_bytes()).0)
        .collect();
    assert_eq!(lanes.len(), 200_000);
}

#[test]
#[should_panic(expected = "is not running")]
fn a_record_cannot_finish_twice() {
    let mut schedule = Schedule::new();
    assert!(schedule.push(0, None).is_some());
    assert_eq!(schedule.finished(0), None);
    schedule.finished(0);
}
