//! Seeded random requests to the embedded broker and to Apache Kafka: the answers must be the same.
//!
//! `HOMING_DIFFERENTIAL=N` runs N sequences, `HOMING_TEST_SEED` begins with another seed.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_broker::{Broker, BrokerOptions, FlushPolicy};
use homing_lab::cluster::{Cluster, ClusterOptions};
use homing_lab::differential::{Op, Pair, known};
use std::collections::BTreeMap;

const LENGTH: usize = 40;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn the_embedded_broker_answers_as_apache_kafka_does() {
    let (count, first) = (number("HOMING_DIFFERENTIAL", 25), number("HOMING_TEST_SEED", 1));
    let kafka = std::env::var("HOMING_DIFFERENTIAL_KAFKA").map_err(|_| {
        let settings = [("group.min.session.timeout.ms".to_owned(), "6000".to_owned())].into();
        Cluster::start(ClusterOptions { nodes: 1, settings, ..ClusterOptions::default() }).unwrap()
    });
    let theirs = kafka.as_ref().map_or_else(Cluster::bootstrap, Clone::clone);
    let dir = tempfile::tempdir().unwrap();
    let options =
        BrokerOptions { dir: dir.path().to_owned(), flush: FlushPolicy::Never, ..BrokerOptions::default() };
    let broker = Broker::start(options).unwrap();
    let mut pair = Pair::new(&broker.addr().to_string(), &theirs).unwrap();
    let (mut different, mut seen) = (Vec::new(), BTreeMap::new());
    let mut is_known = |op: &Op, ours: &str, theirs: &str| {
        let why = known(op, ours, theirs);
        why.inspect(|why| *seen.entry(*why).or_insert(0) += 1).is_some()
    };
    for seed in first..first + count {
        if let Some(difference) = pair.try_seed(seed, LENGTH, &mut is_known).unwrap() {
            println!("seed {seed}:\n{difference}");
            different.push(seed);
        }
        if different.len() >= 10 {
            break;
        }
    }
    println!("{} requests compared; known differences: {seen:?}", pair.compared());
    assert!(different.is_empty(), "seeds with different answers: {different:?}");
}
