//! `homing topic`: what would be lost is shown first, and nothing is done without a word.

use crate::support::Home;

#[test]
fn a_topic_is_closed_and_reopened_only_by_an_explicit_word_and_goes_on_in_a_new_epoch() {
    let home = Home::new();
    let send = |line: &str| home.run_with(["send", "--topic", &home.orders], line.as_bytes()).expect(0, &[]);
    let drain = || home.run(["run", "--until-drained"]).expect(0, &[]);
    let shown = || home.run(["topic", "show", &home.orders, "--json"]).expect(0, &[]).json();
    send("1\n");
    drain();
    assert_eq!(shown()["settled_kept"], 1, "{}", shown());
    send("2\n");
    assert_eq!(shown()["unclaimed"], 1, "{}", shown());

    home.run(["topic", "close", &home.orders]).expect(1, &["nothing was done: say --yes"]);
    drain();
    let order = |action: &str| {
        let words = ["--yes", "--by", "an operator", "--why", "a test", "--wait-s", "0"];
        let args = ["topic", action, &home.orders].into_iter().chain(words);
        home.run(args).expect(0, &["the relay carries it out when it runs"])
    };
    order("close");
    send("3\n");
    drain();
    order("reopen");
    send("4\n");
    drain();
    let records = home.consume_all(&home.orders, &home.group);
    let mut seen: Vec<_> = records
        .iter()
        .map(|record| {
            (record["payload"].as_str().unwrap().to_owned(), record["stamp"]["epoch"].as_u64().unwrap())
        })
        .collect();
    seen.sort();
    let expected = [("1", 1), ("2", 1), ("3", 2), ("4", 3)];
    assert_eq!(
        seen,
        expected.map(|(payload, epoch)| (payload.to_owned(), epoch)),
        "the refused close did nothing"
    );
    home.run(["topic", "close", "no-such-topic", "--yes", "--by", "me", "--why", "it"])
        .expect(2, &["no-such-topic"]);
}
