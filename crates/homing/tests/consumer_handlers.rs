//! Handlers and what is around them: partitions that go while they run, runtimes they run on.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod consumer_support;

use consumer_support::{Cluster, LONG, Running, Writer, fill, options, until};
use homing::Shutdown;
use homing::consumer::{Consumer, ConsumerError, ConsumerOptions, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Counts handlers that were dropped before they ended.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Two partitions with one record each, and settings under which a move does not wait for handlers.
fn one_each(cluster: &Cluster, what: &str) -> (String, ConsumerOptions) {
    let topic = cluster.topic(what, 2);
    let writer = Writer::new(cluster);
    for partition in 0..2 {
        writer.put(&topic, Some(partition), Some("k"), &partition.to_string(), None);
    }
    writer.flush();
    let drain_timeout = Duration::from_millis(100);
    let settings = ConsumerOptions { drain_timeout, workers: 2, ..options(&cluster.name("g"), &topic) };
    (topic, settings)
}

#[test]
fn an_async_handler_is_dropped_when_its_partition_becomes_anothers() {
    let cluster = Cluster::start();
    let (_, settings) = one_each(&cluster, "dropped");
    let (dropped, begun, told) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (guard, count, tell) = (Arc::clone(&dropped), Arc::clone(&begun), Arc::clone(&told));
    let first = Running::start(cluster.config.clone(), settings.clone(), move |consumer, shutdown| {
        consumer.run_async_with(
            move |_, context| {
                let (guard, tell) = (Guard(Arc::clone(&guard)), Arc::clone(&tell));
                count.fetch_add(1, Ordering::SeqCst);
                async move {
                    let _guard = guard;
                    // Started beside the handler, so it is not dropped with it.
                    let beside = tokio::spawn(async move {
                        context.cancelled().await;
                        assert!(context.is_cancelled());
                        tell.fetch_add(1, Ordering::SeqCst);
                    });
                    std::future::pending::<()>().await;
                    drop(beside);
                    Outcome::Ok
                }
            },
            shutdown,
        )
    });
    until("both handlers run", || begun.load(Ordering::SeqCst) == 2);
    let second = Running::blocking(&cluster, settings, |_| Outcome::Ok);
    second.until("the other member handles its record", |counts| counts.finished == 1);
    until("the handler is gone and what it started knows", || {
        (dropped.load(Ordering::SeqCst), told.load(Ordering::SeqCst)) == (1, 1)
    });
    assert_eq!(first.counts().finished, 0);
    // What still runs when the consumer stops ends in the same way.
    assert_eq!(first.stop().abandoned, 1);
    until("the last one is gone", || (dropped.load(Ordering::SeqCst), told.load(Ordering::SeqCst)) == (2, 2));
    second.until("its record comes again", |counts| counts.finished == 2);
    second.stop();
}

#[test]
fn a_blocking_handler_can_see_that_its_record_is_anothers_and_a_late_failure_sets_nothing_aside() {
    let cluster = Cluster::start();
    let (_, settings) = one_each(&cluster, "seen");
    let dead = cluster.topic("seen-dead", 1);
    let settings =
        ConsumerOptions { dead_letter: Some(homing::TopicName::parse(&dead).unwrap()), ..settings };
    let (seen, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (sees, count) = (Arc::clone(&seen), Arc::clone(&begun));
    let first = Running::start(cluster.config.clone(), settings.clone(), move |consumer, shutdown| {
        consumer.run_blocking_with(
            move |_, context| {
                count.fetch_add(1, Ordering::SeqCst);
                until("cancelled", || context.is_cancelled());
                sees.fetch_add(1, Ordering::SeqCst);
                Outcome::reject("gave up, as it is no longer ours")
            },
            shutdown,
        )
    });
    until("both handlers run", || begun.load(Ordering::SeqCst) == 2);
    let second = Running::blocking(&cluster, settings, |_| Outcome::Ok);
    second.until("the other member handles its record", |counts| counts.finished == 1);
    until("one handler knows", || seen.load(Ordering::SeqCst) == 1);
    let summary = first.stop();
    assert_eq!((summary.counts.finished, summary.counts.dead_lettered), (0, 0));
    second.until("the other record comes again", |counts| counts.finished == 2);
    assert_eq!(second.stop().counts.dead_lettered, 0);
    assert_eq!(cluster.watermarks(&dead, 0), Some((0, 0)));
}

/// A consumer of ten records that ends itself at the tenth.
fn ten(cluster: &Cluster, what: &str) -> (Consumer, Shutdown) {
    let topic = cluster.topic(what, 1);
    fill(cluster, &topic, 10, |number| format!("k{number}"));
    let settings = options(&cluster.name(&format!("g-{what}")), &topic);
    (Consumer::new(cluster.config.clone(), settings).unwrap(), Shutdown::new())
}

fn run_to_the_tenth(consumer: Consumer, shutdown: &Shutdown) -> Result<u64, ConsumerError> {
    let (seen, stop) = (Arc::new(AtomicUsize::new(0)), shutdown.clone());
    let handler = move |_| {
        let (seen, stop) = (Arc::clone(&seen), stop.clone());
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if seen.fetch_add(1, Ordering::SeqCst) + 1 == 10 {
                stop.trigger();
            }
            Outcome::Ok
        }
    };
    consumer.run_async(handler, shutdown).map(|summary| summary.counts.finished)
}

/// Fails instead of hanging.
fn within_long<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    // Nobody listens any more after the time is up.
    std::thread::spawn(move || drop(done.send(work())));
    result.recv_timeout(LONG).unwrap_or_else(|_| panic!("{what} took longer than {LONG:?}"))
}

#[test]
fn run_async_on_the_only_thread_of_a_runtime_is_refused_at_once() {
    let cluster = Cluster::start();
    let (consumer, shutdown) = ten(&cluster, "only");
    let error = within_long("run_async", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { run_to_the_tenth(consumer, &shutdown) })
    });
    assert_eq!(error, Err(ConsumerError::RuntimeBlocked));
}

#[test]
fn run_async_works_beside_the_only_thread_of_a_runtime_and_within_a_bigger_one() {
    let cluster = Cluster::start();
    let (consumer, shutdown) = ten(&cluster, "beside");
    let finished = within_long("spawn_blocking", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let work = move || run_to_the_tenth(consumer, &shutdown);
        runtime.block_on(async { tokio::task::spawn_blocking(work).await.unwrap() })
    });
    assert_eq!(finished, Ok(10));
    // Within a task of a runtime whose only worker this is.
    let (consumer, shutdown) = ten(&cluster, "within");
    let finished = within_long("one worker", move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let work = async move { run_to_the_tenth(consumer, &shutdown) };
        runtime.block_on(async { tokio::spawn(work).await.unwrap() })
    });
    assert_eq!(finished, Ok(10));
}
