//! The suite every outbox store passes; each test is generic over the store.
#![allow(clippy::unwrap_used)]

use homing::outbox::error::OutboxError;
use homing::outbox::numbering::number;
use homing::outbox::offset_runs::Delivered;
use homing::outbox::rows::RowBuf;
use homing::outbox::store::{
    BatchId, Commit, Holder, LaneDelivery, LanePart, Manifest, Owner, RejectCode, Rejected, RepairState,
    RowId, Settlement, Span, Store, TopicEpoch, Voided,
};
use homing::outbox::{Outbox, SqliteOutbox};
use homing::{Epoch, Message, Offset, Partition, Seq, StreamName, TopicName};
use homing_core::{FencingToken, LeaseDecision, PartitionCount};

/// What the suite needs of a kind of store beyond the trait.
trait Bench {
    type Store: Store;
    fn new() -> Self;
    fn store(&self) -> Self::Store;
    fn insert(&self, rows: u32);
    fn dead_letters(&self) -> Vec<(i64, String, Option<u64>)>;
    fn want_repair(&self, from: u64, to: u64);
    fn verify(&self, seq: u64);
    fn rows(&self) -> u64;
}

struct Sqlite {
    _dir: tempfile::TempDir,
    outbox: SqliteOutbox,
}

impl Bench for Sqlite {
    type Store = homing::outbox::sqlite::SqliteStore;

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stream = StreamName::parse("s").unwrap();
        let outbox = SqliteOutbox::create(dir.path().join("o.db"), &stream).unwrap();
        Self { _dir: dir, outbox }
    }

    fn store(&self) -> Self::Store {
        self.outbox.store().unwrap()
    }

    fn insert(&self, rows: u32) {
        let mut db = self.outbox.connect().unwrap();
        let tx = db.transaction().unwrap();
        for n in 0..rows {
            Outbox::enqueue(&tx, Message::new("t").unwrap().payload(n.to_string())).unwrap();
        }
        tx.commit().unwrap();
    }

    fn dead_letters(&self) -> Vec<(i64, String, Option<u64>)> {
        let letters = self.outbox.dead_letters(0, 100).unwrap();
        letters.into_iter().map(|l| (l.row.0, l.code, l.voided.map(|(_, _, seq)| seq.0))).collect()
    }

    fn want_repair(&self, from: u64, to: u64) {
        let db = self.outbox.connect().unwrap();
        db.execute(
            "INSERT INTO homing_repair (topic, epoch, partition, from_seq, to_seq, created_at_ms, updated_at_ms) \
             VALUES ('t', 1, 0, ?1, ?2, 0, 0)",
            [from as i64, to as i64],
        )
        .unwrap();
    }

    fn verify(&self, seq: u64) {
        let db = self.outbox.connect().unwrap();
        db.execute("UPDATE homing_lane SET verified_seq = ?1", [seq as i64]).unwrap();
    }

    fn rows(&self) -> u64 {
        self.outbox.stats().unwrap().rows
    }
}

fn topic() -> TopicName {
    TopicName::parse("t").unwrap()
}

fn owner(name: &str) -> Owner {
    Owner { name: name.into(), host: "h".into(), pid: 1, started: 1 }
}

fn take(store: &mut impl Store, name: &str, now_ms: i64, alive: Option<bool>) -> LeaseDecision {
    store.acquire(&owner(name), now_ms, 1000, &|_: &Holder| alive).unwrap()
}

/// An owner with topic `t`, one partition, epoch 1 open from offset 0.
fn owned(store: &mut impl Store) -> FencingToken {
    let LeaseDecision::Acquire(token) = take(store, "first", 0, None) else { panic!("nobody holds it") };
    let epoch = TopicEpoch {
        topic: topic(),
        epoch: Epoch(1),
        topic_id: [7; 16],
        partitions: PartitionCount::new(1).unwrap(),
    };
    store.open_epoch(token, &epoch, &[Offset(0)], 0).unwrap();
    token
}

fn part(first_seq: u64, rows: u32) -> LanePart {
    let (topic, first_seq) = (topic(), Seq(first_seq));
    LanePart { topic, epoch: Epoch(1), partition: Partition(0), first_seq, rows, takes_null_keys: true }
}

fn batch(id: i64, span: Span, first_seq: u64, rows: u32) -> Manifest {
    Manifest { batch: BatchId(id), span, rows, lanes: vec![part(first_seq, rows)] }
}

fn claim(store: &mut impl Store, token: FencingToken, manifest: &Manifest) -> Result<(), OutboxError> {
    let through = Some(manifest.span.to);
    store.commit(token, &Commit { manifest: Some(manifest), claimed_through: through, ..Commit::default() })
}

fn all_at(manifest: &Manifest, first: i64) -> Settlement {
    let part = manifest.lanes[0].clone();
    let fates = (0..i64::from(part.rows)).map(|i| Delivered::At(Offset(first + i)));
    Settlement::new(manifest, vec![LaneDelivery::new(part, fates)], Vec::new())
}

fn settle(store: &mut impl Store, token: FencingToken, settlement: Settlement) -> Result<(), OutboxError> {
    store.commit(token, &Commit { settle: &[settlement], now_ms: 5, ..Commit::default() })
}

fn the_lease_passes_on_and_fences_the_old_owner<B: Bench>() {
    let bench = B::new();
    let (mut a, mut b) = (bench.store(), bench.store());
    assert_eq!(take(&mut a, "a", 0, None), LeaseDecision::Acquire(FencingToken(1)));
    assert_eq!(take(&mut b, "b", 400, None), LeaseDecision::Wait { for_ms: 600 });
    a.renew(FencingToken(1), 2000).unwrap();
    assert_eq!(take(&mut b, "b", 1500, Some(true)), LeaseDecision::Wait { for_ms: 500 });
    assert_eq!(take(&mut b, "b", 1500, Some(false)), LeaseDecision::Acquire(FencingToken(2)));
    assert!(matches!(a.renew(FencingToken(1), 9000), Err(OutboxError::Fenced { token: 1, .. })));
    assert!(matches!(a.pin_cluster(FencingToken(1), "c"), Err(OutboxError::Fenced { .. })));
    assert!(matches!(a.note_trouble(FencingToken(1), None, 0), Err(OutboxError::Fenced { .. })));
    b.release(FencingToken(2)).unwrap();
    assert_eq!(take(&mut a, "a", 1501, Some(true)), LeaseDecision::Acquire(FencingToken(3)));
    assert_eq!(a.holder().unwrap().unwrap().owner, owner("a"));
}

fn a_fenced_owner_commits_nothing<B: Bench>() {
    let bench = B::new();
    let (mut old, mut new) = (bench.store(), bench.store());
    let token = owned(&mut old);
    bench.insert(3);
    let mut rows = RowBuf::default();
    let span = old.reader(RowId(0)).unwrap().next(10, usize::MAX, &mut rows).unwrap().unwrap();
    let manifest = batch(1, span, 1, 3);
    assert_eq!(take(&mut new, "new", 5000, None), LeaseDecision::Acquire(FencingToken(2)));
    assert!(matches!(claim(&mut old, token, &manifest), Err(OutboxError::Fenced { .. })));
    let standing = new.standing().unwrap();
    assert!(standing.unsettled.is_empty());
    assert_eq!(standing.claimed_through, RowId(0));
    assert_eq!(standing.lanes[0].next_seq, Seq(1));
    claim(&mut new, FencingToken(2), &manifest).unwrap();
    assert!(matches!(settle(&mut old, token, all_at(&manifest, 0)), Err(OutboxError::Fenced { .. })));
}

fn an_unsettled_batch_is_read_again_row_for_row<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    bench.insert(5);
    let mut rows = RowBuf::default();
    let mut reader = store.reader(RowId(0)).unwrap();
    let span = reader.next(3, usize::MAX, &mut rows).unwrap().unwrap();
    let payloads: Vec<_> = rows.iter().map(|row| row.payload.unwrap().to_vec()).collect();
    let ids: Vec<_> = rows.iter().map(|row| row.message_id).collect();
    let manifest = batch(1, span, 1, 3);
    claim(&mut store, token, &manifest).unwrap();
    let second = reader.next(10, usize::MAX, &mut rows).unwrap().unwrap();
    assert_eq!(rows.len(), 2, "the reader goes on after the first batch");
    let second = batch(2, second, 4, 2);
    claim(&mut store, token, &second).unwrap();
    drop(store);

    let store = bench.store();
    let standing = store.standing().unwrap();
    assert_eq!(standing.unsettled, [manifest, second]);
    assert_eq!(standing.next_batch, BatchId(3));
    assert_eq!(standing.lanes[0].next_seq, Seq(6));
    let mut again = RowBuf::default();
    store.read_batch(&standing.unsettled[0], &mut again).unwrap();
    assert_eq!(again.iter().map(|row| row.payload.unwrap().to_vec()).collect::<Vec<_>>(), payloads);
    assert_eq!(again.iter().map(|row| row.message_id).collect::<Vec<_>>(), ids);
    let numbers = number(&again, &standing.unsettled[0], |_| PartitionCount::new(1)).unwrap();
    assert_eq!(numbers.iter().map(|n| n.seq.0).collect::<Vec<_>>(), [1, 2, 3]);
}

fn settle_marks_a_batch_once_and_in_order<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    bench.insert(4);
    let mut rows = RowBuf::default();
    let mut reader = store.reader(RowId(0)).unwrap();
    let first = batch(1, reader.next(2, usize::MAX, &mut rows).unwrap().unwrap(), 1, 2);
    let second = batch(2, reader.next(2, usize::MAX, &mut rows).unwrap().unwrap(), 3, 2);
    claim(&mut store, token, &first).unwrap();
    claim(&mut store, token, &second).unwrap();
    let error = settle(&mut store, token, all_at(&second, 2)).unwrap_err();
    assert!(matches!(error, OutboxError::Inconsistent { .. }), "{error}");
    assert_eq!(store.standing().unwrap().unsettled.len(), 2, "nothing of a failed commit stays");
    settle(&mut store, token, all_at(&first, 0)).unwrap();
    assert!(settle(&mut store, token, all_at(&first, 0)).is_err(), "a batch settles once");
    settle(&mut store, token, all_at(&second, 2)).unwrap();
    let standing = store.standing().unwrap();
    assert!(standing.unsettled.is_empty());
    assert_eq!((standing.lanes[0].settled, standing.lanes[0].next_offset), (4, Offset(4)));
}

fn seqs_and_rows_are_claimed_once<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    bench.insert(2);
    let mut rows = RowBuf::default();
    let span = store.reader(RowId(0)).unwrap().next(2, usize::MAX, &mut rows).unwrap().unwrap();
    claim(&mut store, token, &batch(1, span.clone(), 1, 2)).unwrap();
    assert!(claim(&mut store, token, &batch(2, span.clone(), 3, 2)).is_err(), "rows are claimed once");
    bench.insert(1);
    let next = Span { from: RowId(3), to: RowId(3), detail: None };
    assert!(claim(&mut store, token, &batch(2, next.clone(), 5, 1)).is_err(), "no hole in the seqs");
    assert!(claim(&mut store, token, &batch(2, next.clone(), 2, 1)).is_err(), "no seq twice");
    claim(&mut store, token, &batch(2, next, 3, 1)).unwrap();
}

fn rejected_rows_go_to_the_dead_letters<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    bench.insert(4);
    let mut rows = RowBuf::default();
    let span = store.reader(RowId(0)).unwrap().next(9, usize::MAX, &mut rows).unwrap().unwrap();
    let reject = [Rejected { row: RowId(1), code: RejectCode::TooLarge, reason: "too large".into() }];
    let manifest = batch(1, span, 1, 3);
    let commit = Commit {
        manifest: Some(&manifest),
        reject: &reject,
        claimed_through: Some(RowId(4)),
        ..Commit::default()
    };
    store.commit(token, &commit).unwrap();
    assert_eq!(bench.dead_letters(), [(1, "too_large".to_owned(), None)]);
    store.read_batch(&manifest, &mut rows).unwrap();
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [2, 3, 4]);
    let part = manifest.lanes[0].clone();
    let fates = [Delivered::At(Offset(0)), Delivered::Void, Delivered::At(Offset(1))];
    let voided = Voided {
        rejected: Rejected { row: RowId(3), code: RejectCode::Refused, reason: "refused".into() },
        message_id: [0x70; 16],
        topic: topic(),
        epoch: Epoch(1),
        partition: Partition(0),
        seq: Seq(2),
    };
    settle(&mut store, token, Settlement::new(&manifest, vec![LaneDelivery::new(part, fates)], vec![voided]))
        .unwrap();
    assert_eq!(bench.dead_letters(), [(1, "too_large".to_owned(), None), (3, "refused".to_owned(), Some(2))]);
    store.read_batch(&manifest, &mut rows).unwrap();
    assert_eq!(rows.len(), 3, "a voided row keeps its place");
}

fn an_epoch_closes_only_when_all_is_settled<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    bench.insert(1);
    let mut rows = RowBuf::default();
    let span = store.reader(RowId(0)).unwrap().next(9, usize::MAX, &mut rows).unwrap().unwrap();
    let manifest = batch(1, span, 1, 1);
    claim(&mut store, token, &manifest).unwrap();
    let mut next = TopicEpoch {
        topic: topic(),
        epoch: Epoch(2),
        topic_id: [7; 16],
        partitions: PartitionCount::new(2).unwrap(),
    };
    let ends = [Offset(1), Offset(0)];
    assert!(store.open_epoch(token, &next, &ends, 0).is_err(), "a batch is unsettled");
    settle(&mut store, token, all_at(&manifest, 0)).unwrap();
    next.epoch = Epoch(1);
    assert!(store.open_epoch(token, &next, &ends, 0).is_err(), "1 was begun before");
    next.epoch = Epoch(30);
    store.open_epoch(token, &next, &ends, 0).unwrap();
    let standing = store.standing().unwrap();
    assert_eq!(standing.topics, [next]);
    assert_eq!(standing.lanes.len(), 2);
    assert_eq!(standing.lanes[0].next_offset, Offset(1));
    assert_eq!(standing.lanes[0].next_seq, Seq(1));
}

fn the_cluster_is_pinned_once<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    store.pin_cluster(token, "c1").unwrap();
    store.pin_cluster(token, "c1").unwrap();
    assert!(matches!(store.pin_cluster(token, "c2"), Err(OutboxError::Inconsistent { .. })));
    assert_eq!(store.standing().unwrap().cluster_id.as_deref(), Some("c1"));
}

fn only_verified_batches_are_pruned_and_repairs_find_the_rest<B: Bench>() {
    let bench = B::new();
    let mut store = bench.store();
    let token = owned(&mut store);
    bench.insert(6);
    let mut rows = RowBuf::default();
    let mut reader = store.reader(RowId(0)).unwrap();
    for n in 0..3 {
        let span = reader.next(2, usize::MAX, &mut rows).unwrap().unwrap();
        let manifest = batch(n + 1, span, n as u64 * 2 + 1, 2);
        claim(&mut store, token, &manifest).unwrap();
        settle(&mut store, token, all_at(&manifest, n * 2)).unwrap();
    }
    assert_eq!(store.prune(token, i64::MAX, 100).unwrap(), 0, "nothing is verified");
    bench.verify(3);
    assert_eq!(store.prune(token, 5, 100).unwrap(), 0, "settled at 5, not before");
    assert_eq!(store.prune(token, 6, 100).unwrap(), 2, "seq 4 of the second batch is not verified");
    assert_eq!(bench.rows(), 4);
    bench.verify(6);
    assert_eq!(store.prune(token, 6, 100).unwrap(), 2, "the newest batch stays");
    bench.want_repair(1, 2);
    bench.want_repair(5, 6);
    let wanted = store.repairs_wanted(10).unwrap();
    assert_eq!(wanted.len(), 2);
    assert_eq!(store.batch_of(&topic(), Epoch(1), Partition(0), Seq(2)).unwrap(), None, "pruned");
    let kept = store.batch_of(&topic(), Epoch(1), Partition(0), Seq(6)).unwrap().unwrap();
    assert_eq!(kept.batch, BatchId(3));
    assert_eq!(store.batch_of(&topic(), Epoch(1), Partition(0), Seq(7)).unwrap(), None);
    store.repair_tried(token, wanted[0].id, RepairState::Irreparable, 1).unwrap();
    store.repair_tried(token, wanted[1].id, RepairState::Wanted, 1).unwrap();
    let wanted = store.repairs_wanted(10).unwrap();
    assert_eq!(wanted.iter().map(|order| (order.from.0, order.attempts)).collect::<Vec<_>>(), [(5, 1)]);
    assert_eq!(store.standing().unwrap().next_batch, BatchId(4));
}

macro_rules! suite {
    ($bench:ident, $module:ident: $($test:ident),* $(,)?) => {
        mod $module {
            $(#[test] fn $test() { super::$test::<super::$bench>(); })*
        }
    };
}

suite!(Sqlite, sqlite:
    the_lease_passes_on_and_fences_the_old_owner,
    a_fenced_owner_commits_nothing,
    an_unsettled_batch_is_read_again_row_for_row,
    settle_marks_a_batch_once_and_in_order,
    seqs_and_rows_are_claimed_once,
    rejected_rows_go_to_the_dead_letters,
    an_epoch_closes_only_when_all_is_settled,
    the_cluster_is_pinned_once,
    only_verified_batches_are_pruned_and_repairs_find_the_rest,
);
