//! The auditor against a broker that loses what it acknowledged: found exactly, explained, repaired.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod audit_bench;

use audit_bench::{
    Bench, RunningAuditor, Written, again, audit_once, crash_at, delete_records, effects, lost, options,
    seqs, settle, swallow,
};
use homing::audit::{AuditOptions, AuditReport, Cause, GapStanding, Outcome, RepairStanding, Repairing};
use homing_broker::{ApiKey, Count, Fault};
use std::collections::BTreeMap;
use std::time::Duration;

fn look_only() -> AuditOptions {
    AuditOptions { repair: Repairing::Off, ..options() }
}

fn causes(report: &AuditReport) -> Vec<Cause> {
    report.gaps.iter().flat_map(|gap| &gap.verdicts).map(|verdict| verdict.cause).collect()
}

/// Audits with repair until nothing is missing, and checks that each message has its one effect.
fn repaired_to_one_effect_each(bench: &Bench, messages: usize, missing: usize) {
    let auditor = RunningAuditor::start(bench, options());
    auditor.until("the gaps are repaired", |report| {
        report.gaps.is_empty() && report.totals.repaired as usize == missing
    });
    let report = auditor.stop();
    assert_eq!(report.outcome(), Outcome::Clean, "{report:?}");
    assert!(report.closed.iter().all(|gap| gap.state == GapStanding::Repaired), "{:?}", report.closed);
    let replayed = bench.records().iter().filter(|r| r.flags.as_deref() == Some("replay")).count();
    assert!(replayed >= missing, "what was missing was sent again: {replayed}");
    assert!(report.lanes.iter().all(|lane| lane.watermark == lane.settled));
    let effects = effects(bench);
    assert_eq!(effects.len(), messages);
    assert!(effects.values().all(|times| *times == 1), "{effects:?}");
}

#[test]
fn a_batch_the_broker_acknowledged_and_never_wrote_is_found_and_repaired() {
    let bench = Bench::between();
    let relay = bench.relay();
    settle(&bench, (0..60).map(|n| bench.message(n % 13, n)));
    swallow(&bench, Count::Once);
    settle(&bench, (60..90).map(|n| bench.message(n % 13, n)));
    settle(&bench, (90..150).map(|n| bench.message(n % 13, n)));
    let lost_seqs = lost(&bench);
    let missing: usize = lost_seqs.values().map(Vec::len).sum();
    assert!(missing > 0, "the broker's lie bit");

    // The unsafe arm: without repair the consumer goes without these messages.
    let report = audit_once(&bench, look_only());
    assert_eq!(report.outcome(), Outcome::Findings);
    assert_eq!(seqs(report.confirmed()), lost_seqs, "exactly what is missing is called lost");
    assert!(report.suspect().next().is_none());
    let causes = causes(&report);
    assert!(causes.iter().all(|cause| matches!(cause, Cause::Overwritten | Cause::Truncated)), "{report:?}");
    assert!(report.gaps.iter().all(|gap| gap.codes().contains(&"B11")));
    assert_eq!(effects(&bench).len(), 150 - missing, "the loss reaches the consumer");

    repaired_to_one_effect_each(&bench, 150, missing);
    relay.stop();
}

#[test]
fn the_last_batch_is_missed_though_nothing_ever_comes_behind_it() {
    let bench = Bench::between();
    let relay = bench.relay();
    settle(&bench, (0..60).map(|n| bench.message(n % 13, n)));
    let before = audit_once(&bench, look_only());
    assert_eq!(before.outcome(), Outcome::Clean);
    swallow(&bench, Count::Always);
    settle(&bench, (60..90).map(|n| bench.message(n % 13, n)));
    bench.cluster.faults().clear();
    let lost_seqs = lost(&bench);
    assert_eq!(lost_seqs.values().map(Vec::len).sum::<usize>(), 30);
    let report = audit_once(&bench, look_only());
    assert_eq!(seqs(report.confirmed()), lost_seqs);
    assert!(causes(&report).iter().all(|cause| *cause == Cause::Truncated), "{report:?}");
    assert_eq!(effects(&bench).len(), 60);
    repaired_to_one_effect_each(&bench, 90, 30);
    relay.stop();
}

#[test]
fn a_lane_of_which_nothing_was_ever_written_is_missed_whole() {
    let bench = Bench::between();
    let relay = bench.relay();
    swallow(&bench, Count::Always);
    settle(&bench, (0..30).map(|n| bench.message(n % 13, n)));
    bench.cluster.faults().clear();
    let report = audit_once(&bench, look_only());
    assert_eq!(report.confirmed().map(|gap| gap.seqs()).sum::<u64>(), 30, "{report:?}");
    repaired_to_one_effect_each(&bench, 30, 30);
    relay.stop();
}

#[test]
fn records_deleted_before_they_were_audited_are_told_apart_from_truncation() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..60).map(|n| bench.message(n % 13, n)));
    assert_eq!(audit_once(&bench, look_only()).outcome(), Outcome::Clean);
    settle(&bench, (60..180).map(|n| bench.message(n % 13, n)));
    let of_partition = |p: i32| bench.records().into_iter().filter(move |r| r.partition == p).count() as i64;
    let end = of_partition(1);
    delete_records(&bench, 1, end - 3);
    let report = audit_once(&bench, look_only());
    assert_eq!(causes(&report), [Cause::Expired], "{report:?}");
    let gap = &report.gaps[0];
    assert_eq!((gap.partition, gap.to), (1, end as u64 - 3));
    assert_eq!(gap.codes()[..2], ["B17", "A05"]);
    assert!(gap.verdicts[0].evidence.contains(&format!("begins at offset {}", end - 3)), "{gap:?}");
    let missing = gap.seqs();
    let auditor = RunningAuditor::start(&bench, options());
    auditor.until("it is repaired", |report| report.gaps.is_empty() && report.totals.repaired == missing);
    relay.stop();
}

#[test]
fn a_changed_payload_counts_as_missing_and_is_repaired() {
    let bench = Bench::between();
    let relay = bench.relay();
    settle(&bench, (0..10).map(|n| bench.message(1, n)));
    let last = bench.records().pop().unwrap();
    swallow(&bench, Count::Once);
    settle(&bench, [bench.message(1, 10)]);
    let changed = Written { payload: b"666".to_vec(), ..stamped_as(&last, 10) };
    audit_bench::write(&bench, [changed]);
    let report = audit_once(&bench, look_only());
    assert_eq!((report.totals.corrupted, causes(&report)), (1, vec![Cause::Corrupted]), "{report:?}");
    assert_eq!(seqs(report.confirmed()), BTreeMap::from([(last.partition, vec![11])]));
    let auditor = RunningAuditor::start(&bench, options());
    auditor.until("it is repaired", |report| report.gaps.is_empty() && report.totals.repaired == 1);
    relay.stop();
}

/// The record that follows `last` in its lane, as the relay would have written it.
fn stamped_as(last: &audit_bench::Seen, payload: usize) -> Written {
    let payload = Some(payload.to_string().into_bytes());
    again(&audit_bench::Seen { seq: last.seq + 1, payload, ..last.clone() })
}

#[test]
fn a_gap_whose_rows_are_gone_is_called_irreparable() {
    let bench = Bench::between();
    let relay = bench.relay();
    settle(&bench, (0..10).map(|n| bench.message(1, n)));
    swallow(&bench, Count::Once);
    settle(&bench, [bench.message(1, 10)]);
    relay.stop();
    let db = bench.outbox.connect().unwrap();
    db.execute_batch(
        "BEGIN; UPDATE homing_meta SET pruning = 1;
         DELETE FROM homing_batch_lane WHERE first_seq = 11; DELETE FROM homing_outbox WHERE id = 11;
         UPDATE homing_meta SET pruning = 0; COMMIT;",
    )
    .unwrap();
    let report = audit_once(&bench, options());
    assert_eq!(causes(&report), [Cause::Pruned]);
    assert_eq!(report.gaps[0].repair, RepairStanding::Irreparable, "{report:?}");
}

#[test]
fn an_auditor_killed_between_any_two_steps_misses_nothing_and_counts_nothing_twice() {
    for step in ["audit.read", "audit.checked", "audit.committed"] {
        for nth in [1, 2, 3] {
            let bench = Bench::between();
            let relay = bench.relay();
            settle(&bench, (0..60).map(|n| bench.message(n % 13, n)));
            swallow(&bench, Count::Once);
            settle(&bench, (60..90).map(|n| bench.message(n % 13, n)));
            let duplicate = again(&bench.records()[3]);
            audit_bench::write(&bench, [duplicate]);
            settle(&bench, (90..120).map(|n| bench.message(n % 13, n)));
            relay.stop();
            let (records, lost) = (bench.records().len(), lost(&bench));
            assert!(crash_at(&bench, look_only(), step, nth), "{step} {nth} is reached");
            crash_at(&bench, look_only(), step, nth);
            let report = audit_once(&bench, look_only());
            assert_eq!(seqs(report.confirmed()), lost, "{step} {nth}");
            assert_eq!(report.totals.records as usize, records, "{step} {nth}: each record counts once");
            assert_eq!((report.totals.duplicates, report.totals.forks), (1, 0), "{step} {nth}");
            assert!(report.closed.is_empty(), "{step} {nth}: {:?}", report.closed);
        }
    }
}

#[test]
fn a_cause_that_could_not_be_found_is_looked_for_again() {
    let bench = Bench::between();
    let relay = bench.relay();
    settle(&bench, (0..60).map(|n| bench.message(n % 13, n)));
    swallow(&bench, Count::Once);
    settle(&bench, (60..90).map(|n| bench.message(n % 13, n)));
    settle(&bench, (90..150).map(|n| bench.message(n % 13, n)));
    relay.stop();
    let (grace, request_timeout) = (Duration::from_secs(2), Duration::from_millis(500));
    let auditor = RunningAuditor::start(&bench, AuditOptions { grace, request_timeout, ..look_only() });
    auditor.until("the gap is seen", |report| report.suspect().next().is_some());
    bench.cluster.faults().inject(ApiKey::Fetch, Fault::DropResponse, Count::Always);
    let unknown = |report: &AuditReport| causes(report).contains(&Cause::Undetermined);
    auditor.until("its cause cannot be found", unknown);
    bench.cluster.faults().clear();
    let report = auditor.until("its cause is found", |report| !report.gaps.is_empty() && !unknown(report));
    assert!(causes(&report).contains(&Cause::Overwritten), "{report:?}");
}
