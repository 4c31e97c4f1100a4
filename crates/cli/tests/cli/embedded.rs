//! The embedded broker shared by processes, one of which is killed.

use crate::support::{Home, Running, wait_until};
use std::time::{Duration, Instant};

fn address(home: &Home) -> (String, u32) {
    let text = std::fs::read_to_string(home.path().join("orders.db.broker/address")).unwrap();
    let (address, pid) = text.trim().split_once(' ').unwrap();
    (address.to_owned(), pid.parse().unwrap())
}

fn consumer(home: &Home) -> Running {
    let consuming = home.start("consume", ["consume", "--topic", "orders", "--group", "g", "-v"]);
    wait_until("the consumer has come to the broker", || consuming.err().contains("embedded broker"));
    consuming
}

#[test]
fn embedded_when_the_serving_process_is_killed_another_serves_the_same_address_within_a_second() {
    let home = Home::embedded();
    let relay = home.start("run", ["run"]);
    wait_until("the relay serves", || home.path().join("orders.db.broker/address").exists());
    home.run_with(["send", "--topic", "orders"], b"before\n").expect(0, &[]);
    let mut consuming = consumer(&home);
    assert!(consuming.line().contains("before"));
    let (before, pid) = address(&home);
    assert_eq!(pid, relay.pid());

    let killed = Instant::now();
    relay.kill();
    wait_until("the consumer serves", || address(&home).1 == consuming.pid());
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(address(&home).0, before);

    home.run_with(["send", "--topic", "orders"], b"after\n").expect(0, &[]);
    home.run(["run", "--until-drained"]).expect(0, &[]);
    assert!(consuming.line().contains("after"));
    consuming.stop("TERM").expect(0, &[]);
    let all = home.consume_all("orders", "another");
    assert_eq!(all.len(), 2, "what was there before the kill is there still");
}

#[test]
fn embedded_terminals_may_start_in_any_order() {
    let home = Home::embedded();
    let mut consuming = consumer(&home);
    let relay = home.start("run", ["run"]);
    home.run_with(["send", "--topic", "orders"], b"hello\n").expect(0, &[]);
    assert!(consuming.line().contains("hello"));
    relay.stop("TERM").expect(0, &[]);
    consuming.stop("INT").expect(0, &[]);
}
