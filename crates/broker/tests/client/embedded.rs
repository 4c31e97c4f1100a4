//! What only our own broker can be asked for: restarting it, several in one process, refusals.

use std::time::Instant;

use kafka_protocol::messages::FindCoordinatorRequest;
use kafka_protocol::messages::OffsetForLeaderEpochRequest;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};

use crate::support::{Admin, Group, Producer, embedded_broker, eventually, places};
use crate::wire::{Wire, text, topic_name};

#[test]
fn embedded_records_and_offsets_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = embedded_broker(dir.path(), None);
    let address = broker.addr().to_string();
    Admin::new(&address).create("orders", 2, &[("retention.ms", "99999999")]).unwrap();
    Producer::new(&address, &[("enable.idempotence", "true")]).fill("orders", 2, 100);
    let group = Group::new(&address, "g", &[]);
    group.commit("orders", 1, 42, "a map").unwrap();
    drop(group);
    let id = Wire::connect(&address).topic("orders").unwrap().0;
    let cluster = broker.cluster_id().to_owned();
    broker.stop();

    let started = Instant::now();
    let broker = embedded_broker(dir.path(), None);
    println!("started again in {:?}", started.elapsed());
    let address = broker.addr().to_string();
    assert_eq!(broker.cluster_id(), cluster);
    assert_eq!(Wire::connect(&address).topic("orders").unwrap().0, id);
    let group = Group::new(&address, "g", &[]);
    assert_eq!(group.committed("orders", 1), Some((42, "a map".to_owned())));
    assert_eq!(Group::assigned(&address, "orders", 2, &[]).read(200).len(), 200);
    assert_eq!(Producer::new(&address, &[]).send("orders", 0, &["next"]), [100]);
}

#[test]
fn embedded_clients_and_members_go_on_across_a_restart_on_the_same_port() {
    let dir = tempfile::tempdir().unwrap();
    let broker = embedded_broker(dir.path(), None);
    let at = broker.addr();
    let address = at.to_string();
    Admin::new(&address).create("orders", 1, &[]).unwrap();
    let fast = [("reconnect.backoff.ms", "20"), ("reconnect.backoff.max.ms", "100")];
    let producer = Producer::new(&address, &[("enable.idempotence", "true"), fast[0], fast[1]]);
    let consumer = Group::subscribed(&address, "g", "orders", &fast);
    producer.fill("orders", 1, 50);
    consumer.read(50);
    consumer.commit("orders", 0, 50, "").unwrap();
    consumer.steps();
    broker.stop();
    for n in 50..100 {
        producer.queue("orders", 0, None, Some(format!("0/{n}").as_bytes()));
    }
    let broker = embedded_broker(dir.path(), Some(at));
    assert!(producer.deliveries().iter().all(Result::is_ok));
    let mut seen = Vec::new();
    eventually("the rest, in order", || {
        // While the broker is away the consumer reports that all brokers are down.
        if let Some(Ok(record)) = consumer.poll() {
            seen.push(record.text().to_owned());
        }
        (seen.len() == 50).then_some(())
    });
    assert!(seen.into_iter().eq((50..100).map(|n| format!("0/{n}"))), "nothing twice, nothing missing");
    consumer.commit("orders", 0, 100, "").unwrap();
    assert_eq!(consumer.steps(), [], "its membership outlived the broker");
    drop(consumer);
    drop(broker);
}

#[test]
fn embedded_leader_epochs_rise_with_each_start_and_tell_where_they_ended() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |address: &str, current: i32, epoch: i32| {
        let partition = OffsetForLeaderPartition::default()
            .with_partition(0)
            .with_current_leader_epoch(current)
            .with_leader_epoch(epoch);
        let topic =
            OffsetForLeaderTopic::default().with_topic(topic_name("orders")).with_partitions(vec![partition]);
        let request =
            OffsetForLeaderEpochRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
        let answer = Wire::connect(address).ask(4, &request);
        let partition = &answer.topics[0].partitions[0];
        (partition.error_code, partition.leader_epoch, partition.end_offset)
    };
    let broker = embedded_broker(dir.path(), None);
    let address = broker.addr().to_string();
    Admin::new(&address).create("orders", 1, &[]).unwrap();
    Producer::new(&address, &[]).fill("orders", 1, 10);
    let first = Wire::connect(&address).topic("orders").unwrap().1;
    assert_eq!(ask(&address, first, first), (0, first, 10));
    broker.stop();
    let broker = embedded_broker(dir.path(), None);
    let address = broker.addr().to_string();
    Producer::new(&address, &[]).fill("orders", 1, 5);
    let second = Wire::connect(&address).topic("orders").unwrap().1;
    assert!(second > first, "{second} after {first}");
    assert_eq!(ask(&address, second, first), (0, first, 10));
    assert_eq!(ask(&address, second, second), (0, second, 15));
    assert_eq!(ask(&address, first, first).0, 74, "FENCED_LEADER_EPOCH");
    assert_eq!(ask(&address, second + 1, first).0, 75, "UNKNOWN_LEADER_EPOCH");
    drop(broker);
}

#[test]
fn embedded_brokers_live_side_by_side_in_one_process() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let brokers = dirs.each_ref().map(|dir| embedded_broker(dir.path(), None));
    assert_ne!(brokers[0].addr(), brokers[1].addr());
    assert_ne!(brokers[0].cluster_id(), brokers[1].cluster_id());
    for (n, broker) in brokers.iter().enumerate() {
        let address = broker.addr().to_string();
        Admin::new(&address).create("same-name", 1, &[]).unwrap();
        Producer::new(&address, &[]).fill("same-name", 1, 10 + n);
        let member = Group::subscribed(&address, "same-group", "same-name", &[]);
        places(&[&member], "each has its own group", || member.owned().len() == 1);
    }
    for (n, broker) in brokers.iter().enumerate() {
        let read = Group::assigned(&broker.addr().to_string(), "same-name", 1, &[]).read(10 + n);
        assert_eq!(read.len(), 10 + n);
    }
}

#[test]
fn embedded_transactions_are_refused_at_once_and_not_retried_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let broker = embedded_broker(dir.path(), None);
    let address = broker.addr().to_string();
    let request = FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![text("tx")]);
    let found = Wire::connect(&address).ask(4, &request);
    assert_eq!(found.coordinators[0].error_code, 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED");
    assert!(found.coordinators[0].error_message.as_ref().unwrap().contains("transaction"));
    let started = Instant::now();
    let producer = Producer::new(&address, &[("transactional.id", "tx")]);
    let refused = rdkafka::producer::Producer::init_transactions(&producer.0, crate::support::PATIENCE);
    assert!(refused.is_err());
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}
