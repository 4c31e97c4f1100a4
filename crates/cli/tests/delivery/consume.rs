//! `homing consume --exec`: commands per record.

use crate::support::{Home, signal, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn filled(lines: &str) -> Home {
    let home = Home::new();
    home.run_with(["send", "--topic", &home.orders, "--key-field", "k"], lines.as_bytes()).expect(0, &[]);
    home.run(["run", "--until-drained"]).expect(0, &[]);
    home
}

/// `homing consume` of the home's orders in its group, with further arguments.
fn consume<'a>(home: &'a Home, further: &[&'a str]) -> Vec<&'a str> {
    ["consume", "--topic", &home.orders, "--group", &home.group].iter().chain(further).copied().collect()
}

#[test]
fn a_command_gets_the_record_as_json_and_in_variables() {
    let home = filled("{\"k\":\"a b\"}\n");
    let command =
        "cat > record.json; echo \"$HOMING_TOPIC|$HOMING_KEY|$HOMING_SEQ|$HOMING_OFFSET|$HOMING_ID\" > vars";
    let args = consume(&home, &["--max-messages", "1", "--json", "--exec", command]);
    let summary = home.run(args).expect(0, &[]).json();
    assert_eq!(summary["counts"]["finished"], json!(1));
    let record: Value =
        serde_json::from_str(&std::fs::read_to_string(home.path().join("record.json")).unwrap()).unwrap();
    assert_eq!(record["payload"], json!("{\"k\":\"a b\"}"));
    let vars = std::fs::read_to_string(home.path().join("vars")).unwrap();
    assert_eq!(vars.trim(), format!("{}|a b|1|0|{}", home.orders, record["id"].as_str().unwrap()));
}

#[test]
fn a_failing_command_is_tried_again_then_its_record_is_a_dead_letter() {
    let home = filled("{\"k\":\"good\"}\n{\"k\":\"bad\"}\n{\"k\":\"good\"}\n");
    let command = "echo x >> tried-$HOMING_KEY; test \"$HOMING_KEY\" != bad";
    let args = consume(
        &home,
        &[
            "--until-idle",
            "1",
            "--attempts",
            "3",
            "--set",
            "consumer.retry_backoff_first_ms=1",
            "--exec",
            command,
        ],
    );
    let dead = format!("{}.dlq", home.group);
    home.run(args).expect(1, &["1 records were given up", &dead]);
    let tried =
        |key| std::fs::read_to_string(home.path().join(format!("tried-{key}"))).unwrap().lines().count();
    assert_eq!((tried("good"), tried("bad")), (2, 3));
    let letters = home.consume_all(&dead, &format!("{}-look", home.group));
    assert_eq!(letters.len(), 1);
    let headers = &letters[0]["headers"];
    assert_eq!((&letters[0]["key"], &headers["homing-dlq-topic"]), (&json!("bad"), &json!(home.orders)));
    assert!(headers["homing-dlq-reason"].as_str().unwrap().contains("exit code 1"), "{headers}");
    assert_eq!(home.consume_all(&home.orders, &home.group).len(), 0, "given up counts as done");
}

#[test]
fn a_command_that_does_not_exist_stops_and_loses_nothing() {
    let home = filled("{\"k\":1}\n");
    let args = consume(&home, &["--exec", "no-such-command-here"]);
    home.run(args).expect(2, &["no such command"]);
    assert_eq!(home.consume_all(&home.orders, &home.group).len(), 1, "it was not committed");
}

#[test]
fn without_a_dead_letter_topic_a_failing_command_stops_the_consumer() {
    let home = filled("{\"k\":1}\n");
    let args = consume(
        &home,
        &[
            "--attempts",
            "2",
            "--dead-letter",
            "none",
            "--set",
            "consumer.retry_backoff_first_ms=1",
            "--exec",
            "exit 3",
        ],
    );
    home.run(args).expect(2, &["exit code 3", "--dead-letter"]);
    assert_eq!(home.consume_all(&home.orders, &home.group).len(), 1, "it was not committed");
}

#[test]
fn commands_of_one_key_run_in_order_and_of_many_keys_at_once() {
    let lines: String = (0..120).map(|n| format!("{{\"k\":\"k{}\",\"n\":{n}}}\n", n % 6)).collect();
    let home = filled(&lines);
    let command = "echo $HOMING_KEY $HOMING_SEQ >> log; mkdir busy-$HOMING_KEY || echo overlap >> overlaps; \
                   sleep 0.01; ls -d busy-* | wc -l >> parallel; rmdir busy-$HOMING_KEY";
    let args = consume(&home, &["--max-messages", "120", "--workers", "6", "--exec", command]);
    home.run(args).expect(0, &[]);
    assert!(!home.path().join("overlaps").exists(), "two commands of one key ran at once");
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for line in std::fs::read_to_string(home.path().join("log")).unwrap().lines() {
        let (key, seq) = line.split_once(' ').unwrap();
        let seq = seq.parse().unwrap();
        assert!(last.insert(key.to_owned(), seq).is_none_or(|before| before < seq), "{line}");
    }
    let parallel = std::fs::read_to_string(home.path().join("parallel")).unwrap();
    assert!(parallel.lines().any(|line| line.trim().parse::<u32>().unwrap() > 1), "never two at once");
}

#[test]
fn sigterm_lets_running_commands_finish_and_commits_them() {
    let home = filled("{\"k\":1}\n");
    let command = "touch begun; sleep 1; touch done";
    let consuming = home.start("consume", consume(&home, &["--exec", command]));
    wait_until("the command has begun", || home.path().join("begun").exists());
    consuming.stop("TERM").expect(0, &[]);
    assert!(home.path().join("done").exists());
    assert_eq!(home.consume_all(&home.orders, &home.group).len(), 0, "its record was committed");
}

/// The process whose number a command wrote into `pid`.
fn pid_of(home: &Home) -> String {
    let path = home.path().join("pid");
    wait_until("the command has begun", || {
        std::fs::read_to_string(&path).is_ok_and(|pid| pid.ends_with('\n'))
    });
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

fn wait_until_gone(pid: &str) {
    // A zombie without a parent's look has no command line.
    let command = format!("/proc/{pid}/cmdline");
    wait_until("the command is gone", || {
        std::fs::read(&command).is_ok_and(|line| line.is_empty()) || !std::fs::exists(&command).unwrap()
    });
}

#[test]
fn a_command_that_does_not_end_is_ended_before_the_consumer_is_and_its_record_comes_again() {
    // One that ends at SIGTERM, and one that has to be killed.
    for trap in ["", "trap '' TERM; "] {
        let home = filled("{\"k\":1}\n");
        let command = format!("{trap}sleep 600 & echo $! > child; echo $$ > pid; wait; sleep 600");
        let args = ["--set", "consumer.drain_timeout_ms=2000", "--attempts", "1", "--exec", &command];
        let consuming = home.start("consume", consume(&home, &args));
        let pid = pid_of(&home);
        let ended = consuming.stop("INT").expect(1, &["1 commands", "were ended", "come again"]);
        assert!(!ended.err.contains("given up"), "{}", ended.err);
        // Before the exit, not some time after it.
        assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap(), "it still runs");
        wait_until_gone(std::fs::read_to_string(home.path().join("child")).unwrap().trim());
        assert_eq!(home.consume_all(&home.orders, &home.group).len(), 1, "it was not committed");
    }
}

#[test]
fn a_second_signal_leaves_no_command_behind() {
    let home = filled("{\"k\":1}\n");
    let command = "trap '' TERM; echo $$ > pid; sleep 600";
    let args = ["--set", "consumer.drain_timeout_ms=600000", "--exec", command];
    let mut consuming = home.start("consume", consume(&home, &args));
    let pid = pid_of(&home);
    // Two that come too close count as one.
    wait_until("a signal after the first ends it", || {
        let is_over = !consuming.is_running();
        if !is_over {
            signal(consuming.pid(), "INT");
        }
        is_over
    });
    assert_eq!(consuming.wait_for_end().code, None, "the signal itself ended it");
    wait_until_gone(&pid);
}

#[test]
fn a_group_that_never_committed_begins_where_it_is_told() {
    let home = filled("{\"k\":1}\n");
    let (args, begun) = (consume(&home, &["--from", "error", "--until-idle", "1"]), Instant::now());
    home.run(args).expect(2, &["no committed offset", "--from earliest"]);
    // An idle consumer would first wait 30 s for partitions.
    assert!(begun.elapsed() < Duration::from_secs(25), "it ends at once: {:?}", begun.elapsed());
    let args = consume(&home, &["--from", "latest", "--until-idle", "1"]);
    assert_eq!(home.run(args).expect(0, &[]).out, "");
    assert_eq!(home.consume_all(&home.orders, &home.group).len(), 0, "latest was committed as the beginning");
}
