//! What a relay does beside sending: repairs, pruning, living with other writers and a full disk.
#![allow(clippy::unwrap_used)]

mod relay_bench;

use homing::outbox::RowId;
use homing::relay::PruneOptions;
use homing::{Outbox, RelayOptions};
use relay_bench::{Bench, wait_until};
use std::process::{Command, Stdio};
use std::time::Duration;

fn repair(bench: &Bench, partition: i32, from: u64, to: u64) {
    let db = bench.outbox.connect().unwrap();
    db.execute(
        "INSERT INTO homing_repair (topic, epoch, partition, from_seq, to_seq, created_at_ms, updated_at_ms) \
         VALUES (?4, 1, ?1, ?2, ?3, 0, 0)",
        rusqlite::params![partition, from as i64, to as i64, bench.orders],
    )
    .unwrap();
}

fn repair_states(bench: &Bench) -> Vec<(String, i64)> {
    let db = bench.outbox.connect().unwrap();
    let mut statement = db.prepare("SELECT state, attempts FROM homing_repair ORDER BY id").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_repair_sends_the_same_messages_under_the_same_seqs_with_the_replay_flag() {
    let bench = Bench::with(|kafka| kafka.topic_partitions = 1);
    bench.enqueue((0..120).map(|n| bench.message(n % 7, n)));
    let relay = bench.relay_with(RelayOptions { batch_rows: 50, batch_rows_max: 50, ..bench.options() });
    bench.wait_settled();
    repair(&bench, 0, 45, 104);
    wait_until("the repair is done", || repair_states(&bench) == [("replayed".to_owned(), 1)]);
    assert_eq!(relay.stop().replayed, 60);
    let records = bench.records();
    assert_eq!(records.len(), 180);
    let replayed: Vec<_> = records.iter().filter(|r| r.flags.as_deref() == Some("replay")).collect();
    assert_eq!(replayed.iter().map(|r| r.seq).collect::<Vec<_>>(), (45..=104).collect::<Vec<_>>());
    bench.assert_each_row_once_in_order(120);
}

#[test]
fn a_repair_is_rate_limited() {
    let bench = Bench::with(|kafka| kafka.topic_partitions = 1);
    bench.enqueue((0..100).map(|n| bench.message(0, n)));
    let relay = bench.relay_with(RelayOptions { repair_rows_per_second: 100, ..bench.options() });
    bench.wait_settled();
    let began = std::time::Instant::now();
    repair(&bench, 0, 1, 50);
    wait_until("the repair is done", || repair_states(&bench) == [("replayed".to_owned(), 1)]);
    assert!(began.elapsed() >= Duration::from_millis(350), "{:?}", began.elapsed());
    relay.stop();
}

#[test]
fn verified_rows_are_pruned_and_can_then_not_be_repaired() {
    let bench = Bench::with(|kafka| kafka.topic_partitions = 1);
    let prune = Some(PruneOptions { keep: Duration::ZERO, every: Duration::from_millis(20) });
    let relay =
        bench.relay_with(RelayOptions { batch_rows: 50, batch_rows_max: 50, prune, ..bench.options() });
    bench.enqueue((0..200).map(|n| bench.message(0, n)));
    bench.wait_settled();
    assert_eq!(bench.outbox.stats().unwrap().rows, 200, "nothing is verified");
    bench.outbox.connect().unwrap().execute("UPDATE homing_lane SET verified_seq = 120", []).unwrap();
    wait_until("the verified batches are gone", || bench.outbox.stats().unwrap().rows == 100);
    assert!(bench.outbox.receipt(RowId(1)).unwrap().is_none());
    assert!(bench.outbox.receipt(RowId(101)).unwrap().is_some());
    repair(&bench, 0, 90, 110);
    wait_until("it is irreparable", || repair_states(&bench) == [("irreparable".to_owned(), 1)]);
    bench.enqueue([bench.message(0, 200)]);
    bench.wait_settled();
    relay.stop();
    bench.assert_each_row_once_in_order(201);
}

#[test]
fn other_programs_insert_by_plain_sql_while_the_relay_works() {
    let bench = Bench::new();
    let relay = bench.relay();
    let program = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60)
for n in range(300):
    with db:
        db.execute("INSERT INTO homing_outbox (topic, message_key, payload_text) VALUES (?, ?, ?)",
                   (sys.argv[3], sys.argv[2], str(n)))
"#;
    let python: Vec<_> = ["p1", "p2"]
        .iter()
        .map(|key| {
            let mut python = Command::new("python3");
            python.args(["-c", program]).arg(bench.outbox.path()).arg(key).arg(&bench.orders);
            python.stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for n in 0..50 {
        let sql = format!(
            ".timeout 60000\nINSERT INTO homing_outbox (topic, message_key, payload_text) VALUES ('{}', 'sh', '{n}');",
            bench.orders
        );
        let script = bench.dir.path().join("insert.sql");
        std::fs::write(&script, sql).unwrap();
        let input = std::fs::File::open(&script).unwrap();
        let shell = Command::new("sqlite3").arg(bench.outbox.path()).stdin(input).output().unwrap();
        assert!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
    }
    for child in python {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    bench.wait_settled();
    relay.stop();
    let records = bench.records();
    assert_eq!(records.len(), 650);
    bench.assert_lanes_are_gapless(&records);
    for (key, count) in [("p1", 300), ("p2", 300), ("sh", 50)] {
        let payloads: Vec<usize> = records
            .iter()
            .filter(|r| r.key.as_deref() == Some(key.as_bytes()))
            .map(|r| String::from_utf8(r.payload.clone().unwrap()).unwrap().parse().unwrap())
            .collect();
        assert_eq!(payloads, (0..count).collect::<Vec<_>>(), "{key} in commit order");
    }
}

#[test]
fn a_long_write_of_the_application_only_delays_the_relay() {
    let bench = Bench::new();
    let relay = bench.relay();
    bench.enqueue((0..10).map(|n| bench.message(0, n)));
    bench.wait_settled();
    let mut db = bench.outbox.connect().unwrap();
    let tx = db.transaction().unwrap();
    Outbox::enqueue_all(&tx, (10..20).map(|n| bench.message(0, n))).unwrap();
    // Longer than the lease: the relay can renew nothing, and nobody takes it away.
    std::thread::sleep(bench.options().lease * 2);
    tx.commit().unwrap();
    bench.wait_settled();
    assert_eq!(relay.stop().fenced, 0);
    bench.assert_each_row_once_in_order(20);
}

#[test]
fn messages_as_large_as_the_topic_takes_arrive_and_larger_ones_are_told_apart() {
    let bench = Bench::with(|kafka| kafka.topic_partitions = 1);
    let of = |bytes: usize| bench.order().key("k").payload(vec![b'x'; bytes]);
    bench.enqueue([of(1_040_000), of(10), of(1_048_588), of(1_047_000), of(20)]);
    let relay = bench.relay();
    bench.wait_settled();
    let summary = relay.stop();
    assert_eq!((summary.rejected, summary.voided), (1, 0));
    let sizes: Vec<_> = bench.records().iter().map(|r| r.payload.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [1_040_000, 10, 1_047_000, 20]);
}
