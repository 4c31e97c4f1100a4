//! The relay: order, numbering, crashes between every two steps.
#![allow(clippy::unwrap_used)]

mod relay_bench;

use homing::Message;
use homing::outbox::Fate;
use relay_bench::Bench;
use std::time::Duration;

#[test]
fn committed_rows_arrive_once_in_commit_order_and_receipts_say_where() {
    let bench = Bench::new();
    bench.enqueue((0..500).map(|n| bench.message(n % 7, n)));
    let relay = bench.relay();
    bench.wait_settled();
    let summary = relay.stop();
    assert_eq!((summary.claimed, summary.settled, summary.resent), (500, 500, 0));
    let records = bench.records();
    assert_eq!(records.len(), 500);
    bench.assert_each_row_once_in_order(500);
    let receipt = bench.outbox.receipt(homing::outbox::RowId(17)).unwrap().unwrap();
    let record =
        records.iter().find(|r| r.partition == receipt.partition.0 && r.offset == receipt.offset.0).unwrap();
    assert_eq!(record.seq, receipt.seq.0);
    assert_eq!(record.id, receipt.id);
    assert_eq!(record.payload.as_deref(), Some(&b"16"[..]));
    let stats = bench.outbox.stats().unwrap();
    assert_eq!((stats.unclaimed, stats.unsettled, stats.settled), (0, 0, 500));
    assert_eq!(stats.relay.unwrap().trouble, None);
}

#[test]
fn a_lone_row_of_another_process_is_sent_and_settled_soon() {
    let bench = Bench::new();
    let relay = bench.relay();
    bench.enqueue([bench.message(1, 1)]);
    bench.wait_settled();
    let started = std::time::Instant::now();
    for n in 0..20 {
        bench.enqueue([bench.message(1, n)]);
        bench.wait_settled();
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    relay.stop();
}

#[test]
fn null_keys_tombstones_headers_and_ids_arrive_as_given() {
    let bench = Bench::new();
    let id = uuid::Uuid::now_v7();
    bench.enqueue([
        bench.order().id(id).header("a", "1").header("b", vec![0xff, 0]),
        bench.order().key("").payload(""),
    ]);
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    let records = bench.records();
    let tombstone = records.iter().find(|r| r.id == id).unwrap();
    assert_eq!((&tombstone.key, &tombstone.payload), (&None, &None));
    assert_eq!(
        tombstone.headers,
        [("a".to_owned(), Some(b"1".to_vec())), ("b".to_owned(), Some(vec![0xff, 0]))]
    );
    let empty = records.iter().find(|r| r.id != id).unwrap();
    assert_eq!((empty.key.as_deref(), empty.payload.as_deref()), (Some(&b""[..]), Some(&b""[..])));
}

#[test]
fn rows_that_can_never_be_sent_go_to_the_dead_letters_and_reorder_nobody() {
    let bench = Bench::new();
    let big = bench.order().key("k").payload(vec![b'x'; 2_000_000]);
    bench.enqueue([big, bench.message(1, 1), bench.message(1, 2)]);
    let db = bench.outbox.connect().unwrap();
    // An outbox made before its database checked rows itself.
    db.execute_batch("DROP TRIGGER homing_outbox_check; DROP TRIGGER homing_outbox_headers").unwrap();
    db.execute_batch(&format!(
        "INSERT INTO homing_outbox (topic, message_key, payload, payload_text) VALUES ('{0}', 'k1', 'a', 'b');
         INSERT INTO homing_outbox (topic, message_key, headers) VALUES ('{0}', 'k1', '{{not json');
         INSERT INTO homing_outbox (topic, message_key) VALUES ('no/topic', 'k1');",
        bench.orders
    ))
    .unwrap();
    bench.enqueue([bench.message(1, 3)]);
    let relay = bench.relay();
    bench.wait_settled();
    let summary = relay.stop();
    assert_eq!((summary.rejected, summary.voided), (4, 0));
    let codes: Vec<_> = bench.outbox.dead_letters(0, 10).unwrap().into_iter().map(|l| l.code).collect();
    assert_eq!(codes.len(), 4);
    for code in ["too_large", "payload", "headers", "topic_name"] {
        assert!(codes.iter().any(|c| c == code), "{code} in {codes:?}");
    }
    let records = bench.records();
    let payloads: Vec<_> = records.iter().map(|r| r.payload.clone().unwrap()).collect();
    assert_eq!(payloads, [b"1".to_vec(), b"2".to_vec(), b"3".to_vec()]);
    assert_eq!(records.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3], "no seq was spent on them");
    assert!(matches!(
        bench.outbox.fate(homing::outbox::RowId(1)).unwrap(),
        Some(Fate::DeadLetter { code, .. }) if code == "too_large"
    ));
}

#[test]
fn a_redriven_dead_letter_gets_a_new_number_and_keeps_its_id() {
    let bench = Bench::with(|kafka| kafka.create_topics = false);
    bench.enqueue([bench.message(1, 1)]);
    let missing_topic_after = Some(Duration::from_millis(200));
    let relay = bench.relay_with(homing::RelayOptions { missing_topic_after, ..bench.options() });
    bench.wait_settled();
    let letter = bench.outbox.dead_letters(0, 10).unwrap().remove(0);
    assert_eq!(letter.code, "topic_missing");
    bench.cluster.create(&bench.orders, 3);
    let redriven = bench.outbox.redrive(None).unwrap();
    assert_eq!(redriven.rows.len(), 1);
    bench.wait_settled();
    relay.stop();
    let record = bench.records().remove(0);
    assert_eq!(record.seq, 1);
    assert_eq!(Some(record.id), letter.message_id);
    assert_eq!(record.flags.as_deref(), Some("redrive"));
    assert!(bench.outbox.redrive(None).unwrap().rows.is_empty(), "a letter is redriven once");
    assert_eq!(bench.outbox.stats().unwrap().dead_letters, 0);
}

#[test]
fn messages_of_one_transaction_in_several_topics_are_numbered_per_lane() {
    let bench = Bench::new();
    let topics = ["orders", "bills", "mails"].map(|what| bench.cluster.name(what));
    bench.enqueue(
        (0..300).map(|n| {
            Message::new(&topics[n % 3]).unwrap().key(format!("k{}", n % 11)).payload(n.to_string())
        }),
    );
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    for topic in &topics {
        let records = bench.records_of(topic);
        assert_eq!(records.len(), 100, "{topic}");
        bench.assert_lanes_are_gapless(&records);
    }
}
