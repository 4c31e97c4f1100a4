//! `homing audit`: a loss is found, explained and repaired.

use crate::support::Home;
use serde_json::json;
use std::path::{Path, PathBuf};

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { all.extend(files(&entry)) } else { all.push(entry) }
    }
    all
}

/// The only segment of topic orders, which has one partition.
fn segment(home: &Home) -> PathBuf {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "log");
    let of_orders = |path: &PathBuf| path.to_string_lossy().contains("/orders.");
    let found: Vec<_> = files(&home.path().join("orders.db.broker/topics"))
        .into_iter()
        .filter(is_segment)
        .filter(of_orders)
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn embedded_records_cut_off_a_log_are_found_explained_and_sent_again() {
    let home = Home::embedded();
    let drain = |audit: &str| {
        home.run(["run", "--until-drained", "--set", "kafka.topic_partitions=1", "--set", audit])
            .expect(0, &[]);
    };
    home.run_with(["send", "--topic", "orders"], b"1\n2\n3\n").expect(0, &[]);
    drain("audit.enabled=false");
    let before = std::fs::metadata(segment(&home)).unwrap().len();
    home.run_with(["send", "--topic", "orders"], b"4\n5\n").expect(0, &[]);
    drain("audit.enabled=false");
    std::fs::File::options().write(true).open(segment(&home)).unwrap().set_len(before).unwrap();

    let audit = ["audit", "--json", "--set", "audit.grace_ms=100"];
    let report = home.run(audit).expect(1, &[]).json();
    let gap = &report["gaps"][0];
    assert_eq!((&gap["from"], &gap["to"], &gap["state"]), (&json!(4), &json!(5), &json!("confirmed")));
    assert_eq!(gap["verdicts"][0]["cause"], json!("truncated"));
    let told = home.run(["audit", "--recall"]).expect(1, &[]);
    assert!(told.out.contains("numbers 4 to 5") && told.out.contains("B10"), "{}", told.out);

    drain("audit.grace_ms=100");
    let report = home.run(audit).expect(0, &[]).json();
    assert_eq!((&report["gaps"], &report["totals"]["repaired"]), (&json!([]), &json!(2)));
    let mut payloads: Vec<_> =
        home.consume_all("orders", "g").iter().map(|r| r["payload"].as_str().unwrap().to_owned()).collect();
    payloads.sort();
    assert_eq!(payloads, ["1", "2", "3", "4", "5"]);
}

#[test]
fn embedded_a_loss_is_shown_before_it_is_accepted_and_named_for_ever_after() {
    let home = Home::embedded();
    let drain = || {
        let set = ["--set", "kafka.topic_partitions=1", "--set", "audit.enabled=false"];
        home.run(["run", "--until-drained"].into_iter().chain(set)).expect(0, &[]);
    };
    home.run_with(["send", "--topic", "orders"], b"1\n2\n3\n").expect(0, &[]);
    drain();
    let before = std::fs::metadata(segment(&home)).unwrap().len();
    home.run_with(["send", "--topic", "orders"], b"4\n5\n").expect(0, &[]);
    drain();
    std::fs::File::options().write(true).open(segment(&home)).unwrap().set_len(before).unwrap();
    let audit = ["audit", "--set", "audit.grace_ms=100", "--set", "audit.repair=off"];
    let told = home.run(audit).expect(1, &[]).out;
    assert!(told.contains("read back     3 of them, in 3 records"), "{told}");

    let accept = ["audit", "accept", "--topic", "orders", "--all"];
    let shown = home.run(accept).expect(1, &[]).out;
    let what = "orders[0] epoch 1: numbers 4 to 5, 2 of them known to be missing";
    assert!(shown.contains("would accept") && shown.contains(what), "{shown}");
    home.run(accept.into_iter().chain(["--yes"])).expect(2, &["--by", "--why"]);
    home.run(audit).expect(1, &[]);
    let by = ["--yes", "--by", "ann", "--why", "told the customer"];
    let done = home.run(accept.into_iter().chain(by)).expect(0, &[]).out;
    assert!(done.contains("accepted") && done.contains(what), "{done}");
    let told = home.run(audit).expect(0, &[]).out;
    assert!(told.contains("numbers 4 to 5, by ann") && told.contains("told the customer"), "{told}");
    assert!(told.contains("read back     3 of them") && told.contains("missing       nothing"), "{told}");
}
