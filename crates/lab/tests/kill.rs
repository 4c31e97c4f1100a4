//! Relay and consumer are killed with SIGKILL, at every step and at random; every order must have one effect.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_broker::{Broker, BrokerOptions, RunningBroker};
use homing_lab::bench::broker::create_topic_at;
use homing_lab::checker::Report;
use homing_lab::job::{Role, Site};
use homing_lab::process::{Ended, Worker};
use homing_lab::scene::{Pace, Scene};
use homing_lab::unsafe_arms;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster, and a scene on it: `HOMING_TEST_BOOTSTRAP` names an Apache Kafka; without it a broker of our own.
struct Bench {
    scene: Scene,
    _embedded: Option<(RunningBroker, tempfile::TempDir)>,
}

impl Bench {
    fn begin(seed: u64) -> Self {
        let embedded = std::env::var("HOMING_TEST_BOOTSTRAP").err().map(|_| {
            let dir = tempfile::tempdir().unwrap();
            let options = BrokerOptions { dir: dir.path().to_owned(), ..BrokerOptions::default() };
            (Broker::start(options).unwrap(), dir)
        });
        let site = match &embedded {
            Some((broker, _)) => Site::single(broker.addr().to_string()),
            None => Site::at(&std::env::var("HOMING_TEST_BOOTSTRAP").unwrap()).unwrap(),
        };
        let scene = Scene::begin(env!("CARGO_BIN_EXE_lab-worker"), site, seed, Pace::default()).unwrap();
        Self { scene, _embedded: embedded }
    }

    fn worker(&self, role: Role, kill: Option<&str>) -> Worker {
        self.scene.worker(role, kill).unwrap()
    }

    fn finish(mut self) -> Report {
        let workers = [Role::Relay, Role::Consumer].map(|role| self.worker(role, None));
        self.scene.finish(workers.into(), PATIENCE).unwrap()
    }
}

/// Waits until the worker has killed itself at its step; a step that is never reached is a broken test.
fn expect_suicide(worker: &mut Worker, step: &str) {
    let ended = worker.wait(PATIENCE).unwrap();
    assert_eq!(ended, Some(Ended::Killed), "{step} must be reached, and the worker killed there");
}

const RELAY_STEPS: &[&str] = &[
    "relay.claimed",
    "relay.tail_read",
    "relay.rows_read",
    "relay.manifest_committed",
    "relay.some_sent",
    "relay.all_sent",
    "relay.all_acked",
    "relay.settled",
];

const CONSUMER_STEPS: &[&str] =
    &["consumer.polled", "consumer.handled", "consumer.tracked", "consumer.committed"];

fn kill_at_every_step(role: Role, other: Role, steps: &[&str]) {
    let scene = Bench::begin(7);
    let _unharmed = scene.worker(other, None);
    for nth in [1, 2, 5] {
        for step in steps {
            // A relay claims the outbox and reads the tail once in its life.
            let nth = if matches!(*step, "relay.claimed" | "relay.tail_read") { 1 } else { nth };
            let mut worker = scene.worker(role, Some(&format!("{step}:{nth}")));
            expect_suicide(&mut worker, step);
        }
    }
    drop(_unharmed);
    let report = scene.finish();
    println!("{role:?} killed at each of {steps:?}, three times: {report}");
    assert!(report.committed > 100, "the application must have been at work: {report}");
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn a_relay_killed_between_every_two_steps_loses_and_reorders_nothing() {
    kill_at_every_step(Role::Relay, Role::Consumer, RELAY_STEPS);
}

#[test]
fn a_consumer_killed_between_every_two_steps_applies_every_order_once() {
    kill_at_every_step(Role::Consumer, Role::Relay, CONSUMER_STEPS);
}

#[test]
fn a_relay_killed_while_it_takes_over_from_a_killed_relay_loses_nothing() {
    let scene = Bench::begin(11);
    for _ in 0..5 {
        expect_suicide(&mut scene.worker(Role::Relay, Some("relay.all_sent:2")), "relay.all_sent");
        expect_suicide(&mut scene.worker(Role::Relay, Some("relay.tail_read:1")), "relay.tail_read");
    }
    let report = scene.finish();
    println!("relay killed while taking over: {report}");
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn two_hundred_random_kills_lose_nothing_and_apply_every_order_once() {
    const KILLS: usize = 200;
    let seed = std::env::var("HOMING_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x5eed);
    println!("seed {seed} (set HOMING_TEST_SEED to repeat)");
    let scene = Bench::begin(seed);
    // A static member gets back what its former self was given, and nothing else (docs/consumer.md,
    // "Rebalances"): the first of them must find the topic.
    create_topic_at(scene.scene.site(), scene.scene.topic(), 6).unwrap();
    let mut random = seed | 1;
    let mut pause = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        Duration::from_millis(20 + random % 180)
    };
    let mut workers = [Role::Relay, Role::Consumer].map(|role| (role, Some(scene.worker(role, None))));
    for kill in 0..KILLS {
        let (role, worker) = &mut workers[kill % 2];
        let mut victim = worker.take().unwrap();
        assert_eq!(victim.wait(pause()).unwrap(), None, "a {role:?} must not end by itself");
        assert_eq!(victim.kill().unwrap(), Ended::Killed);
        *worker = Some(scene.worker(*role, None));
    }
    drop(workers);
    let report = scene.finish();
    println!("{KILLS} random kills: {report}");
    assert!(report.committed > 500, "the application must have been at work: {report}");
    assert!(report.violations.is_empty(), "{report}");
}

/// Lets workers of `role` die at a step five times, beside an unharmed one of `other`; then both
/// finish until nothing happens for `quiet`. What took effect must be wrong: the step lies where the
/// role's missing rule would matter.
fn killed_at((role, step): (Role, &str), stall_after: Option<u64>, other: Role, quiet: Duration) -> Report {
    let mut bench = Bench::begin(13);
    create_topic_at(bench.scene.site(), bench.scene.topic(), 6).unwrap();
    let unharmed = bench.worker(other, None);
    for _ in 0..5 {
        let kill = format!("{step}:1");
        let mut victim = bench.scene.worker_that_stalls(role, Some(&kill), stall_after).unwrap();
        expect_suicide(&mut victim, step);
    }
    let survivor = bench.worker(role, None);
    bench.scene.finish_unstamped(vec![unharmed, survivor], quiet).unwrap()
}

#[test]
fn unsafe_arm_a_relay_that_marks_on_enqueue_loses_what_it_marked() {
    let report = killed_at(
        (Role::UnsafeRelay, unsafe_arms::MARKED),
        None,
        Role::ConsumerWithoutInbox,
        Duration::from_secs(3),
    );
    println!("relay that marks on enqueue: {report}");
    assert!(report.lost() >= 5, "each kill lost at least one row, or the kill tests prove nothing: {report}");
}

#[test]
fn unsafe_arm_a_consumer_that_auto_commits_loses_what_it_committed_ahead() {
    let arm = (Role::UnsafeConsumer, unsafe_arms::COMMITTED_AHEAD);
    let report = killed_at(arm, Some(2), Role::Relay, Duration::from_secs(3));
    println!("consumer that auto-commits: {report}");
    assert!(
        report.lost() >= 5,
        "each kill lost at least one order, or the kill tests prove nothing: {report}"
    );
}

#[test]
fn unsafe_arm_a_consumer_without_inbox_applies_what_it_had_not_committed_twice() {
    let report = killed_at(
        (Role::ConsumerWithoutInbox, "consumer.handled"),
        None,
        Role::Relay,
        // Long enough for a group to form on a busy machine: here nothing may be missing.
        Duration::from_secs(12),
    );
    println!("consumer without inbox: {report}");
    assert_eq!(report.lost(), 0, "without the inbox nothing is lost either: {report}");
    assert!(report.twice() >= 1, "each kill came behind an effect and before its commit: {report}");
}
