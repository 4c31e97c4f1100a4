//! The auditor on sound traffic: it finds nothing, and knows that everything is there.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod audit_bench;

use audit_bench::{Bench, options, wait_until};
use homing::audit::{AuditOptions, Auditor, Outcome};
use homing::kafka::partition_list::TopicPartition;
use homing::{Partition, Shutdown, TopicName};
use std::time::Duration;

#[test]
fn sound_traffic_leads_to_no_finding_and_is_verified_to_its_end() {
    let bench = Bench::with(|kafka| kafka.topic_partitions = 6);
    let relay = bench.relay();
    let auditor = Auditor::new(bench.outbox.clone(), bench.kafka.clone(), options()).unwrap();
    let (stop, status) = (Shutdown::new(), auditor.status());
    let stopped = stop.clone();
    let audit = std::thread::spawn(move || auditor.run(&stopped));
    for chunk in 0..20 {
        bench.enqueue((0..500).map(|n| bench.message(n % 97, chunk * 500 + n)));
    }
    bench.wait_settled();
    relay.stop();
    wait_until("all is verified", || {
        bench.outbox.stats().unwrap().lanes.iter().map(|lane| lane.verified).sum::<u64>() == 10_000
    });
    stop.trigger();
    let report = audit.join().unwrap().unwrap();
    assert_eq!(report.outcome(), Outcome::Clean, "{report:?}");
    assert_eq!((report.totals.records, report.totals.duplicates), (10_000, 0));
    assert_eq!((report.gaps.len(), report.closed.len()), (0, 0), "{report:?}");
    assert_eq!(report.lanes.len(), 6);
    assert!(report.lanes.iter().all(|lane| lane.watermark == lane.settled && lane.settled > 0));
    assert!(status.report().is_some() && status.waits_for().is_none());
}

#[test]
fn an_audit_of_what_is_there_by_now_ends_by_itself_and_is_remembered() {
    let bench = Bench::new();
    bench.enqueue((0..300).map(|n| bench.message(n, n)));
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    let auditor = Auditor::new(bench.outbox.clone(), bench.kafka.clone(), options()).unwrap();
    let report = auditor.run_once(&Shutdown::new()).unwrap();
    assert_eq!((report.outcome(), report.totals.records), (Outcome::Clean, 300));
    let again = auditor.run_once(&Shutdown::new()).unwrap();
    assert_eq!(again.totals, report.totals, "nothing is read twice");
    let recalled = auditor.recall().unwrap();
    assert_eq!((recalled.lanes, recalled.totals), (again.lanes, again.totals));
    let at = TopicPartition { topic: TopicName::parse(&bench.orders).unwrap(), partition: Partition(0) };
    assert_eq!(report.partitions[0].topic, at.topic.as_str());
}

#[test]
fn an_audit_without_a_broker_says_that_it_cannot_tell() {
    let bench = Bench::between();
    bench.enqueue([bench.message(1, 1)]);
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    bench.cluster.cut();
    let options = AuditOptions { request_timeout: Duration::from_millis(300), ..options() };
    let auditor = Auditor::new(bench.outbox.clone(), bench.kafka.clone(), options).unwrap();
    let error = auditor.run_once(&Shutdown::new()).unwrap_err();
    assert_eq!(error.retry(), homing::Retry::Later, "{error}");
}

#[test]
fn what_is_verified_is_written_at_once_and_what_a_detector_knows_only_now_and_then() {
    let bench = Bench::with(|kafka| kafka.topic_partitions = 1);
    let relay = bench.relay();
    let auditor = audit_bench::RunningAuditor::start(&bench, options());
    let db = bench.outbox.connect().unwrap();
    let begun = std::time::Instant::now();
    for n in 0..40 {
        bench.enqueue([bench.message(1, n)]);
        wait_until("it is verified", || {
            bench.outbox.stats().unwrap().lanes.iter().any(|lane| lane.verified == n as u64 + 1)
        });
        if n == 0 {
            db.execute_batch(
                "CREATE TABLE written (at INTEGER); CREATE TRIGGER writes AFTER INSERT ON homing_audit_state \
                 BEGIN INSERT INTO written VALUES (1); END;",
            )
            .unwrap();
        }
    }
    let states: i64 = db.query_row("SELECT COUNT(*) FROM written", [], |row| row.get(0)).unwrap();
    let spells = begun.elapsed().as_secs() as i64 / 5 + 1;
    assert!(states <= spells + 3, "{states} writes for 39 messages, in {spells} spells of 5 s");
    auditor.stop();
    let report = audit_bench::audit_once(&bench, options());
    assert_eq!((report.outcome(), report.totals.records), (Outcome::Clean, 40));
    relay.stop();
}
