//! The relay's machine in a naive world: any interleaving, any crash, and nothing is lost, doubled or reordered.
//!
//! R1 nothing is sent before its manifest is durable; R2 a seq belongs to one row
//! for ever; R3 within a lane records leave in seq order and none overtakes an
//! unsent one; R4 a row is settled only by its own delivery or by having been read
//! at its place; R5 a lane in trouble holds back only itself; R6 every numbered
//! row is sent once its lane heals; R7 memory is bounded by the options; R8 any
//! crash leads the next owner to the same numbering.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod relay_world;

use homing_core::relay::Via;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use relay_world::{Bug, LATE_TOPIC, Outage, PARTITIONS, Place, TOPICS, World};

#[derive(Debug, Clone)]
enum Happens {
    Enqueue { place: Place, rows: usize, bad: bool },
    Steps(usize),
    Broker { place: Place, via: Via, records: usize, acked: bool },
    Outage { place: Place, outage: Outage },
    TopicShown,
    Busy(u32),
    LostAnswer { happened: bool },
    Crash { arrives: bool },
    Zombies(usize),
    Pass(u64),
}

fn place() -> impl Strategy<Value = Place> {
    (0..TOPICS, 0..PARTITIONS)
}

fn happens() -> impl Strategy<Value = Happens> {
    let via = prop_oneof![4 => Just(Via::Main), 1 => Just(Via::Probe)];
    let outage = prop_oneof![
        2 => Just(Outage::None),
        2 => Just(Outage::Silent),
        1 => Just(Outage::Refuse(29)),
        1 => Just(Outage::Refuse(32)),
        1 => Just(Outage::Refuse(45)),
        1 => Just(Outage::Refuse(56)),
    ];
    prop_oneof![
        8 => (place(), 1usize..9, prop::bool::weighted(0.05))
            .prop_map(|(place, rows, bad)| Happens::Enqueue { place, rows, bad }),
        16 => (1usize..30).prop_map(Happens::Steps),
        14 => (place(), via, 1usize..6, prop::bool::weighted(0.95))
            .prop_map(|(place, via, records, acked)| Happens::Broker { place, via, records, acked }),
        4 => (place(), outage).prop_map(|(place, outage)| Happens::Outage { place, outage }),
        1 => Just(Happens::TopicShown),
        2 => (1u32..6).prop_map(Happens::Busy),
        1 => any::<bool>().prop_map(|happened| Happens::LostAnswer { happened }),
        2 => any::<bool>().prop_map(|arrives| Happens::Crash { arrives }),
        2 => (1usize..4).prop_map(Happens::Zombies),
        6 => (1u64..400).prop_map(Happens::Pass),
    ]
}

fn happen(world: &mut World, what: &Happens) {
    match *what {
        Happens::Enqueue { place, rows, bad } => (0..rows).for_each(|_| world.enqueue(place, bad)),
        Happens::Steps(steps) => (0..steps).for_each(|_| {
            world.step();
        }),
        Happens::Broker { place, via, records, acked } => {
            for _ in 0..records {
                world.broker(place, via, acked);
            }
        }
        Happens::Outage { place, outage } => world.set_outage(place, outage),
        Happens::TopicShown => world.shown[LATE_TOPIC] = true,
        Happens::Busy(writes) => world.busy(writes),
        Happens::LostAnswer { happened } => world.lose_answer(happened),
        Happens::Crash { arrives } => world.crash(arrives),
        Happens::Zombies(most) => world.drain_zombies(most),
        Happens::Pass(ms) => world.pass(ms),
    }
}

/// Runs what happens, heals everything, and says what is wrong.
fn run(story: &[Happens], bug: Bug) -> Option<String> {
    let mut world = World::new(bug);
    for what in story {
        happen(&mut world, what);
        if world.wrong.is_some() {
            return world.wrong;
        }
    }
    world.heal();
    world.work(3000);
    world.check_done();
    world.wrong
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() }
}

/// With fixed seeds: a red run is a defect, never luck.
fn runner(cases: u32) -> TestRunner {
    TestRunner::new_with_rng(config(cases), TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn any_interleaving_with_any_crash_loses_doubles_and_reorders_nothing() {
    let story = proptest::collection::vec(happens(), 0..120);
    runner(1500)
        .run(&story, |story| {
            prop_assert_eq!(run(&story, Bug::None), None);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_crash_after_every_single_action_leads_to_the_same_numbers() {
    for after in 1..160 {
        let mut world = World::new(Bug::None);
        for place in [(0, 0), (0, 1), (1, 0), (LATE_TOPIC, 0)] {
            (0..9).for_each(|n| world.enqueue(place, n == 4));
        }
        for crash in [true, false] {
            for step in 0..after {
                world.step();
                if step % 5 == 4 {
                    [(0, 0), (0, 1), (1, 0)]
                        .into_iter()
                        .for_each(|place| world.broker(place, Via::Main, true));
                    world.pass(7);
                }
            }
            world.crash(crash);
        }
        world.heal();
        world.work(2000);
        world.check_done();
        assert_eq!(world.wrong, None, "crash after {after} actions");
    }
}

#[test]
fn a_lane_in_trouble_holds_back_only_itself() {
    for outage in
        [Outage::Silent, Outage::Refuse(29), Outage::Refuse(32), Outage::Refuse(19), Outage::Refuse(45)]
    {
        for takes_over in [false, true] {
            let mut world = World::new(Bug::None);
            let others = [(0, 1), (1, 1)];
            world.set_outage((1, 0), outage);
            for _ in 0..40 {
                for place in [(1, 0), (0, 1), (LATE_TOPIC, 0), (1, 1)] {
                    (0..7).for_each(|_| world.enqueue(place, false));
                }
                world.work(12);
                if takes_over {
                    world.crash(true);
                }
            }
            world.work(200);
            // Topic-wide refusals hold the topic's other lane back too, as Kafka does not take it either.
            let free = if outage == Outage::Refuse(29) { &others[..1] } else { &others[..] };
            let (settled, all) = world.settled_of(free);
            assert_eq!(settled, all, "{outage:?}, takeovers: {takes_over}");
            assert_eq!(world.wrong, None);
            assert!(world.settled_of(&[(1, 0)]).0 == 0, "it was in trouble all the time");
            world.heal();
            world.work(3000);
            world.check_done();
            assert_eq!(world.wrong, None, "{outage:?}");
        }
    }
}

/// Issue 9, number 1: rows of a flight are left when the lease cannot be renewed in the middle of it.
fn story_of_number_1() -> Vec<Happens> {
    let place = (0, 0);
    let broker = Happens::Broker { place, via: Via::Main, records: 5, acked: true };
    vec![
        Happens::Enqueue { place, rows: 1, bad: false },
        Happens::Steps(40),
        broker.clone(),
        Happens::Steps(40),
        Happens::Enqueue { place, rows: 20, bad: false },
        Happens::Steps(60),
        // Five rows are out. Now the lease is due, and the database busy.
        Happens::Pass(400),
        Happens::Busy(2),
        Happens::Steps(3),
        broker,
        Happens::Steps(60),
    ]
}

#[test]
fn the_rows_of_a_flight_are_sent_whatever_the_database_does_meanwhile() {
    assert_eq!(run(&story_of_number_1(), Bug::None), None);
}

#[test]
fn unsafe_arm_a_driver_that_leaves_a_range_when_the_database_is_busy_is_caught() {
    let wrong = run(&story_of_number_1(), Bug::LeavesARangeWhenTheDatabaseIsBusy);
    let wrong = wrong.expect("a row that is never sent must be noticed");
    assert!(wrong.starts_with("R3") || wrong.starts_with("R6"), "{wrong}");
}
