//! The SQLite inbox against a plain set of numbers.

use super::*;
use homing_core::{Epoch, Partition};
use proptest::prelude::*;
use std::collections::BTreeSet;
use uuid::Uuid;

/// The statement the module's page gives to other languages.
const BY_HAND: &str = "INSERT INTO homing_inbox
 SELECT :consumer_group, :stream, :epoch, :topic, :partition, :seq, :seq
 WHERE coalesce((SELECT last_seq FROM homing_inbox
                 WHERE consumer_group = :consumer_group AND stream = :stream AND epoch = :epoch
                   AND topic = :topic AND partition = :partition AND first_seq <= :seq
                 ORDER BY first_seq DESC LIMIT 1), 0) < :seq";

fn entry(seq: u64) -> InboxEntry<'static> {
    InboxEntry {
        stream: "orders",
        epoch: Epoch(1),
        topic: "orders",
        partition: Partition(3),
        seq: Seq(seq),
        redriven: None,
    }
}

fn database() -> Connection {
    let db = Connection::open_in_memory().unwrap();
    Inbox::create(&db).unwrap();
    Inbox::create(&db).unwrap();
    db
}

fn by_hand(tx: &Transaction<'_>, seq: u64) -> Applied {
    let seq = i64::try_from(seq).unwrap();
    let named = rusqlite::named_params! {
        ":consumer_group": "g", ":stream": "orders", ":epoch": 1, ":topic": "orders", ":partition": 3, ":seq": seq,
    };
    if tx.execute(BY_HAND, named).unwrap() == 0 { Applied::Already } else { Applied::First }
}

fn ranges(db: &Connection) -> Vec<(u64, u64)> {
    let mut statement =
        db.prepare("SELECT first_seq, last_seq FROM homing_inbox ORDER BY first_seq").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).unwrap();
    rows.map(|row| row.unwrap()).map(|(a, b)| (a.unsigned_abs(), b.unsigned_abs())).collect()
}

fn islands(set: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut islands: Vec<(u64, u64)> = Vec::new();
    for seq in set {
        match islands.last_mut() {
            Some((_, last)) if *last + 1 == *seq => *last = *seq,
            _ => islands.push((*seq, *seq)),
        }
    }
    islands
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn each_number_is_first_once_and_the_table_holds_one_row_an_island(
        seqs in proptest::collection::vec((1..60u64, any::<bool>(), any::<bool>()), 1..150),
    ) {
        let (mut db, mut model) = (database(), BTreeSet::new());
        let mut only_ours = true;
        for (seq, rolled_back, foreign) in seqs {
            let tx = db.transaction().unwrap();
            let applied = if foreign {
                by_hand(&tx, seq)
            } else {
                Inbox::apply_entry_once(&tx, "g", &entry(seq)).unwrap()
            };
            let expected = if model.contains(&seq) { Applied::Already } else { Applied::First };
            prop_assert_eq!(applied, expected, "seq {}", seq);
            if rolled_back {
                tx.rollback().unwrap();
            } else {
                tx.commit().unwrap();
                model.insert(seq);
                only_ours &= !foreign;
            }
        }
        if !only_ours {
            let tx = db.transaction().unwrap();
            Inbox::fold(&tx).unwrap();
            tx.commit().unwrap();
        }
        prop_assert_eq!(ranges(&db), islands(&model));
    }
}

#[test]
fn lanes_and_groups_do_not_know_each_other() {
    let mut db = database();
    let tx = db.transaction().unwrap();
    let base = entry(1);
    for (group, other) in [
        ("a", base.clone()),
        ("b", base.clone()),
        ("a", InboxEntry { epoch: Epoch(2), ..base.clone() }),
        ("a", InboxEntry { stream: "other", ..base.clone() }),
        ("a", InboxEntry { topic: "other", ..base.clone() }),
        ("a", InboxEntry { partition: Partition(4), ..base.clone() }),
    ] {
        assert_eq!(Inbox::apply_entry_once(&tx, group, &other).unwrap(), Applied::First, "{group} {other:?}");
    }
    assert_eq!(Inbox::apply_entry_once(&tx, "a", &base).unwrap(), Applied::Already);
}

#[test]
fn a_message_redriven_twice_is_applied_once_although_its_numbers_differ() {
    let mut db = database();
    let tx = db.transaction().unwrap();
    let id = Some(Uuid::from_u128(7));
    let first = InboxEntry { redriven: id, ..entry(10) };
    let second = InboxEntry { redriven: id, ..entry(20) };
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &first).unwrap(), Applied::First);
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &second).unwrap(), Applied::Already);
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &first).unwrap(), Applied::Already);
}

#[test]
fn ten_thousand_messages_in_order_are_one_row() {
    let mut db = database();
    let tx = db.transaction().unwrap();
    for seq in 1..=10_000 {
        assert_eq!(Inbox::apply_entry_once(&tx, "g", &entry(seq)).unwrap(), Applied::First);
    }
    tx.commit().unwrap();
    assert_eq!(ranges(&db), [(1, 10_000)]);
}

#[test]
fn a_number_beyond_sqlites_integers_is_refused_and_nothing_is_written() {
    let mut db = database();
    let tx = db.transaction().unwrap();
    let error = Inbox::apply_entry_once(&tx, "g", &entry(u64::MAX)).unwrap_err();
    assert!(matches!(error, InboxError::OutOfRange { .. }) && error.retry() == Retry::Never);
    tx.commit().unwrap();
    assert!(ranges(&db).is_empty());
}
