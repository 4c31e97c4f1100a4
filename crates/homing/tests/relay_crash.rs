//! A relay that dies between every two steps: the next one finishes, same seqs, nothing lost.
#![allow(clippy::unwrap_used)]

mod relay_bench;

use homing::testing::Steps;
use homing::{RelayError, RelayOptions};
use homing_broker::{Count, Fault};
use kafka_protocol::messages::ApiKey;
use relay_bench::{Bench, wait_until};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const STEPS: [&str; 8] = [
    "relay.claimed",
    "relay.rows_read",
    "relay.manifest_committed",
    "relay.some_sent",
    "relay.all_sent",
    "relay.all_acked",
    "relay.settled",
    "relay.tail_read",
];

/// Small batches, so that several are under way.
fn options(bench: &Bench) -> RelayOptions {
    RelayOptions { batch_rows: 50, batch_rows_max: 50, ..short_lease(bench) }
}

/// For relays that crash on a thread: their process lives on, so their lease has to run out.
fn short_lease(bench: &Bench) -> RelayOptions {
    let (lease, request_timeout) = (Duration::from_millis(300), Duration::from_millis(100));
    RelayOptions { lease, request_timeout, ..bench.options() }
}

#[test]
fn a_relay_that_dies_at_any_step_loses_and_renumbers_nothing() {
    for step in STEPS {
        for nth in [1, 2] {
            if nth == 2 && matches!(step, "relay.claimed" | "relay.tail_read") {
                continue;
            }
            let bench = Bench::new();
            bench.enqueue((0..400).map(|n| bench.message(n % 13, n)));
            bench.crash_at(step, nth, options(&bench));
            bench.enqueue((400..450).map(|n| bench.message(n % 13, n)));
            let relay = bench.relay();
            bench.wait_settled();
            relay.stop();
            bench.assert_each_row_once_in_order(450);
        }
    }
}

#[test]
fn many_crashes_in_a_row_still_give_every_row_one_number() {
    let bench = Bench::new();
    let mut rows = 0;
    for round in 0..24 {
        bench.enqueue((rows..rows + 130).map(|n| bench.message(n % 17, n)));
        rows += 130;
        bench.crash_at(STEPS[2 + round % 5], 1 + round % 2, options(&bench));
    }
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    bench.assert_each_row_once_in_order(rows);
}

#[test]
fn a_takeover_skips_what_the_tail_read_finds_and_sends_the_rest() {
    // One lane: of several, each settles by itself as soon as it is acknowledged.
    let bench = Bench::with(|kafka| kafka.topic_partitions = 1);
    bench.enqueue((0..200).map(|n| bench.message(n % 5, n)));
    // Every record is acknowledged and none is settled.
    bench.crash_at("relay.all_acked", 1, bench.options());
    let sent_before = bench.records().len();
    assert_eq!(sent_before, 200);
    let relay = bench.relay();
    bench.wait_settled();
    let summary = relay.stop();
    assert_eq!((summary.skipped_by_tail_read, summary.resent), (200, 0));
    assert_eq!(bench.records().len(), 200, "no duplicate was needed");

    bench.enqueue((200..400).map(|n| bench.message(n % 5, n)));
    bench.crash_at("relay.manifest_committed", 1, bench.options());
    let relay = bench.relay();
    bench.wait_settled();
    let summary = relay.stop();
    assert_eq!((summary.skipped_by_tail_read, summary.resent), (0, 200));
    bench.assert_each_row_once_in_order(400);
}

#[test]
fn a_relay_that_sleeps_through_its_lease_is_fenced_and_stands_by() {
    let bench = Bench::new();
    let (asleep_tx, asleep) = mpsc::channel();
    let (wake, woken) = mpsc::channel::<()>();
    let woken = std::sync::Mutex::new(woken);
    let once = AtomicBool::new(false);
    let steps = Steps::observed_by(move |step| {
        if step == "relay.rows_read" && !once.swap(true, Ordering::SeqCst) {
            asleep_tx.send(()).unwrap();
            woken.lock().unwrap().recv().unwrap();
        }
    });
    bench.enqueue((0..100).map(|n| bench.message(n % 5, n)));
    let zombie = bench.relay_with(RelayOptions { steps, ..bench.options() });
    asleep.recv_timeout(relay_bench::LONG).unwrap();
    let successor = bench.relay();
    bench.wait_settled();
    wake.send(()).unwrap();
    wait_until("the zombie is fenced", || zombie.status.summary().fenced == 1);
    assert_eq!(zombie.status.summary().claimed, 0, "its manifest commit failed");
    wait_until("it stands by", || {
        zombie.status.trouble().is_some_and(|trouble| trouble.what.contains("standing by"))
    });
    bench.enqueue((100..150).map(|n| bench.message(n % 5, n)));
    bench.wait_settled();
    successor.stop();
    bench.enqueue((150..200).map(|n| bench.message(n % 5, n)));
    bench.wait_settled();
    assert_eq!(zombie.stop().claimed, 50, "it took over when its successor gave back");
    bench.assert_each_row_once_in_order(200);
    assert_eq!(bench.records().len(), 200);
}

#[test]
fn a_zombies_late_records_are_recognised_by_their_seqs() {
    let bench = Bench::new();
    let (asleep_tx, asleep) = mpsc::channel();
    let (wake, woken) = mpsc::channel::<()>();
    let woken = std::sync::Mutex::new(woken);
    let once = AtomicBool::new(false);
    let steps = Steps::observed_by(move |step| {
        if step == "relay.manifest_committed" && !once.swap(true, Ordering::SeqCst) {
            asleep_tx.send(()).unwrap();
            woken.lock().unwrap().recv().unwrap();
        }
    });
    bench.enqueue((0..100).map(|n| bench.message(n % 5, n)));
    let zombie = bench.relay_with(RelayOptions { steps, ..bench.options() });
    asleep.recv_timeout(relay_bench::LONG).unwrap();
    let successor = bench.relay();
    bench.wait_settled();
    wake.send(()).unwrap();
    wait_until("the zombie is fenced", || zombie.status.summary().fenced == 1);
    zombie.stop();
    successor.stop();
    assert!(bench.records().len() > 100, "the zombie sent some again");
    bench.assert_each_row_once_in_order(100);
}

#[test]
fn lost_responses_and_refusals_of_the_broker_lose_and_double_nothing() {
    let bench = Bench::between();
    let relay = bench.relay_with(options(&bench));
    let mut rows = 0;
    // Not leader, too few replicas, out-of-order sequence, unknown producer id, invalid producer epoch.
    let codes = [6, 19, 45, 59, 47].map(Fault::ErrorCode);
    let lost = [Fault::DropResponse, Fault::DropConnection, Fault::DropResponse];
    let faults = lost.into_iter().chain(codes).chain(lost);
    for fault in faults {
        bench.cluster.faults().inject(ApiKey::Produce, fault, Count::Times(3));
        bench.enqueue((rows..rows + 200).map(|n| bench.message(n % 7, n)));
        rows += 200;
        bench.wait_settled();
    }
    relay.stop();
    bench.assert_each_row_once_in_order(rows);
}

#[test]
fn a_broker_that_is_away_is_waited_for_and_the_reason_is_there_to_read() {
    let bench = Bench::between();
    let relay = bench.relay();
    bench.enqueue((0..50).map(|n| bench.message(n % 5, n)));
    bench.wait_settled();
    bench.cluster.cut();
    bench.enqueue((50..150).map(|n| bench.message(n % 5, n)));
    wait_until("the trouble is told", || {
        let stats = bench.outbox.stats().unwrap();
        stats.relay.is_some_and(|relay| relay.trouble.is_some_and(|text| text.contains("Kafka")))
    });
    assert!(relay.status.trouble().is_some());
    bench.enqueue((150..200).map(|n| bench.message(n % 5, n)));
    let stats = bench.outbox.stats().unwrap();
    assert!(stats.unclaimed + stats.unsettled == 150, "{stats:?}");
    bench.cluster.mend();
    bench.wait_settled();
    wait_until("the trouble is over", || bench.outbox.stats().unwrap().relay.unwrap().trouble.is_none());
    relay.stop();
    bench.assert_each_row_once_in_order(200);
}

#[test]
fn a_relay_starts_while_the_broker_is_away() {
    let bench = Bench::between();
    bench.cluster.cut();
    bench.enqueue((0..50).map(|n| bench.message(n % 5, n)));
    let relay = bench.relay();
    wait_until("the trouble is told", || relay.status.trouble().is_some());
    bench.cluster.mend();
    bench.wait_settled();
    relay.stop();
    bench.assert_each_row_once_in_order(50);
}

/// Breaks something four times while the relay is at work.
fn breaks_under_load(bench: &Bench, interrupt: impl Fn()) {
    let relay = bench.relay_with(options(bench));
    let mut rows = 0;
    for _ in 0..4 {
        bench.enqueue((rows..rows + 500).map(|n| bench.message(n % 7, n)));
        rows += 500;
        wait_until("some are under way", || relay.status.summary().acked > 0);
        interrupt();
    }
    bench.wait_settled();
    relay.stop();
    bench.assert_each_row_once_in_order(rows);
}

#[test]
fn embedded_the_broker_restarts_under_load() {
    let bench = Bench::embedded();
    breaks_under_load(&bench, || {
        bench.cluster.stop_broker();
        bench.cluster.start_broker_again();
    });
}

#[test]
fn every_connection_breaks_under_load() {
    let bench = Bench::between();
    breaks_under_load(&bench, || {
        bench.cluster.cut();
        bench.cluster.mend();
    });
}

#[test]
fn a_stop_with_the_broker_away_gives_up_at_the_deadline_and_loses_nothing() {
    let bench = Bench::between();
    bench.enqueue((0..10).map(|n| bench.message(n % 5, n)));
    let relay =
        bench.relay_with(RelayOptions { drain_timeout: Duration::from_millis(300), ..bench.options() });
    bench.wait_settled();
    bench.cluster.cut();
    bench.enqueue((10..60).map(|n| bench.message(n % 5, n)));
    wait_until("they are claimed", || bench.outbox.stats().unwrap().unsettled == 50);
    let began = std::time::Instant::now();
    let summary = relay.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(summary.settled, 10);
    bench.cluster.mend();
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    bench.assert_each_row_once_in_order(60);
}

#[test]
fn a_record_the_broker_refuses_is_voided_and_its_neighbours_keep_their_order() {
    let bench = Bench::between();
    bench.enqueue((0..3).map(|n| bench.message(n % 3, n)));
    let relay = bench.relay();
    bench.wait_settled();
    // One request is refused whole (INVALID_RECORD); alone, each record is taken but the first.
    bench.cluster.faults().inject(ApiKey::Produce, Fault::ErrorCode(87), Count::Times(2));
    bench.enqueue((3..203).map(|n| bench.message(1, n)));
    bench.wait_settled();
    let summary = relay.stop();
    assert_eq!(summary.voided, 1);
    let letters = bench.outbox.dead_letters(0, 10).unwrap();
    assert_eq!(letters.len(), 1);
    let (epoch, partition, seq) = letters[0].voided.expect("it had a number");
    let payload: usize = String::from_utf8(letters[0].payload.clone().unwrap()).unwrap().parse().unwrap();
    let records = bench.records();
    assert!(records.iter().all(|r| (r.epoch, r.partition, r.seq) != (epoch.0, partition.0, seq.0)));
    let mut by_seq: BTreeMap<(i32, u64), usize> = BTreeMap::new();
    for record in &records {
        let payload = String::from_utf8(record.payload.clone().unwrap()).unwrap().parse().unwrap();
        by_seq.entry((record.partition, record.seq)).or_insert(payload);
    }
    let lane: Vec<_> = by_seq.iter().filter(|((p, _), _)| *p == partition.0).map(|(_, n)| *n).collect();
    let mut want: Vec<_> = (0..203).filter(|n| lane.contains(n) || *n == payload).collect();
    want.retain(|n| *n != payload);
    assert_eq!(lane, want, "the others of its lane in order");
    assert_eq!(by_seq.len(), 202);
    let offsets: Vec<_> = records.iter().filter(|r| r.partition == partition.0).map(|r| r.seq).collect();
    assert!(offsets.is_sorted(), "in order in the log too");
}

#[test]
fn a_changed_partition_count_begins_a_new_epoch_when_the_old_one_is_settled() {
    let bench = Bench::new();
    let relay = bench.relay_with(RelayOptions { pins_every: Duration::from_millis(100), ..options(&bench) });
    bench.enqueue((0..200).map(|n| bench.message(n % 7, n)));
    bench.wait_settled();
    bench.cluster.grow(&bench.orders, 5);
    bench.enqueue((200..300).map(|n| bench.message(n % 7, n)));
    wait_until("a new epoch is open", || {
        bench.outbox.stats().unwrap().lanes.iter().any(|lane| lane.epoch.0 == 2 && lane.open)
    });
    bench.enqueue((300..500).map(|n| bench.message(n % 7, n)));
    bench.wait_settled();
    relay.stop();
    let records = bench.records();
    bench.assert_lanes_are_gapless(&records);
    assert!(records.iter().any(|r| r.epoch == 2 && r.partition > 2), "the new partitions are used");
    assert_eq!(records.len(), 500);
    let lanes = bench.outbox.stats().unwrap().lanes;
    assert!(lanes.iter().filter(|lane| lane.epoch.0 == 1).all(|lane| !lane.open));
    for key in 0..7 {
        let key = format!("k{key}").into_bytes();
        let mut of_key: Vec<_> = records.iter().filter(|r| r.key.as_ref() == Some(&key)).collect();
        of_key.sort_by_key(|r| (r.epoch, r.seq));
        let payloads: Vec<usize> = of_key
            .iter()
            .map(|r| String::from_utf8(r.payload.clone().unwrap()).unwrap().parse().unwrap())
            .collect();
        assert!(payloads.is_sorted(), "epoch by epoch in commit order");
    }
}

#[test]
fn another_cluster_behind_the_same_address_stops_the_relay_by_its_code() {
    let bench = Bench::new();
    bench.enqueue((0..20).map(|n| bench.message(n % 7, n)));
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    let other = Bench::embedded();
    let kafka =
        homing::KafkaConfig { bootstrap: other.cluster.bootstrap().to_owned(), ..bench.kafka.clone() };
    let relay = homing::Relay::new(bench.outbox.clone(), kafka, bench.options()).unwrap();
    bench.enqueue((20..30).map(|n| bench.message(n % 7, n)));
    let error = relay.run(&homing::Shutdown::new()).unwrap_err();
    assert!(matches!(error, RelayError::ClusterChanged { .. }), "{error}");
    assert!(error.to_string().starts_with("N02"), "{error}");
    assert_eq!(bench.outbox.stats().unwrap().unclaimed, 10, "nothing was sent elsewhere");
}

#[test]
fn a_restored_outbox_goes_on_in_a_new_epoch() {
    let bench = Bench::new();
    bench.enqueue((0..50).map(|n| bench.message(n % 7, n)));
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    let backup = bench.dir.path().join("backup.db");
    bench.outbox.connect().unwrap().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    bench.enqueue((50..100).map(|n| bench.message(n % 7, n)));
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();

    let restored = homing::SqliteOutbox::open(&backup, bench.outbox.stream()).unwrap();
    let mut db = restored.connect().unwrap();
    let tx = db.transaction().unwrap();
    homing::Outbox::enqueue_all(&tx, (500..550).map(|n| bench.message(n % 7, n))).unwrap();
    tx.commit().unwrap();
    let shutdown = Arc::new(homing::Shutdown::new());
    let relay = homing::Relay::new(restored.clone(), bench.kafka.clone(), bench.options()).unwrap();
    let stop = Arc::clone(&shutdown);
    let thread = std::thread::spawn(move || relay.run(&stop));
    wait_until("settled", || {
        let stats = restored.stats().unwrap();
        stats.unclaimed + stats.unsettled == 0
    });
    shutdown.trigger();
    thread.join().unwrap().unwrap();
    let records = bench.records();
    bench.assert_lanes_are_gapless(&records);
    let new: Vec<_> = records.iter().filter(|r| r.epoch == 2).collect();
    assert_eq!(new.len(), 50, "no seq of epoch 1 was used twice");
    assert_eq!(records.len(), 150);
}
