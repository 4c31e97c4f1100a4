//! What is hot, stuck or failing keeps to its share: everything else goes on beside it.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod consumer_support;

use consumer_support::{Cluster, Running, Writer, key, number, options, until};
use homing::consumer::{ConsumerOptions, Outcome};
use homing::core::{LaneHash, LaneId, Partition, RetryPolicy};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Holds handlers until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
    inside: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
        drop(self.changed.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// `count` keys whose lanes in the first partition held differ from one another.
fn keys_in_lanes_of_their_own(count: usize) -> Vec<String> {
    let mut lanes = HashSet::new();
    let lane = |key: &String| LaneId::from(LaneHash::of(0, Partition(0), key.as_bytes()));
    (0..).map(|n| format!("k{n}")).filter(|key| lanes.insert(lane(key))).take(count).collect()
}

#[test]
fn a_stuck_key_leaves_its_places_to_the_keys_behind_it() {
    let cluster = Cluster::start();
    let topic = cluster.topic("hot", 1);
    let keys = keys_in_lanes_of_their_own(201);
    let (hot, cold) = keys.split_first().unwrap();
    let writer = Writer::new(&cluster);
    for number in 0..500 {
        writer.put(&topic, Some(0), Some(hot), &number.to_string(), None);
    }
    for (number, key) in cold.iter().enumerate() {
        writer.put(&topic, Some(0), Some(key), &(500 + number).to_string(), None);
    }
    writer.flush();
    let gate = Arc::<Gate>::default();
    let (door, hot) = (Arc::clone(&gate), hot.clone());
    let settings = ConsumerOptions { workers: 4, in_flight_max: 20, ..options(&cluster.name("g"), &topic) };
    let running = Running::blocking(&cluster, settings, move |record| {
        if key(record) == hot {
            door.pass();
        }
        Outcome::Ok
    });
    let counts = running.until("all other keys", |counts| counts.finished == 200);
    assert_eq!(gate.inside.load(Ordering::SeqCst), 1);
    assert!(counts.waiting >= 400, "those behind the stuck one wait: {counts:?}");
    gate.open();
    running.until("all", |counts| counts.finished == 700);
    assert_eq!(running.stop().counts.in_flight, 0);
}

#[test]
fn a_key_that_fails_for_long_raises_an_alarm_and_only_its_partition_waits() {
    let cluster = Cluster::start();
    for (waiting_max, in_flight_bytes_max) in [(200, usize::MAX), (100_000, 2_000)] {
        let topic = cluster.topic(&format!("failing-{waiting_max}"), 3);
        let writer = Writer::new(&cluster);
        for number in 0..6_000 {
            let partition = number % 3;
            let key = if partition == 0 { "failing".to_owned() } else { format!("k{number}") };
            writer.put(&topic, Some(partition), Some(&key), &number.to_string(), None);
        }
        writer.flush();
        let mended = Arc::new(AtomicBool::new(false));
        let is_mended = Arc::clone(&mended);
        let settings = ConsumerOptions {
            waiting_max,
            in_flight_bytes_max,
            in_flight_max: 100,
            retry: RetryPolicy { attempts_max: u32::MAX, ..RetryPolicy::default() },
            ..options(&cluster.name(&format!("g{waiting_max}")), &topic)
        };
        let running = Running::blocking(&cluster, settings, move |record| {
            if key(record) == "failing" && !is_mended.load(Ordering::SeqCst) {
                return Outcome::Retry { after: Some(Duration::from_millis(5)), reason: "down".into() };
            }
            Outcome::Ok
        });
        running.until("the other partitions are through", |counts| counts.finished == 4_000);
        running.until("an alarm", |counts| counts.head_of_line >= 1);
        mended.store(true, Ordering::SeqCst);
        let counts = running.until("all", |counts| counts.finished == 6_000);
        assert_eq!((counts.received, counts.repeated), (6_000, 0), "holding back lost and repeated nothing");
        running.stop();
    }
}

#[test]
fn stuck_records_hold_nothing_but_their_lanes_whatever_the_workers_had_taken() {
    const KEYS: usize = 3_000;
    const WORKERS: usize = 16;
    let cluster = Cluster::start();
    let topic = cluster.topic("stuck", 1);
    let keys = keys_in_lanes_of_their_own(KEYS);
    let writer = Writer::new(&cluster);
    for (number, key) in keys.iter().enumerate() {
        writer.put(&topic, Some(0), Some(key), &number.to_string(), None);
    }
    writer.flush();
    // Spread over what comes once chunks have grown; one worker more than gets stuck remains.
    let stuck = |number: u32| number >= 1_000 && number.is_multiple_of(133) && number < KEYS as u32;
    let stuck_ones = (0..KEYS as u32).filter(|number| stuck(*number)).count();
    assert_eq!(stuck_ones, WORKERS - 1);
    let gate = Arc::<Gate>::default();
    let door = Arc::clone(&gate);
    let settings = ConsumerOptions { workers: WORKERS, ..options(&cluster.name("g"), &topic) };
    let running = Running::blocking(&cluster, settings, move |record| {
        if stuck(number(record)) {
            door.pass();
        }
        Outcome::Ok
    });
    let first = (KEYS - stuck_ones) as u64;
    running.until("all that are not stuck", |counts| counts.finished == first);
    until("they are all stuck", || gate.inside.load(Ordering::SeqCst) == stuck_ones);
    // Every lane but the stuck ones goes on, those that were handled in front of a stuck record too.
    for (number, key) in keys.iter().enumerate().filter(|(number, _)| !stuck(*number as u32)) {
        writer.put(&topic, Some(0), Some(key), &(KEYS + number).to_string(), None);
    }
    writer.flush();
    running.until("their next records", |counts| counts.finished == 2 * first);
    gate.open();
    running.until("all", |counts| counts.finished == 2 * first + stuck_ones as u64);
    running.stop();
}

#[test]
fn a_failure_in_front_of_a_stuck_record_is_tried_again_at_once() {
    let cluster = Cluster::start();
    let topic = cluster.topic("behind", 1);
    let keys = keys_in_lanes_of_their_own(2_001);
    let writer = Writer::new(&cluster);
    for (number, key) in keys.iter().enumerate() {
        writer.put(&topic, Some(0), Some(key), &number.to_string(), None);
    }
    writer.flush();
    let gate = Arc::<Gate>::default();
    let (door, failed) = (Arc::clone(&gate), Mutex::new(HashSet::new()));
    let settings = ConsumerOptions {
        workers: 2,
        retry: RetryPolicy { backoff_first: Duration::from_millis(1), ..RetryPolicy::default() },
        ..options(&cluster.name("g"), &topic)
    };
    let running = Running::blocking(&cluster, settings, move |record| {
        let number = number(record);
        if number == 1_900 {
            door.pass();
        }
        // All of the last ones fail once, so also those of the stuck worker's chunk.
        match number >= 1_500 && number != 1_900 && failed.lock().unwrap().insert(number) {
            true => Outcome::retry("once"),
            false => Outcome::Ok,
        }
    });
    running.until("all but the stuck one", |counts| counts.finished == 2_000);
    gate.open();
    running.until("all", |counts| counts.finished == 2_001);
    running.stop();
}

#[test]
fn retries_that_come_due_together_run_no_more_async_handlers_than_allowed() {
    const AT_ONCE: usize = 10;
    let cluster = Cluster::start();
    let topic = cluster.topic("due", 2);
    consumer_support::fill(&cluster, &topic, 1_000, |number| format!("k{number}"));
    let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running_now, highest) = (Arc::clone(&now), Arc::clone(&peak));
    let tried = Arc::new(Mutex::new(HashSet::new()));
    let settings =
        ConsumerOptions { workers: 2, in_flight_max: AT_ONCE, ..options(&cluster.name("g"), &topic) };
    let running = Running::start(cluster.config.clone(), settings, move |consumer, shutdown| {
        consumer.run_async(
            move |record| {
                let (running_now, highest, tried) =
                    (Arc::clone(&running_now), Arc::clone(&highest), Arc::clone(&tried));
                async move {
                    if tried.lock().unwrap().insert(number(&record)) {
                        let after = Some(Duration::from_millis(50));
                        return Outcome::Retry { after, reason: "first".into() };
                    }
                    highest.fetch_max(running_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    running_now.fetch_sub(1, Ordering::SeqCst);
                    Outcome::Ok
                }
            },
            shutdown,
        )
    });
    running.until("all", |counts| counts.finished == 1_000);
    running.stop();
    let peak = peak.load(Ordering::SeqCst);
    assert!((2..=AT_ONCE).contains(&peak), "{peak} at once");
}
