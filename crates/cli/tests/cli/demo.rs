//! `homing demo`, shorter than people see it.

use crate::support::Home;
use std::collections::BTreeSet;

#[test]
fn embedded_the_demo_loses_nothing_of_ours_under_kills_and_says_so_in_json() {
    shows_nothing_lost(&["demo", "--json", "--seconds", "8"]);
}

#[test]
fn on_three_kafka_brokers_the_demo_loses_nothing_of_ours_either() {
    shows_nothing_lost(&["demo", "--kafka", "--json", "--seconds", "8"]);
}

fn shows_nothing_lost(args: &[&str]) {
    let home = Home::empty();
    let ended = home.run(args.iter().copied());
    let report = ended.json();
    let keys = |value: &serde_json::Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let expected = [
        "committed",
        "duplicates",
        "effects",
        "gaps",
        "kills",
        "lost",
        "naive",
        "repaired",
        "seconds",
        "sent",
    ];
    assert_eq!(keys(&report), expected.map(str::to_owned).into());
    assert_eq!(keys(&report["naive"]), ["committed", "effects", "lost", "twice"].map(str::to_owned).into());
    let number = |name: &str| report[name].as_u64().unwrap();
    assert_eq!(number("lost"), 0, "{report}");
    assert!(number("committed") > 0 && number("kills") > 0, "{report}");
    assert_eq!(number("effects"), number("committed"), "{report}");
    assert!(number("sent") >= number("committed"), "{report}");
    // 2 is the demo's honest word for kills that did not bite in so short a time.
    let lost_by_the_usual_code = report["naive"]["lost"].as_u64().unwrap();
    assert_eq!(ended.code, Some(if lost_by_the_usual_code > 0 { 0 } else { 2 }), "{ended:?}");
}
