//! Bad disks: full, or with a flipped bit. What was acknowledged stays; the rest is refused.

use std::path::Path;
use std::time::Duration;

use homing_broker::{Broker, BrokerOptions, RunningBroker};
use rdkafka::error::RDKafkaErrorCode;

use crate::support::{Admin, Group, Producer, Serve, Served, embedded_broker, eventually};
use crate::wire::{Committer, Wire};

const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const FULL_DISK_TEST: &str = "disk::embedded_a_full_disk_refuses_records_and_commits_and_loses_none";

#[test]
fn embedded_a_full_disk_refuses_records_and_commits_and_loses_none() {
    if Served::was_the_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let serve = Serve { test: FULL_DISK_TEST, dir: dir.path(), at: None, file_kib_max: Some(256) };
    let served = Served::start(serve);
    let address = served.address.to_string();
    Admin::new(&address).create("t", 2, &[]).unwrap();

    let producer = Producer::new(&address, &[("message.timeout.ms", "1500"), ("batch.num.messages", "10")]);
    for n in 0..400_u32 {
        producer.queue("t", 0, Some(&n.to_be_bytes()), Some(&[7; 1000]));
    }
    let deliveries = producer.deliveries();
    let acknowledged: Vec<i64> = deliveries.iter().filter_map(|d| d.ok()).map(|(_, at)| at).collect();
    assert!((100..300).contains(&acknowledged.len()), "{} of 400 acknowledged", acknowledged.len());
    assert_eq!(producer.send("t", 1, &["another file has room"]), [0]);
    let refused = crate::batches::produce(
        &mut Wire::connect(&address),
        "t",
        crate::batches::batch(1, 0, &crate::batches::record(&[7; 20_000])),
    );
    let why = refused.error_message.map(|why| why.to_string()).unwrap_or_default();
    assert!(why.contains("disk is full"), "error {}: {why:?}", refused.error_code);

    let mut wire = Wire::to_coordinator(&address, "g");
    let metadata = "m".repeat(4000);
    let by = Committer { metadata: Some(&metadata), ..Committer::outside() };
    let mut committed = 0;
    let refused = loop {
        match wire.commit("g", "t", &by, committed + 1) {
            0 => committed += 1,
            code => break code,
        }
    };
    assert_eq!(refused, COORDINATOR_NOT_AVAILABLE, "after {committed} commits");
    assert!((30..100).contains(&committed), "{committed}");
    assert_eq!(wire.commit("g", "t", &by, 9_999), COORDINATOR_NOT_AVAILABLE, "refused at once from then on");
    let kept = |address: &str| Group::new(address, "g", &[]).committed("t", 0).unwrap().0;
    assert_eq!(kept(&address), committed);
    let all_acknowledged = |address: &str| {
        let mut expected = acknowledged.clone();
        expected.sort_unstable();
        let read = Group::assigned(address, "t", 1, &[]).read(acknowledged.len());
        assert!(read.iter().map(|r| r.offset).eq(expected), "every acknowledged record is there");
    };
    all_acknowledged(&address);

    served.make_room();
    let next = acknowledged.len() as i64;
    assert_eq!(Producer::new(&address, &[]).send("t", 0, &["room again"]), [next]);
    eventually("commits work again", || (wire.commit("g", "t", &by, 7_777) == 0).then_some(()));
    served.kill();
    let broker = embedded_broker(dir.path(), None);
    let address = broker.addr().to_string();
    all_acknowledged(&address);
    assert_eq!(kept(&address), 7_777);
    assert_eq!(Producer::new(&address, &[]).send("t", 0, &["and on"]), [next + 1]);
}

fn start(dir: &Path, truncate_corrupted: bool) -> RunningBroker {
    let options = BrokerOptions { dir: dir.to_path_buf(), truncate_corrupted, ..BrokerOptions::default() };
    Broker::start(options).unwrap()
}

/// The only segment of partition 0 of the only topic.
fn segment(dir: &Path) -> std::path::PathBuf {
    let topic = std::fs::read_dir(dir.join("topics")).unwrap().next().unwrap().unwrap().path();
    topic.join("0").join(format!("{:020}.log", 0))
}

#[test]
fn embedded_a_damaged_partition_is_refused_while_the_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), false);
    let address = broker.addr().to_string();
    Admin::new(&address).create("t", 2, &[]).unwrap();
    let producer = Producer::new(&address, &[]);
    for n in 0..10 {
        producer.send("t", 0, &[&format!("zero {n}")]);
    }
    producer.send("t", 1, &["one"]);
    broker.stop();
    let file = segment(dir.path());
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();

    let broker = start(dir.path(), false);
    let address = broker.addr().to_string();
    let producer = Producer::new(&address, &[("message.timeout.ms", "1000")]);
    producer.queue("t", 0, None, Some(b"no"));
    let refused = producer.deliveries().remove(0).unwrap_err();
    let says_why = [RDKafkaErrorCode::MessageTimedOut, RDKafkaErrorCode::UnknownPartition];
    assert!(format!("{refused:?}").contains("Storage") || says_why.contains(&refused), "{refused:?}");
    assert_eq!(producer.send("t", 1, &["more"]), [1], "the other partition takes records");
    let other = Group::new(&address, "none", &[]);
    assert_eq!(
        rdkafka::consumer::Consumer::fetch_watermarks(&other.0, "t", 1, Duration::from_secs(5)).unwrap(),
        (0, 2)
    );
    broker.stop();
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "the damaged file is left as it is");

    let broker = start(dir.path(), true);
    let address = broker.addr().to_string();
    let kept = Group::assigned(&address, "t", 1, &[]).read(4);
    assert!(kept.iter().enumerate().all(|(n, r)| r.text() == format!("zero {n}")), "{kept:?}");
    drop(broker);
}

#[test]
fn embedded_a_lost_catalog_is_an_error_and_costs_no_topic() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), false);
    let address = broker.addr().to_string();
    Admin::new(&address).create("t", 1, &[]).unwrap();
    Producer::new(&address, &[]).send("t", 0, &["kept"]);
    broker.stop();
    let (catalog, aside) = (dir.path().join("catalog.json"), dir.path().join("aside"));
    std::fs::rename(&catalog, &aside).unwrap();
    let options = || BrokerOptions { dir: dir.path().to_path_buf(), ..BrokerOptions::default() };
    let refused = Broker::start(options()).unwrap_err().to_string();
    assert!(refused.contains("catalog.json is missing"), "{refused}");
    std::fs::rename(&aside, &catalog).unwrap();
    let broker = Broker::start(options()).unwrap();
    let read = Group::assigned(&broker.addr().to_string(), "t", 1, &[]).read(1);
    assert_eq!(read[0].text(), "kept");
}
