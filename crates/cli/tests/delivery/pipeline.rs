//! From the outbox to a consumer.

use crate::support::{Home, wait_until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

fn numbers(count: usize) -> String {
    (1..=count).map(|n| format!("{{\"n\":{n},\"customer\":\"c{}\"}}\n", n % 7)).collect()
}

fn n(record: &Value) -> u64 {
    let payload: Value = serde_json::from_str(record["payload"].as_str().unwrap()).unwrap();
    payload["n"].as_u64().unwrap()
}

#[test]
fn what_is_sent_is_consumed_once_in_key_order_while_the_relay_runs() {
    let home = Home::new();
    let relay = home.start("run", ["run"]);
    home.run_with(["send", "--topic", &home.orders, "--key-field", "customer"], numbers(500).as_bytes())
        .expect(0, &[]);
    let ended = home
        .run(["consume", "--topic", &home.orders, "--group", &home.group, "--max-messages", "500"])
        .expect(0, &[]);
    let records = ended.json_lines();
    let seen: BTreeSet<u64> = records.iter().map(n).collect();
    assert_eq!((records.len(), seen.len()), (500, 500));
    let mut last: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for record in &records {
        let (key, seq) = (record["key"].as_str().unwrap(), record["stamp"]["seq"].as_u64().unwrap());
        let now = (n(record), seq);
        assert!(last.insert(key, now).is_none_or(|before| before.0 < now.0 && before.1 < now.1), "{record}");
    }
    let first = &records[0];
    let fields: Vec<_> = first.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["headers", "id", "key", "offset", "partition", "payload", "stamp", "timestamp", "topic"];
    assert_eq!(BTreeSet::from_iter(fields), BTreeSet::from(expected));
    assert_eq!((&first["topic"], &first["stamp"]["stream"]), (&json!(home.orders), &json!("orders")));
    assert_eq!(first["stamp"]["partition"], first["partition"]);
    uuid::Uuid::parse_str(first["id"].as_str().unwrap()).unwrap();

    assert_eq!(home.consume_all(&home.orders, &home.group).len(), 0, "all was committed");
    relay.stop("TERM").expect(0, &[]);
    let status = home.run(["status", "--json"]).expect(0, &[]).json();
    assert_eq!((&status["unclaimed"], &status["unsettled"]), (&json!(0), &json!(0)));
}

#[test]
fn sigterm_drains_and_a_restart_sends_the_rest_without_a_duplicate() {
    let home = Home::new();
    home.run_with(["send", "--topic", &home.orders, "--key-field", "customer"], numbers(5000).as_bytes())
        .expect(0, &[]);
    let relay = home.start("run", ["run", "--set", "relay.batch_rows_max=1000"]);
    let status = || home.run(["status", "--json"]).json();
    wait_until("something is settled", || status()["settled"].as_u64().unwrap() > 0);
    relay.stop("TERM").expect(0, &[]);
    assert_eq!(status()["unsettled"], json!(0), "a drained relay leaves no batch half done");
    home.run(["run", "--until-drained"]).expect(0, &[]);
    let records = home.consume_all(&home.orders, &home.group);
    let seen: BTreeSet<u64> = records.iter().map(n).collect();
    assert_eq!((records.len(), seen.len()), (5000, 5000));
}

#[test]
fn rows_inserted_by_sqlite3_and_python_are_relayed_while_it_runs() {
    let home = Home::new();
    let relay = home.start("run", ["run"]);
    let database = home.path().join("orders.db");
    let sql = format!(
        "INSERT INTO homing_outbox (topic, message_key, payload_text) VALUES ('{}', '42', '{{\"n\":1}}');",
        home.orders
    );
    let shell = Command::new("sqlite3")
        .args(["-cmd", ".timeout 30000"])
        .arg(&database)
        .arg(sql)
        .output()
        .expect("sqlite3 is installed (scripts/setup test)");
    assert!(shell.status.success(), "{shell:?}");
    let script = "import sqlite3, sys\n\
                  db = sqlite3.connect(sys.argv[1], timeout=30)\n\
                  with db:\n    db.execute('CREATE TABLE mine (id INTEGER)')\n    db.execute('INSERT INTO mine VALUES (1)')\n    \
                  db.execute('INSERT INTO homing_outbox (topic, message_key, payload, headers) VALUES (?, ?, ?, ?)', \
                  (sys.argv[2], b'42', b'\\xff\\x00', '{\"source\": \"python\"}'))\n";
    let python = Command::new("python3")
        .args(["-c", script])
        .arg(&database)
        .arg(&home.orders)
        .output()
        .expect("python3 is installed");
    assert!(python.status.success(), "{python:?}");
    let records = home
        .run(["consume", "--topic", &home.orders, "--group", &home.group, "--max-messages", "2"])
        .expect(0, &[])
        .json_lines();
    assert_eq!((&records[0]["key"], &records[0]["payload"]), (&json!("42"), &json!("{\"n\":1}")));
    assert_eq!((&records[1]["payload"], &records[1]["encoding"]), (&json!("/wA="), &json!("base64")));
    assert_eq!(records[1]["headers"], json!({"source": "python"}));
    let seqs: Vec<_> = records.iter().map(|record| record["stamp"]["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2], "one key is one lane");
    relay.stop("TERM").expect(0, &[]);
}

#[test]
fn status_says_why_rows_wait() {
    let home = Home::new();
    home.run(["status"]).expect(0, &[]);
    home.run_with(["send", "--topic", &home.orders], b"one\n").expect(0, &[]);
    let ended = home.run(["status"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.out.contains("no relay has ever run"), "{}", ended.out);
    // A broker that is not there: the relay says so to everyone.
    let relay = home.start("run", ["run", "--set", "kafka.bootstrap=127.0.0.1:1"]);
    wait_until("the relay tells its trouble", || {
        let status = home.run(["status", "--json"]).json();
        status["relay"]["alive"] == json!(true) && status["waits_because"].is_string()
    });
    relay.kill();
    let ended = home.run(["status"]);
    assert!(ended.out.contains("no relay is running"), "{}", ended.out);
    home.run(["run", "--until-drained"]).expect(0, &[]);
    home.run(["status"]).expect(0, &[]);
}

#[test]
fn a_row_kafka_can_never_take_is_listed_mended_and_put_back() {
    let home = Home::new();
    // An outbox made before its database checked rows itself.
    home.sql()
        .execute_batch(
            "DROP TRIGGER homing_outbox_check; \
             INSERT INTO homing_outbox (topic, payload_text) VALUES ('no topic!', 'x')",
        )
        .unwrap();
    home.run_with(["send", "--topic", &home.orders], b"fine\n").expect(0, &[]);
    home.run(["run", "--until-drained"]).expect(1, &["a row was set aside", "no topic!"]);
    let listed = home.run(["dlq", "list", "--json"]).expect(1, &[]).json();
    assert_eq!((&listed["code"], &listed["topic"]), (&json!("topic_name"), &json!("no topic!")));
    assert_eq!(home.run(["status"]).code, Some(1));
    home.sql().execute("UPDATE homing_dead_letter SET topic = ?1", [&home.orders]).unwrap();
    home.run(["dlq", "redrive", "--all"]).expect(0, &["is row"]);
    home.run(["dlq", "list"]).expect(0, &["no dead letters"]);
    home.run(["dlq", "redrive", "77"]).expect(2, &["77"]);
    home.run(["run", "--until-drained"]).expect(0, &[]);
    let mut payloads: Vec<_> = home
        .consume_all(&home.orders, &home.group)
        .iter()
        .map(|r| r["payload"].as_str().unwrap().to_owned())
        .collect();
    payloads.sort();
    assert_eq!(payloads, ["fine", "x"]);
}

#[test]
fn a_status_line_is_printed_as_json_while_it_runs() {
    let home = Home::new();
    let mut relay = home.start("run", ["run", "--json", "--every-ms", "50"]);
    let line: Value = serde_json::from_str(&relay.line()).unwrap();
    assert_eq!((&line["event"], &line["outbox"]["stream"]), (&json!("status"), &json!("orders")));
    let ended = relay.stop("TERM").expect(0, &[]);
    let last: Value = serde_json::from_str(ended.out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["relay"]["settled"]), (&json!("end"), &json!(0)));
}

#[test]
fn a_broken_pipe_stops_it_without_committing_what_was_not_printed() {
    const ALL: usize = 20_000;
    let home = Home::new();
    home.run_with(["send", "--topic", &home.orders], numbers(ALL).as_bytes()).expect(0, &[]);
    home.run(["run", "--until-drained"]).expect(0, &[]);
    let mut consuming = home.start("consume", ["consume", "--topic", &home.orders, "--group", &home.group]);
    consuming.line();
    consuming.hang_up().expect(0, &["standard output was closed"]);
    // What fits a pipe may have been printed before it broke; nothing more is committed.
    let rest = home.consume_all(&home.orders, &home.group).len();
    assert!((ALL - 3_000..=ALL).contains(&rest), "{rest} records come again");
}

#[test]
fn max_messages_takes_exactly_so_many_and_the_next_run_goes_on_there() {
    let home = Home::new();
    home.run_with(["send", "--topic", &home.orders], numbers(50).as_bytes()).expect(0, &[]);
    home.run(["run", "--until-drained"]).expect(0, &[]);
    let args = ["consume", "--topic", &home.orders, "--group", &home.group, "--max-messages", "20"];
    let mut seen: Vec<u64> = home.run(args).expect(0, &[]).json_lines().iter().map(n).collect();
    assert_eq!(seen.len(), 20);
    seen.extend(home.consume_all(&home.orders, &home.group).iter().map(n));
    seen.sort_unstable();
    assert_eq!(seen, (1..=50).collect::<Vec<_>>());
}

#[test]
fn two_commands_in_a_pipe_work_together() {
    let home = Home::new();
    home.run_with(["send", "--topic", &home.orders], b"one\ntwo\n").expect(0, &[]);
    home.run(["run", "--until-drained"]).expect(0, &[]);
    let consuming = home
        .command(["consume", "--topic", &home.orders, "--group", &home.group, "--max-messages", "2"])
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    home.run_with(["send", "--topic", "copy"], &consuming.stdout).expect(0, &["put 2 into the outbox"]);
}
