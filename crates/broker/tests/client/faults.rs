//! Faults on purpose: what the broker does wrong when it is told to, and what clients make of it.

use std::time::{Duration, Instant};

use homing_broker::{ApiKey, Count, Fault, RunningBroker};

use crate::support::{Admin, Group, Producer, embedded_broker, places};

struct Bench {
    broker: RunningBroker,
    address: String,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let broker = embedded_broker(dir.path(), None);
    let address = broker.addr().to_string();
    Admin::new(&address).create("t", 1, &[]).unwrap();
    Bench { broker, address, _dir: dir }
}

const FAST: [(&str, &str); 3] =
    [("retry.backoff.ms", "10"), ("reconnect.backoff.ms", "10"), ("reconnect.backoff.max.ms", "50")];

/// Sends 50 records while three answers are lost; how many stand in the log then.
fn records_after_lost_answers(idempotence: &str) -> usize {
    let bench = bench();
    let mut settings =
        vec![("enable.idempotence", idempotence), ("batch.num.messages", "5"), ("acks", "all")];
    settings.extend(FAST);
    let producer = Producer::new(&bench.address, &settings);
    producer.send("t", 0, &["the connection stands"]);
    bench.broker.faults().inject(ApiKey::Produce, Fault::DropResponse, Count::Times(3));
    let texts: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for text in &texts {
        producer.queue("t", 0, None, Some(text.as_bytes()));
    }
    assert!(producer.deliveries().iter().all(Result::is_ok));
    let consumer = Group::new(&bench.address, "none", &[]);
    let (_, end) =
        rdkafka::consumer::Consumer::fetch_watermarks(&consumer.0, "t", 0, crate::support::PATIENCE).unwrap();
    let read = Group::assigned(&bench.address, "t", 1, &[]).read(end as usize);
    assert!(texts.iter().all(|text| read.iter().any(|r| r.text() == text)), "nothing is missing");
    end as usize - 1
}

#[test]
fn embedded_records_resent_for_a_lost_answer_stand_once_with_idempotence_and_twice_without() {
    assert_eq!(records_after_lost_answers("true"), 50);
    assert!(records_after_lost_answers("false") > 50, "the fault did not bite");
}

#[test]
fn embedded_a_broker_that_lies_about_appending_loses_records_which_clients_believe_in() {
    let bench = bench();
    let producer = Producer::new(&bench.address, &[]);
    producer.send("t", 0, &["a"]);
    bench.broker.faults().inject(ApiKey::Produce, Fault::AckWithoutAppend, Count::Once);
    assert_eq!(producer.send("t", 0, &["lost"]), [1], "acknowledged with an offset");
    assert_eq!(producer.send("t", 0, &["b"]), [1], "which the next record takes");
    let read = Group::assigned(&bench.address, "t", 1, &[]).read(2);
    assert!(read.iter().map(|r| r.text()).eq(["a", "b"]));
}

#[test]
fn embedded_clients_come_through_errors_delays_and_dropped_connections_of_every_kind() {
    const NOT_LEADER: i16 = 6;
    const COORDINATOR_LOADING: i16 = 14;
    const NOT_COORDINATOR: i16 = 16;
    const REBALANCE: i16 = 27;
    let bench = bench();
    let faults = bench.broker.faults();
    faults.inject(ApiKey::Produce, Fault::ErrorCode(NOT_LEADER), Count::Times(2));
    faults.inject(ApiKey::Produce, Fault::DropConnection, Count::Once);
    faults.inject(ApiKey::Metadata, Fault::DropConnection, Count::Once);
    faults.inject(ApiKey::Fetch, Fault::ErrorCode(NOT_LEADER), Count::Times(2));
    faults.inject(ApiKey::Fetch, Fault::DropResponse, Count::Once);
    faults.inject(ApiKey::ListOffsets, Fault::ErrorCode(NOT_LEADER), Count::Once);
    faults.inject(ApiKey::FindCoordinator, Fault::ErrorCode(COORDINATOR_LOADING), Count::Once);
    faults.inject(ApiKey::JoinGroup, Fault::ErrorCode(COORDINATOR_LOADING), Count::Once);
    faults.inject(ApiKey::JoinGroup, Fault::DropConnection, Count::Once);
    faults.inject(ApiKey::SyncGroup, Fault::ErrorCode(REBALANCE), Count::Once);
    faults.inject(ApiKey::Heartbeat, Fault::Delay(Duration::from_millis(300)), Count::Once);
    faults.inject(ApiKey::OffsetFetch, Fault::ErrorCode(COORDINATOR_LOADING), Count::Once);
    faults.inject(ApiKey::OffsetCommit, Fault::ErrorCode(NOT_COORDINATOR), Count::Once);
    faults.inject(ApiKey::OffsetCommit, Fault::DropResponse, Count::Once);
    let mut settings = vec![("enable.idempotence", "true")];
    settings.extend(FAST);
    let producer = Producer::new(&bench.address, &settings);
    let consumer = Group::subscribed(&bench.address, "g", "t", &FAST);
    producer.fill("t", 1, 20);
    let mut read = Vec::new();
    places(&[], "all records arrive", || {
        // Some of the faults reach the application as events; they are not final.
        if let Some(Ok(record)) = consumer.poll() {
            read.push(record.text().to_owned());
        }
        read.len() == 20
    });
    assert!(read.into_iter().eq((0..20).map(|n| format!("0/{n}"))), "once each and in order");
    crate::support::eventually("the commit goes through", || {
        let _ = consumer.poll();
        consumer.commit("t", 0, 20, "").ok()
    });
    faults.clear();
    assert_eq!(consumer.committed("t", 0), Some((20, String::new())));
}

#[test]
fn embedded_a_delayed_answer_comes_as_late_as_asked_for_and_an_idle_fault_does_nothing() {
    let bench = bench();
    let producer = Producer::new(&bench.address, &[]);
    producer.send("t", 0, &["the connection stands"]);
    bench.broker.faults().inject(ApiKey::Produce, Fault::Delay(Duration::from_millis(250)), Count::Once);
    bench.broker.faults().inject(ApiKey::DeleteGroups, Fault::DropConnection, Count::Always);
    let started = Instant::now();
    producer.send("t", 0, &["late"]);
    assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    let started = Instant::now();
    producer.send("t", 0, &["on time"]);
    assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
}
