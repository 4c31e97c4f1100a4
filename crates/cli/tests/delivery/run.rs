//! `homing run` and `homing status` when something is wrong: it is said, and the exit code says it too.

use crate::support::{Home, wait_until};
use serde_json::{Value, json};

fn lanes(home: &Home) -> Vec<Value> {
    home.run(["status", "--json"]).json()["lanes"].as_array().unwrap().clone()
}

fn sum(lanes: &[Value], field: &str) -> u64 {
    lanes.iter().map(|lane| lane[field].as_u64().unwrap()).sum()
}

#[test]
fn a_drained_run_has_read_back_the_first_messages_of_new_topics_too() {
    let home = Home::new();
    let topic = |n: usize| format!("{}-{n}", home.orders);
    // Longer than anyone would wait who only waits a while.
    let slow = ["--set", "audit.topics_every_ms=7000"];
    let drain = || home.run(["run", "--until-drained"].into_iter().chain(slow)).expect(0, &[]);
    home.run_with(["send", "--topic", &topic(0)], b"1\n2\n").expect(0, &[]);
    drain();
    for n in 1..4 {
        home.run_with(["send", "--topic", &topic(n)], b"1\n2\n").expect(0, &[]);
    }
    drain();
    let lanes = lanes(&home);
    assert_eq!((sum(&lanes, "settled"), sum(&lanes, "verified")), (8, 8), "{lanes:?}");
}

#[test]
fn rows_that_are_set_aside_are_told_one_by_one_and_in_the_end_and_make_a_finding() {
    let home = Home::new();
    home.run_with(["send", "--topic", &home.orders], b"good\n").expect(0, &[]);
    let large = "x".repeat(3 << 20);
    let sql = "INSERT INTO homing_outbox (topic, payload_text) VALUES (?1, ?2)";
    for _ in 0..12 {
        home.sql().execute(sql, [&home.orders, &large]).unwrap();
    }
    let ended = home.run(["run", "--until-drained"]).expect(
        1,
        &["a row was set aside", "more rows set aside: 2", "rows set aside: 12", "set_aside=12", "dlq list"],
    );
    assert_eq!(ended.err.matches("a row was set aside").count(), 10, "{}", ended.err);
    let status = home.run(["status"]).expect(1, &[]);
    assert!(status.out.contains("rows set aside: 12"), "{}", status.out);
}

#[test]
fn an_interrupted_run_that_was_to_drain_does_not_look_drained() {
    let home = Home::new();
    home.run_with(["send", "--topic", &home.orders], b"one\n").expect(0, &[]);
    let relay = home.start("run", ["run", "--until-drained", "--set", "kafka.bootstrap=127.0.0.1:1"]);
    wait_until("the relay tells its trouble", || relay.err().contains("Connection refused"));
    let ended = relay.stop("TERM").expect(2, &["interrupted before the outbox was drained"]);
    assert!(!ended.err.contains("facility"), "the client's own lines are for -v: {}", ended.err);
    assert!(!ended.err.contains("[thrd:"), "{}", ended.err);
}

#[test]
fn an_outbox_that_is_removed_under_a_running_relay_stops_it_aloud() {
    let home = Home::new();
    let mut relay = home.start("run", ["run"]);
    home.run_with(["send", "--topic", &home.orders], b"one\n").expect(0, &[]);
    wait_until("the first row is settled", || sum(&lanes(&home), "settled") == 1);
    for name in ["orders.db", "orders.db-wal", "orders.db-shm"] {
        // The companions are there or not, as SQLite likes.
        let _ = std::fs::remove_file(home.path().join(name));
    }
    relay.wait_for_end().expect(2, &["orders.db was removed", "homing run"]);
}

#[test]
fn an_outbox_that_is_replaced_under_a_running_relay_stops_it_aloud() {
    let home = Home::new();
    let mut relay = home.start("run", ["run"]);
    wait_until("the relay runs", || relay.err().contains("relaying"));
    home.run(["init", "--config", "other.toml", "--database", "sqlite:other.db"]).expect(0, &[]);
    std::fs::rename(home.path().join("other.db"), home.path().join("orders.db")).unwrap();
    relay.wait_for_end().expect(2, &["orders.db was replaced"]);
}

#[test]
fn a_second_relay_says_whom_it_stands_by_for_and_that_is_no_warning() {
    let home = Home::new();
    let first = home.start("first", ["run"]);
    wait_until("the first relay works", || {
        home.run(["status", "--json"]).json()["relay"]["alive"] == json!(true)
    });
    let second = home.start("second", ["run"]);
    let words = format!("INFO standing by: process {} relays this outbox", first.pid());
    wait_until("the second stands by", || second.err().contains(&words));
    assert!(!second.err().contains("WARN"), "{}", second.err());
    second.stop("TERM").expect(0, &[]);
    first.stop("TERM").expect(0, &[]);
}

#[test]
fn status_is_a_finding_while_another_program_keeps_the_database_to_itself() {
    let home = Home::new();
    let connection = home.sql();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let ended = home.run(["status"]).expect(1, &[]);
    assert!(
        ended.out.contains("database") && ended.out.contains("another program holds it"),
        "{}",
        ended.out
    );
    assert!(home.run(["status", "--json"]).expect(1, &[]).json()["database"].is_string());
    connection.execute_batch("ROLLBACK").unwrap();
    home.run(["status"]).expect(0, &[]);
}

/// A small disk of its own; taken away when dropped.
struct Disk(std::path::PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a test that failed may still have files open.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn as_root_status_names_a_full_disk() {
    let home = Home::empty();
    let disk = Disk(home.path().join("disk"));
    std::fs::create_dir(&disk.0).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=8m", "tmpfs"];
    let mounted = std::process::Command::new("mount").args(mount).arg(&disk.0).status().unwrap();
    assert!(mounted.success(), "this test takes root");
    home.run(["init", "--database", "sqlite:disk/orders.db"]).expect(0, &[]);
    home.run(["status"]).expect(0, &[]);
    let mut filler = std::fs::File::create(disk.0.join("filler")).unwrap();
    let mut written = 0;
    while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {
        written += 4096;
    }
    // SQLite cannot even open it then.
    home.run(["status"]).expect(2, &["the disk is full", "KiB free"]);
    filler.set_len(written - (512 << 10)).unwrap();
    let ended = home.run(["status"]).expect(1, &[]);
    assert!(ended.out.contains("disk full") && ended.out.contains("KiB free"), "{}", ended.out);
    assert_eq!(home.run(["status", "--json"]).expect(1, &[]).json()["full"].as_array().unwrap().len(), 1);
}

#[test]
fn embedded_status_tells_the_brokers_address_and_a_setting_fixes_it() {
    let home = Home::embedded();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Below the ephemeral range, so that nobody takes it meanwhile.
    let address = format!("127.0.0.1:{}", 12_000 + port % 8_000);
    let relay = home.start("run", ["run", "--set", &format!("broker.listen={address}")]);
    wait_until("the broker serves", || {
        let broker = home.run(["status", "--json"]).json()["broker"].clone();
        broker["address"] == json!(address) && broker["alive"] == json!(true)
    });
    let text = home.run(["status"]).out;
    assert!(text.contains(&format!("{address}, served by process {}", relay.pid())), "{text}");
    relay.stop("TERM").expect(0, &[]);
    assert!(home.run(["status"]).out.contains(&format!("{address}, not running")));
    home.run(["run", "--set", "broker.listen=0.0.0.0:9092"]).expect(2, &["broker.listen", "this machine"]);
}

#[test]
fn consuming_a_topic_that_was_never_there_does_not_look_fine() {
    let home = Home::new();
    let args = ["consume", "--topic", &home.orders, "--group", &home.group, "--until-idle", "1"];
    home.run(args).expect(2, &["was not there and was created", "did not exist, so nothing could be read"]);
    let no_creation = ["--set", "kafka.create_topics=false"];
    let other = format!("{}-other", home.orders);
    let args = ["consume", "--topic", &other, "--group", &home.group, "--until-idle", "1"];
    let ended = home.run(args.into_iter().chain(no_creation));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("does not exist; waiting for it"), "{}", ended.err);
}

#[test]
fn our_own_dead_letters_are_no_strangers_to_whoever_reads_them() {
    let home = Home::new();
    let lines: String = (0..60).map(|n| format!("{{\"k\":{n}}}\n")).collect();
    home.run_with(["send", "--topic", &home.orders, "--key-field", "k"], lines.as_bytes()).expect(0, &[]);
    home.run(["run", "--until-drained"]).expect(0, &[]);
    let failing = ["--exec", "false", "--attempts", "1", "--max-messages", "60", "--until-idle", "2"];
    let args = ["consume", "--topic", &home.orders, "--group", &home.group];
    home.run(args.into_iter().chain(failing)).expect(1, &["60 records were given up"]);
    let letters = format!("{}.dlq", home.group);
    let args = ["consume", "--topic", &letters, "--group", "reader", "--until-idle", "2"];
    let ended = home.run(args).expect(0, &[]);
    assert_eq!(ended.json_lines().len(), 60);
    assert!(!ended.err.contains("WARN"), "{}", ended.err);
}
