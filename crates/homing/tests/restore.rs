//! Outboxes restored from backups and made anew: no number twice, no effect lost, none twice.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod relay_bench;

use homing::inbox::{Applied, Inbox};
use homing::{Outbox, Relay, Shutdown, SqliteOutbox};
use relay_bench::{Bench, wait_until};
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Effects behind an inbox: what the group did, in a database of its own.
struct Effects(Connection);

impl Effects {
    fn new() -> Self {
        let db = Connection::open_in_memory().unwrap();
        Inbox::create(&db).unwrap();
        db.execute_batch("CREATE TABLE effect (what TEXT NOT NULL)").unwrap();
        Self(db)
    }

    /// Handles everything in the topic once more, from its start.
    fn consume(&mut self, bench: &Bench) {
        for record in bench.read_all(&bench.orders) {
            let tx = self.0.transaction().unwrap();
            if Inbox::apply_once(&tx, "billing", &record).unwrap() == Applied::First {
                let what = String::from_utf8(record.payload().unwrap().to_vec()).unwrap();
                tx.execute("INSERT INTO effect VALUES (?1)", [what]).unwrap();
            }
            tx.commit().unwrap();
        }
    }

    fn assert_once_each(&self, wanted: impl IntoIterator<Item = String>) {
        let mut statement = self.0.prepare("SELECT what FROM effect ORDER BY what").unwrap();
        let done: Vec<String> =
            statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        let wanted: BTreeSet<String> = wanted.into_iter().collect();
        assert_eq!(done, wanted.into_iter().collect::<Vec<_>>(), "each message takes effect once");
    }
}

fn names(what: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{what}-{n}"))
}

/// Puts messages named `what` into an outbox.
fn enqueue(bench: &Bench, outbox: &SqliteOutbox, what: &str, count: usize) {
    let mut db = outbox.connect().unwrap();
    let tx = db.transaction().unwrap();
    let messages = names(what, count)
        .enumerate()
        .map(|(n, name)| bench.order().key(format!("k{}", n % 5)).payload(name));
    Outbox::enqueue_all(&tx, messages).unwrap();
    tx.commit().unwrap();
}

/// Relays until all of an outbox is settled.
fn drain(bench: &Bench, outbox: &SqliteOutbox) {
    let shutdown = Shutdown::new();
    let relay = Relay::new(outbox.clone(), bench.kafka.clone(), bench.options()).unwrap();
    let stop = shutdown.clone();
    let thread = std::thread::spawn(move || relay.run(&stop));
    wait_until("all is settled", || {
        let stats = outbox.stats().unwrap();
        stats.unclaimed + stats.unsettled == 0
    });
    shutdown.trigger();
    thread.join().unwrap().unwrap();
}

fn back_up(outbox: &SqliteOutbox, to: &Path) {
    outbox.connect().unwrap().execute("VACUUM INTO ?1", [to.to_str().unwrap()]).unwrap();
}

/// The backup put in a place of its own, as it was.
fn restore(bench: &Bench, backup: &Path, name: &str) -> SqliteOutbox {
    let path: PathBuf = bench.dir.path().join(name);
    std::fs::copy(backup, &path).unwrap();
    SqliteOutbox::open(&path, bench.outbox.stream()).unwrap()
}

/// No number was ever given to two messages.
fn assert_no_number_twice(bench: &Bench) {
    let mut given = BTreeMap::new();
    for record in bench.records() {
        let id = given.entry((record.epoch, record.partition, record.seq)).or_insert(record.id);
        assert_eq!(*id, record.id, "a number was given twice: {record:?}");
    }
}

#[test]
fn a_backup_restored_twice_reuses_no_number_and_every_message_takes_effect_once() {
    let (bench, mut effects) = (Bench::new(), Effects::new());
    enqueue(&bench, &bench.outbox, "before", 23);
    drain(&bench, &bench.outbox);
    enqueue(&bench, &bench.outbox, "unclaimed", 11);
    let backup = bench.dir.path().join("backup.db");
    back_up(&bench.outbox, &backup);
    enqueue(&bench, &bench.outbox, "after", 17);
    drain(&bench, &bench.outbox);
    effects.consume(&bench);

    let mut wanted: Vec<String> =
        names("before", 23).chain(names("unclaimed", 11)).chain(names("after", 17)).collect();
    for restored in ["first.db", "second.db", "third.db"] {
        let outbox = restore(&bench, &backup, restored);
        enqueue(&bench, &outbox, restored, 9);
        drain(&bench, &outbox);
        effects.consume(&bench);
        wanted.extend(names(restored, 9));
    }
    effects.assert_once_each(wanted);
    assert_no_number_twice(&bench);
}

#[test]
fn an_outbox_made_anew_beside_an_old_log_loses_none_of_its_messages_to_the_inbox() {
    let (bench, mut effects) = (Bench::new(), Effects::new());
    enqueue(&bench, &bench.outbox, "old", 3);
    drain(&bench, &bench.outbox);
    let path = bench.dir.path().join("new.db");
    let new = SqliteOutbox::create(&path, bench.outbox.stream()).unwrap();
    enqueue(&bench, &new, "new", 2);
    drain(&bench, &new);
    effects.consume(&bench);
    effects.assert_once_each(names("old", 3).chain(names("new", 2)));
    assert_no_number_twice(&bench);
}

#[test]
fn a_backup_older_than_the_topics_first_row_begins_above_what_the_log_has() {
    let (bench, mut effects) = (Bench::new(), Effects::new());
    let backup = bench.dir.path().join("backup.db");
    back_up(&bench.outbox, &backup);
    enqueue(&bench, &bench.outbox, "sent", 8);
    drain(&bench, &bench.outbox);
    let restored = restore(&bench, &backup, "restored.db");
    enqueue(&bench, &restored, "later", 8);
    drain(&bench, &restored);
    effects.consume(&bench);
    effects.assert_once_each(names("sent", 8).chain(names("later", 8)));
    assert_no_number_twice(&bench);
}

#[test]
fn numbers_that_retention_removed_from_the_log_are_not_given_again() {
    let (bench, mut effects) = (Bench::new(), Effects::new());
    enqueue(&bench, &bench.outbox, "before", 12);
    drain(&bench, &bench.outbox);
    let backup = bench.dir.path().join("backup.db");
    back_up(&bench.outbox, &backup);
    enqueue(&bench, &bench.outbox, "gone", 12);
    drain(&bench, &bench.outbox);
    effects.consume(&bench);
    let mut used: BTreeSet<_> = bench.records().into_iter().map(|r| (r.epoch, r.partition, r.seq)).collect();
    for partition in 0..3 {
        let (_, end) = bench.cluster.watermarks(&bench.orders, partition).unwrap();
        bench.cluster.delete_records(&bench.orders, partition, end);
    }
    for restored in ["first.db", "second.db"] {
        let outbox = restore(&bench, &backup, restored);
        enqueue(&bench, &outbox, restored, 7);
        drain(&bench, &outbox);
        effects.consume(&bench);
        for record in bench.records() {
            if record.payload.as_ref().is_some_and(|payload| payload.starts_with(restored.as_bytes())) {
                assert!(used.insert((record.epoch, record.partition, record.seq)), "given again: {record:?}");
            }
        }
    }
    let wanted = names("before", 12).chain(names("gone", 12));
    effects.assert_once_each(wanted.chain(names("first.db", 7)).chain(names("second.db", 7)));
}

/// Others fill the topic, and the last own record lies far back.
#[test]
fn own_numbers_are_found_behind_many_records_of_others() {
    let (bench, mut effects) = (Bench::with(|kafka| kafka.topic_partitions = 1), Effects::new());
    enqueue(&bench, &bench.outbox, "own", 5);
    drain(&bench, &bench.outbox);
    let other = homing::StreamName::parse("other").unwrap();
    let others = SqliteOutbox::create(bench.dir.path().join("other.db"), &other).unwrap();
    enqueue(&bench, &others, "foreign", 3000);
    drain(&bench, &others);
    let new = SqliteOutbox::create(bench.dir.path().join("new.db"), bench.outbox.stream()).unwrap();
    enqueue(&bench, &new, "new", 5);
    drain(&bench, &new);
    effects.consume(&bench);
    effects.assert_once_each(names("own", 5).chain(names("foreign", 3000)).chain(names("new", 5)));
    let epochs: BTreeSet<u32> = bench
        .read_all(&bench.orders)
        .iter()
        .filter_map(|r| r.stamp())
        .filter(|s| s.stream == *bench.outbox.stream())
        .map(|s| s.epoch.0)
        .collect();
    assert_eq!(epochs, [1, 2].into(), "the search went back to the own records");
}
