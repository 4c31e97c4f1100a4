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
        id: None,
        redriven: false,
    }
}

fn message(epoch: u32, seq: u64, id: u128) -> InboxEntry<'static> {
    InboxEntry { epoch: Epoch(epoch), id: Some(Uuid::from_u128(id)), ..entry(seq) }
}

fn ids(db: &Connection) -> i64 {
    db.query_row("SELECT COUNT(*) FROM homing_inbox_message", [], |row| row.get(0)).unwrap()
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
    let first = InboxEntry { redriven: true, ..message(1, 10, 7) };
    let second = InboxEntry { redriven: true, ..message(1, 20, 7) };
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

#[test]
fn a_message_that_comes_under_a_number_of_another_epoch_is_known_by_its_id() {
    let mut db = database();
    let tx = db.transaction().unwrap();
    for seq in 1..=3 {
        assert_eq!(
            Inbox::apply_entry_once(&tx, "g", &message(1, seq, u128::from(seq))).unwrap(),
            Applied::First
        );
    }
    // Restored: 3 was not in the backup's past, goes out again, and a new message follows it.
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(2, 1, 3)).unwrap(), Applied::Already);
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(2, 2, 4)).unwrap(), Applied::First);
    assert_eq!(Inbox::apply_entry_once(&tx, "other", &message(2, 1, 3)).unwrap(), Applied::First);
    tx.commit().unwrap();
}

#[test]
fn a_number_that_was_given_to_two_messages_hides_neither_of_them() {
    let mut db = database();
    let tx = db.transaction().unwrap();
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(1, 1, 10)).unwrap(), Applied::First);
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(1, 1, 20)).unwrap(), Applied::First);
    for id in [10, 20] {
        assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(1, 1, id)).unwrap(), Applied::Already);
    }
}

#[test]
fn numbers_of_an_inbox_that_knew_no_ids_still_count() {
    let mut db = Connection::open_in_memory().unwrap();
    let before = SCHEMA.split("-- What was applied, by the message's id").next().unwrap();
    db.execute_batch(before).unwrap();
    db.execute("INSERT INTO homing_inbox VALUES ('g', 'orders', 1, 'orders', 3, 1, 5)", []).unwrap();
    Inbox::create(&db).unwrap();
    let tx = db.transaction().unwrap();
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(1, 5, 50)).unwrap(), Applied::Already);
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(1, 6, 60)).unwrap(), Applied::First);
}

#[test]
fn ids_are_forgotten_by_age_and_count_and_their_numbers_are_not() {
    let mut db = database();
    Inbox::keep_ids(&db, Duration::from_secs(3600), 100).unwrap();
    let tx = db.transaction().unwrap();
    for seq in 1..=1000 {
        assert_eq!(
            Inbox::apply_entry_once(&tx, "g", &message(1, seq, u128::from(seq))).unwrap(),
            Applied::First
        );
    }
    tx.commit().unwrap();
    assert!(ids(&db) <= 100 + 64, "{} ids of one lane", ids(&db));
    db.execute("UPDATE homing_inbox_message SET applied_at_ms = 0", []).unwrap();
    let tx = db.transaction().unwrap();
    for seq in 1..=256 {
        assert_eq!(
            Inbox::apply_entry_once(&tx, "g", &message(2, seq, u128::from(seq) + 5000)).unwrap(),
            Applied::First
        );
    }
    assert_eq!(
        Inbox::apply_entry_once(&tx, "g", &message(1, 7, 7)).unwrap(),
        Applied::Already,
        "by its number"
    );
    tx.commit().unwrap();
    let of_first: i64 = db
        .query_row("SELECT COUNT(*) FROM homing_inbox_message WHERE applied_at_ms = 0", [], |row| row.get(0))
        .unwrap();
    assert_eq!(of_first, 0, "ids of an epoch that takes nothing any more go by the way");
    let tx = db.transaction().unwrap();
    tx.execute("UPDATE homing_inbox_message SET applied_at_ms = 0", []).unwrap();
    assert_eq!(Inbox::forget_old_ids(&tx, 10).unwrap(), 10);
    assert!(Inbox::forget_old_ids(&tx, 10_000).unwrap() > 0);
    tx.commit().unwrap();
    assert_eq!(ids(&db), 0);
}

/// The statements the module's page gives to other languages, taken from that page.
fn statements_for_other_languages() -> Vec<String> {
    let page = include_str!("sqlite.rs");
    let sql = page.split("//! ```sql").nth(1).unwrap().split("//! ```").next().unwrap();
    let sql: String = sql.lines().map(|line| line.trim_start_matches("//!")).collect::<Vec<_>>().join("\n");
    sql.split(';').map(str::to_owned).filter(|statement| statement.contains("INSERT")).collect()
}

#[test]
fn the_sql_for_other_languages_tells_the_same() {
    let mut db = database();
    let statements = statements_for_other_languages();
    assert_eq!(statements.len(), 3);
    let tx = db.transaction().unwrap();
    let run = |statement: &str, entry: &InboxEntry<'_>| {
        let mut statement = tx.prepare(statement).unwrap();
        let id = *entry.id.unwrap().as_bytes();
        let values: [(&str, &dyn rusqlite::ToSql); 8] = [
            (":consumer_group", &"g"),
            (":stream", &entry.stream),
            (":epoch", &entry.epoch.0),
            (":topic", &entry.topic),
            (":partition", &entry.partition.0),
            (":seq", &(entry.seq.0 as i64)),
            (":homing_id", &id),
            (":now_ms", &1_i64),
        ];
        for (name, value) in values {
            if let Some(at) = statement.parameter_index(name).unwrap() {
                statement.raw_bind_parameter(at, value).unwrap();
            }
        }
        statement.raw_execute().unwrap()
    };
    let by_hand = |entry: &InboxEntry<'_>| {
        run(&statements[0], entry);
        if run(&statements[1], entry) == 0 {
            return Applied::Already;
        }
        run(&statements[2], entry);
        Applied::First
    };
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(1, 1, 1)).unwrap(), Applied::First);
    assert_eq!(by_hand(&message(1, 1, 1)), Applied::Already);
    assert_eq!(by_hand(&message(2, 1, 1)), Applied::Already, "restored");
    assert_eq!(by_hand(&message(2, 2, 2)), Applied::First);
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(2, 2, 2)).unwrap(), Applied::Already);
    assert_eq!(Inbox::apply_entry_once(&tx, "g", &message(3, 9, 2)).unwrap(), Applied::Already);
}
