//! The outbox's file over time: earlier versions, files replaced under a relay, records that go.
#![allow(clippy::unwrap_used)]

use homing::outbox::rows::RowBuf;
use homing::outbox::store::{
    Claimed, Commit, LanePart, LaneSettlement, Manifest, Owner, PruneLimits, RejectCode, Rejected, TopicEpoch,
};
use homing::outbox::{BatchId, Fate, Outbox, OutboxError, RowId, SqliteOutbox, Store};
use homing::{Epoch, Message, Offset, Partition, Retry, Seq, StreamName, TopicName};
use homing_core::{FencingToken, LeaseDecision, PartitionCount};
use rusqlite::Connection;
use std::path::{Path, PathBuf};

fn stream() -> StreamName {
    StreamName::parse("shop").unwrap()
}

fn new_outbox(dir: &tempfile::TempDir) -> SqliteOutbox {
    SqliteOutbox::create(dir.path().join("shop.db"), &stream()).unwrap()
}

fn take(store: &mut impl Store) -> FencingToken {
    let me = Owner { name: "me".into(), host: "h".into(), pid: 1, started: 1 };
    match store.acquire(&me, 0, 1000, &|_| Some(false)).unwrap() {
        LeaseDecision::Acquire(token) => token,
        other => panic!("{other:?}"),
    }
}

fn enqueue(outbox: &SqliteOutbox, payload: &str) {
    let mut db = outbox.connect().unwrap();
    let tx = db.transaction().unwrap();
    Outbox::enqueue(&tx, Message::new("t").unwrap().payload(payload)).unwrap();
    tx.commit().unwrap();
}

fn version_1(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("old.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(include_str!("outbox_files/version_1.sql")).unwrap();
    path
}

/// Each table with its columns, each index and trigger with its text.
fn layout(path: &Path) -> Vec<String> {
    let db = Connection::open(path).unwrap();
    let mut named = db
        .prepare(
            "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name",
        )
        .unwrap();
    let all: Vec<(String, String, Option<String>)> = named
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut layout = Vec::new();
    for (kind, name, sql) in all {
        if kind != "table" {
            layout.push(format!("{kind} {name} {}", sql.unwrap_or_default()));
            continue;
        }
        let mut columns =
            db.prepare("SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info(?1)").unwrap();
        let columns = columns
            .query_map([&name], |row| {
                let (column, kind): (String, String) = (row.get(0)?, row.get(1)?);
                let (not_null, default, key): (i64, Option<String>, i64) =
                    (row.get(2)?, row.get(3)?, row.get(4)?);
                Ok(format!("table {name}: {column} {kind} {not_null} {default:?} {key}"))
            })
            .unwrap();
        layout.extend(columns.map(Result::unwrap));
    }
    layout
}

#[test]
fn an_outbox_of_version_1_is_brought_to_this_one_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = version_1(&dir);
    let outbox = SqliteOutbox::open(&path, &stream()).unwrap();
    assert_eq!(layout(&path), layout(new_outbox(&dir).path()));
    let stats = outbox.stats().unwrap();
    assert_eq!((stats.rows, stats.unclaimed, stats.unsettled, stats.settled), (5, 2, 1, 2));
    assert!(
        matches!(outbox.fate(RowId(4)).unwrap(), Some(Fate::Delivered(receipt)) if receipt.offset == Offset(3))
    );

    let mut store = outbox.store().unwrap();
    let token = take(&mut store);
    assert!(token > FencingToken(8), "the old relay's token is spent: {token:?}");
    let standing = store.standing().unwrap();
    assert_eq!((standing.claimed_through, standing.next_batch), (RowId(5), BatchId(4)));
    let batch = store.unsettled_batches(None, 9).unwrap().remove(0);
    assert_eq!((batch.manifest.batch, batch.unsettled.as_slice()), (BatchId(3), &[0][..]));
    let mut rows = RowBuf::default();
    store.read_batch(&batch.manifest, &mut rows).unwrap();
    assert_eq!(rows.get(0).payload, Some(&b"5"[..]));
    let part = batch.manifest.lanes[0].clone();
    let at = [homing::outbox::offset_runs::Delivered::At(Offset(4))];
    let settle = [LaneSettlement::from_fates(BatchId(3), part, at, Vec::new())];
    store.commit(token, &Commit { settle: &settle, now_ms: 4000, ..Commit::default() }).unwrap();
    let pruned = store
        .prune(token, PruneLimits { settled_before_ms: 5000, ..PruneLimits::new(0, Default::default()) });
    assert_eq!(pruned.unwrap().rows, 0, "seqs 3 and 4 are not verified");
    outbox.connect().unwrap().execute("UPDATE homing_lane SET verified_seq = 5", []).unwrap();
    let limits = PruneLimits { settled_before_ms: 5000, ..PruneLimits::new(0, Default::default()) };
    assert_eq!(store.prune(token, limits).unwrap().rows, 2);
    // The row that had the last id there is has the next free one, and others can follow.
    enqueue(&outbox, "new");
    let span = store.reader(RowId(5)).unwrap().next(9, usize::MAX, &mut rows).unwrap().unwrap();
    assert_eq!((span.from, span.to), (RowId(6), RowId(8)));
    let payloads: Vec<_> = rows.iter().map(|row| row.payload.unwrap().to_vec()).collect();
    assert_eq!(payloads, [b"6".to_vec(), b"last".to_vec(), b"new".to_vec()]);
    assert_eq!(
        SqliteOutbox::open(&path, &stream()).unwrap().instance(),
        outbox.instance(),
        "again is nothing"
    );
}

#[test]
fn an_outbox_of_version_1_is_left_alone_while_its_relay_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = version_1(&dir);
    let db = Connection::open(&path).unwrap();
    db.execute("UPDATE homing_relay SET lease_until_ms = 9999999999999, host = 'elsewhere'", []).unwrap();
    let error = SqliteOutbox::open(&path, &stream()).unwrap_err();
    assert!(matches!(&error, OutboxError::InUse { found: 1, owner, .. } if owner == "old"), "{error}");
    let version: i64 = db.query_row("SELECT schema_version FROM homing_meta", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    db.execute("UPDATE homing_relay SET lease_until_ms = 0", []).unwrap();
    SqliteOutbox::create(&path, &stream()).unwrap();
}

/// The store of a relay, holding an outbox whose file is changed under it.
fn held_open(dir: &tempfile::TempDir) -> (SqliteOutbox, homing::outbox::sqlite::SqliteStore, FencingToken) {
    let outbox = new_outbox(dir);
    enqueue(&outbox, "before");
    let mut store = outbox.store().unwrap();
    let token = take(&mut store);
    store.renew(token, 5000).unwrap();
    (outbox, store, token)
}

fn assert_replaced(error: &OutboxError, what: &str) {
    assert!(matches!(error, OutboxError::Replaced { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Never);
    assert!(error.to_string().contains(what), "{error}");
}

#[test]
fn a_removed_outbox_file_is_noticed_at_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, mut store, token) = held_open(&dir);
    for end in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{end}", outbox.path().display())).unwrap();
    }
    assert_replaced(&store.renew(token, 6000).unwrap_err(), "was removed");
    let commit = Commit { claimed: Some(Claimed::Live(RowId(1))), ..Commit::default() };
    assert_replaced(&store.commit(token, &commit).unwrap_err(), "was removed");
}

#[test]
fn a_replaced_outbox_file_keeps_what_its_new_owner_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, mut store, token) = held_open(&dir);
    for end in ["", "-wal", "-shm"] {
        std::fs::rename(
            format!("{}{end}", outbox.path().display()),
            format!("{}.away{end}", outbox.path().display()),
        )
        .unwrap();
    }
    let fresh = SqliteOutbox::create(outbox.path(), &stream()).unwrap();
    enqueue(&fresh, "one");
    enqueue(&fresh, "two");
    assert_replaced(&store.renew(token, 6000).unwrap_err(), "replaced by another file");
    drop(store);
    assert_eq!(fresh.stats().unwrap().rows, 2);
}

/// The application goes on in a new log; the relay's connection has the old one open. When it
/// closed with a checkpoint, it would write old pages and remove the new log with its commits.
#[test]
fn rows_in_a_new_write_ahead_log_outlive_the_relay_that_lost_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, mut store, token) = held_open(&dir);
    let reader = store.reader(RowId(0)).unwrap();
    for end in ["-wal", "-shm"] {
        std::fs::remove_file(format!("{}{end}", outbox.path().display())).unwrap();
    }
    let path = outbox.path().to_owned();
    // Another process, as `homing send` would be.
    let program = "import sqlite3, sys, os\n\
        db = sqlite3.connect(sys.argv[1], timeout=30)\n\
        db.execute('CREATE TABLE IF NOT EXISTS mine (n INTEGER)')\n\
        [db.execute('INSERT INTO mine VALUES (?)', (n,)) for n in range(70)]\n\
        db.commit()\n\
        os._exit(0)\n";
    let python = std::process::Command::new("python3").args(["-c", program]).arg(&path).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    assert_replaced(&store.renew(token, 6000).unwrap_err(), "lost its write-ahead log");
    drop(reader);
    drop(store);
    let rows: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT COUNT(*) FROM mine", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 70, "what was acknowledged stays");
}

#[test]
fn a_clean_close_leaves_all_in_the_database_file() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, store, _) = held_open(&dir);
    drop(store);
    assert!(!outbox.path().with_extension("db-wal").exists());
    let copy = dir.path().join("copy.db");
    std::fs::copy(outbox.path(), &copy).unwrap();
    assert_eq!(SqliteOutbox::open(&copy, &stream()).unwrap().stats().unwrap().rows, 1);
}

/// Sets `rows` aside as too large.
fn set_aside(store: &mut impl Store, token: FencingToken, rows: std::ops::RangeInclusive<i64>) {
    let through = RowId(*rows.end());
    let reject: Vec<_> = rows
        .map(|row| Rejected { row: RowId(row), code: RejectCode::TooLarge, reason: "too large".into() })
        .collect();
    let claimed = Some(Claimed::Live(through));
    store.commit(token, &Commit { reject: &reject, claimed, now_ms: 5, ..Commit::default() }).unwrap();
}

#[test]
fn a_redrive_goes_in_order_and_tells_what_has_to_be_mended_first() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = new_outbox(&dir);
    let mut db = outbox.connect().unwrap();
    let tx = db.transaction().unwrap();
    for n in 0..2_500 {
        Outbox::enqueue(&tx, Message::new("t").unwrap().payload(n.to_string())).unwrap();
    }
    tx.commit().unwrap();
    let mut store = outbox.store().unwrap();
    let token = take(&mut store);
    set_aside(&mut store, token, 1..=2_500);
    db.execute("UPDATE homing_dead_letter SET headers = '{' WHERE row_id = 7", []).unwrap();
    let redriven = outbox.redrive(None).unwrap();
    assert_eq!(redriven.rows.len(), 2_499);
    assert_eq!(redriven.refused.len(), 1);
    assert!(redriven.refused[0].1.contains("headers is not valid JSON"), "{:?}", redriven.refused);
    let mut rows = RowBuf::default();
    store.reader(RowId(2_500)).unwrap().next(10_000, usize::MAX, &mut rows).unwrap();
    let numbers: Vec<u32> =
        rows.iter().map(|row| std::str::from_utf8(row.payload.unwrap()).unwrap().parse().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.len() == 2_499);
    db.execute("UPDATE homing_dead_letter SET headers = NULL WHERE row_id = 7", []).unwrap();
    assert_eq!(outbox.redrive(None).unwrap().rows.len(), 1);
}

#[test]
fn records_of_what_is_long_gone_go_and_those_still_needed_stay() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = new_outbox(&dir);
    let mut store = outbox.store().unwrap();
    let token = take(&mut store);
    (0..3).for_each(|n| enqueue(&outbox, &n.to_string()));
    set_aside(&mut store, token, 1..=3);
    let ids: Vec<i64> = outbox.dead_letters(0, 9).unwrap().iter().map(|letter| letter.id).collect();
    outbox.redrive(Some(&ids[..2])).unwrap();
    set_aside(&mut store, token, 4..=4);
    outbox.connect().unwrap().execute_batch(
        "INSERT INTO homing_repair (topic, epoch, partition, from_seq, to_seq, state, created_at_ms, updated_at_ms) \
         VALUES ('t', 1, 0, 1, 1, 'repaired', 1, 1), ('t', 1, 0, 2, 2, 'wanted', 1, 1), ('t', 1, 0, 3, 3, 'repaired', 1, 900); \
         INSERT INTO homing_audit_gap (topic, epoch, partition, from_seq, to_seq, state, opened_at_ms, closed_at_ms, verdicts) \
         VALUES ('t', 1, 0, 1, 1, 'late', 1, 2, ''), ('t', 1, 0, 2, 2, 'suspect', 1, NULL, '');",
    )
    .unwrap();
    let limits = PruneLimits { records_before_ms: 500, ..PruneLimits::new(0, Default::default()) };
    store.prune(token, limits).unwrap();
    let count =
        |sql: &str| -> i64 { outbox.connect().unwrap().query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT COUNT(*) FROM homing_repair"), 2);
    assert_eq!(count("SELECT COUNT(*) FROM homing_audit_gap"), 1);
    let left: Vec<i64> = outbox.dead_letters(0, 9).unwrap().iter().map(|letter| letter.row.0).collect();
    assert_eq!(
        left,
        [2, 3, 4],
        "row 1 was redriven as row 4, which was set aside again; row 2 waits as row 5"
    );
}

/// What `stats` counts without reading rows is what reading them would count.
#[test]
fn the_numbers_without_a_count_are_those_of_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = new_outbox(&dir);
    let mut store = outbox.store().unwrap();
    let token = take(&mut store);
    let topic = TopicName::parse("t").unwrap();
    let partitions = PartitionCount::new(1).unwrap();
    let epoch = TopicEpoch { topic: topic.clone(), epoch: Epoch(1), topic_id: [1; 16], partitions };
    store.open_epoch(token, &epoch, &[Offset(0)], 0).unwrap();
    let counted = || {
        let rows: i64 = outbox
            .connect()
            .unwrap()
            .query_row("SELECT COUNT(*) FROM homing_outbox", [], |row| row.get(0))
            .unwrap();
        let stats = outbox.stats().unwrap();
        assert_eq!(stats.rows, rows as u64);
        (stats.unclaimed, stats.unsettled, stats.settled)
    };
    assert_eq!(counted(), (0, 0, 0));
    (0..10).for_each(|n| enqueue(&outbox, &n.to_string()));
    assert_eq!(counted(), (10, 0, 0));
    let mut seq = 1;
    for (number, (from, to, rejected)) in (1..).zip([(1, 4, 2), (5, 7, 5)]) {
        let rows = (to - from) as u32;
        let part = LanePart {
            topic: topic.clone(),
            epoch: Epoch(1),
            partition: Partition(0),
            first_seq: Seq(seq),
            rows,
            takes_null_keys: true,
        };
        seq += u64::from(rows);
        let (from, to) = (RowId(from), RowId(to));
        let span = homing::outbox::store::Span { from, to, detail: None };
        let manifest = Manifest { batch: BatchId(number), span, rows, bytes: 9, lanes: vec![part] };
        let reject = [Rejected { row: RowId(rejected), code: RejectCode::TooLarge, reason: String::new() }];
        let claimed = Some(Claimed::Live(to));
        let commit = Commit { manifest: Some(&manifest), reject: &reject, claimed, ..Commit::default() };
        store.commit(token, &commit).unwrap();
    }
    assert_eq!(counted(), (3, 5, 0));
    let first = store.unsettled_batches(None, 1).unwrap().remove(0).manifest;
    let at = (0..3).map(|n| homing::outbox::offset_runs::Delivered::At(Offset(n)));
    let settle = [LaneSettlement::from_fates(first.batch, first.lanes[0].clone(), at, Vec::new())];
    store.commit(token, &Commit { settle: &settle, now_ms: 5, ..Commit::default() }).unwrap();
    assert_eq!(counted(), (3, 2, 3));
    outbox.connect().unwrap().execute("UPDATE homing_lane SET verified_seq = 3", []).unwrap();
    let limits = PruneLimits { settled_before_ms: 6, ..PruneLimits::new(0, Default::default()) };
    store.prune(token, limits).unwrap();
    assert_eq!(counted(), (3, 2, 0));
    outbox.redrive(None).unwrap();
    assert_eq!(counted(), (5, 2, 0));
}
