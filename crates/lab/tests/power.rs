//! The power of brokers is cut, and their disks fill up; what was flushed, and what waits in the outbox, survives.
//!
//! As root each node has a file system of its own that is shut down under it; otherwise the
//! nodes are killed and their logs cut back to what Kafka noted as flushed.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_lab::acked::{Loss, Numbered};
use homing_lab::cluster::{Cluster, ClusterOptions, Storage};
use homing_lab::faults::disk::may_mount;
use homing_lab::faults::truncation::recovery_point;
use homing_lab::job::{Role, Site};
use homing_lab::scene::{Pace, Scene};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);
const ACKS_ALL: &[(&str, &str)] = &[("acks", "all"), ("enable.idempotence", "true")];

fn start(storage: Storage, settings: &[(&str, &str)]) -> Cluster {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let cluster = Cluster::start(ClusterOptions { storage, settings, ..ClusterOptions::default() }).unwrap();
    // A node that loses power within seconds of its first start cannot start again: another finding.
    cluster.sync_disks().unwrap();
    cluster
}

/// Records acknowledged by all in-sync replicas, then a power cut of every node at once.
fn cut_all(what: &str, storage: Storage, settings: &[(&str, &str)]) -> Loss {
    let cluster = start(storage, settings);
    cluster.create_topic("orders", 1, 3, &[("min.insync.replicas", "2")]).unwrap();
    let mut producer = Numbered::new(&cluster.bootstrap(), "orders", ACKS_ALL).unwrap();
    producer.send(2000).unwrap();
    assert!(producer.wait_acked(PATIENCE));
    if storage == Storage::Directory && settings == FLUSH_EACH {
        wait_noted(&cluster, 2000);
    }
    cluster.cut_power(&[0, 1, 2]).unwrap();
    for node in cluster.nodes() {
        node.start().unwrap();
    }
    cluster.wait_ready().unwrap();
    cluster.wait_in_sync().unwrap();
    let loss = producer.compare(PATIENCE).unwrap();
    println!("{what}: {loss}");
    assert_eq!(loss.acked, 2000);
    loss
}

/// The strongest power cut that this user may cause.
fn disks() -> Storage {
    if may_mount() { Storage::LoopMounts { mib: 256 } } else { Storage::Directory }
}

/// The notes of what was flushed matter only where logs are cut back to them.
const FLUSH_EACH: &[(&str, &str)] =
    &[("log.flush.interval.messages", "1"), ("log.flush.offset.checkpoint.interval.ms", "200")];

/// Waits until every node has noted that so many records are flushed.
fn wait_noted(cluster: &Cluster, records: i64) {
    let deadline = Instant::now() + PATIENCE;
    let noted = |data: &Path| recovery_point(data, "orders", 0).unwrap();
    while cluster.nodes().iter().any(|node| noted(&node.data_dir()) < records) {
        assert!(Instant::now() < deadline, "every node must note what it flushed");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn unsafe_arm_a_power_cut_of_all_brokers_loses_what_only_lay_in_their_memory() {
    let loss = cut_all("default flush, all cut", disks(), &[]);
    assert!(loss.lost > 0, "an unsafe arm that loses nothing makes the test invalid: {loss}");
}

#[test]
fn a_power_cut_of_all_brokers_loses_nothing_that_was_flushed_first() {
    let loss = cut_all("flush each, all cut", disks(), FLUSH_EACH);
    assert_eq!(loss.lost, 0, "{loss}");
}

#[test]
fn without_root_logs_are_cut_at_their_recovery_points_with_the_same_result() {
    let unsafe_arm = cut_all("default flush, logs cut", Storage::Directory, &[]);
    assert!(unsafe_arm.lost > 0, "{unsafe_arm}");
    let safe_arm = cut_all("flush each, logs cut", Storage::Directory, FLUSH_EACH);
    assert_eq!(safe_arm.lost, 0, "{safe_arm}");
}

#[test]
fn a_power_cut_of_one_broker_loses_nothing_and_the_path_goes_on() {
    let cluster = start(disks(), &[]);
    let site = Site::replicated(cluster.bootstrap());
    let pace = Pace { orders: 3, pause: Duration::from_millis(20) };
    let mut scene = Scene::begin(env!("CARGO_BIN_EXE_lab-worker"), site, 5, pace).unwrap();
    let workers = [Role::Relay, Role::Consumer].map(|role| scene.worker(role, None).unwrap());
    wait_for_effects(&scene, 100);
    for index in 0..3 {
        cluster.cut_power(&[index]).unwrap();
        cluster.node(index).start().unwrap();
        cluster.wait_ready().unwrap();
        cluster.wait_in_sync().unwrap();
        wait_for_effects(&scene, 50);
    }
    let report = scene.finish(workers.into(), PATIENCE).unwrap();
    println!("one after the other cut: {report}");
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn as_root_a_broker_whose_disk_is_full_stops_alone_and_comes_back_when_there_is_room() {
    assert!(may_mount(), "a disk of its own for a node takes root");
    let cluster = start(Storage::LoopMounts { mib: 256 }, &[]);
    let site = Site::replicated(cluster.bootstrap());
    let pace = Pace { orders: 3, pause: Duration::from_millis(20) };
    let mut scene = Scene::begin(env!("CARGO_BIN_EXE_lab-worker"), site, 6, pace).unwrap();
    let workers = [Role::Relay, Role::Consumer].map(|role| scene.worker(role, None).unwrap());
    wait_for_effects(&scene, 100);
    let full = cluster.leader_of(scene.topic(), 0);
    let disk = cluster.environment().disk(full).unwrap();
    disk.fill().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while cluster.node(full).is_running() {
        assert!(Instant::now() < deadline, "Kafka ends when its only log directory fails");
        std::thread::sleep(Duration::from_millis(50));
    }
    wait_for_effects(&scene, 50);
    disk.free().unwrap();
    cluster.node(full).start().unwrap();
    cluster.wait_ready().unwrap();
    cluster.wait_in_sync().unwrap();
    let report = scene.finish(workers.into(), PATIENCE).unwrap();
    println!("a full disk: {report}");
    assert!(report.violations.is_empty(), "{report}");
}

fn wait_for_effects(scene: &Scene, more: i64) {
    let (wanted, deadline) = (scene.effects().unwrap() + more, Instant::now() + PATIENCE);
    while scene.effects().unwrap() < wanted {
        assert!(Instant::now() < deadline, "the path must get going again");
        std::thread::sleep(Duration::from_millis(20));
    }
}
