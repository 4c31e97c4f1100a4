//! `homing send`: formats, bad lines, going on where it stopped.

use crate::support::{Home, wait_until};
use serde_json::json;

fn payloads(home: &Home) -> Vec<(Option<String>, String)> {
    let connection = home.sql();
    let mut rows = connection
        .prepare("SELECT CAST(message_key AS TEXT), CAST(coalesce(payload, payload_text) AS TEXT) FROM homing_outbox ORDER BY id")
        .unwrap();
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

fn pair(key: &str, payload: &str) -> (Option<String>, String) {
    (Some(key.to_owned()), payload.to_owned())
}

#[test]
fn json_lines_are_sent_and_bad_ones_are_told_with_their_number() {
    let home = Home::new();
    let input = b"{\"id\":7}\n{\"id\":\n\xff\n{\"no\":1}\n\n{\"id\":\"x\"}\n";
    let ended = home.run_with(["send", "--topic", "orders", "--key-field", "id", "--json"], input).expect(
        1,
        &[
            "line 2: not a whole JSON value",
            "line 3: not UTF-8",
            "line 4: no field \"id\"",
            "put 2 into the outbox",
        ],
    );
    assert_eq!(ended.json(), json!({"sent": 2, "bad": 3, "lines": 6, "next_line": 7}));
    assert_eq!(payloads(&home), [pair("7", "{\"id\":7}"), pair("x", "{\"id\":\"x\"}")]);
}

#[test]
fn csv_becomes_objects_and_lines_stay_lines() {
    let home = Home::new();
    let file = home.file("people.csv", "id,name\n1,Ada\n2\n3,\"Grace\nHopper\"\n");
    let args = ["send", "--topic", "people", "--key-field", "id", file.to_str().unwrap()];
    home.run(args).expect(1, &["line 3: 1 field where the header has 2", "put 2 into the outbox"]);
    home.run_with(["send", "--topic", "notes", "-"], b"plain\nlines").expect(0, &["put 2 into the outbox"]);
    let lines = |text: &str| (None, text.to_owned());
    assert_eq!(
        payloads(&home),
        [
            pair("1", "{\"id\":\"1\",\"name\":\"Ada\"}"),
            pair("3", "{\"id\":\"3\",\"name\":\"Grace\\nHopper\"}"),
            lines("plain"),
            lines("lines"),
        ]
    );
}

#[test]
fn stopping_at_a_bad_line_says_where_to_go_on_and_going_on_doubles_nothing() {
    let home = Home::new();
    let good = "{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n{\"id\":4}\n";
    let file = home.file("orders.jsonl", good.replace("{\"id\":3}", "{\"id\":3"));
    let file = file.to_str().unwrap();
    let args = ["send", "--topic", "orders", "--on-bad-line", "stop", "--batch-rows", "1", "--json", file];
    let ended = home.run(args).expect(1, &["--from-line 3"]);
    assert_eq!(ended.json(), json!({"sent": 2, "bad": 1, "lines": 3, "next_line": 3}));
    home.file("orders.jsonl", good);
    let ended = home.run(["send", "--topic", "orders", "--from-line", "3", "--json", file]).expect(0, &[]);
    assert_eq!(ended.json(), json!({"sent": 2, "bad": 0, "lines": 2, "next_line": 5}));
    let sent: Vec<_> = payloads(&home).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(sent.join("\n") + "\n", good);
}

#[test]
fn an_interrupted_send_says_with_which_line_to_go_on() {
    let home = Home::new();
    let mut sending = home.start("send", ["send", "--topic", "orders", "--json"]);
    sending.write(b"one\ntwo\nthree\n");
    wait_until("three rows are committed", || home.rows() == 3);
    let ended = sending.stop("INT").expect(2, &["interrupted", "--from-line 4"]);
    assert_eq!(ended.json(), json!({"sent": 3, "bad": 0, "lines": 3, "next_line": 4}));
    assert_eq!(home.rows(), 3);
}

#[test]
fn a_whole_input_says_up_to_which_line_it_is_in_and_going_on_behind_its_end_says_so() {
    let home = Home::new();
    let file = home.file("notes.txt", "a\nb\nc\n");
    let from =
        |line: &str| home.run(["send", "--topic", "notes", "--from-line", line, file.to_str().unwrap()]);
    from("1").expect(0, &["put 3 into the outbox for topic notes", "everything up to line 3", "notes.txt"]);
    from("4").expect(0, &["put 0 into the outbox", "everything up to line 3"]);
    from("5").expect(2, &["--from-line 5", "ends at line 3", "nothing was put in"]);
    assert_eq!(home.rows(), 3);
}

#[test]
fn a_json_array_and_a_csv_of_semicolons_are_doubted() {
    let home = Home::new();
    home.run_with(["send", "--topic", "t", "--format", "json"], b"[{\"a\":1},{\"a\":2}]\n")
        .expect(0, &["warning", "one JSON array", "put 1 into the outbox"]);
    let file = home.file("people.csv", "id;name\n1;Ada\n");
    home.run(["send", "--topic", "t", file.to_str().unwrap()]).expect(0, &["warning", "id;name", "commas"]);
}

#[test]
fn many_lines_take_little_memory() {
    const LINES: usize = 200_000;
    let home = Home::new();
    let mut sending = home.start("send", ["send", "--topic", "orders"]);
    let line = format!("{}\n", "x".repeat(199));
    for _ in 0..LINES / 1000 {
        sending.write(line.repeat(1000).as_bytes());
    }
    wait_until("all rows are committed", || home.rows() == LINES as i64);
    let status = std::fs::read_to_string(format!("/proc/{}/status", sending.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 60_000, "{peak_kib} KiB for 40 MB of input");
    assert!(sending.is_running());
    sending.stop("INT").expect(2, &[&format!("--from-line {}", LINES + 1)]);
}

#[test]
fn empty_and_missing_input_is_clear() {
    let home = Home::new();
    let ended =
        home.run_with(["send", "--topic", "orders", "--json"], b"").expect(0, &["standard input is empty"]);
    assert_eq!(ended.json(), json!({"sent": 0, "bad": 0, "lines": 0, "next_line": 1}));
    home.run(["send", "--topic", "orders", "none.csv"]).expect(2, &["none.csv"]);
    home.run(["send", "--topic", "no topic"]).expect(2, &["--topic", "no topic"]);
    home.run_with(["send", "--topic", "t", "--format", "csv", "--key-field", "id"], b"a,b\n1,2\n")
        .expect(2, &["no column \"id\"", "a, b"]);
    home.run_with(["send", "--topic", "t", "--line-bytes-max", "10"], b"short\nmuch too long a line\nfine\n")
        .expect(1, &["line 2: longer than 10 bytes", "put 2 into the outbox"]);
}
