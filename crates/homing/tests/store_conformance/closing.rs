//! Topics that are closed, reopened or ordered about.

use super::lanes::{lane, manifest, name, next_rows, open, part_of};
use super::*;
use homing::outbox::store::{Close, CloseTopic, Closed, TopicAction};
use homing_core::partition_for_key;

/// Topic `t` with two partitions: keys `a` (lane A) and another that goes to the other one.
struct Two {
    keys: [&'static str; 2],
}

impl Two {
    fn new() -> Self {
        let of = |partition: i32| {
            let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let two = PartitionCount::new(2).unwrap();
            keys.into_iter().find(|key| partition_for_key(key.as_bytes(), two).0 == partition).unwrap()
        };
        Self { keys: [of(0), of(1)] }
    }
}

/// Batches 1 to 3 of `t`, each with one row of both partitions, and one row of `other` between;
/// partition 0 is settled in the first two, partition 1 in the first alone.
fn half_settled<B: Bench>(bench: &B, store: &mut B::Store) -> FencingToken {
    let LeaseDecision::Acquire(token) = take(store, "first", 0, None) else { panic!("nobody holds it") };
    open(store, token, "t", 1, 2);
    open(store, token, "other", 1, 1);
    let keys = Two::new().keys;
    for n in 1..=3 {
        bench.insert_into("t", Some(keys[0]));
        bench.insert_into("other", Some("k"));
        bench.insert_into("t", Some(keys[1]));
        let span = next_rows(store, n * 3 - 3, &mut RowBuf::default());
        let parts = [("other", 0), ("t", 0), ("t", 1)]
            .map(|(topic, partition)| part_of(&lane(topic, 1, partition), n as u64, 1, false));
        let batch = manifest(n, span, parts.to_vec());
        claim(store, token, &batch).unwrap();
        settle(store, token, lane_at(&batch, 0, n - 1)).unwrap();
        if n <= 2 {
            settle(store, token, lane_at(&batch, 1, n - 1)).unwrap();
        }
        if n == 1 {
            settle(store, token, lane_at(&batch, 2, n - 1)).unwrap();
        }
    }
    token
}

fn close_all(store: &mut impl Store, token: FencingToken, how: Close) -> Closed {
    let topic = name("t");
    let close = CloseTopic { topic: &topic, how, by: "ada", why: "it is gone", code: "A03", now_ms: 50 };
    let mut all = Closed::default();
    while !all.done {
        let step = store.close_topic(token, &close).unwrap();
        all = Closed {
            voided: all.voided + step.voided,
            replanned: all.replanned + step.replanned,
            done: step.done,
        };
    }
    all
}

pub(super) fn a_closed_topic_gives_its_rows_to_the_dead_letters<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = half_settled(&bench, &mut store);
    let outlook = bench.outbox().topic_outlook(&name("t")).unwrap();
    let of_lanes: Vec<_> = outlook.lanes.iter().map(|l| (l.unsettled, l.unverified_kept)).collect();
    assert_eq!(of_lanes, [(1, 2), (2, 1)]);
    assert_eq!((outlook.held, outlook.unclaimed), (0, 0));
    bench.want_repair(1, 1);
    let closed = close_all(&mut store, token, Close::Void);
    assert_eq!(closed, Closed { voided: 3, replanned: 0, done: true });
    let letters = bench.dead_letters();
    assert_eq!(letters.iter().map(|letter| letter.0).collect::<Vec<_>>(), [7, 6, 9]);
    assert!(letters.iter().all(|letter| letter.1 == "topic_closed" && letter.2.is_some()), "{letters:?}");
    assert!(store.repairs_wanted(9).unwrap().is_empty());
    let standing = store.standing().unwrap();
    assert_eq!(standing.topics.iter().map(|topic| topic.topic.as_str()).collect::<Vec<_>>(), ["other"]);
    assert_eq!((standing.held[0].topic.as_str(), standing.held[0].code.as_str()), ("t", "A03"));
    assert!(unsettled(&store).is_empty());
    assert!(matches!(bench.fate(9), Some(Fate::DeadLetter { .. })));
    assert!(matches!(bench.fate(1), Some(Fate::Delivered(_))));
    let accepted = bench.outbox().acceptances().unwrap();
    assert_eq!(accepted.len(), 2);
    assert!(accepted.iter().all(|one| one.by == "ada" && one.why == "it is gone" && one.to == Seq(3)));
    let again = close_all(&mut store, token, Close::Void);
    assert_eq!(again, Closed { voided: 0, replanned: 0, done: true }, "there is nothing left to close");
    bench.outbox().connect().unwrap().execute("UPDATE homing_lane SET verified_seq = 3", []).unwrap();
    assert_eq!(pruned(&mut store, token, i64::MAX), 6, "it holds back no pruning; the newest batch stays");

    open(&mut store, token, "t", 9, 2);
    let claimed = Some(Claimed::Held { topic: name("t"), through: RowId(9), done: true });
    store.commit(token, &Commit { claimed, ..Commit::default() }).unwrap();
    assert!(store.standing().unwrap().held.is_empty());
}

/// Claims all held rows of `t` in epoch `epoch` and returns their ids and flags.
fn claim_held(store: &mut impl Store, token: FencingToken, epoch: u32, batch: i64) -> Vec<(i64, bool)> {
    let mut rows = RowBuf::default();
    let mut reader = store.held_reader(&name("t")).unwrap();
    let span = reader.next(100, usize::MAX, &mut rows).unwrap().unwrap();
    let two = PartitionCount::new(2).unwrap();
    let mut parts: Vec<LanePart> = Vec::new();
    for row in rows.iter() {
        let lane = lane("t", epoch, partition_for_key(row.key.unwrap(), two).0);
        match parts.iter_mut().find(|part| part.lane() == lane) {
            Some(part) => part.rows += 1,
            None => parts.push(part_of(&lane, 1, 1, false)),
        }
    }
    let through = span.to;
    let manifest = manifest(batch, span, parts);
    let claimed = Some(Claimed::Held { topic: name("t"), through, done: true });
    store.commit(token, &Commit { manifest: Some(&manifest), claimed, ..Commit::default() }).unwrap();
    let mut again = RowBuf::default();
    store.read_batch(&manifest, &mut again).unwrap();
    let seen = |rows: &RowBuf| rows.iter().map(|row| (row.id.0, row.flags.redrive)).collect::<Vec<_>>();
    assert_eq!(seen(&again), seen(&rows), "the batch is read again row for row");
    number(&again, &manifest, |_| PartitionCount::new(2)).unwrap();
    seen(&rows)
}

pub(super) fn a_reopened_topic_numbers_its_rows_again_in_order<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = half_settled(&bench, &mut store);
    let closed = close_all(&mut store, token, Close::Replan { kept: false });
    assert_eq!(closed, Closed { voided: 0, replanned: 3, done: true });
    assert!(bench.dead_letters().is_empty());
    assert_eq!(store.standing().unwrap().held[0].rows, 3);
    let stats = bench.outbox().stats().unwrap();
    assert_eq!((stats.rows, stats.unclaimed, stats.unsettled, stats.settled), (9, 3, 0, 6));
    bench.insert_into("t", Some(Two::new().keys[0]));
    let claimed = Some(Claimed::Live(RowId(10)));
    store.commit(token, &Commit { claimed, ..Commit::default() }).unwrap();

    open(&mut store, token, "t", 2, 2);
    let rows = claim_held(&mut store, token, 2, 4);
    assert_eq!(rows, [(6, true), (7, true), (9, true), (10, false)], "what may be out already is flagged");
    assert_eq!(bench.fate(9), None, "on its way again");
    let batch = unsettled(&store).remove(0);
    for place in 0..batch.lanes.len() {
        settle(&mut store, token, lane_at(&batch, place, 0)).unwrap();
    }
    let Some(Fate::Delivered(receipt)) = bench.fate(9) else { panic!("{:?}", bench.fate(9)) };
    assert_eq!(receipt.epoch, Epoch(2));
    let Some(Fate::Delivered(receipt)) = bench.fate(1) else { panic!("{:?}", bench.fate(1)) };
    assert_eq!(receipt.epoch, Epoch(1), "what was settled stays what it was");
    let void: Vec<u64> = [0, 1]
        .map(|p| part_of(&lane("t", 1, p), 1, 3, false))
        .iter()
        .flat_map(|part| store.voided(part).unwrap())
        .map(|seq| seq.0)
        .collect();
    assert_eq!(void, [3, 2, 3]);
    bench
        .outbox()
        .connect()
        .unwrap()
        .execute("UPDATE homing_lane SET verified_seq = settled_seq", [])
        .unwrap();
    assert_eq!(pruned(&mut store, token, i64::MAX), 6, "the old batches, without the rows that left them");
    assert_eq!(bench.rows(), 4);
}

pub(super) fn a_topic_made_anew_gets_all_rows_that_are_kept<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = half_settled(&bench, &mut store);
    let closed = close_all(&mut store, token, Close::Replan { kept: true });
    assert_eq!(closed, Closed { voided: 0, replanned: 6, done: true });
    open(&mut store, token, "t", 2, 2);
    let rows = claim_held(&mut store, token, 2, 4);
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [1, 3, 4, 6, 7, 9]);
    assert!(rows.iter().all(|row| row.1));
    let mut others = RowBuf::default();
    let other = store.batch_of(&name("other"), Epoch(1), Partition(0), Seq(2)).unwrap().unwrap();
    store.read_batch(&other, &mut others).unwrap();
    assert_eq!(others.iter().map(|row| row.id.0).collect::<Vec<_>>(), [5], "other topics stay as they were");
    assert!(matches!(bench.fate(5), Some(Fate::Delivered(_))));
    assert_eq!(bench.fate(4), None, "on its way again");
}

pub(super) fn closing_goes_on_after_a_crash_between_two_steps<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let LeaseDecision::Acquire(token) = take(&mut store, "first", 0, None) else { panic!("nobody holds it") };
    open(&mut store, token, "t", 1, 1);
    bench.insert(9_000);
    let mut reader = store.reader(RowId(0)).unwrap();
    for n in 0..3 {
        let span = reader.next(3_000, usize::MAX, &mut RowBuf::default()).unwrap().unwrap();
        claim(&mut store, token, &batch(n + 1, span, n as u64 * 3_000 + 1, 3_000)).unwrap();
    }
    let topic = name("t");
    let how = Close::Replan { kept: false };
    let close = CloseTopic { topic: &topic, how, by: "ada", why: "gone", code: "A03", now_ms: 50 };
    let step = store.close_topic(token, &close).unwrap();
    assert!(!step.done && step.replanned < 9_000, "one step is bounded: {step:?}");
    drop(store);
    let mut store = bench.store();
    assert_eq!(take(&mut store, "second", 9000, None), LeaseDecision::Acquire(FencingToken(token.0 + 1)));
    let rest = close_all(&mut store, FencingToken(token.0 + 1), how);
    assert_eq!(step.replanned + rest.replanned, 9_000);
    assert_eq!(store.standing().unwrap().held[0].rows, 9_000);
}

pub(super) fn orders_about_topics_wait_for_the_relay<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    let outbox = bench.outbox();
    let first = outbox.order_topic(&name("t"), TopicAction::Close, "ada", "gone").unwrap();
    outbox.order_topic(&name("u"), TopicAction::ReopenKept, "bob", "made anew").unwrap();
    let orders = store.topic_orders().unwrap();
    assert_eq!(
        orders.iter().map(|order| order.action).collect::<Vec<_>>(),
        [TopicAction::Close, TopicAction::ReopenKept]
    );
    assert_eq!((orders[0].by.as_str(), orders[0].why.as_str()), ("ada", "gone"));
    store.topic_order_done(token, first, "3 rows set aside", 9).unwrap();
    assert_eq!(store.topic_orders().unwrap().len(), 1);
    let all = outbox.topic_orders().unwrap();
    assert_eq!(all[0].result.as_deref(), Some("3 rows set aside"));
}
