//! The auditor and records that are not as they should be: copies, forks, zombies, foreign ones.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod audit_bench;

use audit_bench::{
    Bench, Seen, Written, again, audit_once, options, restored_copy, settle, wait_until, write,
};
use homing::audit::{Auditor, Outcome};
use homing::{Message, Outbox, Relay, Shutdown, SqliteOutbox};

#[test]
fn resends_are_counted_and_are_no_loss() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..60).map(|n| bench.message(n % 13, n)));
    let copies: Vec<Written> = bench.records().iter().take(7).map(again).collect();
    write(&bench, copies);
    relay.stop();
    let report = audit_once(&bench, options());
    assert_eq!((report.totals.duplicates, report.totals.forks), (7, 0));
    assert_eq!(report.outcome(), Outcome::Clean, "{report:?}");
    assert!(report.gaps.is_empty() && report.closed.is_empty());
}

#[test]
fn foreign_records_and_unreadable_stamps_are_counted_apart() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..20).map(|n| bench.message(n % 13, n)));
    let copy = again(&bench.records()[0]);
    relay.stop();
    let stamped = |stamp: &str| Written {
        payload: b"x".to_vec(),
        headers: vec![("homing-stamp", stamp.to_owned())],
        ..Written::default()
    };
    let elsewhere = Written { partition: (copy.partition + 1) % 3, ..copy };
    write(
        &bench,
        [
            Written { payload: b"hello".to_vec(), ..Written::default() },
            stamped("no stamp at all"),
            stamped("another-stream/1/0/1/00000000"),
            elsewhere,
        ],
    );
    let report = audit_once(&bench, options());
    let totals = report.totals;
    assert_eq!((totals.foreign, totals.malformed, totals.other_streams, totals.misplaced), (1, 1, 1, 1));
    assert_eq!((report.outcome(), totals.records), (Outcome::Clean, 24));
}

#[test]
fn a_zombie_of_an_older_epoch_is_recognised() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..30).map(|n| bench.message(n % 13, n)));
    let old = bench.records()[0].clone();
    bench.cluster.grow(&bench.orders, 6);
    relay.stop();
    let relay = bench.relay();
    settle(&bench, (30..90).map(|n| bench.message(n % 13, n)));
    relay.stop();
    let newer = bench.records().iter().any(|r| r.epoch == 2 && r.partition == old.partition);
    assert!(newer, "the new epoch has begun in the old record's partition");
    write(&bench, [again(&old)]);
    let report = audit_once(&bench, options());
    assert_eq!((report.totals.zombies, report.totals.duplicates), (1, 1), "{report:?}");
    assert_eq!(report.outcome(), Outcome::Clean);
    assert_eq!(report.lanes.len(), 9, "three lanes of the first epoch, six of the second");
    assert!(report.lanes.iter().all(|lane| lane.watermark == lane.settled));
}

#[test]
fn two_messages_under_one_number_are_a_fork_and_verify_nothing() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..30).map(|n| bench.message(1, n)));
    relay.stop();
    let other = |seen: &Seen| {
        again(&Seen { id: uuid::Uuid::now_v7(), payload: Some(b"other".to_vec()), ..seen.clone() })
    };
    let others: Vec<Written> = bench.records()[5..10].iter().map(other).collect();
    write(&bench, others);
    let report = audit_once(&bench, options());
    assert_eq!((report.totals.forks, report.totals.duplicates), (5, 0), "{report:?}");
    assert_eq!(report.outcome(), Outcome::Findings);
    let verified = bench.outbox.stats().unwrap().lanes.iter().map(|lane| lane.verified).sum::<u64>();
    assert_eq!(verified, 0, "nothing of a forked lane counts as verified, so nothing of it is pruned");
}

#[test]
fn numbers_of_a_database_and_of_its_restored_copy_are_told_apart() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..30).map(|n| bench.message(n % 3, n)));
    relay.stop();
    let restored = restored_copy(&bench, "restored.db");
    let relay = bench.relay();
    settle(&bench, (30..60).map(|n| bench.message(n % 3, n)));
    relay.stop();

    // The copy meets numbers it has not given yet, before it numbers anything itself.
    let at_copy = Auditor::new(restored.clone(), bench.kafka.clone(), options()).unwrap();
    let report = at_copy.run_once(&Shutdown::new()).unwrap();
    assert_eq!(report.totals.never_given, 30, "{report:?}");
    assert_eq!(report.outcome(), Outcome::Findings);
    assert_eq!(audit_once(&bench, options()).outcome(), Outcome::Clean, "the original gave them all");

    // Whatever numbers the copy gives, the original's auditor sees that they are not its own.
    relay_of(&restored, &bench, (100..130).map(|n| bench.message(n % 3, n)).collect());
    let report = audit_once(&bench, options());
    assert!(report.totals.forks + report.totals.never_given >= 30, "{:?}", report.totals);
    assert_eq!(report.outcome(), Outcome::Findings);
}

/// Sends messages by another outbox than the bench's own.
fn relay_of(outbox: &SqliteOutbox, bench: &Bench, messages: Vec<Message>) {
    let mut db = outbox.connect().unwrap();
    let tx = db.transaction().unwrap();
    Outbox::enqueue_all(&tx, messages).unwrap();
    tx.commit().unwrap();
    let relay = Relay::new(outbox.clone(), bench.kafka.clone(), bench.options()).unwrap();
    let stop = Shutdown::new();
    let run = stop.clone();
    let thread = std::thread::spawn(move || relay.run(&run));
    wait_until("the other outbox is settled", || {
        let stats = outbox.stats().unwrap();
        stats.unclaimed + stats.unsettled == 0
    });
    stop.trigger();
    thread.join().unwrap().unwrap();
}
