//! What is committed and when, and where a consumer begins: maps, bad metadata, start policies,
//! lost positions.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod consumer_support;

use consumer_support::{Cluster, Running, fill, fill_stamped, number, options};
use homing::consumer::{Consumer, ConsumerError, ConsumerOptions, Outcome, StartPolicy};
use homing::core::{CommitMap, Offset, OffsetSet};
use homing::{KafkaConfig, Shutdown};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A door that handlers wait at until it is opened.
#[derive(Default)]
struct Door(Mutex<bool>, Condvar);

impl Door {
    fn pass(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

type Counts = Arc<Mutex<BTreeMap<u32, u32>>>;

fn counted() -> (Counts, impl Fn(u32) + Clone + Send + Sync + 'static) {
    let counts = Counts::default();
    let into = Arc::clone(&counts);
    (counts, move |number| *into.lock().unwrap().entry(number).or_default() += 1)
}

/// Runs a group until record 0 is stuck and the 99 others are done and committed in the map, then
/// ends it with record 0 unfinished. Leaves the commit as a crash would.
fn leave_one_unfinished(cluster: &Cluster, topic: &str, group: &str) -> (i64, String) {
    fill(cluster, topic, 100, |number| format!("k{number}"));
    let door = Arc::new(Door::default());
    let gate = Arc::clone(&door);
    let settings = ConsumerOptions { drain_timeout: Duration::from_millis(50), ..options(group, topic) };
    let running = Running::blocking(cluster, settings, move |record| {
        if number(record) == 0 {
            gate.pass();
        }
        Outcome::Ok
    });
    running.until("all but the first", |counts| counts.finished == 99);
    consumer_support::until("the map is committed", || {
        cluster.committed(group, topic, 0).is_some_and(|(offset, map)| {
            offset == 0 && CommitMap::decode(&map).is_ok_and(|map| map.done.len() == 99)
        })
    });
    assert_eq!(running.stop().abandoned, 1);
    door.open();
    cluster.committed(group, topic, 0).unwrap()
}

#[test]
fn nothing_behind_an_unfinished_record_is_committed_and_its_map_spares_the_rest_after_a_restart() {
    let cluster = Cluster::start();
    let (topic, group) = (cluster.topic("map", 1), cluster.name("g"));
    let (offset, _) = leave_one_unfinished(&cluster, &topic, &group);
    assert_eq!(offset, 0, "the first is unfinished");
    let (seen, count) = counted();
    let running = Running::blocking(&cluster, options(&group, &topic), move |record| {
        count(number(record));
        Outcome::Ok
    });
    running.until("all", |counts| counts.finished == 100);
    let summary = running.stop();
    assert_eq!(seen.lock().unwrap().keys().copied().collect::<Vec<_>>(), [0], "only the unfinished one");
    assert_eq!((summary.counts.restored, summary.counts.maps_dropped), (99, 0));
    assert_eq!(cluster.committed(&group, &topic, 0).unwrap().0, 100);
}

#[test]
fn a_map_that_is_off_in_any_way_means_more_work_and_never_less() {
    let cluster = Cluster::start();
    let topic = cluster.topic("off", 1);
    let (_, good) = leave_one_unfinished(&cluster, &topic, &cluster.name("maker"));
    let map = CommitMap::decode(&good).unwrap();
    let mut flipped = good.clone().into_bytes();
    let middle = flipped.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let older = CommitMap { leader_epoch: -5, ..map.clone() }.encode(CommitMap::CHARS_MAX);
    let cases = [
        ("flipped", String::from_utf8(flipped).unwrap(), 0),
        ("cut", good[..good.len() - 3].to_owned(), 0),
        ("foreign", "what another tool wrote".to_owned(), 0),
        ("of another offset", good.clone(), 5),
        ("empty", String::new(), 0),
    ];
    for (what, metadata, offset) in cases {
        let group = cluster.name(&what.replace(' ', "-"));
        cluster.commit(&group, &topic, 0, offset, &metadata);
        let (seen, count) = counted();
        let running = Running::blocking(&cluster, options(&group, &topic), move |record| {
            count(number(record));
            Outcome::Ok
        });
        let expected: Vec<u32> = (u32::try_from(offset).unwrap()..100).collect();
        running.until("all", |counts| counts.finished == expected.len() as u64);
        let summary = running.stop();
        assert_eq!(seen.lock().unwrap().keys().copied().collect::<Vec<_>>(), expected, "{what}");
        assert_eq!(summary.counts.maps_dropped, u64::from(what != "empty"), "{what}");
    }
    drop(older);
}

#[test]
fn the_group_goes_on_where_it_was_and_handles_nothing_twice_after_a_clean_stop() {
    let cluster = Cluster::start();
    let (topic, group) = (cluster.topic("resume", 3), cluster.name("g"));
    let (seen, count) = counted();
    for round in 0..3u32 {
        fill(&cluster, &topic, 200, |number| format!("{round}-{number}"));
        let add = count.clone();
        let running = Running::blocking(&cluster, options(&group, &topic), move |record| {
            add(record.partition().0.unsigned_abs() << 16 | record.offset().0 as u32);
            Outcome::Ok
        });
        running.until("this round", |counts| counts.finished == 200);
        running.stop();
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 600);
    assert!(seen.values().all(|count| *count == 1));
}

#[test]
fn the_start_policy_decides_only_where_nothing_is_committed() {
    let cluster = Cluster::start();
    let topic = cluster.topic("start", 1);
    fill(&cluster, &topic, 10, |number| number.to_string());
    let run = |group: &str, start| {
        let settings = ConsumerOptions { start, ..options(group, &topic) };
        Running::blocking(&cluster, settings, |_| Outcome::Ok)
    };

    let refused = run(&cluster.name("error"), StartPolicy::Error).end().unwrap_err();
    assert!(matches!(&refused, ConsumerError::NoCommittedOffset { .. }), "{refused}");
    assert!(refused.to_string().contains("C06"), "{refused}");

    let group = cluster.name("latest");
    let running = run(&group, StartPolicy::Latest);
    consumer_support::until("the choice is committed before anything is handled", || {
        cluster.committed(&group, &topic, 0).is_some_and(|(offset, _)| offset == 10)
    });
    running.stop();
    fill(&cluster, &topic, 5, |number| number.to_string());
    let running = run(&group, StartPolicy::Latest);
    let counts = running.until("what came meanwhile", |counts| counts.finished == 5);
    assert_eq!(counts.received, 5);
    running.stop();

    let running = run(&group, StartPolicy::Error);
    running.until("it is at work", |counts| counts.partitions == 1);
    assert_eq!(running.stop().counts.received, 0);

    let running = run(&cluster.name("earliest"), StartPolicy::Earliest);
    running.until("all", |counts| counts.finished == 15);
    running.stop();
}

#[test]
fn a_position_that_retention_deleted_stops_the_consumer_and_names_the_codes() {
    let cluster = Cluster::start();
    let (topic, group) = (cluster.topic("retention", 1), cluster.name("g"));
    fill(&cluster, &topic, 100, |number| number.to_string());
    cluster.commit(&group, &topic, 0, 20, "");
    cluster.delete_records(&topic, 0, 50);
    let handled = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&handled);
    let running = Running::blocking(&cluster, options(&group, &topic), move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Outcome::Ok
    });
    let error = running.end().unwrap_err();
    let ConsumerError::OutOfRange { offset, low, high, .. } = &error else { panic!("{error}") };
    assert_eq!((*offset, *low, *high), (Offset(20), Offset(50), Offset(100)), "{error}");
    assert!(error.to_string().contains("B17") && error.to_string().contains("C08"), "{error}");
    assert_eq!(handled.load(Ordering::SeqCst), 0, "no silent jump");
    assert_eq!(cluster.committed(&group, &topic, 0).unwrap().0, 20, "the position is as it was");
}

#[test]
fn a_topic_made_anew_is_read_from_its_beginning() {
    let cluster = Cluster::start();
    let (topic, group) = (cluster.topic("anew", 1), cluster.name("g"));
    fill(&cluster, &topic, 50, |number| number.to_string());
    let running = Running::blocking(&cluster, options(&group, &topic), |_| Outcome::Ok);
    running.until("all", |counts| counts.finished == 50);
    running.stop();
    let (offset, map) = cluster.committed(&group, &topic, 0).unwrap();
    assert_eq!(offset, 50);
    cluster.delete(&topic);
    cluster.create(&topic, 1);
    fill(&cluster, &topic, 80, |number| number.to_string());
    // Kafka forgets a deleted topic's offsets; a copied or restored group would still have them.
    cluster.commit(&group, &topic, 0, offset, &map);
    let settings = ConsumerOptions { start: StartPolicy::Error, ..options(&group, &topic) };
    let error = Running::blocking(&cluster, settings, |_| Outcome::Ok).end().unwrap_err();
    assert!(matches!(&error, ConsumerError::TopicRecreated { .. }), "{error}");
    let settings = ConsumerOptions { start: StartPolicy::Latest, ..options(&group, &topic) };
    let running = Running::blocking(&cluster, settings, |_| Outcome::Ok);
    running.until("all of the new topic", |counts| counts.finished == 80);
    running.stop();
}

#[test]
fn foreign_and_stamped_records_are_told_apart_and_a_gap_is_seen_on_the_way_in() {
    let cluster = Cluster::start();
    let topic = cluster.topic("stamped", 1);
    fill_stamped(&cluster, &topic, 0, (1..=20).chain(23..=30).chain([25, 21]));
    fill(&cluster, &topic, 7, |number| number.to_string());
    let stamps: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let into = Arc::clone(&stamps);
    let running = Running::blocking(&cluster, options(&cluster.name("g"), &topic), move |record| {
        if let Some(stamp) = record.stamp() {
            assert_eq!((stamp.stream.as_str(), record.matches_stamp()), ("tests", Some(true)));
            into.lock().unwrap().insert(stamp.seq.0);
        }
        Outcome::Ok
    });
    running.until("all", |counts| counts.finished == 37);
    let counts = running.stop().counts;
    assert_eq!((counts.foreign, counts.gaps, counts.duplicates, counts.filled), (7, 1, 1, 1));
    assert_eq!((counts.corrupted, counts.forks, counts.zombies), (0, 0, 0));
    assert_eq!(stamps.lock().unwrap().len(), 29);
}

#[test]
fn client_settings_below_the_floor_are_refused_by_name() {
    for (key, value) in [
        ("enable.auto.commit", "true"),
        ("enable.auto.offset.store", "true"),
        ("auto.offset.reset", "earliest"),
        ("check.crcs", "false"),
        ("isolation.level", "read_uncommitted"),
        ("enable.partition.eof", "true"),
    ] {
        let mut config = KafkaConfig::new("127.0.0.1:1");
        config.client.insert(key.into(), value.into());
        let error = Consumer::new(config, ConsumerOptions::new("g", ["t"]).unwrap()).unwrap_err();
        assert!(matches!(error, ConsumerError::Config(_)) && error.to_string().contains(key), "{error}");
    }
}

#[test]
fn auto_commit_loses_what_this_consumer_keeps() {
    // The unsafe arm: librdkafka's own auto-commit, records handed to a worker that dies with them.
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    let cluster = Cluster::start();
    let topic = cluster.topic("auto", 1);
    fill(&cluster, &topic, 100, |number| number.to_string());
    let group = cluster.name("unsafe");
    let mut settings = cluster.config.consumer_config(&group).unwrap();
    settings.set("enable.auto.commit", "true").set("enable.auto.offset.store", "true");
    settings.set("auto.offset.reset", "earliest").set("auto.commit.interval.ms", "10");
    let naive: BaseConsumer = settings.create().unwrap();
    naive.subscribe(&[&topic]).unwrap();
    let mut handed_out = 0;
    consumer_support::until("the naive consumer has handed all out and committed", || {
        while naive.poll(Duration::from_millis(100)).is_some_and(|message| message.is_ok()) {
            handed_out += 1;
        }
        cluster.committed(&group, &topic, 0).is_some_and(|(offset, _)| offset == 100)
    });
    // Its worker had finished none of them when the process died.
    let lost = handed_out;
    drop(naive);
    assert_eq!(lost, 100, "the usual code loses every record in its workers' hands");

    // The safe arm: the same death, and every record comes again.
    let (group, door) = (cluster.name("safe"), Arc::new(Door::default()));
    let (gate, begun) = (Arc::clone(&door), Arc::new(AtomicBool::new(false)));
    let first = Arc::clone(&begun);
    let settings = ConsumerOptions { drain_timeout: Duration::from_millis(20), ..options(&group, &topic) };
    let running = Running::blocking(&cluster, settings, move |_| {
        first.store(true, Ordering::SeqCst);
        gate.pass();
        Outcome::Ok
    });
    running.until("records are in the workers' hands", |counts| counts.in_flight == 100);
    assert!(running.stop().abandoned > 0);
    door.open();
    assert_eq!(cluster.committed(&group, &topic, 0).map(|(offset, _)| offset), Some(0));
    let running = Running::blocking(&cluster, options(&group, &topic), |_| Outcome::Ok);
    running.until("all come again", |counts| counts.finished == 100);
    running.stop();
}

#[test]
fn an_unreachable_broker_is_waited_for_and_a_stop_still_ends_it() {
    let settings = ConsumerOptions { drain_timeout: Duration::from_millis(100), ..options("g", "t") };
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let consumer = Consumer::new(KafkaConfig::new("127.0.0.1:1"), settings).unwrap();
    let status = consumer.status();
    let thread = std::thread::spawn(move || consumer.run_blocking(|_| Outcome::Ok, &stop));
    consumer_support::until("trouble shows in the status", || status.counts().last_error.is_some());
    shutdown.trigger();
    assert_eq!(thread.join().unwrap().unwrap().counts.received, 0);
    assert!(OffsetSet::new().is_empty());
}
