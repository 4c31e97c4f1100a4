//! A process that may open few files: what cannot fit is refused before it is made, and nothing is lost.

use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::CreatableTopic;

use crate::support::{Admin, Group, Producer, Serve, Served, embedded_broker};
use crate::wire::{Wire, topic_name};

const POLICY_VIOLATION: i16 = 44;
const FEW_TEST: &str = "descriptors::embedded_partitions_that_cannot_fit_are_refused_before_they_are_made";
const ROLL_TEST: &str = "descriptors::embedded_a_roll_without_descriptors_loses_no_acknowledged_record";

#[test]
fn embedded_partitions_that_cannot_fit_are_refused_before_they_are_made() {
    if Served::was_the_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(Serve { test: FEW_TEST, dir: dir.path(), at: None, file_kib_max: None });
    served.limit_files("400:400");
    let address = served.address.to_string();
    Admin::new(&address).create("small", 4, &[]).unwrap();
    let mut wire = Wire::connect(&address);
    let topic = CreatableTopic::default()
        .with_name(topic_name("wide"))
        .with_num_partitions(1_000)
        .with_replication_factor(-1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let refused = wire.ask(5, &request).topics.remove(0);
    let why = refused.error_message.map(|why| why.to_string()).unwrap_or_default();
    assert_eq!(refused.error_code, POLICY_VIOLATION, "{why}");
    assert!(why.contains("1000 file descriptors") && why.contains("ulimit -n"), "{why}");
    assert_eq!(std::fs::read_dir(dir.path().join("topics")).unwrap().count(), 1, "nothing of it was made");
    // Many that would fit one by one: the last are refused, those that were made all work.
    let made = (0..200).take_while(|n| Admin::new(&address).create(&format!("t{n}"), 4, &[]).is_ok()).count();
    assert!((20..100).contains(&made), "{made}");
    for n in 0..made {
        assert_eq!(Producer::new(&address, &[]).send(&format!("t{n}"), 3, &["fits"]), [0]);
    }
    served.kill();
    let broker = embedded_broker(dir.path(), None);
    assert_eq!(broker.troubles(), []);
}

#[test]
fn embedded_a_roll_without_descriptors_loses_no_acknowledged_record() {
    if Served::was_the_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(Serve { test: ROLL_TEST, dir: dir.path(), at: None, file_kib_max: None });
    let address = served.address.to_string();
    Admin::new(&address).create("t", 1, &[("segment.bytes", "1000")]).unwrap();
    let producer = Producer::new(&address, &[("enable.idempotence", "true"), ("batch.num.messages", "1")]);
    let mut next = 0;
    let mut send = |count: i64| {
        for _ in 0..count {
            assert_eq!(producer.send("t", 0, &[&format!("{next}")]), [next]);
            next += 1;
        }
    };
    send(30);
    served.limit_files("3:");
    send(30);
    served.limit_files("4096:");
    send(30);
    served.kill();
    // Before a group makes the offsets' topic beside it.
    let segments = std::fs::read_dir(dir.path().join("topics")).unwrap().next().unwrap().unwrap().path();
    let broker = embedded_broker(dir.path(), None);
    let read = Group::assigned(&broker.addr().to_string(), "t", 1, &[]).read(90);
    assert!(read.iter().enumerate().all(|(n, record)| record.text() == n.to_string()));
    let logs = std::fs::read_dir(segments.join("0")).unwrap();
    let logs = logs.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "log"));
    assert!(logs.count() > 4, "it rolled before and behind");
}
