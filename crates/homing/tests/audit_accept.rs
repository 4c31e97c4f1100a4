//! What can never be verified: said with its age, accepted by name, and no neighbour held back.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod audit_bench;

use audit_bench::{Bench, Seen, Written, again, audit_once, auditor, options, settle, swallow, write};
use homing::audit::{GapStanding, Outcome, Through};
use homing::{Seq, TopicName};
use homing_broker::Count;
use std::collections::BTreeMap;

fn verified(bench: &Bench) -> BTreeMap<(u32, i32), (u64, u64)> {
    let lanes = bench.outbox.stats().unwrap().lanes;
    lanes.iter().map(|of| ((of.epoch.0, of.partition.0), (of.verified, of.settled))).collect()
}

/// One message more that is acknowledged, not written, and whose row is gone.
fn lose_for_good(bench: &Bench) {
    swallow(bench, Count::Once);
    settle(bench, [bench.message(1, 10)]);
    let db = bench.outbox.connect().unwrap();
    db.execute_batch(
        "BEGIN; UPDATE homing_meta SET pruning = 1;
         DELETE FROM homing_batch_lane WHERE first_seq = 11; DELETE FROM homing_outbox WHERE id = 11;
         UPDATE homing_meta SET pruning = 0; COMMIT;",
    )
    .unwrap();
}

#[test]
fn a_loss_that_cannot_be_mended_blocks_pruning_audibly_until_somebody_accepts_it() {
    let bench = Bench::between();
    let relay = bench.relay();
    settle(&bench, (0..10).map(|n| bench.message(1, n)));
    lose_for_good(&bench);
    settle(&bench, (11..20).map(|n| bench.message(1, n)));
    relay.stop();
    let report = audit_once(&bench, options());
    let blocked = &report.blocked[0];
    assert_eq!((report.blocked.len(), blocked.verified, blocked.rows), (1, 10, 10), "{report:?}");
    assert!(blocked.why.contains("numbers 11 to 11") && blocked.since_ms > 0, "{blocked:?}");

    let topic = TopicName::parse(&bench.orders).unwrap();
    let auditor = auditor(&bench, options());
    let outlook = auditor.loss_outlook(&topic, (None, None), Through::All).unwrap();
    assert_eq!((outlook.len(), outlook[0].from, outlook[0].to, outlook[0].missing), (1, 11, 20, 1));
    let again = audit_once(&bench, options());
    assert_eq!((again.gaps.len(), again.accepted.len()), (1, 0), "to look changes nothing");

    let through = Through::Seq(Seq(11));
    let done = auditor.accept_loss(&topic, (None, None), through, ("ann", "the customer was told")).unwrap();
    assert_eq!((done.len(), done[0].to), (1, 11));
    let report = audit_once(&bench, options());
    assert_eq!(report.outcome(), Outcome::Clean, "{report:?}");
    let accepted = &report.accepted[0];
    assert_eq!((accepted.from, accepted.to, accepted.by.as_str()), (11, 11, "ann"));
    assert_eq!(accepted.why, "the customer was told");
    assert_eq!((report.blocked.len(), report.closed[0].state), (0, GapStanding::Accepted));
    assert!(verified(&bench).values().all(|(verified, settled)| verified == settled));
    assert_eq!(report.lanes.iter().map(|lane| lane.read).sum::<u64>(), 19, "what is accepted was not read");
    assert!(auditor.loss_outlook(&topic, (None, None), Through::All).unwrap().is_empty());
}

#[test]
fn a_running_auditor_takes_an_acceptance_in() {
    let bench = Bench::between();
    let relay = bench.relay();
    settle(&bench, (0..10).map(|n| bench.message(1, n)));
    lose_for_good(&bench);
    let running = audit_bench::RunningAuditor::start(&bench, options());
    running.until("the lane is blocked", |report| report.blocked.len() == 1);
    let topic = TopicName::parse(&bench.orders).unwrap();
    auditor(&bench, options()).accept_loss(&topic, (None, None), Through::All, ("ann", "known")).unwrap();
    running.until("nothing is missing", |report| report.outcome() == Outcome::Clean);
    relay.stop();
}

fn forks_of(bench: &Bench, records: &[Seen]) {
    let other = |seen: &Seen| {
        again(&Seen { id: uuid::Uuid::now_v7(), payload: Some(b"other".to_vec()), ..seen.clone() })
    };
    let others: Vec<Written> = records.iter().map(other).collect();
    write(bench, others);
}

#[test]
fn a_forked_lane_holds_back_itself_alone_until_its_doubt_is_accepted() {
    let bench = Bench::new();
    let relay = bench.relay();
    settle(&bench, (0..30).map(|n| bench.message(n % 13, n)));
    let in_one: Vec<Seen> = bench.records().into_iter().filter(|record| record.partition == 0).collect();
    forks_of(&bench, &in_one[..1]);
    bench.cluster.grow(&bench.orders, 4);
    relay.stop();
    let relay = bench.relay();
    settle(&bench, (30..90).map(|n| bench.message(n % 13, n)));
    relay.stop();

    let report = audit_once(&bench, options());
    assert_eq!((report.outcome(), report.doubts.len()), (Outcome::Findings, 1), "{report:?}");
    assert_eq!((report.doubts[0].epoch, report.doubts[0].partition, report.doubts[0].forks), (1, 0, 1));
    let (forked, others): (Vec<_>, Vec<_>) = verified(&bench).into_iter().partition(|of| of.0 == (1, 0));
    assert_eq!(forked[0].1.0, 0, "nothing of the forked lane is verified");
    assert!(others.iter().all(|(_, (verified, settled))| verified == settled), "{others:?}");
    assert!(report.blocked[0].why.contains("two messages"), "{:?}", report.blocked);

    let topic = TopicName::parse(&bench.orders).unwrap();
    let lane = (Some(homing::Partition(0)), Some(homing::Epoch(1)));
    auditor(&bench, options()).accept_loss(&topic, lane, Through::All, ("ann", "restored")).unwrap();
    for _ in 0..2 {
        let report = audit_once(&bench, options());
        assert_eq!((report.outcome(), report.totals.forks), (Outcome::Clean, 1), "{report:?}");
    }
    forks_of(&bench, &in_one[1..2]);
    let report = audit_once(&bench, options());
    assert_eq!(report.outcome(), Outcome::Findings, "a new fork is a new doubt: {report:?}");
}

#[test]
fn rows_that_were_set_aside_are_a_finding() {
    let bench = Bench::new();
    let relay = bench.relay();
    let large = bench.order().key("k").payload(vec![b'x'; 2_000_000]);
    settle(&bench, [bench.message(1, 0), large, bench.message(1, 1)]);
    relay.stop();
    let report = audit_once(&bench, options());
    assert_eq!((report.outcome(), report.set_aside), (Outcome::Findings, 1), "{report:?}");
    assert!(report.gaps.is_empty());
}
