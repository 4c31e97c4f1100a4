//! Three Apache Kafka brokers are killed, stopped, frozen and parted under load; every order must have one effect.
//!
//! Relay, consumer and auditor are at work all the time and get through by themselves.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing::audit::{AuditOptions, AuditReport, Auditor, Outcome};
use homing::{AuditError, Shutdown};
use homing_lab::cluster::{Cluster, ClusterOptions};
use homing_lab::faults::{Direction, End, Weather};
use homing_lab::job::{Role, Site};
use homing_lab::process::Worker;
use homing_lab::scene::{Pace, Scene};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long everything may take to finish once the weather is fair again.
const PATIENCE: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 6;

/// Load on the cluster, and one test's right to break it.
struct Load {
    scene: Scene,
    workers: Vec<Worker>,
    auditing: JoinHandle<Result<AuditReport, AuditError>>,
    enough: Shutdown,
    cluster: &'static Cluster,
    _alone: MutexGuard<'static, ()>,
}

impl Load {
    fn begin(seed: u64) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        // A test that failed leaves nothing behind that the next could not live with.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let options = ClusterOptions { link_proxies: true, ..ClusterOptions::default() };
        let cluster = Cluster::shared_as(options);
        cluster.links().heal();
        cluster.start_all().unwrap();
        Self::on(cluster, Site::replicated(cluster.bootstrap()), seed, alone)
    }

    fn on(cluster: &'static Cluster, site: Site, seed: u64, alone: MutexGuard<'static, ()>) -> Self {
        let pace = Pace { orders: 3, pause: Duration::from_millis(20) };
        let mut scene = Scene::begin(env!("CARGO_BIN_EXE_lab-worker"), site, seed, pace).unwrap();
        scene.have_workers_tell();
        let workers: Vec<_> =
            [Role::Relay, Role::Consumer].map(|role| scene.worker(role, None).unwrap()).into();
        let auditor =
            Auditor::new(scene.outbox().unwrap(), scene.site().kafka(), AuditOptions::default()).unwrap();
        let enough = Shutdown::new();
        let told = enough.clone();
        let auditing = std::thread::spawn(move || auditor.run(&told));
        let load = Self { scene, workers, auditing, enough, cluster, _alone: alone };
        load.wait_for_effects(100);
        load
    }

    /// Waits until so many more orders took effect: the path is at work.
    fn wait_for_effects(&self, more: i64) {
        let (wanted, deadline) = (self.scene.effects().unwrap() + more, Instant::now() + PATIENCE);
        while self.scene.effects().unwrap() < wanted {
            if Instant::now() > deadline {
                let told = self.scene.look_into(&self.workers);
                panic!("the path must get going again: see {}", told.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a partition has lost one of two nodes from its in-sync replicas: the link between
    /// them is really broken. Which of the two it is depends on where leaders and controller are.
    fn wait_out_of_sync(&self, one: usize, other: usize) {
        let deadline = Instant::now() + PATIENCE;
        let lacks_one = |partition| {
            let isr = self.cluster.isr(self.scene.topic(), partition);
            !(isr.contains(&one) && isr.contains(&other))
        };
        while !(0..PARTITIONS).any(lacks_one) {
            assert!(Instant::now() < deadline, "nodes {one} and {other} still follow each other");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The node that leads a partition of the orders.
    fn leader(&self, partition: i32) -> usize {
        self.cluster.leader_of(self.scene.topic(), partition % PARTITIONS)
    }

    /// Fair weather: everything must be settled, applied once, and found complete.
    fn end(mut self, what: &str) {
        self.cluster.wait_ready().unwrap();
        self.scene.stop_committing().unwrap();
        self.scene.wait_drained(PATIENCE).unwrap();
        let report = self.scene.finish(self.workers, PATIENCE).unwrap();
        self.enough.trigger();
        self.auditing.join().unwrap().unwrap();
        let (outbox, kafka) = (self.scene.outbox().unwrap(), self.scene.site().kafka());
        let auditor = Auditor::new(outbox, kafka, AuditOptions::default()).unwrap();
        let audited = auditor.run_once(&Shutdown::new()).unwrap();
        println!("{what}: {report}; audit {:?}, {:?}", audited.outcome(), audited.totals);
        assert!(report.committed > 300, "the application must have been at work: {report}");
        assert!(report.violations.is_empty(), "{report}");
        assert_eq!(audited.outcome(), Outcome::Clean, "{:?}", audited.gaps);
    }
}

#[test]
fn a_leader_killed_every_five_seconds_for_three_minutes_loses_nothing() {
    let load = Load::begin(1);
    let until = Instant::now() + Duration::from_secs(180);
    let mut kills = 0;
    while Instant::now() < until {
        let next = Instant::now() + Duration::from_secs(5);
        let leader = load.leader(kills);
        load.cluster.node(leader).kill().unwrap();
        load.cluster.node(leader).start().unwrap();
        kills += 1;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    assert!(kills >= 20, "{kills} kills");
    load.end(&format!("{kills} leaders killed"));
}

#[test]
fn a_rolling_restart_of_all_brokers_loses_nothing() {
    let load = Load::begin(2);
    for node in load.cluster.nodes() {
        node.stop().unwrap();
        node.start().unwrap();
        // As an operator should: the next one goes only when this one has caught up.
        load.cluster.wait_in_sync().unwrap();
        load.wait_for_effects(50);
    }
    load.end("rolling restart");
}

#[test]
fn two_of_three_brokers_down_for_thirty_seconds_lose_nothing() {
    let load = Load::begin(3);
    let leader = load.leader(0);
    let down = [leader, (leader + 1) % load.cluster.nodes().len()];
    for n in down {
        load.cluster.node(n).kill().unwrap();
    }
    std::thread::sleep(Duration::from_secs(30));
    for n in down {
        load.cluster.node(n).start().unwrap();
    }
    load.cluster.wait_ready().unwrap();
    load.wait_for_effects(50);
    load.end("two of three down");
}

#[test]
fn a_leader_frozen_past_its_session_loses_nothing_when_it_wakes() {
    let load = Load::begin(4);
    for partition in 0..2 {
        let leader = load.leader(partition);
        load.cluster.node(leader).pause().unwrap();
        // Others take over while it sleeps; it wakes as a leader that is none any more.
        load.cluster.wait_leader_other_than(load.scene.topic(), partition, leader).unwrap();
        load.wait_for_effects(50);
        load.cluster.node(leader).resume().unwrap();
        load.wait_for_effects(50);
    }
    load.end("frozen leaders");
}

#[test]
fn each_link_between_brokers_cut_or_half_open_loses_nothing() {
    let load = Load::begin(5);
    let links = load.cluster.links();
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        links.set_between(one, other, Weather::Cut);
        load.wait_out_of_sync(one, other);
        links.heal();
        load.cluster.wait_in_sync().unwrap();
        load.wait_for_effects(50);
        // A follower's requests arrive, and it never hears of it.
        let leader = load.leader(0);
        let follower = if leader == one { other } else { one };
        links.set(End::Node(follower), End::Node(leader), Weather::HalfOpen(Direction::Answers));
        load.wait_out_of_sync(leader, follower);
        links.heal();
        load.cluster.wait_in_sync().unwrap();
        load.wait_for_effects(50);
    }
    load.end("each link cut, then half open");
}

#[test]
fn two_hundred_answers_dropped_after_the_work_was_done_lose_and_double_nothing() {
    let load = Load::begin(6);
    let links = load.cluster.links();
    let (before, deadline) = (links.dropped(), Instant::now() + PATIENCE);
    links.drop_answers(5, 200, 0x5eed);
    while links.dropped() < before + 200 {
        assert!(Instant::now() < deadline, "{} answers dropped", links.dropped() - before);
        std::thread::sleep(Duration::from_millis(20));
    }
    load.wait_for_effects(50);
    load.end("200 answers dropped");
}
