//! Lanes that settle, wait, are held and are pruned on their own.

use super::*;
use homing::outbox::store::{Hold, UnsettledBatch};

pub(super) fn name(topic: &str) -> TopicName {
    TopicName::parse(topic).unwrap()
}

/// Opens `partitions` lanes for `topic`, from offset 0.
pub(super) fn open(store: &mut impl Store, token: FencingToken, topic: &str, epoch: u32, partitions: i32) {
    let count = PartitionCount::new(partitions).unwrap();
    let epoch = TopicEpoch { topic: name(topic), epoch: Epoch(epoch), topic_id: [7; 16], partitions: count };
    store.open_epoch(token, &epoch, &vec![Offset(0); partitions as usize], 0).unwrap();
}

pub(super) fn lane(topic: &str, epoch: u32, partition: i32) -> LaneKey {
    LaneKey { topic: name(topic), epoch: Epoch(epoch), partition: Partition(partition) }
}

pub(super) fn part_of(lane: &LaneKey, first_seq: u64, rows: u32, nulls: bool) -> LanePart {
    let LaneKey { topic, epoch, partition } = lane.clone();
    LanePart { topic, epoch, partition, first_seq: Seq(first_seq), rows, takes_null_keys: nulls }
}

pub(super) fn manifest(id: i64, span: Span, lanes: Vec<LanePart>) -> Manifest {
    let rows = lanes.iter().map(|part| part.rows).sum();
    Manifest { batch: BatchId(id), span, rows, bytes: u64::from(rows) * 100, lanes }
}

pub(super) fn next_rows(store: &impl Store, after: i64, into: &mut RowBuf) -> Span {
    store.reader(RowId(after)).unwrap().next(1000, usize::MAX, into).unwrap().unwrap()
}

/// Topics `a` and `b` of one partition each; three batches, each with a row of both.
fn three_batches_of_two_lanes<B: Bench>(bench: &B, store: &mut B::Store) -> (FencingToken, Vec<Manifest>) {
    let LaneDecisionToken(token) = first_owner(store);
    open(store, token, "a", 1, 1);
    open(store, token, "b", 1, 1);
    let mut batches = Vec::new();
    for n in 1..=3 {
        bench.insert_into("a", Some("k"));
        bench.insert_into("b", Some("k"));
        let span = next_rows(store, n * 2 - 2, &mut RowBuf::default());
        let parts = ["a", "b"].map(|topic| part_of(&lane(topic, 1, 0), n as u64, 1, false));
        let batch = manifest(n, span, parts.to_vec());
        claim(store, token, &batch).unwrap();
        batches.push(batch);
    }
    (token, batches)
}

struct LaneDecisionToken(FencingToken);

fn first_owner(store: &mut impl Store) -> LaneDecisionToken {
    let LeaseDecision::Acquire(token) = take(store, "first", 0, None) else { panic!("nobody holds it") };
    LaneDecisionToken(token)
}

pub(super) fn a_lane_settles_though_its_neighbour_waits<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let (token, batches) = three_batches_of_two_lanes(&bench, &mut store);
    let b = [2, 0, 1].map(|batch| lane_at(&batches[batch], 1, batch as i64));
    let out_of_order = Commit { settle: &b, now_ms: 5, ..Commit::default() };
    assert!(store.commit(token, &out_of_order).is_err(), "within a lane in seq order");
    for batch in &batches {
        settle(&mut store, token, lane_at(batch, 1, batch.batch.0 - 1)).unwrap();
    }
    let standing = store.standing().unwrap();
    let settled: Vec<_> = standing.lanes.iter().map(|lane| (lane.settled, lane.is_behind())).collect();
    assert_eq!(settled, [(0, true), (3, false)]);
    assert_eq!(unsettled(&store).len(), 3);
    assert!(settle(&mut store, token, lane_at(&batches[1], 1, 1)).is_err(), "a part settles once");

    let reader = bench.outbox().fate_reader().unwrap();
    let rows: Vec<RowId> = (1..=6).map(RowId).collect();
    let told = |fates: Vec<(RowId, Fate)>| fates.into_iter().map(|(row, _)| row.0).collect::<Vec<_>>();
    assert_eq!(told(reader.fates(&rows).unwrap()), [2, 4, 6], "b's rows have their receipts");
    assert_eq!(reader.decided_through().unwrap(), RowId(0), "row 1 still waits");
    let waiting: Vec<RowId> = [1, 3, 5].map(RowId).to_vec();
    assert!(reader.fates(&waiting).unwrap().is_empty());
    settle(&mut store, token, lane_at(&batches[0], 0, 0)).unwrap();
    assert_eq!(told(reader.fates(&waiting).unwrap()), [1]);
    assert_eq!(reader.decided_through().unwrap(), RowId(2));
    assert_eq!(unsettled(&store).iter().map(|batch| batch.batch.0).collect::<Vec<_>>(), [2, 3]);
    let rest = [lane_at(&batches[1], 0, 1), lane_at(&batches[2], 0, 2)];
    store.commit(token, &Commit { settle: &rest, now_ms: 6, ..Commit::default() }).unwrap();
    assert!(unsettled(&store).is_empty());
    assert_eq!(reader.decided_through().unwrap(), RowId(6));
}

pub(super) fn a_lane_that_waits_is_read_again_alone_and_in_pages<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let (token, batches) = three_batches_of_two_lanes(&bench, &mut store);
    for batch in &batches {
        settle(&mut store, token, lane_at(batch, 1, batch.batch.0 - 1)).unwrap();
    }
    let ids = |page: &[UnsettledBatch]| page.iter().map(|batch| batch.manifest.batch.0).collect::<Vec<_>>();
    let page = store.unsettled_batches(None, 2).unwrap();
    assert_eq!(ids(&page), [1, 2]);
    assert_eq!(page[0].unsettled, [0]);
    assert_eq!(ids(&store.unsettled_batches(Some(BatchId(2)), 2).unwrap()), [3]);
    assert!(store.unsettled_of_lane(&lane("b", 1, 0), Seq(1), 9).unwrap().is_empty());
    let page = store.unsettled_of_lane(&lane("a", 1, 0), Seq(2), 1).unwrap();
    assert_eq!(ids(&page), [2]);
    let mut rows = RowBuf::default();
    store.read_batch(&page[0].manifest.only(&page[0].unsettled), &mut rows).unwrap();
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [3], "only the lane's own row");
    assert_eq!(rows.topics(), [name("a")]);
}

pub(super) fn what_was_scanned_only_moves_forward<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    store.note_scanned(token, &[(lane("t", 1, 0), Offset(9))]).unwrap();
    store.note_scanned(token, &[(lane("t", 1, 0), Offset(4))]).unwrap();
    assert_eq!(store.standing().unwrap().lanes[0].next_offset, Offset(9));
    assert!(store.note_scanned(token, &[(lane("t", 1, 3), Offset(4))]).is_err(), "no such lane");
}

pub(super) fn a_commit_without_an_answer_is_asked_about<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    assert!(!store.batch_is_mine(BatchId(1), token).unwrap());
    bench.insert(1);
    let span = next_rows(&store, 0, &mut RowBuf::default());
    claim(&mut store, token, &batch(1, span, 1, 1)).unwrap();
    assert!(store.batch_is_mine(BatchId(1), token).unwrap());
    assert!(!store.batch_is_mine(BatchId(1), FencingToken(token.0 + 1)).unwrap());
}

/// A restored backup has an old lease row, and the next owner gets a token that was given before.
pub(super) fn the_fence_knows_the_owner_too<B: Bench>() {
    let bench = B::new();
    let (mut before, mut after) = (bench.store(), bench.store());
    assert_eq!(take(&mut before, "before", 0, None), LeaseDecision::Acquire(FencingToken(1)));
    bench.outbox().connect().unwrap().execute("DELETE FROM homing_relay", []).unwrap();
    assert_eq!(take(&mut after, "after", 0, None), LeaseDecision::Acquire(FencingToken(1)));
    assert!(matches!(before.renew(FencingToken(1), 9000), Err(OutboxError::Fenced { token: 1, .. })));
    after.renew(FencingToken(1), 9000).unwrap();
}

fn hold(topic: &str, from: i64) -> Hold {
    let (topic, reason) = (name(topic), "there is no such topic".to_owned());
    Hold { topic, from: RowId(from), code: "X11", reason, since_ms: 3 }
}

/// Rows 1, 3, 5 are of `t`, rows 2, 4, 6 of `gone`, which is held from row 2 on.
fn a_held_topic<B: Bench>(bench: &B, store: &mut B::Store) -> FencingToken {
    let token = owned(store);
    for _ in 0..3 {
        bench.insert_into("t", Some("k"));
        bench.insert_into("gone", Some("k"));
    }
    let mut rows = RowBuf::default();
    let span = store.reader(RowId(0)).unwrap().next(4, usize::MAX, &mut rows).unwrap().unwrap();
    assert_eq!(rows.retain_topics(|topic| topic.as_str() != "gone"), 2);
    let batch = batch(1, span, 1, 2);
    let (claimed, hold) = (Some(Claimed::Live(RowId(4))), [hold("gone", 2)]);
    let wrong = manifest(1, batch.span.clone(), vec![part_of(&lane("gone", 1, 0), 1, 2, false)]);
    let commit =
        Commit { manifest: Some(&wrong), hold: &hold, claimed: claimed.clone(), ..Commit::default() };
    assert!(store.commit(token, &commit).is_err(), "what is held is not numbered");
    let commit = Commit { manifest: Some(&batch), hold: &hold, claimed, ..Commit::default() };
    store.commit(token, &commit).unwrap();
    let span = store.reader(RowId(4)).unwrap().next(4, usize::MAX, &mut rows).unwrap().unwrap();
    claim(store, token, &super::batch(2, span, 3, 1)).unwrap();
    token
}

pub(super) fn a_held_topic_waits_unnumbered_and_goes_out_in_order<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = a_held_topic(&bench, &mut store);
    drop(store);
    let mut store = bench.store();
    assert_eq!(take(&mut store, "second", 9000, None), LeaseDecision::Acquire(FencingToken(token.0 + 1)));
    let token = FencingToken(token.0 + 1);
    store.update_hold(token, &name("gone"), "X11", "it is hidden").unwrap();
    let held = store.standing().unwrap().held;
    assert_eq!((held[0].topic.as_str(), held[0].rows, held[0].reason.as_str()), ("gone", 3, "it is hidden"));
    let stats = bench.outbox().stats().unwrap();
    assert_eq!((stats.rows, stats.unclaimed, stats.unsettled, stats.settled), (6, 3, 3, 0));
    assert_eq!((stats.held[0].rows, stats.held[0].code.as_str()), (3, "X11"));
    assert!(stats.held[0].oldest_age_ms.is_some() && stats.oldest_unsettled_ms.is_some());
    let mut rows = RowBuf::default();
    store.read_batch(&unsettled(&store)[0], &mut rows).unwrap();
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [1, 3]);

    open(&mut store, token, "gone", 5, 1);
    let mut reader = store.held_reader(&name("gone")).unwrap();
    let span = reader.next(2, usize::MAX, &mut rows).unwrap().unwrap();
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [2, 4]);
    let first = manifest(3, span, vec![part_of(&lane("gone", 5, 0), 1, 2, false)]);
    let claimed =
        |through: i64, done: bool| Some(Claimed::Held { topic: name("gone"), through: RowId(through), done });
    let early = Commit { manifest: Some(&first), claimed: claimed(4, true), ..Commit::default() };
    assert!(store.commit(token, &early).is_err(), "row 6 is still held");
    let commit = Commit { manifest: Some(&first), claimed: claimed(4, false), ..Commit::default() };
    store.commit(token, &commit).unwrap();
    let span = reader.next(2, usize::MAX, &mut rows).unwrap().unwrap();
    assert_eq!((rows.len(), rows.get(0).id), (1, RowId(6)));
    let second = manifest(4, span, vec![part_of(&lane("gone", 5, 0), 3, 1, false)]);
    let commit = Commit { manifest: Some(&second), claimed: claimed(6, true), ..Commit::default() };
    store.commit(token, &commit).unwrap();
    assert!(reader.next(2, usize::MAX, &mut rows).unwrap().is_none());
    assert!(store.standing().unwrap().held.is_empty());
    assert_eq!(bench.outbox().stats().unwrap().unclaimed, 0);

    for (batch, want) in [(2, vec![2, 4]), (3, vec![6])] {
        store.read_batch(&unsettled(&store)[batch], &mut rows).unwrap();
        assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), want);
    }
    settle(&mut store, token, lane_at(&first, 0, 0)).unwrap();
    let Some(Fate::Delivered(receipt)) = bench.fate(4) else { panic!("{:?}", bench.fate(4)) };
    assert_eq!((receipt.epoch, receipt.seq, receipt.offset), (Epoch(5), Seq(2), Offset(1)));
    assert_eq!(bench.fate(6), None);
    bench.insert_into("gone", Some("k"));
    let span = next_rows(&store, 6, &mut rows);
    let live = manifest(5, span, vec![part_of(&lane("gone", 5, 0), 4, 1, false)]);
    claim(&mut store, token, &live).unwrap();
}

pub(super) fn held_rows_can_be_rejected<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = a_held_topic(&bench, &mut store);
    let reject = |row| Rejected { row: RowId(row), code: RejectCode::Discarded, reason: "by ada".into() };
    let claimed = Some(Claimed::Held { topic: name("gone"), through: RowId(6), done: true });
    let some = [reject(2), reject(4)];
    let commit = Commit { reject: &some, claimed: claimed.clone(), ..Commit::default() };
    assert!(store.commit(token, &commit).is_err(), "row 6 is neither numbered nor rejected");
    let all = [reject(2), reject(4), reject(6)];
    store.commit(token, &Commit { reject: &all, claimed, ..Commit::default() }).unwrap();
    assert_eq!(bench.dead_letters().iter().map(|letter| letter.0).collect::<Vec<_>>(), [2, 4, 6]);
    let stats = bench.outbox().stats().unwrap();
    assert_eq!((stats.rows, stats.unclaimed, stats.held.len()), (3, 0, 0));
}

pub(super) fn a_batch_of_a_held_topic_does_not_take_its_neighbours_rows<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = a_held_topic(&bench, &mut store);
    for first in [0, 2] {
        let batch = store.unsettled_batches(None, 9).unwrap().remove(0).manifest;
        settle(&mut store, token, all_at(&batch, first)).unwrap_or_else(|e| panic!("{batch:?}: {e}"));
    }
    bench.insert(1);
    let span = next_rows(&store, 6, &mut RowBuf::default());
    claim(&mut store, token, &batch(3, span, 4, 1)).unwrap();
    bench.verify(3);
    assert_eq!(pruned(&mut store, token, i64::MAX), 3, "the rows of t alone");
    let mut rows = RowBuf::default();
    store.held_reader(&name("gone")).unwrap().next(9, usize::MAX, &mut rows).unwrap();
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [2, 4, 6]);
}

/// Lane `a` can never be verified; lane `b` is, in each of the three batches.
pub(super) fn a_lane_that_is_not_verified_holds_back_its_own_rows_only<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let (token, batches) = three_batches_of_two_lanes(&bench, &mut store);
    for batch in &batches {
        for place in [0, 1] {
            settle(&mut store, token, lane_at(batch, place, batch.batch.0 - 1)).unwrap();
        }
    }
    bench.insert_into("b", Some("k"));
    let span = next_rows(&store, 6, &mut RowBuf::default());
    claim(&mut store, token, &manifest(4, span, vec![part_of(&lane("b", 1, 0), 4, 1, false)])).unwrap();
    let db = bench.outbox().connect().unwrap();
    db.execute("UPDATE homing_lane SET verified_seq = 3 WHERE topic = 'b'", []).unwrap();
    let mut limits = PruneLimits::new(6, std::time::Duration::ZERO);
    limits.split_before_ms = 5;
    assert_eq!(store.prune(token, limits).unwrap().rows, 0, "too young to be taken apart");
    limits.split_before_ms = 6;
    assert_eq!(store.prune(token, limits).unwrap().rows, 3, "all of b");
    assert_eq!(store.prune(token, limits).unwrap().rows, 0);
    assert_eq!((bench.rows(), bench.outbox().stats().unwrap().settled), (4, 3));
    assert_eq!(store.batch_of(&name("b"), Epoch(1), Partition(0), Seq(2)).unwrap(), None, "pruned");
    let kept = store.batch_of(&name("a"), Epoch(1), Partition(0), Seq(2)).unwrap().unwrap();
    let mut rows = RowBuf::default();
    store.read_batch(&kept, &mut rows).unwrap();
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [3]);
    assert!(matches!(bench.fate(3), Some(Fate::Delivered(_))));
    assert_eq!(bench.fate(4), None, "pruned");
    let blockers = store.prune_blockers(6).unwrap();
    assert_eq!(blockers.len(), 1);
    assert_eq!((&blockers[0].lane, blockers[0].rows), (&lane("a", 1, 0), 3));
    assert_eq!((blockers[0].from, blockers[0].through), (Seq(1), Seq(3)));
    assert_eq!(blockers[0].oldest_settled_ms, 5);
    assert!(store.prune_blockers(5).unwrap().is_empty());
    db.execute("UPDATE homing_lane SET verified_seq = 3 WHERE topic = 'a'", []).unwrap();
    assert_eq!(store.prune(token, limits).unwrap().rows, 3, "the rest");
    let left: i64 = db.query_row("SELECT COUNT(*) FROM homing_batch_lane", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1, "only the newest batch");
}

pub(super) fn pruning_goes_by_bytes_too<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    bench.insert(5);
    for n in 1..=5 {
        let mut reader = store.reader(RowId(n - 1)).unwrap();
        let span = reader.next(1, usize::MAX, &mut RowBuf::default()).unwrap().unwrap();
        let batch = batch(n, span, n as u64, 1);
        claim(&mut store, token, &batch).unwrap();
        settle(&mut store, token, all_at(&batch, n - 1)).unwrap();
    }
    bench.verify(5);
    let limits = PruneLimits { bytes_max: 101, ..PruneLimits::new(6, std::time::Duration::ZERO) };
    let steps: Vec<_> = (0..3).map(|_| store.prune(token, limits).unwrap()).collect();
    assert_eq!(steps.iter().map(|step| step.rows).collect::<Vec<_>>(), [2, 2, 0]);
    assert_eq!(steps.iter().map(|step| step.more).collect::<Vec<_>>(), [true, true, false]);
}

pub(super) fn what_is_accepted_counts_as_verified<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    bench.insert(3);
    for n in 1..=3 {
        let mut reader = store.reader(RowId(n - 1)).unwrap();
        let span = reader.next(1, usize::MAX, &mut RowBuf::default()).unwrap().unwrap();
        let batch = batch(n, span, n as u64, 1);
        claim(&mut store, token, &batch).unwrap();
        settle(&mut store, token, all_at(&batch, n - 1)).unwrap();
    }
    bench.verify(1);
    bench.accept(2);
    let outbox = bench.outbox();
    assert!(outbox.accept_loss(&lane("t", 1, 0), Seq(4), "ada", "?", 9).is_err(), "not settled");
    assert!(outbox.accept_loss(&lane("t", 1, 7), Seq(1), "ada", "?", 9).is_err(), "no such lane");
    assert_eq!(outbox.accept_loss(&lane("t", 1, 0), Seq(2), "bob", "again", 9).unwrap(), None);
    assert_eq!(pruned(&mut store, token, i64::MAX), 2);
    let stats = &outbox.stats().unwrap().lanes[0];
    assert_eq!((stats.verified, stats.accepted, stats.clear()), (1, 2, 2));
    let kept = outbox.acceptances().unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].from, kept[0].to), (Seq(2), Seq(2)));
    assert_eq!((kept[0].by.as_str(), kept[0].why.as_str(), kept[0].at_ms), ("ada", "it expired", 9));
}
