//! Order by key, by partition and none; batches and async; the limits on what is in flight.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod consumer_support;

use consumer_support::{Cluster, Running, fill, key, number, options};
use homing::consumer::{BatchOutcome, ConsumerOptions, Outcome, Record};
use homing::core::ProcessingOrder;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Zipf-like: key 0 is drawn most often.
fn zipf(number: u32) -> String {
    let even = f64::from(number.wrapping_mul(2_654_435_761)) / f64::from(u32::MAX);
    format!("key-{}", 1000f64.powf(even) as u32)
}

/// Checks that records of one lane start in order and never at once.
#[derive(Default)]
struct Referee {
    lanes: Mutex<HashMap<String, (Option<i64>, bool)>>,
    wrong: Mutex<Vec<String>>,
    seen: AtomicUsize,
}

impl Referee {
    fn begin(&self, lane: &str, record: &Record) {
        let mut lanes = self.lanes.lock().unwrap();
        let (last, busy) = lanes.entry(lane.to_owned()).or_default();
        if *busy || last.is_some_and(|last| last >= record.offset().0) {
            self.wrong.lock().unwrap().push(format!("{lane}: {record:?} after {last:?}, busy {busy}"));
        }
        (*last, *busy) = (Some(record.offset().0), true);
    }

    fn end(&self, lane: &str) {
        self.lanes.lock().unwrap().get_mut(lane).unwrap().1 = false;
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    fn verdict(&self, expected: usize) {
        assert_eq!(*self.wrong.lock().unwrap(), Vec::<String>::new());
        assert_eq!(self.seen.load(Ordering::Relaxed), expected);
    }
}

fn lane(order: ProcessingOrder, record: &Record) -> String {
    match order {
        ProcessingOrder::Key => format!("{}/{}", record.partition(), key(record)),
        ProcessingOrder::Partition => record.partition().to_string(),
        ProcessingOrder::Unordered => format!("{record:?}"),
    }
}

#[test]
fn every_order_keeps_its_lanes_in_order_under_sixteen_workers_and_zipf_keys() {
    let cluster = Cluster::start();
    let topic = cluster.topic("order", 4);
    fill(&cluster, &topic, 20_000, zipf);
    for order in [ProcessingOrder::Key, ProcessingOrder::Partition, ProcessingOrder::Unordered] {
        let referee = Arc::new(Referee::default());
        let (judge, group) = (Arc::clone(&referee), cluster.name(&format!("{order:?}")));
        let settings = ConsumerOptions { order, workers: 16, ..options(&group, &topic) };
        let running = Running::blocking(&cluster, settings, move |record| {
            let lane = lane(order, record);
            judge.begin(&lane, record);
            if number(record).is_multiple_of(97) {
                std::thread::sleep(Duration::from_micros(300));
            }
            judge.end(&lane);
            Outcome::Ok
        });
        running.until("all", |counts| counts.finished == 20_000);
        let summary = running.stop();
        referee.verdict(20_000);
        assert_eq!((summary.counts.in_flight, summary.abandoned), (0, 0));
        let committed: i64 = (0..4).map(|p| cluster.committed(&group, &topic, p).unwrap().0).sum();
        assert_eq!(committed, 20_000, "{order:?}");
    }
}

#[test]
fn async_handlers_keep_their_lanes_in_order_and_run_side_by_side() {
    let cluster = Cluster::start();
    let topic = cluster.topic("async", 4);
    fill(&cluster, &topic, 10_000, zipf);
    let (referee, peak, now) =
        (Arc::new(Referee::default()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (judge, highest, running_now) = (Arc::clone(&referee), Arc::clone(&peak), Arc::clone(&now));
    let settings = ConsumerOptions { workers: 2, in_flight_max: 500, ..options(&cluster.name("g"), &topic) };
    let running = Running::start(cluster.config.clone(), settings, move |consumer, shutdown| {
        consumer.run_async(
            move |record| {
                let (judge, highest, running_now) =
                    (Arc::clone(&judge), Arc::clone(&highest), Arc::clone(&running_now));
                async move {
                    let lane = lane(ProcessingOrder::Key, &record);
                    judge.begin(&lane, &record);
                    highest.fetch_max(running_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    if !number(&record).is_multiple_of(3) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    running_now.fetch_sub(1, Ordering::SeqCst);
                    judge.end(&lane);
                    Outcome::Ok
                }
            },
            shutdown,
        )
    });
    running.until("all", |counts| counts.finished == 10_000);
    running.stop();
    referee.verdict(10_000);
    let peak = peak.load(Ordering::SeqCst);
    assert!((50..=500).contains(&peak), "{peak} at once");
}

#[test]
fn batches_hold_each_lane_in_order_and_one_failure_repeats_only_its_lane() {
    let cluster = Cluster::start();
    let topic = cluster.topic("batch", 2);
    fill(&cluster, &topic, 5_000, zipf);
    let (sizes, failed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let log: Arc<Mutex<HashMap<String, Vec<u32>>>> = Arc::default();
    let (sizes_of, failed_once, effects) = (Arc::clone(&sizes), Arc::clone(&failed), Arc::clone(&log));
    let mut settings = options(&cluster.name("g"), &topic);
    settings.retry.backoff_first = Duration::from_millis(5);
    let running = Running::start(cluster.config.clone(), settings, move |consumer, shutdown| {
        consumer.run_batches(
            200,
            move |records| {
                sizes_of.lock().unwrap().push(records.len());
                let one = |record: &&Record| {
                    if number(record) == 2_500 && !failed_once.swap(true, Ordering::SeqCst) {
                        return Outcome::retry("once");
                    }
                    let lane = lane(ProcessingOrder::Key, record);
                    effects.lock().unwrap().entry(lane).or_default().push(number(record));
                    Outcome::Ok
                };
                BatchOutcome::Each(records.iter().map(one).collect())
            },
            shutdown,
        )
    });
    running.until("all", |counts| counts.finished == 5_000);
    let summary = running.stop();
    assert_eq!(summary.counts.retried, 1);
    assert!(sizes.lock().unwrap().iter().any(|size| *size > 20), "batches are batches");
    assert!(sizes.lock().unwrap().iter().all(|size| *size <= 200));
    for (lane, numbers) in log.lock().unwrap().iter() {
        // Those behind the failure came again after it; everything else came once, in order.
        let mut firsts = numbers.clone();
        firsts.sort_unstable();
        firsts.dedup();
        if firsts.len() == numbers.len() {
            assert_eq!(&firsts, numbers, "{lane}");
        } else {
            let repeat = numbers.windows(2).position(|pair| pair[0] > pair[1]).unwrap() + 1;
            assert!(numbers[repeat..].is_sorted() && numbers[repeat] == 2_500, "{lane}: {numbers:?}");
        }
    }
}

#[test]
fn no_more_is_in_flight_than_the_limits_allow() {
    let cluster = Cluster::start();
    let topic = cluster.topic("limits", 3);
    fill(&cluster, &topic, 5_000, |number| format!("k{number}"));
    for (records_max, bytes_max) in [(64, usize::MAX), (10_000, 2_000)] {
        let gate: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let (door, peak, seen) =
            (Arc::clone(&gate), Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let handled = Arc::clone(&seen);
        let settings = ConsumerOptions {
            in_flight_max: records_max,
            in_flight_bytes_max: bytes_max,
            workers: 4,
            ..options(&cluster.name(&format!("g{records_max}")), &topic)
        };
        let running = Running::blocking(&cluster, settings, move |_| {
            let open = door.1.wait_while(door.0.lock().unwrap(), |open| !*open);
            drop(open.unwrap());
            handled.fetch_add(1, Ordering::SeqCst);
            Outcome::Ok
        });
        running.until("the limit is met", |counts| counts.in_flight >= 60);
        let mut steady = 0;
        consumer_support::until("nothing more comes in", || {
            let now = running.counts().in_flight;
            let before = peak.swap(now, Ordering::SeqCst);
            steady = if before == now { steady + 1 } else { 0 };
            steady > 20
        });
        let counts = running.counts();
        // Records are 2 to 4 bytes of payload and 2 to 5 of key; a batch is at most 1,024.
        assert!(counts.in_flight - counts.waiting <= records_max as u64, "{counts:?}");
        assert!(
            bytes_max == usize::MAX || counts.in_flight_bytes <= (bytes_max + 1_024 * 9) as u64,
            "{counts:?}"
        );
        assert_eq!(seen.load(Ordering::SeqCst), 0);
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        running.until("all", |counts| counts.finished == 5_000);
        running.stop();
    }
}

#[test]
fn what_a_worker_finished_before_it_got_stuck_counts_at_once() {
    const STUCK: u32 = 1_500;
    let cluster = Cluster::start();
    let topic = cluster.topic("stuck", 1);
    fill(&cluster, &topic, 2_000, |number| format!("k{number}"));
    let gate: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let (door, stuck, handled) =
        (Arc::clone(&gate), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (is_stuck, count) = (Arc::clone(&stuck), Arc::clone(&handled));
    // One worker, whose chunks have grown by the time it comes to the record that holds it up.
    let settings = ConsumerOptions { workers: 1, ..options(&cluster.name("g"), &topic) };
    let running = Running::blocking(&cluster, settings, move |record| {
        if number(record) == STUCK {
            is_stuck.store(true, Ordering::SeqCst);
            drop(door.1.wait_while(door.0.lock().unwrap(), |open| !*open).unwrap());
        }
        count.fetch_add(1, Ordering::SeqCst);
        Outcome::Ok
    });
    consumer_support::until("it is stuck", || stuck.load(Ordering::SeqCst));
    running.until("all handled before", |counts| counts.finished == handled.load(Ordering::SeqCst));
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    running.until("all", |counts| counts.finished == 2_000);
    running.stop();
}
