//! Relay and consumer are killed with SIGKILL, at every step and at random; every order must have one effect.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing::outbox::SqliteOutbox;
use homing_broker::{Broker, BrokerOptions, RunningBroker};
use homing_core::StreamName;
use homing_lab::bench::broker::create_topic;
use homing_lab::checker::{Committed, Report, check, check_unstamped};
use homing_lab::process::{Ended, Worker};
use homing_lab::{effects, wire, workload};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A broker, an outbox with an application at work on it, and the consumer's database.
struct Scene {
    dir: tempfile::TempDir,
    broker: RunningBroker,
    application: Option<JoinHandle<()>>,
    enough: Arc<AtomicBool>,
}

impl Scene {
    fn begin(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker =
            Broker::start(BrokerOptions { dir: dir.path().join("broker"), ..BrokerOptions::default() })
                .unwrap();
        let outbox =
            SqliteOutbox::create(dir.path().join("orders.db"), &StreamName::parse("lab").unwrap()).unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let application = std::thread::spawn(move || {
            let mut orders = workload::Orders::open(&outbox, seed, 20).unwrap();
            while !told.load(Ordering::Relaxed) {
                orders.commit(3).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { dir, broker, application: Some(application), enough }
    }

    fn outbox_path(&self) -> PathBuf {
        self.dir.path().join("orders.db")
    }

    fn effects_path(&self) -> PathBuf {
        self.dir.path().join("effects.db")
    }

    fn worker(&self, role: &str, kill: Option<&str>) -> Worker {
        let database = if role.ends_with("relay") { self.outbox_path() } else { self.effects_path() };
        let bootstrap = self.broker.addr().to_string();
        let mut args = vec![role.to_owned(), bootstrap, database.to_str().unwrap().to_owned()];
        args.extend(kill.map(str::to_owned));
        let mut worker = Worker::spawn(env!("CARGO_BIN_EXE_lab-worker"), args).unwrap();
        assert_eq!(worker.line().unwrap().as_deref(), Some("ready"));
        worker
    }

    /// Has the application stop; everything it committed.
    fn stop_committing(&mut self) -> Vec<Committed> {
        self.enough.store(true, Ordering::Relaxed);
        self.application.take().unwrap().join().unwrap();
        workload::committed(&self.outbox_path()).unwrap()
    }

    /// Lets unharmed workers finish what is left, then compares everything.
    fn finish(mut self) -> Report {
        let committed = self.stop_committing();
        let (mut relay, mut consumer) = (self.worker("relay", None), self.worker("consumer", None));
        let deadline = Instant::now() + PATIENCE;
        while effects::count(&self.effects_path()).unwrap() < committed.len() as i64
            && Instant::now() < deadline
        {
            assert_eq!(relay.wait(Duration::from_millis(20)).unwrap(), None, "the relay must not give up");
            assert_eq!(
                consumer.wait(Duration::from_millis(20)).unwrap(),
                None,
                "the consumer must not give up"
            );
        }
        let wire = wire::read_topic(&self.broker.addr().to_string(), workload::TOPIC, PATIENCE).unwrap();
        check(&committed, &wire, &effects::read(&self.effects_path()).unwrap())
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

fn kill_at_every_step(role: &str, other: &str, steps: &[&str]) {
    let scene = Scene::begin(7);
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
    println!("{role} killed at each of {steps:?}, three times: {report}");
    assert!(report.committed > 100, "the application must have been at work: {report}");
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn a_relay_killed_between_every_two_steps_loses_and_reorders_nothing() {
    kill_at_every_step("relay", "consumer", RELAY_STEPS);
}

#[test]
fn a_consumer_killed_between_every_two_steps_applies_every_order_once() {
    kill_at_every_step("consumer", "relay", CONSUMER_STEPS);
}

#[test]
fn a_relay_killed_while_it_takes_over_from_a_killed_relay_loses_nothing() {
    let scene = Scene::begin(11);
    for _ in 0..5 {
        expect_suicide(&mut scene.worker("relay", Some("relay.all_sent:2")), "relay.all_sent");
        expect_suicide(&mut scene.worker("relay", Some("relay.tail_read:1")), "relay.tail_read");
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
    let scene = Scene::begin(seed);
    let mut random = seed | 1;
    let mut pause = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        Duration::from_millis(20 + random % 180)
    };
    let mut workers = ["relay", "consumer"].map(|role| (role, Some(scene.worker(role, None))));
    for kill in 0..KILLS {
        let (role, worker) = &mut workers[kill % 2];
        let mut victim = worker.take().unwrap();
        assert_eq!(victim.wait(pause()).unwrap(), None, "a {role} must not end by itself");
        assert_eq!(victim.kill().unwrap(), Ended::Killed);
        *worker = Some(scene.worker(role, None));
    }
    drop(workers);
    let report = scene.finish();
    println!("{KILLS} random kills: {report}");
    assert!(report.committed > 500, "the application must have been at work: {report}");
    assert!(report.violations.is_empty(), "{report}");
}

/// Kills a worker of each given role over and over, then lets both finish; what took effect may be wrong.
fn kill_over_and_over(roles: [&'static str; 2], kills: usize) -> Report {
    let mut scene = Scene::begin(13);
    create_topic(&scene.broker.addr().to_string(), workload::TOPIC, 6).unwrap();
    let mut workers = roles.map(|role| Some(scene.worker(role, None)));
    for kill in 0..kills {
        let worker = &mut workers[kill % 2];
        let mut victim = worker.take().unwrap();
        victim.wait(Duration::from_millis(150)).unwrap();
        victim.kill().unwrap();
        *worker = Some(scene.worker(roles[kill % 2], None));
    }
    let committed = scene.stop_committing();
    let quiet = Duration::from_secs(2);
    let (mut seen, mut since) = (effects::count(&scene.effects_path()).unwrap(), Instant::now());
    while since.elapsed() < quiet {
        std::thread::yield_now();
        workers
            .iter_mut()
            .flatten()
            .for_each(|worker| assert_eq!(worker.wait(Duration::from_millis(20)).unwrap(), None));
        let now = effects::count(&scene.effects_path()).unwrap();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    drop(workers);
    check_unstamped(&committed, &effects::read(&scene.effects_path()).unwrap())
}

#[test]
fn unsafe_arm_a_relay_that_marks_on_enqueue_loses_under_the_same_kills() {
    let report = kill_over_and_over(["unsafe-relay", "consumer-without-inbox"], 30);
    println!("relay that marks on enqueue: {report}");
    assert!(report.lost() > 0, "an unsafe arm that loses nothing makes the kill tests invalid: {report}");
}

#[test]
fn unsafe_arm_a_consumer_that_auto_commits_loses_under_the_same_kills() {
    let report = kill_over_and_over(["unsafe-consumer", "relay"], 30);
    println!("consumer that auto-commits: {report}");
    assert!(report.lost() > 0, "an unsafe arm that loses nothing makes the kill tests invalid: {report}");
}

#[test]
fn unsafe_arm_a_consumer_without_inbox_applies_twice_under_the_same_kills() {
    let report = kill_over_and_over(["consumer-without-inbox", "relay"], 30);
    println!("consumer without inbox: {report}");
    assert_eq!(report.lost(), 0, "without the inbox nothing is lost either: {report}");
    assert!(
        report.twice() > 0,
        "an unsafe arm that applies nothing twice makes the kill tests invalid: {report}"
    );
}
