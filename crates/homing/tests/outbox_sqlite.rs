//! The SQLite outbox as applications see it: enqueue, plain SQL from other programs, refusals, full disks.
#![allow(clippy::unwrap_used)]

use homing::outbox::{Outbox, OutboxError, SqliteOutbox};
use homing::{Message, Retry, StreamName};
use std::process::Command;

fn stream(name: &str) -> StreamName {
    StreamName::parse(name).unwrap()
}

fn outbox(dir: &tempfile::TempDir) -> SqliteOutbox {
    SqliteOutbox::create(dir.path().join("shop.db"), &stream("shop")).unwrap()
}

fn message(key: &str) -> Message {
    Message::new("orders").unwrap().key(key).payload("{}")
}

#[test]
fn a_message_is_there_exactly_when_its_transaction_committed() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir);
    let mut db = outbox.connect().unwrap();
    let tx = db.transaction().unwrap();
    Outbox::enqueue(&tx, message("gone")).unwrap();
    tx.rollback().unwrap();
    let tx = db.transaction().unwrap();
    let queued = Outbox::enqueue_all(&tx, [message("a"), message("b")]).unwrap();
    tx.commit().unwrap();
    assert_eq!(queued.iter().map(|q| q.row_id.0).collect::<Vec<_>>(), [1, 2]);
    assert_ne!(queued[0].id, queued[1].id);
    let stats = outbox.stats().unwrap();
    assert_eq!((stats.rows, stats.unclaimed, stats.unsettled, stats.settled), (2, 2, 0, 0));
    assert!(stats.oldest_unsettled_ms.is_some());
    assert_eq!(outbox.receipt(queued[0].row_id).unwrap(), None, "nobody has sent it");
}

#[test]
fn reserved_header_names_are_refused_at_enqueue() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir);
    let mut db = outbox.connect().unwrap();
    let tx = db.transaction().unwrap();
    let error = Outbox::enqueue(&tx, message("a").header("homing-stamp", "x")).unwrap_err();
    assert!(error.to_string().contains("homing-stamp"), "{error}");
    assert_eq!(error.retry(), Retry::Never);
    tx.commit().unwrap();
    assert_eq!(outbox.stats().unwrap().rows, 0);
}

#[test]
fn one_table_set_is_one_stream_and_create_is_repeatable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.db");
    assert!(matches!(SqliteOutbox::open(&path, &stream("shop")), Err(OutboxError::NotFound { .. })));
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE user (id INTEGER)").unwrap();
    assert!(matches!(SqliteOutbox::open(&path, &stream("shop")), Err(OutboxError::NotAnOutbox { .. })));
    let first = SqliteOutbox::create(&path, &stream("shop")).unwrap();
    let again = SqliteOutbox::create(&path, &stream("shop")).unwrap();
    assert_eq!(first.instance(), again.instance());
    for other in [SqliteOutbox::create(&path, &stream("bills")), SqliteOutbox::open(&path, &stream("bills"))]
    {
        let error = other.unwrap_err();
        assert!(matches!(&error, OutboxError::OtherStream { .. }), "{error}");
        assert!(error.to_string().contains("\"shop\"") && error.to_string().contains("\"bills\""), "{error}");
    }
    first.connect().unwrap().execute("UPDATE homing_meta SET schema_version = 99", []).unwrap();
    let error = SqliteOutbox::open(&path, &stream("shop")).unwrap_err();
    assert!(matches!(error, OutboxError::SchemaVersion { found: 99, .. }), "{error}");
}

#[test]
fn rows_can_neither_be_changed_nor_deleted_nor_slipped_in_below() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir);
    let db = outbox.connect().unwrap();
    db.execute_batch("INSERT INTO homing_outbox (topic) VALUES ('a'), ('b'), ('c')").unwrap();
    for sql in [
        "UPDATE homing_outbox SET payload_text = 'x' WHERE id = 1",
        "DELETE FROM homing_outbox",
        "INSERT INTO homing_outbox (id, topic) VALUES (0, 'low')",
        "INSERT INTO homing_outbox (id, topic) VALUES (-7, 'low')",
        "INSERT INTO homing_outbox (id, topic) VALUES (5, 'high')",
        "INSERT INTO homing_outbox (id, topic) VALUES (9223372036854775807, 'last')",
        "INSERT OR REPLACE INTO homing_outbox (id, topic) VALUES (2, 'again')",
    ] {
        let error = db.execute_batch(sql).unwrap_err();
        assert!(error.to_string().contains("homing_outbox: "), "{sql}: {error}");
    }
    assert_eq!(outbox.stats().unwrap().rows, 3);
    db.execute_batch("INSERT INTO homing_outbox (topic) VALUES ('d'), ('e')").unwrap();
    db.execute_batch("BEGIN; INSERT INTO homing_outbox (topic) VALUES ('gone'); ROLLBACK").unwrap();
    db.execute_batch("INSERT INTO homing_outbox (topic) SELECT 'f' FROM homing_outbox").unwrap();
    let last: i64 = db.query_row("SELECT MAX(id) FROM homing_outbox", [], |row| row.get(0)).unwrap();
    assert_eq!(last, 10, "the database's own ids go on without holes");
}

#[test]
fn an_id_of_ones_own_is_refused_before_there_is_any_row() {
    let dir = tempfile::tempdir().unwrap();
    let db = outbox(&dir).connect().unwrap();
    for id in [-5, 0, 2, i64::MAX] {
        let error = db.execute("INSERT INTO homing_outbox (id, topic) VALUES (?1, 't')", [id]).unwrap_err();
        assert!(error.to_string().contains("leave out the id"), "{id}: {error}");
    }
    db.execute("INSERT INTO homing_outbox (topic) VALUES ('t')", []).unwrap();
    assert_eq!(db.last_insert_rowid(), 1);
}

#[test]
fn a_row_that_could_never_be_sent_is_refused_when_it_is_inserted() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir);
    let mut db = outbox.connect().unwrap();
    let long = "x".repeat(250);
    for (columns, values, part) in [
        ("topic", "''".to_owned(), "topic must be"),
        ("topic", "'..'".to_owned(), "topic must be"),
        ("topic", "'no topic!'".to_owned(), "topic must be"),
        ("topic", "'\u{fc}'".to_owned(), "topic must be"),
        ("topic", format!("'{long}'"), "topic must be"),
        ("topic, message_key", "'t', 1.5".to_owned(), "message_key must be"),
        ("topic, payload", "'t', 1.5".to_owned(), "payload must be"),
        ("topic, payload, payload_text", "'t', 'a', 'b'".to_owned(), "payload and payload_text are both set"),
        ("topic, message_id", "'t', 'seven'".to_owned(), "message_id must be a UUID"),
        ("topic, message_id", "'t', x'0102'".to_owned(), "message_id must be a UUID"),
        ("topic, message_id", "'t', 42".to_owned(), "message_id must be a UUID"),
        ("topic, headers", "'t', '{'".to_owned(), "headers is not valid JSON"),
        ("topic, headers", "'t', '[1]'".to_owned(), "headers must be one JSON object"),
        ("topic, headers", "'t', '{\"\": \"x\"}'".to_owned(), "headers has a name that is empty"),
        ("topic, headers", "'t', '{\"Homing-stamp\": \"x\"}'".to_owned(), "starts with homing-"),
        ("topic, headers", "'t', '{\"a\": {\"b\": 1}}'".to_owned(), "is not {\"base64\""),
        ("topic, payload", "'t', zeroblob(67108865)".to_owned(), "more than 64 MiB"),
    ] {
        let tx = db.transaction().unwrap();
        tx.execute("INSERT INTO homing_outbox (topic, payload_text) VALUES ('t', 'before')", []).unwrap();
        let sql = format!("INSERT INTO homing_outbox ({columns}) VALUES ({values})");
        let error = tx.execute(&sql, []).unwrap_err().to_string();
        assert!(error.contains("homing_outbox: ") && error.contains(part), "{sql}: {error}");
        tx.rollback().unwrap();
    }
    assert_eq!(outbox.stats().unwrap().rows, 0);
    for good in [
        "(topic) VALUES ('a-tombstone')",
        "(topic, message_key, payload) VALUES ('t', 42, 7)",
        "(topic, payload_text, headers) VALUES ('T.1_a', '', '{}')",
        "(topic, headers) VALUES ('t', CAST('{\"a\": [\"1\", null, true, 2.5, {\"base64\": \"AA==\"}]}' AS BLOB))",
        "(topic, message_id) VALUES ('t', '0190a6a0-7d7c-7aaa-8bbb-0123456789ab')",
        "(topic, message_id) VALUES ('t', x'0190a6a07d7c7aaa8bbb0123456789ab')",
        "(topic, headers, message_id, payload_text) VALUES ('t', NULL, NULL, '\u{fc}')",
    ] {
        db.execute(&format!("INSERT INTO homing_outbox {good}"), [])
            .unwrap_or_else(|e| panic!("{good}: {e}"));
    }
}

/// What the database lets pass and what the reading side takes are the same rows.
#[test]
fn what_the_database_lets_pass_is_read_without_a_fault() {
    use homing::outbox::rows::RowBuf;
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir);
    let db = outbox.connect().unwrap();
    let texts = ["NULL", "''", "'a'", "'{}'", "x''", "x'00ff'", "7", "1.5", "'{\"a\":1}'", "'[]'"];
    for key in texts {
        for payload in texts {
            for headers in texts {
                let columns = "(topic, message_key, payload, headers)";
                let sql = format!(
                    "INSERT OR FAIL INTO homing_outbox {columns} VALUES ('t', {key}, {payload}, {headers})"
                );
                drop(db.execute(&sql, []));
            }
        }
    }
    let mut rows = RowBuf::default();
    let mut reader =
        homing::outbox::Store::reader(&outbox.store().unwrap(), homing::outbox::RowId(0)).unwrap();
    reader.next(10_000, usize::MAX, &mut rows).unwrap().unwrap();
    assert_eq!(rows.faults(), []);
    assert_eq!(rows.len() as u64, outbox.stats().unwrap().rows);
    assert!(rows.len() > 100, "{}", rows.len());
}

#[test]
fn a_transaction_that_reads_first_waits_for_its_place_and_then_writes() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir);
    let (mut db, mut other) = (outbox.connect().unwrap(), outbox.connect().unwrap());
    let read = "SELECT COUNT(*) FROM homing_outbox";
    let tx = db.transaction().unwrap();
    let _rows: i64 = tx.query_row(read, [], |row| row.get(0)).unwrap();
    Outbox::enqueue(&other.transaction().unwrap(), message("rolled back")).unwrap();
    let between = other.transaction().unwrap();
    Outbox::enqueue(&between, message("between")).unwrap();
    between.commit().unwrap();
    let error = Outbox::enqueue(&tx, message("late")).unwrap_err();
    assert!(matches!(error, OutboxError::Busy { .. }), "an ordinary transaction fails at once: {error}");
    drop(tx);

    let tx = SqliteOutbox::begin(&mut db).unwrap();
    let _rows: i64 = tx.query_row(read, [], |row| row.get(0)).unwrap();
    let writer = std::thread::spawn(move || {
        let tx = SqliteOutbox::begin(&mut other).unwrap();
        Outbox::enqueue(&tx, message("after")).unwrap();
        tx.commit().unwrap();
    });
    Outbox::enqueue(&tx, message("in time")).unwrap();
    tx.commit().unwrap();
    writer.join().unwrap();
    assert_eq!(outbox.stats().unwrap().rows, 3);
}

#[test]
fn plain_sql_works_from_the_sqlite3_shell_and_from_python() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir);
    let insert =
        "INSERT INTO homing_outbox (topic, message_key, payload_text) VALUES ('orders', '42', '{\"n\":1}');";
    let shell = Command::new("sqlite3").arg(outbox.path()).arg(insert).output().unwrap();
    assert!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
    let program = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30)
with db:
    for n in range(100):
        db.execute("INSERT INTO homing_outbox (topic, message_key, payload, headers) VALUES (?, ?, ?, ?)",
                   ("orders", str(n), b"\x00\xff", '{"source": "python"}'))
"#;
    let python = Command::new("python3").args(["-c", program]).arg(outbox.path()).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    assert_eq!(outbox.stats().unwrap().unclaimed, 101);
}

#[test]
fn the_printed_script_makes_the_same_tables_in_the_sqlite3_shell() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("by-hand.db");
    let script = dir.path().join("outbox.sql");
    std::fs::write(&script, SqliteOutbox::schema_sql(&stream("shop"))).unwrap();
    let script = std::fs::File::open(&script).unwrap();
    let shell = Command::new("sqlite3").arg("-bail").arg(&path).stdin(script).output().unwrap();
    assert!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
    let by_hand = SqliteOutbox::open(&path, &stream("shop")).unwrap();
    let by_code = outbox(&dir);
    let tables = |outbox: &SqliteOutbox| -> Vec<String> {
        let db = outbox.connect().unwrap();
        let mut statement = db.prepare("SELECT name FROM sqlite_schema ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(tables(&by_hand), tables(&by_code));
}

#[test]
fn a_full_database_is_a_clear_error_that_may_be_retried() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir);
    let mut db = outbox.connect().unwrap();
    let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    let set: i64 = db.pragma_update_and_check(None, "max_page_count", pages + 4, |row| row.get(0)).unwrap();
    assert_eq!(set, pages + 4);
    let tx = db.transaction().unwrap();
    let big = Message::new("orders").unwrap().payload(vec![b'x'; 100_000]);
    let error = Outbox::enqueue(&tx, big).unwrap_err();
    assert!(matches!(error, OutboxError::Full { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Later);
    drop(tx);
    db.pragma_update_and_check(None, "max_page_count", 1_000_000, |_| Ok(())).unwrap();
    let tx = db.transaction().unwrap();
    Outbox::enqueue(&tx, message("a")).unwrap();
    tx.commit().unwrap();
    assert_eq!(outbox.stats().unwrap().rows, 1);
}
