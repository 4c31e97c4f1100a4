//! The auditor and logs that are not what was sent to: deleted, cut, recreated, of another cluster.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod audit_bench;

use audit_bench::relay_bench::Cluster;
use audit_bench::{Bench, RunningAuditor, Written, audit_once, delete_records, options, settle, write};
use homing::Shutdown;
use homing::audit::{
    AuditOptions, AuditReport, Auditor, Cause, GapStanding, Outcome, RepairStanding, Repairing,
};
use std::collections::BTreeSet;

fn look_only() -> AuditOptions {
    AuditOptions { repair: Repairing::Off, ..options() }
}

fn causes(report: &AuditReport) -> BTreeSet<String> {
    let verdicts = report.gaps.iter().flat_map(|gap| &gap.verdicts);
    verdicts.map(|verdict| format!("{:?}", verdict.cause)).collect()
}

fn missing(report: &AuditReport) -> u64 {
    report.confirmed().map(|gap| gap.seqs()).sum()
}

fn read(report: &AuditReport) -> u64 {
    report.lanes.iter().map(|lane| lane.read).sum()
}

fn verified(bench: &Bench) -> u64 {
    bench.outbox.stats().unwrap().lanes.iter().map(|lane| lane.verified).sum()
}

fn orders(bench: &Bench) -> i64 {
    let db = bench.outbox.connect().unwrap();
    db.query_row("SELECT COUNT(*) FROM homing_repair", [], |row| row.get(0)).unwrap()
}

/// Deletes all records of the three partitions.
fn delete_all_records(bench: &Bench) {
    for partition in 0..3 {
        let (_, end) = bench.cluster.watermarks(&bench.orders, partition).unwrap();
        if end > 0 {
            delete_records(bench, partition, end);
        }
    }
}

/// As many records as there are, of nobody known.
fn foreign(partition: i32, count: i64) -> impl Iterator<Item = Written> {
    (0..count).map(move |n| Written { partition, payload: n.to_string().into_bytes(), ..Written::default() })
}

#[test]
fn records_gone_before_the_first_audit_are_missing_and_are_put_back() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..100).map(|n| bench.message(n % 13, n)));
    delete_all_records(&bench);
    let report = audit_once(&bench, look_only());
    assert_eq!(
        (report.outcome(), missing(&report), read(&report)),
        (Outcome::Findings, 100, 0),
        "{report:?}"
    );
    assert_eq!(causes(&report), BTreeSet::from(["Expired".to_owned()]));

    settle(&bench, (100..150).map(|n| bench.message(n % 13, n)));
    let report = audit_once(&bench, look_only());
    assert_eq!((missing(&report), read(&report), report.totals.records), (100, 50, 50), "{report:?}");
    assert_eq!(verified(&bench), 0, "nothing counts as verified behind what is missing");

    let auditor = RunningAuditor::start(&bench, options());
    auditor.until("they are put back", |report| report.gaps.is_empty() && report.totals.repaired == 100);
    auditor.stop();
    relay.stop();
    let report = audit_once(&bench, options());
    assert_eq!((report.outcome(), read(&report), verified(&bench)), (Outcome::Clean, 150, 150), "{report:?}");
}

#[test]
fn records_that_were_read_back_before_they_were_deleted_are_not_missing() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..60).map(|n| bench.message(n % 13, n)));
    assert_eq!(audit_once(&bench, options()).outcome(), Outcome::Clean);
    delete_all_records(&bench);
    let report = audit_once(&bench, options());
    assert_eq!((report.outcome(), report.totals.records), (Outcome::Clean, 0), "{report:?}");
    let earlier: u64 = report.lanes.iter().map(|lane| lane.earlier).sum();
    assert_eq!((read(&report), earlier, verified(&bench)), (60, 60, 60), "said to be read earlier");

    // What came since is judged as ever.
    settle(&bench, (60..90).map(|n| bench.message(n % 13, n)));
    delete_all_records(&bench);
    let report = audit_once(&bench, look_only());
    assert_eq!((missing(&report), read(&report)), (30, 60), "{report:?}");
    relay.stop();
}

#[test]
fn a_topic_created_anew_is_missing_whole_and_is_ordered_to_be_put_back() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..100).map(|n| bench.message(n % 13, n)));
    relay.stop();
    assert_eq!((audit_once(&bench, options()).outcome(), verified(&bench)), (Outcome::Clean, 100));
    bench.cluster.delete(&bench.orders);
    let report = audit_once(&bench, options());
    assert_eq!((missing(&report), read(&report), verified(&bench)), (100, 0, 0), "{report:?}");
    assert_eq!(causes(&report), BTreeSet::from(["TopicGone".to_owned()]));
    assert!(report.gaps.iter().all(|gap| gap.repair == RepairStanding::Nowhere), "{report:?}");
    assert_eq!(orders(&bench), 0, "nothing can be sent to a topic that is not there");

    bench.cluster.create(&bench.orders, 3);
    let report = audit_once(&bench, options());
    assert_eq!(
        (report.outcome(), missing(&report), read(&report)),
        (Outcome::Findings, 100, 0),
        "{report:?}"
    );
    assert_eq!(causes(&report), BTreeSet::from(["TopicGone".to_owned()]));
    assert!(report.gaps.iter().all(|gap| gap.repair == RepairStanding::Ordered), "{report:?}");
    assert_eq!(verified(&bench), 0, "so its rows are kept");
}

#[test]
fn as_many_records_of_somebody_else_in_a_recreated_topic_prove_nothing() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..90).map(|n| bench.message(n % 13, n)));
    relay.stop();
    assert_eq!(audit_once(&bench, options()).outcome(), Outcome::Clean);
    let ends: Vec<i64> = (0..3).map(|p| bench.cluster.watermarks(&bench.orders, p).unwrap().1).collect();
    bench.cluster.delete(&bench.orders);
    bench.cluster.create(&bench.orders, 3);
    write(&bench, (0..3).zip(&ends).flat_map(|(partition, end)| foreign(partition, *end)));
    let report = audit_once(&bench, look_only());
    assert_eq!((missing(&report), read(&report), report.totals.foreign), (90, 0, 90), "{report:?}");
    assert_eq!(verified(&bench), 0);
}

#[test]
fn an_audit_of_an_empty_topic_and_of_an_empty_outbox_finds_nothing() {
    let bench = Bench::new();
    let report = audit_once(&bench, options());
    assert_eq!((report.outcome(), report.lanes.len(), read(&report)), (Outcome::Clean, 0, 0));
    bench.cluster.create(&bench.orders, 3);
    let report = audit_once(&bench, options());
    assert_eq!((report.outcome(), report.totals.records), (Outcome::Clean, 0), "{report:?}");
}

#[test]
fn embedded_another_cluster_is_never_taken_for_the_one_that_was_sent_to() {
    let bench = Bench::embedded();
    let relay = bench.relay();
    settle(&bench, (0..50).map(|n| bench.message(n % 13, n)));
    relay.stop();
    assert_eq!((audit_once(&bench, options()).outcome(), verified(&bench)), (Outcome::Clean, 50));

    let other = Cluster::embedded();
    let elsewhere = Auditor::new(bench.outbox.clone(), other.config.clone(), options()).unwrap();
    let report = elsewhere.run_once(&Shutdown::new()).unwrap();
    assert_eq!((report.outcome(), missing(&report), read(&report)), (Outcome::Findings, 50, 0), "{report:?}");
    assert!(report.sent_to_cluster.is_some());
    assert_eq!(causes(&report), BTreeSet::from(["OtherCluster".to_owned()]));
    assert_eq!((verified(&bench), orders(&bench)), (0, 0), "nothing is pruned, and nothing sent there");

    let report = audit_once(&bench, options());
    assert_eq!((report.outcome(), read(&report), verified(&bench)), (Outcome::Clean, 50, 50), "{report:?}");
    assert!(report.closed.iter().all(|gap| gap.state == GapStanding::Found), "{:?}", report.closed);
}

/// Settles twenty, has them verified, and cuts the last half off the log while the broker is down.
fn cut_after_it_was_verified(bench: &Bench) {
    let relay = bench.relay();
    settle(bench, (0..10).map(|n| bench.message(1, n)));
    let partition = bench.records()[0].partition;
    let segment = bench.cluster.segments(&bench.orders, partition);
    assert_eq!(segment.len(), 1, "{segment:?}");
    let half = std::fs::metadata(&segment[0]).unwrap().len();
    settle(bench, (10..20).map(|n| bench.message(1, n)));
    relay.stop();
    assert_eq!((audit_once(bench, options()).outcome(), verified(bench)), (Outcome::Clean, 20));
    bench.cluster.stop_broker();
    std::fs::File::options().write(true).open(&segment[0]).unwrap().set_len(half).unwrap();
    bench.cluster.start_broker_again();
    assert_eq!(bench.cluster.watermarks(&bench.orders, partition), Some((0, 10)));
}

#[test]
fn embedded_a_log_shorter_than_what_was_verified_is_missing_again() {
    let bench = Bench::embedded();
    cut_after_it_was_verified(&bench);
    let report = audit_once(&bench, look_only());
    assert_eq!((missing(&report), read(&report), verified(&bench)), (10, 10, 10), "{report:?}");
    assert_eq!(causes(&report), BTreeSet::from(["Truncated".to_owned()]));
    let relay = bench.relay();
    let auditor = RunningAuditor::start(&bench, options());
    auditor.until("it is put back", |report| report.gaps.is_empty() && report.totals.repaired == 10);
    auditor.stop();
    relay.stop();
    assert_eq!(verified(&bench), 20);
}

#[test]
fn embedded_a_log_that_was_cut_and_has_grown_again_is_noticed_by_an_auditor_that_goes_on() {
    let bench = Bench::embedded();
    cut_after_it_was_verified(&bench);
    let partition = bench.records()[0].partition;
    write(&bench, foreign(partition, 15));
    assert_eq!(bench.cluster.watermarks(&bench.orders, partition), Some((0, 25)));
    let auditor = RunningAuditor::start(&bench, look_only());
    let report = auditor.until("the loss is confirmed", |report| {
        missing(report) == 10 && report.gaps.iter().all(|gap| !gap.verdicts.is_empty())
    });
    assert_eq!(causes(&report), BTreeSet::from(["Overwritten".to_owned()]), "{report:?}");
    assert_eq!(report.gaps[0].verdicts[0].cause, Cause::Overwritten);
    assert_eq!(auditor.stop().totals.foreign, 15);
    assert_eq!(verified(&bench), 10);
}

#[test]
fn embedded_a_partition_that_cannot_be_read_holds_no_other_back_and_never_looks_clean() {
    let bench = Bench::embedded();
    let relay = bench.relay();
    settle(&bench, (0..90).map(|n| bench.message(n % 13, n)));
    settle(&bench, (90..180).map(|n| bench.message(n % 13, n)));
    relay.stop();
    let of_two: u64 = bench.records().iter().filter(|record| record.partition != 1).count() as u64;
    bench.cluster.stop_broker();
    let segment = bench.cluster.segments(&bench.orders, 1);
    let sound = std::fs::read(&segment[0]).unwrap();
    let mut bytes = sound.clone();
    bytes[100] ^= 0xff; // within the first batch: sound ones follow, so the partition is refused
    std::fs::write(&segment[0], bytes).unwrap();
    bench.cluster.start_broker_again();

    let quick = AuditOptions { request_timeout: std::time::Duration::from_millis(700), ..options() };
    let report = audit_once(&bench, quick.clone());
    let unreachable: Vec<i32> = report.unreachable.iter().map(|of| of.partition).collect();
    assert_eq!((report.outcome(), unreachable), (Outcome::Unknown, vec![1]), "{report:?}");
    assert_eq!((read(&report), verified(&bench)), (of_two, of_two), "{report:?}");
    assert!(report.gaps.is_empty(), "nothing is said of what was not read: {report:?}");

    let auditor = RunningAuditor::start(&bench, quick);
    auditor.until("it goes on and says what it cannot read", |report| report.unreachable.len() == 1);
    let waits_for = auditor.status.waits_for().unwrap();
    assert!(waits_for.contains("[1]"), "{waits_for}");
    bench.cluster.stop_broker();
    std::fs::write(&segment[0], sound).unwrap();
    bench.cluster.start_broker_again();
    auditor.until("it takes the partition up again", |report| {
        report.unreachable.is_empty() && read(report) == 180
    });
    assert_eq!(auditor.stop().outcome(), Outcome::Clean);
    assert_eq!(verified(&bench), 180);
}
