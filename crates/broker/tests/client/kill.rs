//! SIGKILL to a broker under load, again and again: what it acknowledged is there afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::{Admin, Group, Producer, Serve, Served, eventually};

/// What the child process is told to run.
const THIS_TEST: &str = "kill::embedded_a_killed_broker_keeps_every_acknowledged_record_and_commit";
const ROUNDS: u32 = 12;

/// Pseudo-random, so that a failing run can be repeated.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Commits 1, 2, 3 … in a thread of its own, for each waits for its answer, however long the
/// broker is away; `confirmed` is the last that was confirmed.
fn commit_until(
    stop: &Arc<AtomicBool>,
    confirmed: &Arc<AtomicI64>,
    address: &str,
    settings: [(&'static str, &'static str); 3],
) -> JoinHandle<()> {
    let (stop, confirmed, address) = (Arc::clone(stop), Arc::clone(confirmed), address.to_owned());
    std::thread::spawn(move || {
        let group = Group::new(&address, "g", &settings);
        while !stop.load(Ordering::SeqCst) {
            let next = confirmed.load(Ordering::SeqCst) + 1;
            if group.commit("t", 0, next, "map").is_ok() {
                confirmed.store(next, Ordering::SeqCst);
            }
        }
    })
}

#[test]
fn embedded_a_killed_broker_keeps_every_acknowledged_record_and_commit() {
    if Served::was_the_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let serve = Serve { test: THIS_TEST, dir: dir.path(), at: None, file_kib_max: None };
    let mut served = Served::start(serve);
    let at = served.address;
    let address = at.to_string();
    Admin::new(&address).create("t", 2, &[]).unwrap();
    let fast =
        [("reconnect.backoff.ms", "10"), ("reconnect.backoff.max.ms", "50"), ("retry.backoff.ms", "10")];
    let mut settings = vec![("enable.idempotence", "true"), ("linger.ms", "1")];
    settings.extend(fast);
    let producer = Producer::new(&address, &settings);
    let stop = Arc::new(AtomicBool::new(false));
    let confirmed = Arc::new(AtomicI64::new(0));
    let committer = commit_until(&stop, &confirmed, &address, fast);
    let (mut sent, mut seed) = (0_usize, 20_261_123_u64);
    for _ in 0..ROUNDS {
        // Each broker confirms something before it is killed.
        let before = confirmed.load(Ordering::SeqCst);
        eventually("a commit is confirmed", || (confirmed.load(Ordering::SeqCst) > before).then_some(()));
        let end = Instant::now() + Duration::from_millis(20 + next(&mut seed) % 80);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
            served.kill();
        });
        while !killer.is_finished() {
            for _ in 0..20 {
                producer.queue("t", (sent % 2) as i32, None, Some(sent.to_string().as_bytes()));
                sent += 1;
            }
            producer.0.poll(Duration::from_millis(1));
        }
        killer.join().unwrap();
        served = Served::start(Serve { at: Some(at), ..serve });
    }
    stop.store(true, Ordering::SeqCst);
    committer.join().unwrap();
    let committed = confirmed.load(Ordering::SeqCst);
    let deliveries = producer.deliveries();
    let mut acknowledged: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    for delivery in &deliveries {
        let place = delivery.expect("no send may fail: the broker always came back");
        *acknowledged.entry(place).or_default() += 1;
    }
    assert_eq!(acknowledged.len(), sent, "every record has a place of its own");
    let read = Group::assigned(&address, "t", 2, &[]).read(sent);
    for partition in 0..2 {
        let mine: Vec<usize> =
            read.iter().filter(|r| r.partition == partition).map(|r| r.text().parse().unwrap()).collect();
        let expected: Vec<usize> = (0..sent).filter(|n| n % 2 == partition as usize).collect();
        assert!(mine == expected, "partition {partition}: {} of {} in order", mine.len(), expected.len());
    }
    let kept = Group::new(&address, "g", &[]).committed("t", 0).map_or(0, |(offset, _)| offset);
    assert!(kept >= committed, "a confirmed commit of {committed} went back to {kept}");
    println!("{ROUNDS} kills, {sent} records, {committed} confirmed commits, none lost");
    served.kill();
}
