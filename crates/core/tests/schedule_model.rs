//! The lanes against a naive model: nothing lost, order kept, never two of a lane at once.

use homing_core::Partition;
use homing_core::schedule::{LaneHash, LaneId, Lanes, Taken};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Act {
    Push {
        lane: Option<u8>,
    },
    Take {
        max: usize,
    },
    /// Ends the i-th run that is out: all done, or put back from some job on.
    End {
        run: usize,
        done: usize,
        delay: bool,
    },
    Clock {
        by: u64,
    },
    Purge {
        modulus: u32,
    },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => proptest::option::weighted(0.8, 0..5u8).prop_map(|lane| Act::Push { lane }),
        4 => (1..6usize).prop_map(|max| Act::Take { max }),
        5 => (0..4usize, 0..4usize, any::<bool>()).prop_map(|(run, done, delay)| Act::End { run, done, delay }),
        2 => (0..50u64).prop_map(|by| Act::Clock { by }),
        1 => (2..5u32).prop_map(|modulus| Act::Purge { modulus }),
    ]
}

/// Job numbers rise in push order; a job is (number, lane).
type Job = (u32, Option<u8>);

#[derive(Default)]
struct Model {
    /// Where each job is; only what is in here may still be handled.
    alive: BTreeMap<u32, Option<u8>>,
    /// The runs handed out, each of one lane or a single job.
    out: Vec<(Option<LaneId>, Vec<Job>)>,
    /// The last job finished per lane.
    finished: BTreeMap<u8, u32>,
}

fn lane_id(lane: u8) -> LaneId {
    LaneHash(u64::from(lane) << 40).into()
}

fn take(lanes: &mut Lanes<Job>, model: &mut Model, max: usize) {
    let mut taken = Vec::new();
    lanes.take(max, &mut taken);
    assert!(taken.len() <= max);
    for Taken { lane, job } in taken {
        match model.out.last_mut() {
            Some((last, run)) if lane.is_some() && *last == lane => run.push(job),
            _ => {
                let busy = lane.is_some() && model.out.iter().any(|(other, _)| *other == lane);
                assert!(!busy, "two runs of one lane at once");
                model.out.push((lane, vec![job]));
            }
        }
    }
}

fn end(lanes: &mut Lanes<Job>, model: &mut Model, at: usize, done: usize, due_ms: Option<u64>) {
    let (lane, mut run) = model.out.remove(at);
    let rest = run.split_off(done.min(run.len()));
    for (number, of) in run {
        assert!(model.alive.remove(&number).is_some(), "a job is handled once");
        if let Some(of) = of {
            let before = model.finished.insert(of, number);
            assert!(before.is_none_or(|before| before < number), "order within a lane");
        }
    }
    match (lane, rest.is_empty()) {
        (Some(lane), true) => lanes.finish(lane),
        (Some(lane), false) => {
            lanes.put_front(lane, rest.into_iter());
            match due_ms {
                Some(due) => lanes.delay(lane, due),
                None => lanes.finish(lane),
            }
        }
        (None, _) => rest.into_iter().for_each(|job| lanes.delay_job(job, due_ms.unwrap_or(0))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_job_is_handled_once_and_lanes_keep_their_order(acts in proptest::collection::vec(act(), 1..120)) {
        let (mut lanes, mut model, mut now, mut number) = (Lanes::new(), Model::default(), 0u64, 0u32);
        for act in acts {
            match act {
                Act::Push { lane } => {
                    lanes.push(lane.map(lane_id), (number, lane));
                    model.alive.insert(number, lane);
                    number += 1;
                }
                Act::Take { max } => take(&mut lanes, &mut model, max),
                Act::End { run, done, delay } if !model.out.is_empty() => {
                    let at = run % model.out.len();
                    end(&mut lanes, &mut model, at, done, delay.then_some(now + 20));
                }
                Act::End { .. } => {}
                Act::Clock { by } => {
                    now += by;
                    lanes.wake_due(now);
                    prop_assert!(lanes.next_due_ms().is_none_or(|due| due > now));
                }
                Act::Purge { modulus } => {
                    let mut removed = Vec::new();
                    lanes.purge(|(number, _)| number % modulus == 0, &mut removed);
                    let outside = |number: u32| model.out.iter().any(|(_, run)| run.iter().any(|(n, _)| *n == number));
                    let expected: Vec<u32> =
                        model.alive.keys().copied().filter(|n| n % modulus == 0 && !outside(*n)).collect();
                    let mut got: Vec<u32> = removed.iter().map(|(number, _)| *number).collect();
                    got.sort_unstable();
                    prop_assert_eq!(got, expected);
                    removed.iter().for_each(|(number, _)| { model.alive.remove(number); });
                }
            }
            let handed_out: usize = model.out.iter().map(|(_, run)| run.len()).sum();
            prop_assert_eq!(lanes.waiting() + handed_out, model.alive.len());
        }
        // Once everything succeeds, everything comes to its turn.
        for _ in 0..10_000 {
            if model.alive.is_empty() {
                break;
            }
            now += 100;
            lanes.wake_due(now);
            take(&mut lanes, &mut model, 3);
            while !model.out.is_empty() {
                end(&mut lanes, &mut model, 0, usize::MAX, None);
            }
        }
        prop_assert!(model.alive.is_empty(), "left behind: {:?}", model.alive);
        prop_assert!(!lanes.has_ready() && lanes.next_due_ms().is_none());
    }
}

#[test]
fn ten_thousand_keys_spread_over_the_lanes() {
    let mut hit = std::collections::HashSet::new();
    for key in 0..10_000u32 {
        hit.insert(LaneId::from(LaneHash::of(3, Partition(1), format!("key-{key}").as_bytes())));
    }
    // Drawn at random, 16,384 x (1 - e^(-10000/16384)) = 7,486 lanes are hit.
    assert!(hit.len() > 7_200, "only {} lanes", hit.len());
}
