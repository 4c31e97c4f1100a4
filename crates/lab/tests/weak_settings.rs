//! Settings that lose acknowledged records when brokers die, each beside the setting that keeps them.
//!
//! The deaths are the same in both arms; an unsafe arm that loses nothing would
//! make the safe one's success worthless.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_lab::acked::Numbered;
use homing_lab::cluster::Cluster;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);
/// How long acknowledgements are waited for that may never come.
const A_WHILE: Duration = Duration::from_secs(2);

/// One topic of one partition on three brokers, and a producer that remembers what was acknowledged.
struct Arm {
    cluster: &'static Cluster,
    topic: String,
    producer: Numbered,
    _alone: MutexGuard<'static, ()>,
}

impl Arm {
    fn begin(name: &str, replicas: i16, settings: &[(&str, &str)], client: &[(&str, &str)]) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = Cluster::shared();
        cluster.start_all().unwrap();
        cluster.create_topic(name, 1, replicas, settings).unwrap();
        let mut producer = Numbered::new(&cluster.bootstrap(), name, client).unwrap();
        producer.send(100).unwrap();
        assert!(producer.wait_acked(PATIENCE));
        cluster.wait_in_sync().unwrap();
        Self { cluster, topic: name.to_owned(), producer, _alone: alone }
    }

    fn leader(&self) -> usize {
        self.cluster.leader_of(&self.topic, 0)
    }

    /// How many of the acknowledged records are not there.
    fn lost(self) -> usize {
        self.cluster.wait_ready().unwrap();
        self.cluster.wait_in_sync().unwrap();
        let loss = self.producer.compare(PATIENCE).unwrap();
        println!("{}: {loss}", self.topic);
        loss.lost
    }
}

/// Sends while the followers sleep, kills the leader, and wakes the followers: one of them leads then.
fn lost_when_a_leader_dies_ahead_of_its_followers(name: &str, client: &[(&str, &str)]) -> usize {
    let mut arm = Arm::begin(name, 3, &[("min.insync.replicas", "2")], client);
    let leader = arm.leader();
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    followers.iter().for_each(|index| arm.cluster.node(*index).pause().unwrap());
    arm.producer.send(200).unwrap();
    // With acks=1 the leader alone acknowledges; with acks=all nothing may come.
    let _ = arm.producer.wait_acked(A_WHILE);
    arm.cluster.node(leader).kill().unwrap();
    followers.iter().for_each(|index| arm.cluster.node(*index).resume().unwrap());
    arm.cluster.wait_leader_other_than(&arm.topic, 0, leader).unwrap();
    arm.cluster.node(leader).start().unwrap();
    arm.lost()
}

#[test]
fn unsafe_arm_acks_1_loses_what_a_leader_acknowledged_alone() {
    let client = [("acks", "1"), ("enable.idempotence", "false")];
    let lost = lost_when_a_leader_dies_ahead_of_its_followers("acks-1", &client);
    assert!(lost > 0, "an unsafe arm that loses nothing makes the test invalid");
}

#[test]
fn acks_all_loses_nothing_when_the_same_leader_dies() {
    let client = [("acks", "all"), ("enable.idempotence", "true")];
    assert_eq!(lost_when_a_leader_dies_ahead_of_its_followers("acks-all", &client), 0);
}

/// The follower is down while the leader acknowledges alone; then the leader dies and the follower is back.
fn lost_when_only_a_stale_replica_is_left(name: &str, unclean: &str, min_isr: &str) -> usize {
    let settings = [("min.insync.replicas", min_isr), ("unclean.leader.election.enable", unclean)];
    let client = [("acks", "all"), ("enable.idempotence", "true")];
    let mut arm = Arm::begin(name, 2, &settings, &client);
    let leader = arm.leader();
    let follower = *arm.cluster.isr(&arm.topic, 0).iter().find(|index| **index != leader).unwrap();
    arm.cluster.node(follower).kill().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while arm.cluster.isr(&arm.topic, 0).contains(&follower) {
        assert!(Instant::now() < deadline, "a dead follower must leave the in-sync replicas");
        std::thread::sleep(Duration::from_millis(50));
    }
    arm.producer.send(200).unwrap();
    let _ = arm.producer.wait_acked(A_WHILE);
    arm.cluster.node(leader).kill().unwrap();
    arm.cluster.node(follower).start().unwrap();
    arm.cluster.wait_ready().unwrap();
    if unclean == "true" {
        arm.cluster.wait_leader_other_than(&arm.topic, 0, leader).unwrap();
    }
    arm.cluster.node(leader).start().unwrap();
    arm.lost()
}

#[test]
fn unsafe_arm_unclean_election_loses_what_the_stale_replica_never_had() {
    let lost = lost_when_only_a_stale_replica_is_left("unclean", "true", "1");
    assert!(lost > 0, "an unsafe arm that loses nothing makes the test invalid");
}

#[test]
fn clean_election_waits_for_the_replica_that_has_everything() {
    assert_eq!(lost_when_only_a_stale_replica_is_left("clean", "false", "1"), 0);
}
