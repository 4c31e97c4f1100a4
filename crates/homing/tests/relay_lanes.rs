//! Lanes and topics in trouble: each holds back only itself, loses nothing, and goes on in order.
#![allow(clippy::unwrap_used)]

mod relay_bench;

use homing::outbox::store::TopicAction;
use homing::{Message, RelayOptions, TopicName};
use homing_broker::{Count, Fault};
use kafka_protocol::messages::ApiKey;
use relay_bench::{Bench, RunningRelay, wait_until};
use std::time::{Duration, Instant};

fn options(bench: &Bench) -> RelayOptions {
    let ms = Duration::from_millis;
    RelayOptions { silence: ms(300), pins_every: ms(200), ..bench.options() }
}

/// Rows of one topic, each with its number as payload.
fn rows(topic: &str, numbers: std::ops::Range<usize>) -> impl Iterator<Item = Message> {
    numbers.map(move |n| Message::new(topic).unwrap().key(format!("k{}", n % 5)).payload(n.to_string()))
}

fn unsettled_of(bench: &Bench, topic: &str) -> u64 {
    let lanes = bench.outbox.stats().unwrap().lanes;
    lanes
        .iter()
        .filter(|lane| lane.topic.as_str() == topic)
        .map(|lane| lane.next_seq.0 - 1 - lane.settled)
        .sum()
}

fn settled_of(bench: &Bench, topic: &str) -> u64 {
    let lanes = bench.outbox.stats().unwrap().lanes;
    lanes.iter().filter(|lane| lane.topic.as_str() == topic).map(|lane| lane.settled).sum()
}

/// Each number once per key in order, first appearances.
fn assert_in_order(bench: &Bench, topic: &str, count: usize) {
    let records = bench.records_of(topic);
    bench.assert_lanes_are_gapless(&records);
    let mut by_key = std::collections::BTreeMap::<Vec<u8>, Vec<usize>>::new();
    for record in &records {
        let n: usize = String::from_utf8(record.payload.clone().unwrap()).unwrap().parse().unwrap();
        let numbers = by_key.entry(record.key.clone().unwrap()).or_default();
        if !numbers.contains(&n) {
            numbers.push(n);
        }
    }
    assert!(by_key.values().all(|numbers| numbers.is_sorted()), "{topic}: {by_key:?}");
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), count, "{topic}");
}

fn trouble_of(relay: &RunningRelay, topic: &str) -> Option<(Option<&'static str>, String)> {
    let of = |place: &Option<String>| place.as_deref().is_some_and(|place| place.starts_with(topic));
    let troubles = relay.status.troubles();
    troubles.into_iter().find(|trouble| of(&trouble.place)).map(|trouble| (trouble.code, trouble.what))
}

fn two_topics(bench: &Bench) -> [String; 2] {
    let topics = ["aa", "bb"].map(|what| bench.cluster.name(what));
    for topic in &topics {
        bench.cluster.create(topic, 3);
    }
    topics
}

/// Issue 9, number 1, as it was seen: the lease cannot be renewed while a flight is on its way.
#[test]
fn rows_of_a_flight_are_sent_though_the_database_was_busy_in_the_middle_of_it() {
    let bench = Bench::between();
    let one_key = |range: std::ops::Range<usize>| range.map(|n| bench.message(1, n)).collect::<Vec<_>>();
    bench.enqueue(one_key(0..1));
    let relay = bench.relay();
    bench.wait_settled();
    relay.stop();
    bench.enqueue(one_key(1..501));
    bench.cluster.faults().inject(ApiKey::Produce, Fault::ErrorCode(19), Count::Always);
    let relay = bench.relay();
    wait_until("the flight is numbered", || bench.outbox.stats().unwrap().unsettled == 500);
    let db = bench.outbox.connect().unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    bench.cluster.faults().clear();
    wait_until("the first record arrives", || relay.status.summary().acked > 0);
    wait_until("the lease cannot be renewed", || {
        relay.status.trouble().is_some_and(|trouble| trouble.what.contains("busy"))
    });
    db.execute_batch("ROLLBACK").unwrap();
    bench.enqueue(one_key(501..521));
    bench.wait_settled();
    relay.stop();
    bench.assert_each_row_once_in_order(521);
}

#[test]
fn a_refused_topic_holds_back_no_other_and_makes_no_producer_a_second() {
    let bench = Bench::between();
    let [aa, bb] = two_topics(&bench);
    // Write is refused, Describe is not.
    bench.cluster.faults().inject_for(&aa, ApiKey::Produce, Fault::ErrorCode(29), Count::Always);
    let relay = bench.relay_with(options(&bench));
    bench.enqueue(rows(&aa, 0..200).chain(rows(&bb, 0..200)));
    wait_until("all of bb is settled", || settled_of(&bench, &bb) == 200);
    wait_until("the reason is told", || trouble_of(&relay, &aa).is_some_and(|(code, _)| code == Some("N05")));
    for round in 1..20 {
        bench.enqueue(
            rows(&aa, round * 200..round * 200 + 20).chain(rows(&bb, round * 200..round * 200 + 20)),
        );
        wait_until("all of bb is settled", || settled_of(&bench, &bb) == 200 + 20 * round as u64);
    }
    assert_eq!(trouble_of(&relay, &bb), None);
    assert!(relay.status.summary().recoveries <= 3, "{:?}", relay.status.summary());
    assert_eq!(settled_of(&bench, &aa), 0);
    let told = bench.outbox.stats().unwrap().relay.unwrap();
    assert_eq!(told.trouble_code(), Some("N05"), "another process can read why: {told:?}");
    bench.cluster.faults().clear();
    bench.wait_settled();
    wait_until("the trouble is over", || relay.status.troubles().is_empty());
    relay.stop();
    assert_in_order(&bench, &aa, 200 + 19 * 20);
    assert_in_order(&bench, &bb, 200 + 19 * 20);
}

#[test]
fn a_silent_topic_holds_back_no_other_and_goes_on_when_it_answers() {
    let bench = Bench::between();
    let [aa, bb] = two_topics(&bench);
    // Retried inside the client for ever, without a word.
    bench.cluster.faults().inject_for(&aa, ApiKey::Produce, Fault::ErrorCode(19), Count::Always);
    let small = RelayOptions { batch_rows: 20, batch_rows_max: 20, ..options(&bench) };
    let relay = bench.relay_with(small);
    for round in 0..20 {
        bench.enqueue(rows(&aa, round * 20..round * 20 + 20).chain(rows(&bb, round * 20..round * 20 + 20)));
        wait_until("all of bb is settled", || settled_of(&bench, &bb) == 20 * (round as u64 + 1));
    }
    wait_until("it is told", || trouble_of(&relay, &aa).is_some());
    bench.cluster.faults().clear();
    bench.wait_settled();
    relay.stop();
    assert_in_order(&bench, &aa, 400);
    assert_in_order(&bench, &bb, 400);
}

#[test]
fn a_takeover_waits_for_no_topic_that_cannot_be_asked() {
    let bench = Bench::between();
    let [aa, bb] = two_topics(&bench);
    bench.enqueue(rows(&aa, 0..50).chain(rows(&bb, 0..50)));
    bench.crash_at(
        "relay.all_acked",
        1,
        RelayOptions {
            lease: Duration::from_millis(300),
            request_timeout: Duration::from_millis(100),
            ..bench.options()
        },
    );
    bench.cluster.faults().inject_for(&aa, ApiKey::ListOffsets, Fault::DropConnection, Count::Always);
    bench.enqueue(rows(&aa, 50..100).chain(rows(&bb, 50..100)));
    let relay = bench.relay_with(options(&bench));
    wait_until("all of bb is settled", || settled_of(&bench, &bb) == 100);
    assert!(unsettled_of(&bench, &aa) > 0, "its log was not read");
    bench.cluster.faults().clear();
    bench.wait_settled();
    relay.stop();
    assert_in_order(&bench, &aa, 100);
    assert_in_order(&bench, &bb, 100);
}

#[test]
fn ten_unknown_topics_cost_a_good_one_nothing_and_wait_in_order() {
    let bench = Bench::with(|kafka| kafka.create_topics = false);
    let good = bench.cluster.name("good");
    bench.cluster.create(&good, 3);
    let unknown: Vec<String> = (0..10).map(|n| bench.cluster.name(&format!("unknown{n}"))).collect();
    let relay = bench.relay_with(options(&bench));
    let began = Instant::now();
    for round in 0..5 {
        bench.enqueue(unknown.iter().flat_map(|topic| rows(topic, round * 2..round * 2 + 2)));
        bench.enqueue(rows(&good, round * 20..round * 20 + 20));
    }
    wait_until("all of the good one is settled", || settled_of(&bench, &good) == 100);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    wait_until("the others are held", || {
        let held = bench.outbox.stats().unwrap().held;
        held.len() == 10 && held.iter().all(|held| held.code == "X11" && held.rows == 10)
    });
    assert_eq!(bench.outbox.stats().unwrap().dead_letters, 0, "none is set aside");
    bench.cluster.create(&unknown[3], 3);
    wait_until("it goes out when it is there", || settled_of(&bench, &unknown[3]) == 10);
    bench.enqueue(rows(&unknown[3], 10..20));
    wait_until("and goes on", || settled_of(&bench, &unknown[3]) == 20);
    assert_in_order(&bench, &unknown[3], 20);
    relay.stop();
}

#[test]
fn rows_of_a_topic_that_appears_later_go_out_in_order_whatever_came_meanwhile() {
    let bench = Bench::with(|kafka| kafka.create_topics = false);
    bench.enqueue((0..30).map(|n| bench.message(n % 3, n)));
    let small = RelayOptions { batch_rows: 7, batch_rows_max: 7, ..options(&bench) };
    let relay = bench.relay_with(small.clone());
    wait_until("it waits", || bench.outbox.stats().unwrap().held.iter().any(|held| held.rows == 30));
    relay.stop();
    bench.enqueue((30..60).map(|n| bench.message(n % 3, n)));
    let relay = bench.relay_with(small);
    bench.cluster.create(&bench.orders, 3);
    bench.enqueue((60..90).map(|n| bench.message(n % 3, n)));
    bench.wait_settled();
    relay.stop();
    bench.assert_each_row_once_in_order(90);
    assert!(bench.outbox.stats().unwrap().held.is_empty());
}

#[test]
fn what_is_about_clock_format_or_settings_waits_and_sets_nothing_aside() {
    // INVALID_TIMESTAMP, UNSUPPORTED_FOR_MESSAGE_FORMAT, POLICY_VIOLATION, UNSUPPORTED_COMPRESSION_TYPE.
    for (code, finding) in [(32, Some("P24")), (43, None), (44, None), (76, None)] {
        let bench = Bench::between();
        let [aa, bb] = two_topics(&bench);
        bench.cluster.faults().inject_for(&aa, ApiKey::Produce, Fault::ErrorCode(code), Count::Always);
        let relay = bench.relay_with(options(&bench));
        bench.enqueue(rows(&aa, 0..100).chain(rows(&bb, 0..100)));
        wait_until("all of bb is settled", || settled_of(&bench, &bb) == 100);
        wait_until("it is told", || trouble_of(&relay, &aa).is_some_and(|(told, _)| told == finding));
        assert_eq!(bench.outbox.stats().unwrap().dead_letters, 0, "code {code}");
        bench.cluster.faults().clear();
        bench.wait_settled();
        assert_eq!(relay.stop().voided, 0);
        assert_in_order(&bench, &aa, 100);
    }
}

#[test]
fn a_limit_nobody_told_sets_no_row_aside() {
    let bench = Bench::between();
    let large = bench.cluster.name("large");
    bench.cluster.create_with(&large, 1, &[("max.message.bytes", "5000000")]);
    bench.cluster.faults().inject(ApiKey::DescribeConfigs, Fault::DropConnection, Count::Always);
    bench.enqueue([Message::new(&large).unwrap().key("k").payload(vec![b'x'; 2_000_000])]);
    let relay = bench.relay_with(options(&bench));
    bench.wait_settled();
    let summary = relay.stop();
    assert_eq!((summary.rejected, summary.voided, summary.settled), (0, 0, 1));
    assert_eq!(bench.records_of(&large)[0].payload.as_ref().unwrap().len(), 2_000_000);
}

#[test]
fn a_recreated_topic_stops_only_itself_and_is_reopened_by_command() {
    let bench = Bench::new();
    let [aa, bb] = two_topics(&bench);
    let relay = bench.relay_with(options(&bench));
    bench.enqueue(rows(&aa, 0..50).chain(rows(&bb, 0..50)));
    bench.wait_settled();
    bench.cluster.delete(&aa);
    bench.cluster.create(&aa, 3);
    wait_until("it is told", || trouble_of(&relay, &aa).is_some_and(|(code, _)| code == Some("A04")));
    bench.enqueue(rows(&aa, 50..70).chain(rows(&bb, 50..70)));
    wait_until("all of bb is settled", || settled_of(&bench, &bb) == 70);
    let told = bench.outbox.stats().unwrap().relay.unwrap();
    assert_eq!(told.trouble_code(), Some("A04"), "another process can read why: {told:?}");
    let topic = TopicName::parse(&aa).unwrap();
    bench.outbox.order_topic(&topic, TopicAction::ReopenKept, "a test", "it was made anew").unwrap();
    bench.wait_settled();
    wait_until("the order is done", || bench.outbox.stats().unwrap().held.is_empty());
    relay.stop();
    // All that was kept is in the new topic, in order, under the new epoch.
    assert_in_order(&bench, &aa, 70);
    assert!(bench.records_of(&aa).iter().all(|record| record.epoch > 1));
    assert_in_order(&bench, &bb, 70);
}

#[test]
fn a_deleted_topic_with_rows_on_their_way_is_closed_by_command_and_the_relay_lives() {
    let bench = Bench::between();
    let [aa, bb] = two_topics(&bench);
    let relay = bench.relay_with(options(&bench));
    bench.enqueue(rows(&aa, 0..50).chain(rows(&bb, 0..50)));
    bench.wait_settled();
    bench.cluster.faults().inject_for(&aa, ApiKey::Produce, Fault::ErrorCode(29), Count::Always);
    bench.enqueue(rows(&aa, 50..80));
    wait_until("they are numbered", || unsettled_of(&bench, &aa) == 30);
    bench.cluster.delete(&aa);
    wait_until("it is told", || trouble_of(&relay, &aa).is_some_and(|(code, _)| code == Some("A03")));
    let topic = TopicName::parse(&aa).unwrap();
    let outlook = bench.outbox.topic_outlook(&topic).unwrap();
    assert_eq!(
        outlook.lanes.iter().map(|lane| lane.unsettled).sum::<u64>(),
        30,
        "what would be lost: {outlook:?}"
    );
    bench.outbox.order_topic(&topic, TopicAction::Close, "a test", "nobody reads it").unwrap();
    wait_until("they are set aside", || bench.outbox.stats().unwrap().dead_letters == 30);
    bench.cluster.faults().clear();
    bench.enqueue(rows(&bb, 50..70).chain(rows(&aa, 80..90)));
    wait_until("all of bb is settled", || settled_of(&bench, &bb) == 70);
    // Created as any missing topic is, and numbered anew.
    bench.wait_settled();
    relay.stop();
    assert_in_order(&bench, &aa, 10);
}
