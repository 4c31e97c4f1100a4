//! `homing demo`, shorter than people see it.

use crate::support::Home;
use std::collections::BTreeSet;

#[test]
fn the_demo_loses_nothing_of_ours_under_kills_and_says_so_in_json() {
    let home = Home::empty();
    let ended = home.run(["demo", "--json", "--seconds", "8"]);
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
