//! `homing broker`: one line with its address, and nothing lost at kill -9.

use crate::support::Home;
use std::net::TcpListener;

/// Below the ephemeral range, so that nobody takes it while the broker is dead.
fn free_address() -> String {
    let first = std::process::id() % 5000;
    let free = |port: &u32| TcpListener::bind(("127.0.0.1", u16::try_from(*port).unwrap())).is_ok();
    let port = (0..5000).map(|step| 10_000 + (first + step) % 5000).find(free).unwrap();
    format!("127.0.0.1:{port}")
}

#[test]
fn embedded_what_was_acknowledged_survives_kill_9_and_sigterm_ends_it_cleanly() {
    let home = Home::embedded();
    let address = free_address();
    let args = ["broker", "--dir", "data", "--listen", &address];
    let mut broker = home.start("broker", args);
    assert_eq!(broker.line(), address);
    let bootstrap = format!("kafka.bootstrap={address}");
    let lines: String = (0..1000).map(|n| format!("{n}\n")).collect();
    home.run_with(["send", "--topic", "orders"], lines.as_bytes()).expect(0, &[]);
    home.run(["run", "--until-drained", "--set", &bootstrap, "--set", "kafka.create_topics=true"])
        .expect(0, &[]);
    broker.kill();

    let mut broker = home.start("broker", args);
    assert_eq!(broker.line(), address);
    let consume =
        ["consume", "--topic", "orders", "--group", "g", "--set", &bootstrap, "--max-messages", "1000"];
    let consume = consume.into_iter().chain(["--dead-letter", "none"]);
    let records = home.run(consume).expect(0, &[]).json_lines();
    let mut seen: Vec<u32> =
        records.iter().map(|r| r["payload"].as_str().unwrap().parse().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    broker.stop("TERM").expect(0, &[]);
}

#[test]
fn embedded_a_directory_serves_one_broker_and_an_address_too() {
    let home = Home::empty();
    let mut first = home.start("first", ["broker", "--dir", "data", "--listen", "127.0.0.1:0", "--json"]);
    let line: serde_json::Value = serde_json::from_str(&first.line()).unwrap();
    let address = line["address"].as_str().unwrap();
    home.run(["broker", "--dir", "data", "--listen", "127.0.0.1:0"]).expect(2, &["data", "another broker"]);
    home.run(["broker", "--dir", "other", "--listen", address]).expect(2, &[address, "--listen"]);
    home.run(["broker", "--dir", "other", "--listen", "nonsense"])
        .expect(2, &["--listen nonsense", "HOST:PORT"]);
    home.run(["broker", "--dir", "other", "--flush", "sometimes"]).expect(2, &["always"]);
}

#[test]
fn embedded_other_machines_are_let_in_only_by_an_explicit_word() {
    let home = Home::empty();
    for all in ["0.0.0.0:0", "[::]:0"] {
        home.run(["broker", "--dir", "data", "--listen", all]).expect(2, &["--listen", "--allow-remote"]);
    }
    let mut open = home.start("open", ["broker", "--dir", "data", "--listen", "0.0.0.0:0", "--allow-remote"]);
    assert!(open.line().starts_with("0.0.0.0:"));
    open.stop("TERM").expect(0, &["no password"]);
}

#[test]
fn embedded_an_advertised_address_that_is_none_is_refused_by_name() {
    let home = Home::empty();
    home.run(["broker", "--dir", "data", "--listen", "127.0.0.1:0", "--advertise", "http://x"])
        .expect(2, &["http://x", "HOST:PORT"]);
}
