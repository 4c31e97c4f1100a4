//! Failures: retries in lane order, dead letters behind their acknowledgement, parked keys, panics,
//! and stopping for good.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod consumer_support;

use consumer_support::{Cluster, Letter, Running, fill, key, number, options, read_all, until};
use homing::consumer::dead_letter::header;
use homing::consumer::{ConsumerError, ConsumerOptions, Outcome, SetAside};
use homing::core::{RetryPolicy, TopicName};
use homing_broker::{ApiKey, Count, Fault};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn quick(attempts_max: u32) -> RetryPolicy {
    let (first, most) = (Duration::from_millis(2), Duration::from_millis(10));
    RetryPolicy { attempts_max, backoff_first: first, backoff_max: most, ..RetryPolicy::default() }
}

fn with_dead_letters(cluster: &Cluster, topic: &str, attempts: u32) -> (ConsumerOptions, String) {
    let dead = cluster.topic(&format!("{}-dead", &topic[topic.len().saturating_sub(8)..]), 2);
    let dead_letter = Some(TopicName::parse(&dead).unwrap());
    let group = cluster.name("g");
    (ConsumerOptions { retry: quick(attempts), dead_letter, ..options(&group, topic) }, dead)
}

type Log = Arc<Mutex<HashMap<String, Vec<u32>>>>;

#[test]
fn a_retried_record_holds_its_key_back_and_nobody_else() {
    let cluster = Cluster::start();
    let topic = cluster.topic("retry", 2);
    fill(&cluster, &topic, 2_000, |number| format!("k{}", number % 20));
    let (effects, tries): (Log, Arc<Mutex<BTreeMap<u32, u32>>>) = Default::default();
    let (into, count) = (Arc::clone(&effects), Arc::clone(&tries));
    let settings = ConsumerOptions { retry: quick(50), ..options(&cluster.name("g"), &topic) };
    let running = Running::blocking(&cluster, settings, move |record| {
        let number = number(record);
        let tries = {
            let mut count = count.lock().unwrap();
            let tries = count.entry(number).or_default();
            *tries += 1;
            *tries
        };
        // Every 37th fails three times, by word or by asking for a pause of its own.
        if number.is_multiple_of(37) && tries <= 3 {
            return if number.is_multiple_of(2) {
                Outcome::retry("not yet")
            } else {
                Outcome::Retry { after: Some(Duration::from_millis(1)), reason: "soon".into() }
            };
        }
        into.lock().unwrap().entry(key(record)).or_default().push(number);
        Outcome::Ok
    });
    running.until("all", |counts| counts.finished == 2_000);
    let counts = running.stop().counts;
    assert_eq!(counts.retried, 3 * 2_000_u64.div_ceil(37));
    for (key, numbers) in effects.lock().unwrap().iter() {
        assert!(numbers.is_sorted() && numbers.len() == 100, "{key}: {numbers:?}");
    }
}

#[test]
fn a_poison_record_becomes_a_dead_letter_that_says_everything_about_it() {
    let cluster = Cluster::start();
    let topic = cluster.topic("poison", 1);
    fill(&cluster, &topic, 30, |number| format!("k{number}"));
    let (settings, dead) = with_dead_letters(&cluster, &topic, 4);
    let group = settings.group.clone();
    let attempts = Arc::new(AtomicU32::new(0));
    let tried = Arc::clone(&attempts);
    let running = Running::blocking(&cluster, settings, move |record| match number(record) {
        7 => {
            tried.fetch_add(1, Ordering::SeqCst);
            Outcome::retry("cannot be parsed")
        }
        11 => Outcome::reject("not ours"),
        13 => panic!("index out of bounds"),
        _ => Outcome::Ok,
    });
    running.until("all", |counts| counts.finished == 30);
    let counts = running.stop().counts;
    assert_eq!(attempts.load(Ordering::SeqCst), 4);
    assert_eq!((counts.dead_lettered, counts.panicked, counts.parked), (3, 4, 0));
    assert_eq!(cluster.committed(&group, &topic, 0).unwrap().0, 30, "the poison does not hold the group up");
    let mut letters = read_all(&cluster, &dead, 2);
    letters.sort_by_key(|letter| letter.payload.clone().unwrap().parse::<u32>().unwrap());
    let of = |letter: &Letter, name: &str| letter.headers[name].clone();
    for (letter, (number, attempts, reason)) in letters.iter().zip([
        (7, "4", "cannot be parsed"),
        (11, "1", "not ours"),
        (13, "4", "index out of bounds"),
    ]) {
        assert_eq!(
            (letter.payload.clone(), letter.key.clone()),
            (Some(number.to_string()), Some(format!("k{number}")))
        );
        assert_eq!(
            (of(letter, header::TOPIC), of(letter, header::PARTITION)),
            (topic.clone(), "0".to_owned())
        );
        assert_eq!(
            (of(letter, header::OFFSET), of(letter, header::GROUP)),
            (number.to_string(), group.clone())
        );
        assert_eq!(of(letter, header::ATTEMPTS), attempts);
        assert!(of(letter, header::REASON).contains(reason), "{letter:?}");
    }
    assert_eq!(letters.len(), 3);
}

#[test]
fn a_record_is_not_finished_and_nothing_is_taken_in_until_its_dead_letter_is_written() {
    let cluster = Cluster::between();
    let topic = cluster.topic("blocked", 1);
    fill(&cluster, &topic, 20, |number| format!("k{number}"));
    let (settings, dead) = with_dead_letters(&cluster, &topic, 2);
    let settings = ConsumerOptions {
        dead_letter_patience: Duration::from_millis(200),
        drain_timeout: Duration::from_millis(200),
        ..settings
    };
    let group = settings.group.clone();
    let handler = |record: &homing::Record| match number(record) {
        5 => Outcome::reject("poison"),
        _ => Outcome::Ok,
    };
    // Not enough replicas: what a cluster with a lost broker says to acks=all.
    cluster.faults().inject(ApiKey::Produce, Fault::ErrorCode(19), Count::Always);
    let running = Running::blocking(&cluster, settings.clone(), handler);
    running.until("the others are done", |counts| counts.finished == 19);
    let counts = running.until("intake is stopped", |counts| counts.intake_stopped.is_some());
    assert!(counts.intake_stopped.unwrap().contains(&dead));
    until("all else is committed in the map", || {
        cluster.committed(&group, &topic, 0).is_some_and(|(offset, _)| offset == 5)
    });
    assert_eq!((counts.finished, counts.dead_lettered), (19, 0));
    // A stop does not finish it either.
    let summary = running.stop();
    assert_eq!((summary.counts.dead_lettered, summary.abandoned), (0, 1));
    assert_eq!(cluster.committed(&group, &topic, 0).unwrap().0, 5);
    cluster.faults().clear();
    let running = Running::blocking(&cluster, settings, handler);
    running.until("it comes again and is written", |counts| counts.dead_lettered == 1);
    running.until("intake goes on", |counts| counts.intake_stopped.is_none());
    running.stop();
    assert_eq!(cluster.committed(&group, &topic, 0).unwrap().0, 20);
    assert!(read_all(&cluster, &dead, 2).iter().all(|letter| letter.payload.as_deref() == Some("5")));
}

#[test]
fn a_dead_letter_topic_that_is_missing_stops_intake_and_writing_goes_on_once_it_is_there() {
    let cluster = Cluster::start();
    let topic = cluster.topic("missing", 1);
    fill(&cluster, &topic, 5, |number| format!("k{number}"));
    let dead = cluster.name("missing-dead");
    let settings = ConsumerOptions {
        dead_letter: Some(TopicName::parse(&dead).unwrap()),
        dead_letter_patience: Duration::from_millis(300),
        ..options(&cluster.name("g"), &topic)
    };
    let running = Running::blocking(&cluster, settings, |record| match number(record) {
        2 => Outcome::reject("no"),
        _ => Outcome::Ok,
    });
    let counts = running.until("intake is stopped", |counts| counts.intake_stopped.is_some());
    assert_eq!((counts.finished, counts.dead_lettered), (4, 0));
    cluster.create(&dead, 1);
    running.until("it is written", |counts| counts.dead_lettered == 1 && counts.intake_stopped.is_none());
    assert_eq!(running.stop().counts.finished, 5);
}

#[test]
fn later_records_of_a_parked_key_follow_it_in_order_and_other_keys_go_on() {
    let cluster = Cluster::start();
    let topic = cluster.topic("park", 2);
    fill(&cluster, &topic, 400, |number| format!("k{}", number % 8));
    let (settings, dead) = with_dead_letters(&cluster, &topic, 2);
    let settings = ConsumerOptions { set_aside: SetAside::Key, ..settings };
    let effects: Log = Arc::default();
    let into = Arc::clone(&effects);
    let running = Running::blocking(&cluster, settings, move |record| {
        if number(record) == 83 {
            return Outcome::retry("never");
        }
        into.lock().unwrap().entry(key(record)).or_default().push(number(record));
        Outcome::Ok
    });
    running.until("all", |counts| counts.finished == 400);
    let counts = running.stop().counts;
    let expected: Vec<u32> = (0..400).filter(|number| number % 8 == 83 % 8).collect();
    let (before, after): (Vec<u32>, Vec<u32>) = expected.into_iter().partition(|number| *number < 83);
    assert_eq!((counts.dead_lettered, counts.parked), (after.len() as u64, after.len() as u64 - 1));
    let effects = effects.lock().unwrap();
    assert_eq!(effects["k3"], before);
    assert!(effects.iter().filter(|(key, _)| *key != "k3").all(|(_, numbers)| numbers.len() == 50));
    let parked: Vec<u32> = read_all(&cluster, &dead, 2)
        .iter()
        .map(|letter| letter.payload.clone().unwrap().parse().unwrap())
        .collect();
    assert_eq!(parked, after, "in order");
}

#[test]
fn one_parked_key_too_many_stops_the_consumer() {
    let cluster = Cluster::start();
    let topic = cluster.topic("parkfull", 1);
    fill(&cluster, &topic, 50, |number| format!("k{number}"));
    let (settings, _) = with_dead_letters(&cluster, &topic, 1);
    let settings = ConsumerOptions { set_aside: SetAside::Key, parked_keys_max: 3, ..settings };
    let error = Running::blocking(&cluster, settings, |_| Outcome::reject("all")).end().unwrap_err();
    assert!(matches!(error, ConsumerError::TooManyParked { limit: 3, .. }), "{error}");
}

#[test]
fn a_fatal_outcome_stops_the_consumer_and_leaves_its_record_unfinished() {
    let cluster = Cluster::start();
    let topic = cluster.topic("fatal", 1);
    fill(&cluster, &topic, 40, |_| "one".to_owned());
    let group = cluster.name("g");
    let seen = Arc::new(AtomicU32::new(0));
    let highest = Arc::clone(&seen);
    let running = Running::blocking(&cluster, options(&group, &topic), move |record| {
        highest.fetch_max(number(record), Ordering::SeqCst);
        if number(record) == 25 { Outcome::fatal("disk full") } else { Outcome::Ok }
    });
    let error = running.end().unwrap_err();
    let ConsumerError::Fatal { offset, reason, .. } = &error else { panic!("{error}") };
    assert_eq!((offset.0, reason.as_str()), (25, "disk full"));
    assert_eq!(seen.load(Ordering::SeqCst), 25, "nothing of its key ran after it");
    assert_eq!(cluster.committed(&group, &topic, 0).unwrap().0, 25, "what was before it is committed");
}

#[test]
fn without_a_dead_letter_topic_an_exhausted_record_stops_the_consumer() {
    let cluster = Cluster::start();
    let topic = cluster.topic("nowhere", 1);
    fill(&cluster, &topic, 3, |number| format!("k{number}"));
    let settings = ConsumerOptions { retry: quick(3), ..options(&cluster.name("g"), &topic) };
    let error = Running::blocking(&cluster, settings, |_| Outcome::retry("down")).end().unwrap_err();
    let ConsumerError::NowhereToSetAside { attempts: 3, reason, .. } = &error else { panic!("{error}") };
    assert_eq!(reason, "down");
}

#[test]
fn async_handlers_that_panic_or_fail_are_retried_and_dead_lettered_alike() {
    let cluster = Cluster::start();
    let topic = cluster.topic("asyncfail", 1);
    fill(&cluster, &topic, 100, |number| format!("k{}", number % 5));
    let (settings, dead) = with_dead_letters(&cluster, &topic, 3);
    let settings = ConsumerOptions { workers: 2, ..settings };
    let effects: Log = Arc::default();
    let into = Arc::clone(&effects);
    let running = Running::start(cluster.config.clone(), settings, move |consumer, shutdown| {
        consumer.run_async(
            move |record| {
                let into = Arc::clone(&into);
                async move {
                    tokio::task::yield_now().await;
                    match number(&record) {
                        10 => panic!("boom"),
                        20 => Outcome::retry("again"),
                        30 => Outcome::reject("no"),
                        number => {
                            into.lock().unwrap().entry(key(&record)).or_default().push(number);
                            Outcome::Ok
                        }
                    }
                }
            },
            shutdown,
        )
    });
    running.until("all", |counts| counts.finished == 100);
    let counts = running.stop().counts;
    assert_eq!((counts.dead_lettered, counts.panicked, counts.retried), (3, 3, 4));
    assert!(effects.lock().unwrap().values().all(|numbers| numbers.is_sorted()));
    assert_eq!(read_all(&cluster, &dead, 2).len(), 3);
}

#[test]
fn a_record_that_holds_its_partition_up_raises_an_alarm_and_pauses_only_that_partition() {
    let cluster = Cluster::start();
    let topic = cluster.topic("headofline", 2);
    let writer = consumer_support::Writer::new(&cluster);
    for number in 0..2_000 {
        writer.put(&topic, Some(number % 2), Some(&format!("k{number}")), &number.to_string(), None);
    }
    writer.flush();
    let release = Arc::new(AtomicU32::new(0));
    let gate = Arc::clone(&release);
    let settings = ConsumerOptions {
        window_max: 200,
        in_flight_max: 50,
        retry: quick(100_000),
        ..options(&cluster.name("g"), &topic)
    };
    let running = Running::blocking(&cluster, settings, move |record| {
        if number(record) == 0 && gate.load(Ordering::SeqCst) == 0 {
            return Outcome::Retry { after: Some(Duration::from_millis(5)), reason: "held".into() };
        }
        Outcome::Ok
    });
    let counts = running.until("the other partition is through", |counts| counts.finished >= 1_100);
    assert!(counts.head_of_line >= 1, "{counts:?}");
    until("nothing more comes of the held one", || running.counts().in_flight == 1);
    // One batch may pass the window before it is looked at.
    assert!(running.counts().finished <= 1_000 + 200 + 100, "{:?}", running.counts());
    release.store(1, Ordering::SeqCst);
    let counts = running.until("all", |counts| counts.finished == 2_000);
    assert_eq!((counts.received, counts.repeated), (2_000, 0), "pausing lost and repeated nothing");
    running.stop();
}

/// Consumes one record of `key` and `payload`, which is rejected, beside 20 small ones that are
/// too; returns the letters, by their record's offset.
fn letters_of(
    cluster: &Cluster,
    what: &str,
    letter_bytes_max: &str,
    (key, payload): (&str, &str),
) -> (Vec<Letter>, homing::consumer::ConsumerCounts) {
    let (topic, dead) = (cluster.name(what), cluster.name(&format!("{what}-dead")));
    cluster.create_with(&topic, 1, &[("max.message.bytes", "8000000")]);
    cluster.create_with(&dead, 1, &[("max.message.bytes", letter_bytes_max)]);
    let mut config = cluster.config.clone();
    config.client.insert("message.max.bytes".into(), "8000000".into());
    let producer: rdkafka::producer::BaseProducer = config.producer_config().unwrap().create().unwrap();
    for number in 0..21 {
        let (key, payload) = if number == 10 { (key, payload) } else { ("small", "x") };
        let record = rdkafka::producer::BaseRecord::to(&topic).partition(0).key(key).payload(payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    rdkafka::producer::Producer::flush(&producer, consumer_support::LONG).unwrap();
    let settings = ConsumerOptions {
        dead_letter: Some(TopicName::parse(&dead).unwrap()),
        ..options(&cluster.name(&format!("g-{what}")), &topic)
    };
    let running = Running::blocking(cluster, settings, |_| Outcome::reject("not ours"));
    running.until("all are set aside", |counts| counts.finished == 21);
    let counts = running.stop().counts;
    assert_eq!((counts.dead_lettered, counts.intake_stopped.clone()), (21, None));
    let mut letters = read_all(cluster, &dead, 1);
    letters.sort_by_key(|letter| letter.headers[header::OFFSET].parse::<u64>().unwrap());
    (letters, counts)
}

#[test]
fn a_dead_letter_above_the_clients_usual_limit_is_written_whole() {
    let cluster = Cluster::start();
    let payload = "p".repeat(3_000_000);
    let (letters, counts) = letters_of(&cluster, "large", "8000000", ("k", &payload));
    assert_eq!(counts.dead_letters_cut, 0);
    assert!(letters[10].payload.as_ref() == Some(&payload), "the whole payload");
    assert!(letters.iter().all(|letter| !letter.headers.contains_key(header::LEFT_OUT)));
}

#[test]
fn a_dead_letter_above_its_topics_limit_says_where_its_record_lies_and_why_it_was_given_up() {
    let cluster = Cluster::start();
    let payload = "p".repeat(100_000);
    for (what, key, left_out) in
        [("cut", "k".to_owned(), "payload"), ("bare", "k".repeat(50_000), "payload,key,headers")]
    {
        let (letters, counts) = letters_of(&cluster, what, "20000", (&key, &payload));
        assert_eq!((counts.dead_letters_cut, counts.dead_letter_failures), (1, 0));
        let cut = &letters[10];
        assert_eq!(cut.key.as_deref(), (left_out == "payload").then_some("k"));
        assert_eq!(cut.payload.as_deref(), Some(""), "no tombstone");
        for (name, value) in [
            (header::LEFT_OUT, left_out),
            (header::PAYLOAD_BYTES, "100000"),
            (header::OFFSET, "10"),
            (header::REASON, "not ours"),
            (header::TOPIC, &cluster.name(what)),
        ] {
            assert_eq!(cut.headers[name], value, "{name}");
        }
        let whole = |letter: &Letter| letter.payload.as_deref() == Some("x");
        assert_eq!(letters.iter().filter(|letter| whole(letter)).count(), 20, "its neighbours are whole");
    }
}
