//! The cluster harness itself: it serves, breaks where told, and leaves nothing behind.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_lab::cluster::{Cluster, ClusterOptions};
use homing_lab::wire;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Sends `count` records to each of `partitions` and waits for all acknowledgements.
fn produce(bootstrap: &str, topic: &str, partitions: i32, count: usize) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .create()
        .unwrap();
    for partition in 0..partitions {
        for number in 0..count {
            let payload = number.to_string();
            let record = BaseRecord::<(), _>::to(topic).partition(partition).payload(&payload);
            producer.send(record).unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();
}

#[test]
fn three_nodes_start_and_serve_and_a_killed_leader_moves_and_comes_back() {
    let cluster = Cluster::start(ClusterOptions::default()).unwrap();
    println!("three nodes were ready after {:.1} s", cluster.start_time().as_secs_f64());

    cluster.create_topic("orders", 3, 3, &[]).unwrap();
    produce(&cluster.bootstrap(), "orders", 3, 10);
    assert_eq!(wire::read_topic(&cluster.bootstrap(), "orders", PATIENCE).unwrap().len(), 30);
    assert_eq!(cluster.isr("orders", 0), [0, 1, 2]);

    let leader = cluster.leader_of("orders", 0);
    let killed = cluster.node(leader).pid().unwrap();
    cluster.node(leader).kill().unwrap();
    assert!(!alive(killed) && !cluster.node(leader).is_running());
    let next = cluster.wait_leader_other_than("orders", 0, leader).unwrap();
    assert_ne!(next, leader);
    produce(&cluster.bootstrap(), "orders", 3, 10);

    cluster.node(leader).start().unwrap();
    cluster.wait_ready().unwrap();
    cluster.wait_in_sync().unwrap();
    assert_eq!(cluster.isr("orders", 0), [0, 1, 2]);
    assert_eq!(wire::read_topic(&cluster.bootstrap(), "orders", PATIENCE).unwrap().len(), 60);

    let controller = cluster.controller();
    cluster.node(controller).pause().unwrap();
    cluster.wait_ready().unwrap();
    assert_ne!(cluster.controller(), controller, "a paused controller is replaced");
    cluster.node(controller).resume().unwrap();
    cluster.wait_ready().unwrap();

    cluster.node(0).restart_with(&[("message.max.bytes", "2000000")]).unwrap();
    cluster.wait_ready().unwrap();
    cluster.wait_in_sync().unwrap();
    assert_eq!(wire::read_topic(&cluster.bootstrap(), "orders", PATIENCE).unwrap().len(), 60);

    let pids: Vec<u32> = cluster.nodes().iter().map(|node| node.pid().unwrap()).collect();
    let dir = cluster.dir().to_owned();
    drop(cluster);
    assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
    assert!(!dir.exists());
}

fn alive(pid: u32) -> bool {
    std::path::Path::new("/proc").join(pid.to_string()).exists()
}
