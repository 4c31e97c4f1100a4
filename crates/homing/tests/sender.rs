//! Sending with receipts: sync, callback, future; in one process or with a relay elsewhere; the examples run.
#![allow(clippy::unwrap_used)]

mod relay_bench;

#[path = "../examples/async_send.rs"]
#[allow(dead_code)]
mod async_send;
#[path = "../examples/create_user_and_send.rs"]
#[allow(dead_code)]
mod create_user_and_send;
#[path = "../examples/sync_send.rs"]
#[allow(dead_code)]
mod sync_send;

use homing::outbox::offset_runs::Delivered;
use homing::outbox::rows::RowBuf;
use homing::outbox::store::{
    BatchId, Claimed, Commit, LanePart, LaneSettlement, Manifest, Owner, RowId, Store, TopicEpoch,
};
use homing::{Epoch, Offset, Partition, Retry, SendError, Sender, SenderOptions, Seq};
use homing_core::{LeaseDecision, PartitionCount};
use relay_bench::{Bench, wait_until};
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn sender(bench: &Bench) -> Sender {
    let relay = Some((bench.kafka.clone(), bench.options()));
    Sender::open(bench.outbox.clone(), SenderOptions { relay, ..SenderOptions::default() }).unwrap()
}

#[test]
fn a_sync_send_returns_where_the_message_is() {
    let bench = Bench::new();
    let sender = sender(&bench);
    for n in 0..20 {
        let receipt = sender.send(bench.message(n % 3, n)).unwrap();
        assert_eq!(receipt.topic.as_str(), bench.orders);
        assert_eq!(receipt.stream.as_str(), "shop");
        let record = bench
            .records()
            .into_iter()
            .find(|r| (r.partition, r.offset) == (receipt.partition.0, receipt.offset.0))
            .unwrap();
        assert_eq!((record.seq, record.id), (receipt.seq.0, receipt.id));
        assert_eq!(record.payload.unwrap(), n.to_string().into_bytes());
    }
    sender.close();
    bench.assert_each_row_once_in_order(20);
}

#[test]
fn callbacks_of_many_threads_each_come_once() {
    let bench = Bench::new();
    let sender = sender(&bench);
    let (done, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (done, sender, bench) = (done.clone(), &sender, &bench);
            scope.spawn(move || {
                for n in 0..500 {
                    let done = done.clone();
                    let row = thread * 500 + n;
                    sender
                        .send_with(bench.message(thread, row), move |result| {
                            done.send((row, result)).unwrap()
                        })
                        .unwrap();
                }
            });
        }
    });
    drop(done);
    let mut rows: Vec<_> = (0..2000)
        .map(|_| {
            let (row, result) = results.recv_timeout(relay_bench::LONG).unwrap();
            result.unwrap();
            row
        })
        .collect();
    assert_eq!(sender.pending(), 0);
    sender.close();
    rows.sort_unstable();
    assert_eq!(rows, (0..2000).collect::<Vec<_>>());
    bench.assert_each_row_once_in_order(2000);
}

#[test]
fn a_relay_in_another_place_gives_the_receipts_too() {
    let bench = Bench::new();
    let relay = bench.relay();
    // A handle of its own shares no signal with the relay, as in another process.
    let outbox = homing::SqliteOutbox::open(bench.outbox.path(), bench.outbox.stream()).unwrap();
    let sender = Sender::open(outbox, SenderOptions::default()).unwrap();
    for n in 0..10 {
        sender.send(bench.message(1, n)).unwrap();
    }
    sender.close();
    relay.stop();
    bench.assert_each_row_once_in_order(10);
}

#[test]
fn a_send_that_cannot_be_delivered_says_so_and_whether_to_repeat_it() {
    let bench = Bench::with(|kafka| kafka.create_topics = false);
    let missing_topic_after = Some(std::time::Duration::from_millis(200));
    let relay = Some((bench.kafka.clone(), homing::RelayOptions { missing_topic_after, ..bench.options() }));
    let sender =
        Sender::open(bench.outbox.clone(), SenderOptions { relay, ..SenderOptions::default() }).unwrap();
    let error = sender.send(bench.message(1, 1)).unwrap_err();
    assert!(matches!(&error, SendError::DeadLetter { code, .. } if code == "topic_missing"), "{error}");
    assert_eq!(error.retry(), Retry::Never);
    let error = sender.send(bench.order().header("homing-id", "x")).unwrap_err();
    assert!(matches!(error, SendError::Message(_)), "{error}");
    sender.close();
}

#[test]
fn a_timeout_is_indeterminate_and_the_message_arrives_later() {
    let bench = Bench::new();
    let options = SenderOptions { send_timeout: Duration::from_millis(200), ..SenderOptions::default() };
    let sender = Sender::open(bench.outbox.clone(), options).unwrap();
    let error = sender.send(bench.message(0, 0)).unwrap_err();
    let SendError::TimedOut { row, .. } = error else { panic!("{error}") };
    assert_eq!(error.retry(), Retry::Indeterminate);
    let relay = bench.relay();
    bench.wait_settled();
    assert!(bench.outbox.receipt(row).unwrap().is_some());
    relay.stop();
    sender.close();
}

#[test]
fn closing_stores_what_was_taken_and_answers_every_callback() {
    let bench = Bench::new();
    let options = SenderOptions { close_timeout: Duration::from_millis(300), ..SenderOptions::default() };
    let sender = Sender::open(bench.outbox.clone(), options).unwrap();
    let (done, results) = mpsc::channel();
    for n in 0..300 {
        let done = done.clone();
        sender.send_with(bench.message(n % 5, n), move |result| done.send(result).unwrap()).unwrap();
    }
    let began = Instant::now();
    sender.close();
    assert!(began.elapsed() < Duration::from_secs(20));
    drop(done);
    let results: Vec<_> = results.iter().collect();
    assert_eq!(results.len(), 300);
    assert!(results.iter().all(|r| matches!(r, Err(SendError::ClosedStored { .. }))), "{:?}", results[0]);
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    bench.assert_each_row_once_in_order(300);
}

#[test]
fn a_send_waits_for_another_writer_of_the_database() {
    let bench = Bench::new();
    let blocker = bench.outbox.connect().unwrap();
    let sender = Sender::open(bench.outbox.clone(), SenderOptions::default()).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = sender.send_async(bench.message(0, 0));
    assert_eq!(bench.outbox.stats().unwrap().rows, 0);
    blocker.execute_batch("COMMIT").unwrap();
    wait_until("it is stored", || bench.outbox.stats().unwrap().rows == 1);
    drop(waiting);
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    sender.close();
}

#[test]
fn sends_without_a_receipt_are_limited_and_go_on_once_receipts_come() {
    let bench = Bench::new();
    let options = SenderOptions {
        pending_max: 5,
        send_timeout: Duration::from_millis(200),
        ..SenderOptions::default()
    };
    let sender = Sender::open(bench.outbox.clone(), options).unwrap();
    for n in 0..5 {
        sender.send_with(bench.message(0, n), |result| drop(result.unwrap())).unwrap();
    }
    for error in [
        sender.send_with(bench.message(0, 5), |_| panic!("it was refused")).unwrap_err(),
        sender.send(bench.message(0, 5)).unwrap_err(),
    ] {
        assert!(matches!(error, SendError::Full { pending: 5, .. }), "{error}");
        assert_eq!(error.retry(), Retry::Later);
    }
    let relay = bench.relay();
    wait_until("the receipts are there", || sender.pending() == 0);
    for n in 5..10 {
        sender.send_with(bench.message(0, n), |result| drop(result.unwrap())).unwrap();
    }
    wait_until("these too", || sender.pending() == 0);
    sender.close();
    relay.stop();
    bench.assert_each_row_once_in_order(10);
}

#[test]
fn a_send_ends_in_its_time_also_when_the_queue_is_full() {
    let bench = Bench::new();
    let options = SenderOptions {
        queue_max: 1,
        group_max: 1,
        send_timeout: Duration::from_millis(200),
        ..SenderOptions::default()
    };
    let sender = Sender::open(bench.outbox.clone(), options).unwrap();
    let blocker = bench.outbox.connect().unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The writer waits with the first; the queue holds the second; there is no place for a third.
    for n in 0..2 {
        sender.send_with(bench.message(0, n), drop).unwrap();
    }
    let (done, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| done.send(sender.send(bench.message(0, 2))).unwrap());
        let result = ended.recv_timeout(Duration::from_secs(3));
        blocker.execute_batch("COMMIT").unwrap();
        let error = result.expect("it ends while the database is still busy").unwrap_err();
        assert!(matches!(error, SendError::Full { .. }), "{error}");
    });
    wait_until("the others are stored", || bench.outbox.stats().unwrap().rows == 2);
    sender.close();
}

#[test]
fn the_examples_do_what_they_say() {
    let bench = Bench::new();
    let bootstrap = bench.cluster.bootstrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let receipt = create_user_and_send::run(&bootstrap, dir.path()).unwrap();
    assert_eq!((receipt.topic.as_str(), receipt.seq.0), ("users", 1));
    let dir = tempfile::tempdir().unwrap();
    let receipts = sync_send::run(&bootstrap, dir.path()).unwrap();
    assert_eq!(receipts.iter().map(|r| r.seq.0).collect::<Vec<_>>(), [1, 2, 3]);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(async_send::run(&bootstrap, dir.path()).unwrap(), 1000);
}

/// No relay runs: the test settles one topic's lane and leaves the other's waiting.
#[test]
fn a_receipt_comes_though_another_topic_of_its_batch_waits() {
    let dir = tempfile::tempdir().unwrap();
    let stream = homing::StreamName::parse("shop").unwrap();
    let outbox = homing::SqliteOutbox::create(dir.path().join("shop.db"), &stream).unwrap();
    let sender = Sender::open(outbox.clone(), SenderOptions::default()).unwrap();
    let (done, results) = mpsc::channel();
    for topic in ["blocked", "fine", "blocked", "fine"] {
        let done = done.clone();
        let message = homing::Message::new(topic).unwrap().key("k").payload(topic);
        sender.send_with(message, move |result| done.send(result).unwrap()).unwrap();
    }
    wait_until("all are stored", || outbox.stats().unwrap().unclaimed == 4);

    let mut store = outbox.store().unwrap();
    let owner = Owner { name: "test".into(), host: "h".into(), pid: 1, started: 1 };
    let LeaseDecision::Acquire(token) = store.acquire(&owner, 0, 1000, &|_| None).unwrap() else { panic!() };
    let span = store.reader(RowId(0)).unwrap().next(9, usize::MAX, &mut RowBuf::default()).unwrap().unwrap();
    let lanes = ["blocked", "fine"].map(|name| {
        let topic = homing::TopicName::parse(name).unwrap();
        let (epoch, partition, first_seq) = (Epoch(1), Partition(0), Seq(1));
        let (topic_id, partitions) = ([1; 16], PartitionCount::new(1).unwrap());
        let open = TopicEpoch { topic: topic.clone(), epoch, topic_id, partitions };
        store.open_epoch(token, &open, &[Offset(0)], 0).unwrap();
        LanePart { topic, epoch, partition, first_seq, rows: 2, takes_null_keys: false }
    });
    let batch = BatchId(1);
    let manifest = Manifest { batch, span, rows: 4, bytes: 24, lanes: lanes.to_vec() };
    let claimed = Some(Claimed::Live(RowId(4)));
    store.commit(token, &Commit { manifest: Some(&manifest), claimed, ..Commit::default() }).unwrap();
    let at = [Delivered::At(Offset(7)), Delivered::At(Offset(8))];
    let settle = [LaneSettlement::from_fates(batch, lanes[1].clone(), at, Vec::new())];
    store.commit(token, &Commit { settle: &settle, now_ms: 1, ..Commit::default() }).unwrap();
    for offset in [7, 8] {
        let receipt = results.recv_timeout(relay_bench::LONG).unwrap().unwrap();
        assert_eq!((receipt.topic.as_str(), receipt.offset), ("fine", Offset(offset)));
    }
    assert_eq!(sender.pending(), 2);
    let settle = [LaneSettlement::from_fates(batch, lanes[0].clone(), at, Vec::new())];
    store.commit(token, &Commit { settle: &settle, now_ms: 1, ..Commit::default() }).unwrap();
    for offset in [7, 8] {
        let receipt = results.recv_timeout(relay_bench::LONG).unwrap().unwrap();
        assert_eq!((receipt.topic.as_str(), receipt.offset), ("blocked", Offset(offset)));
    }
    sender.close();
}

#[test]
fn a_message_is_not_stored_in_an_outbox_whose_file_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let stream = homing::StreamName::parse("shop").unwrap();
    let outbox = homing::SqliteOutbox::create(dir.path().join("shop.db"), &stream).unwrap();
    let sender = Sender::open(outbox.clone(), SenderOptions::default()).unwrap();
    std::fs::remove_file(outbox.path()).unwrap();
    let error = sender.send(homing::Message::new("t").unwrap().payload("x")).unwrap_err();
    assert!(matches!(error, SendError::NotStored(_)), "{error}");
    assert!(error.to_string().contains("was removed"), "{error}");
    assert_eq!(error.retry(), Retry::Never);
    sender.close();
}
