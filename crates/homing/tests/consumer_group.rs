//! Several members: partitions move under load, nothing is lost, and late completions change nothing.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod consumer_support;

use consumer_support::{Cluster, Running, Writer, fill, key, number, options, until};
use homing::consumer::{ConsumerOptions, Outcome, Record};
use homing::{KafkaConfig, core::Partition};
use homing_broker::{ApiKey, Count, Fault};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What all members together did: attempts per number, and per (partition, key) the order.
#[derive(Default)]
struct Ledger {
    tries: Mutex<BTreeMap<u32, u32>>,
    order: Mutex<HashMap<(i32, String), Vec<u32>>>,
}

impl Ledger {
    fn note(&self, record: &Record) {
        *self.tries.lock().unwrap().entry(number(record)).or_default() += 1;
        let lane = (record.partition().0, key(record));
        self.order.lock().unwrap().entry(lane).or_default().push(number(record));
    }

    fn distinct(&self) -> usize {
        self.tries.lock().unwrap().len()
    }

    /// Nothing missing; what a drained rebalance hands over is handled once.
    fn check(&self, expected: u32, extra_max: u32) {
        let tries = self.tries.lock().unwrap();
        let missing: Vec<u32> = (0..expected).filter(|number| !tries.contains_key(number)).collect();
        assert_eq!(missing, Vec::<u32>::new());
        let extra: u32 = tries.values().map(|count| count - 1).sum();
        assert!(extra <= extra_max, "{extra} handled again");
        for (lane, numbers) in self.order.lock().unwrap().iter() {
            let mut highest = None;
            for number in numbers {
                // A number seen first comes in order; only repeats may step back.
                if tries[number] == 1 {
                    assert!(highest < Some(*number), "{lane:?}: {numbers:?}");
                }
                highest = highest.max(Some(*number));
            }
        }
    }
}

fn with_strategy(cluster: &Cluster, strategy: &str) -> KafkaConfig {
    let mut config = cluster.config.clone();
    config.client.insert("partition.assignment.strategy".into(), strategy.into());
    config
}

fn member(config: &KafkaConfig, settings: ConsumerOptions, ledger: &Arc<Ledger>) -> Running {
    let ledger = Arc::clone(ledger);
    Running::start(config.clone(), settings, move |consumer, shutdown| {
        consumer.run_blocking(
            move |record| {
                ledger.note(record);
                std::thread::sleep(Duration::from_micros(200));
                Outcome::Ok
            },
            shutdown,
        )
    })
}

#[test]
fn partitions_move_between_members_under_load_and_every_record_is_handled_once() {
    for strategy in ["cooperative-sticky", "range"] {
        let cluster = Cluster::start();
        let topic = cluster.topic("moves", 6);
        let (config, ledger) = (with_strategy(&cluster, strategy), Arc::<Ledger>::default());
        let settings =
            ConsumerOptions { workers: 8, in_flight_max: 400, ..options(&cluster.name("g"), &topic) };
        let writing = Arc::new(AtomicU32::new(0));
        let (writer, written, name) = (Writer::new(&cluster), Arc::clone(&writing), topic.clone());
        let stop_writing = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stop_writing);
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    writer.flush();
                    return;
                }
                writer.put(&name, None, Some(&format!("k{}", number % 200)), &number.to_string(), None);
                written.store(number + 1, Ordering::SeqCst);
                if number % 20 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let first = member(&config, settings.clone(), &ledger);
        first.until("one has all", |counts| counts.partitions == 6 && counts.finished > 500);
        let second = member(&config, settings.clone(), &ledger);
        second.until("they share", |counts| counts.partitions == 3 && counts.finished > 500);
        first.until("they share", |counts| counts.partitions == 3);
        let gone = first.stop().counts;
        second.until("the other has all", |counts| counts.partitions == 6);
        let third = member(&config, settings, &ledger);
        third.until("they share again", |counts| counts.partitions == 3 && counts.finished > 200);
        stop_writing.store(true, Ordering::SeqCst);
        thread.join().unwrap();
        let expected = writing.load(Ordering::SeqCst);
        until("all of it", || ledger.distinct() == expected as usize);
        let (second, third) = (second.stop().counts, third.stop().counts);
        ledger.check(expected, 0);
        let lost = gone.lost + second.lost + third.lost;
        assert_eq!((lost, gone.stale + second.stale + third.stale), (0, 0), "{strategy}");
        assert!(gone.revoked >= 3 && second.revoked >= 3, "{strategy}: {gone:?} {second:?}");
    }
}

#[test]
fn a_completion_that_comes_after_its_partition_was_given_up_changes_nothing() {
    let cluster = Cluster::start();
    let topic = cluster.topic("stale", 2);
    let writer = Writer::new(&cluster);
    for number in 0..40 {
        writer.put(&topic, Some(number % 2), Some(&format!("k{number}")), &number.to_string(), None);
    }
    writer.flush();
    let door: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let (gate, group) = (Arc::clone(&door), cluster.name("g"));
    // Too short for the handlers that wait at the door: they are overtaken.
    let settings = ConsumerOptions { drain_timeout: Duration::from_millis(100), ..options(&group, &topic) };
    let slow = Running::blocking(&cluster, settings.clone(), move |record| {
        if number(record) < 2 {
            drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
        }
        Outcome::Ok
    });
    slow.until("all but two", |counts| counts.finished == 38);
    let again: Arc<Mutex<Vec<u32>>> = Arc::default();
    let seen = Arc::clone(&again);
    let other = Running::blocking(&cluster, settings, move |record| {
        seen.lock().unwrap().push(number(record));
        Outcome::Ok
    });
    other.until("it has a partition and its unfinished record", |counts| counts.finished >= 1);
    let done = |partition| cluster.committed(&group, &topic, partition).is_some_and(|(at, _)| at == 20);
    until("the one that moved is committed by its new owner", || (0..2).filter(|p| done(*p)).count() == 1);
    *door.0.lock().unwrap() = true;
    door.1.notify_all();
    let counts = slow.until("the late one is noticed", |counts| counts.stale == 1);
    assert_eq!(counts.finished, 39, "the late one does not count, the one still held does");
    slow.stop();
    other.until("the rest", |counts| counts.partitions == 2);
    other.stop();
    assert_eq!(again.lock().unwrap().len(), 1, "the map spared it the others");
    for partition in 0..2 {
        assert_eq!(cluster.committed(&group, &topic, partition).unwrap().0, 20);
    }
}

#[test]
fn partitions_lost_without_warning_are_not_committed_and_come_back_with_the_group() {
    let cluster = Cluster::between();
    let topic = cluster.topic("lost", 2);
    fill(&cluster, &topic, 200, |number| format!("k{number}"));
    let mut config = cluster.config.clone();
    config.client.insert("session.timeout.ms".into(), "6000".into());
    config.client.insert("heartbeat.interval.ms".into(), "200".into());
    let group = cluster.name("g");
    let tries = Arc::new(AtomicU64::new(0));
    let (count, hold) = (Arc::clone(&tries), Arc::new(AtomicBool::new(true)));
    let held = Arc::clone(&hold);
    // Commits so rarely that only an orderly revocation would make one.
    let settings = ConsumerOptions { commit_interval: Duration::from_secs(3600), ..options(&group, &topic) };
    let running = Running::start(config, settings, move |consumer, shutdown| {
        consumer.run_blocking(
            move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                while held.load(Ordering::SeqCst) && count.load(Ordering::SeqCst) > 150 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Outcome::Ok
            },
            shutdown,
        )
    });
    running.until("some are done", |counts| counts.finished >= 100);
    // The coordinator does not know this member any more (UNKNOWN_MEMBER_ID).
    cluster.faults().inject(ApiKey::Heartbeat, Fault::ErrorCode(25), Count::Once);
    running.until("the partitions are lost", |counts| counts.lost == 2);
    for partition in 0..2 {
        let committed = cluster.committed(&group, &topic, partition).map_or(0, |(offset, _)| offset);
        assert_eq!(committed, 0, "partition {partition}");
    }
    hold.store(false, Ordering::SeqCst);
    running.until("all again", |counts| {
        counts.partitions == 2 && counts.in_flight == 0 && counts.finished >= 300
    });
    let counts = running.stop().counts;
    assert!(counts.stale > 0, "{counts:?}");
    let committed: i64 = (0..2).map(|p| cluster.committed(&group, &topic, p).unwrap().0).sum();
    assert_eq!(committed, 200);
}

#[test]
fn a_member_with_an_instance_id_restarts_without_a_rebalance() {
    let cluster = Cluster::start();
    let topic = cluster.topic("static", 4);
    let group = cluster.name("g");
    let with_id = |id: &str| ConsumerOptions { instance_id: Some(id.to_owned()), ..options(&group, &topic) };
    let ledger = Arc::<Ledger>::default();
    let steady = member(&cluster.config, with_id("a"), &ledger);
    let restarted = member(&cluster.config, with_id("b"), &ledger);
    steady.until("they share", |counts| counts.partitions == 2);
    restarted.until("they share", |counts| counts.partitions == 2);
    let revoked = steady.counts().revoked;
    for round in 0..3u32 {
        fill(&cluster, &topic, 100, |number| format!("{round}-{number}"));
    }
    drop(restarted);
    let restarted = member(&cluster.config, with_id("b"), &ledger);
    restarted.until("its partitions are back", |counts| counts.partitions == 2);
    assert_eq!(steady.counts().revoked, revoked, "nobody else was disturbed");
    until("all is handled", || ledger.order.lock().unwrap().values().map(Vec::len).sum::<usize>() == 300);
    steady.stop();
    restarted.stop();
}

/// The group gives a restarted static member what it had, and asks nobody to share out anew; what was
/// added to the topic meanwhile would be nobody's for as long as the members live.
fn partitions_added_while_static_members_were_away_are_taken_up(strategy: &str, names: &[&str]) {
    let cluster = Cluster::start();
    let topic = cluster.topic("grown", 2);
    let group = cluster.name("g");
    let (config, ledger) = (with_strategy(&cluster, strategy), Arc::<Ledger>::default());
    let start = |name: &&str| {
        let instance_id = Some((*name).to_owned());
        member(&config, ConsumerOptions { instance_id, ..options(&group, &topic) }, &ledger)
    };
    let held = |members: &[Running]| members.iter().map(|member| member.counts().partitions).sum::<u64>();
    let members: Vec<Running> = names.iter().map(start).collect();
    until("the members share", || held(&members) == 2);
    members.into_iter().for_each(|member| drop(member.stop()));
    cluster.grow(&topic, 6);
    let members: Vec<Running> = names.iter().map(start).collect();
    let writer = Writer::new(&cluster);
    (0..600).for_each(|number| {
        let partition = Some(number % 6);
        writer.put(&topic, partition, Some(&format!("k{number}")), &number.to_string(), None);
    });
    writer.flush();
    until("every record is handled", || ledger.distinct() == 600);
    until("every partition is somebody's", || held(&members) == 6);
    members.into_iter().for_each(|member| drop(member.stop()));
    ledger.check(600, 0);
}

#[test]
fn partitions_added_while_a_static_member_was_away_are_taken_up_by_it() {
    partitions_added_while_static_members_were_away_are_taken_up("cooperative-sticky", &["only"]);
}

#[test]
fn partitions_added_while_all_static_members_were_away_are_taken_up_by_them() {
    partitions_added_while_static_members_were_away_are_taken_up("range", &["one", "other"]);
}

/// It looks 2 s after it was given its partitions, and asks for up to 5 s: a coordinator that is back
/// only after that answers a question nobody waits for any more.
#[test]
fn a_static_member_outlives_a_cluster_that_is_away_while_it_looks_after_its_group() {
    let cluster = Cluster::between();
    let topic = cluster.topic("away", 2);
    let settings = ConsumerOptions { instance_id: Some("a".into()), ..options(&cluster.name("g"), &topic) };
    let ledger = Arc::<Ledger>::default();
    let running = member(&cluster.config, settings, &ledger);
    running.until("it is at work", |counts| counts.partitions == 2);
    cluster.cut();
    std::thread::sleep(Duration::from_secs(9));
    cluster.mend();
    fill(&cluster, &topic, 100, |number| format!("k{number}"));
    until("every record is handled", || ledger.distinct() == 100);
    running.stop();
    ledger.check(100, 0);
}

#[test]
fn a_commit_that_fails_is_made_again() {
    let cluster = Cluster::between();
    let topic = cluster.topic("commitfails", 1);
    fill(&cluster, &topic, 100, |number| format!("k{number}"));
    let group = cluster.name("g");
    let running = Running::blocking(&cluster, options(&group, &topic), |_| Outcome::Ok);
    running.until("all", |counts| counts.finished == 100);
    // REQUEST_TIMED_OUT from the coordinator, and a lost answer.
    cluster.faults().inject(ApiKey::OffsetCommit, Fault::ErrorCode(7), Count::Times(2));
    cluster.faults().inject(ApiKey::OffsetCommit, Fault::DropResponse, Count::Once);
    fill(&cluster, &topic, 100, |number| format!("m{number}"));
    running.until("all", |counts| counts.finished == 200);
    until("it is committed all the same", || cluster.committed(&group, &topic, 0).unwrap().0 == 200);
    running.stop();
}

#[test]
fn a_broken_connection_loses_and_repeats_nothing() {
    let cluster = Cluster::between();
    let topic = cluster.topic("broken", 3);
    let ledger = Arc::<Ledger>::default();
    let settings = options(&cluster.name("g"), &topic);
    let running = member(&cluster.config, settings, &ledger);
    running.until("it is at work", |counts| counts.partitions == 3);
    for round in 0..5u32 {
        let writer = Writer::new(&cluster);
        for number in round * 200..(round + 1) * 200 {
            writer.put(&topic, None, Some(&format!("k{}", number % 10)), &number.to_string(), None);
        }
        cluster.faults().inject(ApiKey::Fetch, Fault::DropResponse, Count::Times(2));
        cluster.faults().inject(ApiKey::Fetch, Fault::DropConnection, Count::Once);
        cluster.faults().inject(ApiKey::Fetch, Fault::ErrorCode(6), Count::Once);
        writer.flush();
        until("this round", || ledger.distinct() == ((round + 1) * 200) as usize);
    }
    let counts = running.stop().counts;
    ledger.check(1_000, 0);
    assert_eq!((counts.lost, counts.repeated), (0, 0), "{counts:?}");
    assert_eq!(Partition(0).to_string(), "0");
}

#[test]
fn a_topic_that_is_made_after_the_consumer_started_is_picked_up_within_seconds() {
    let cluster = Cluster::start();
    let topic = cluster.name("later");
    let running = Running::blocking(&cluster, options(&cluster.name("g"), &topic), |_| Outcome::Ok);
    running.until("the missing topic shows", |counts| counts.last_error.is_some());
    cluster.create(&topic, 2);
    fill(&cluster, &topic, 20, |number| format!("k{number}"));
    let begun = std::time::Instant::now();
    running.until("all", |counts| counts.finished == 20);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    running.stop();
}
