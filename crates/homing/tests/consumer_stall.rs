//! What may hold a consumer up: paused partitions that move, refusals while partitions are given up,
//! partitions without an answer, errors of a fetch, a client that reads no more.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod consumer_support;

use consumer_support::{Cluster, Running, Writer, number, options, until};
use homing::KafkaConfig;
use homing::consumer::{ConsumerCounts, ConsumerError, ConsumerOptions, Outcome};
use homing::core::RetryPolicy;
use homing::testing::Steps;
use homing_broker::{ApiKey, Count, Fault};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Seen = Arc<Mutex<BTreeSet<(i32, u32)>>>;

/// Numbers `from..to` to each of so many partitions.
fn write(cluster: &Cluster, topic: &str, partitions: i32, numbers: std::ops::Range<u32>) {
    let writer = Writer::new(cluster);
    for number in numbers {
        for partition in 0..partitions {
            writer.put(topic, Some(partition), Some(&format!("k{number}")), &number.to_string(), None);
        }
    }
    writer.flush();
}

/// A member that notes every record and says Ok.
fn noting(config: &KafkaConfig, settings: ConsumerOptions, seen: &Seen) -> Running {
    let seen = Arc::clone(seen);
    Running::start(config.clone(), settings, move |consumer, shutdown| {
        consumer.run_blocking(
            move |record| {
                seen.lock().unwrap().insert((record.partition().0, number(record)));
                Outcome::Ok
            },
            shutdown,
        )
    })
}

fn of_partition(seen: &Seen, partition: i32) -> usize {
    seen.lock().unwrap().iter().filter(|(of, _)| *of == partition).count()
}

#[test]
fn a_paused_partition_that_moves_away_and_comes_back_is_read_again() {
    let cluster = Cluster::start();
    let topic = cluster.topic("paused", 2);
    write(&cluster, &topic, 2, 0..1_000);
    let retry = RetryPolicy { attempts_max: u32::MAX, ..RetryPolicy::default() };
    let settings = ConsumerOptions { window_max: 50, retry, ..options(&cluster.name("g"), &topic) };
    let (held, seen) = (Arc::new(AtomicBool::new(true)), Seen::default());
    let start = || {
        let (held, seen) = (Arc::clone(&held), Arc::clone(&seen));
        Running::blocking(&cluster, settings.clone(), move |record| {
            if number(record) == 0 && held.load(Ordering::SeqCst) {
                return Outcome::Retry { after: Some(Duration::from_millis(5)), reason: "held".into() };
            }
            seen.lock().unwrap().insert((record.partition().0, number(record)));
            Outcome::Ok
        })
    };
    // Beside the held records those wait that share a lane with them: the lane is a hash.
    let held_up = |counts: &ConsumerCounts, partitions: u64| {
        counts.partitions == partitions && (partitions..20).contains(&counts.in_flight)
    };
    let first = start();
    first.until("both partitions are held up", |counts| counts.head_of_line == 2 && held_up(counts, 2));
    let second = start();
    second.until("one has moved, and is held up there", |counts| held_up(counts, 1));
    second.stop();
    first.until("it is back", |counts| held_up(counts, 2));
    held.store(false, Ordering::SeqCst);
    until("every record of both is handled", || seen.lock().unwrap().len() == 2_000);
    first.stop();
}

/// librdkafka takes an error for a record at its offset, and goes on behind it when a rebalance ends.
#[test]
fn a_record_behind_a_fetch_error_and_a_rebalance_is_handled() {
    let cluster = Cluster::between();
    let topic = cluster.topic("error", 2);
    let (settings, seen) = (options(&cluster.name("g"), &topic), Seen::default());
    write(&cluster, &topic, 2, 0..50);
    let first = noting(&cluster.config, settings.clone(), &seen);
    first.until("it has read all", |counts| counts.finished == 100);
    // TOPIC_AUTHORIZATION_FAILED: the client hands it out, once for each partition.
    cluster.faults().inject(ApiKey::Fetch, Fault::ErrorCode(29), Count::Always);
    first.until("the error is told", |counts| counts.last_error.is_some());
    write(&cluster, &topic, 2, 50..100);
    let second = noting(&cluster.config, settings, &seen);
    second.until("they share", |counts| counts.partitions == 1);
    first.until("they share", |counts| counts.partitions == 1);
    cluster.faults().clear();
    until("every record is handled", || seen.lock().unwrap().len() == 200);
    second.stop();
    first.stop();
}

#[test]
fn a_record_that_cannot_be_set_aside_while_partitions_are_given_up_ends_the_consumer() {
    ["range", "cooperative-sticky"].into_iter().for_each(refused_while_given_up);
}

fn refused_while_given_up(strategy: &str) {
    let cluster = Cluster::start();
    let topic = cluster.topic("refusal", 2);
    write(&cluster, &topic, 2, 0..1);
    let revoking = Arc::new(AtomicBool::new(false));
    let (told, seen) = (Arc::clone(&revoking), Arc::clone(&revoking));
    let steps = Steps::observed_by(move |step| {
        told.fetch_or(step == "consumer.revoking", Ordering::SeqCst);
    });
    let mut config = cluster.config.clone();
    config.client.insert("partition.assignment.strategy".into(), strategy.into());
    let settings = options(&cluster.name("g"), &topic);
    let refusing = ConsumerOptions { steps, ..settings.clone() };
    let first = Running::start(config.clone(), refusing, move |consumer, shutdown| {
        consumer.run_blocking(
            move |_| {
                until("partitions are taken away", || seen.load(Ordering::SeqCst));
                // Behind the first look at what is finished, so that the drain sees it.
                std::thread::sleep(Duration::from_millis(50));
                Outcome::Reject { reason: "nobody wants it".into() }
            },
            shutdown,
        )
    });
    first.until("its records are at work", |counts| counts.in_flight == 2);
    let others = Seen::default();
    let second = noting(&config, settings, &others);
    let error = first.end_in_time().unwrap_err();
    assert!(matches!(&error, ConsumerError::NowhereToSetAside { .. }), "{error}");
    until("the other member has it all, the refused ones too", || others.lock().unwrap().len() == 2);
    second.stop();
}

/// Where a partition without a commit begins has to be asked of its leader.
#[test]
fn a_partition_whose_beginning_is_not_answered_holds_up_no_other() {
    let cluster = Cluster::between();
    let topic = cluster.topic("unanswered", 2);
    let (group, seen) = (cluster.name("g"), Seen::default());
    write(&cluster, &topic, 2, 0..50);
    cluster.commit(&group, &topic, 0, 0, "");
    // LEADER_NOT_AVAILABLE
    cluster.faults().inject(ApiKey::ListOffsets, Fault::ErrorCode(5), Count::Always);
    let running = noting(&cluster.config, options(&group, &topic), &seen);
    until("the one with a commit is at work", || of_partition(&seen, 0) == 50);
    until("and its work is committed", || cluster.committed(&group, &topic, 0).unwrap().0 == 50);
    running.until("what it waits for is told", |counts| {
        counts.last_error.as_ref().is_some_and(|said| said.contains(&format!("{topic}[1]")))
    });
    assert_eq!(of_partition(&seen, 1), 0);
    cluster.faults().clear();
    until("the other begins by itself", || of_partition(&seen, 1) == 50);
    running.stop();
}

#[test]
fn a_client_that_reads_no_more_is_told_and_replaced() {
    let cluster = Cluster::between();
    let topic = cluster.topic("deaf", 2);
    let (seen, group) = (Seen::default(), cluster.name("g"));
    write(&cluster, &topic, 2, 0..50);
    let settings = ConsumerOptions { stall_after: Duration::from_millis(500), ..options(&group, &topic) };
    let running = noting(&cluster.config, settings, &seen);
    running.until("it has read all", |counts| counts.finished == 100);
    cluster.give_nothing();
    write(&cluster, &topic, 2, 50..100);
    until("every record is handled", || seen.lock().unwrap().len() == 200);
    let counts = running.stop().counts;
    assert!(counts.stalled > 0 && counts.reopened == 1, "{counts:?}");
    for partition in 0..2 {
        assert_eq!(cluster.committed(&group, &topic, partition).unwrap().0, 100);
    }
}

#[test]
fn a_quiet_partition_is_no_stuck_client() {
    let cluster = Cluster::start();
    let topic = cluster.topic("quiet", 2);
    let seen = Seen::default();
    write(&cluster, &topic, 1, 0..50);
    let settings =
        ConsumerOptions { stall_after: Duration::from_millis(100), ..options(&cluster.name("g"), &topic) };
    let running = noting(&cluster.config, settings, &seen);
    running.until("it has read all", |counts| counts.finished == 50);
    // Time for many looks: nothing may come of them.
    std::thread::sleep(Duration::from_secs(2));
    let counts = running.counts();
    assert_eq!((counts.stalled, counts.reopened), (0, 0), "{counts:?}");
    write(&cluster, &topic, 2, 50..60);
    running.until("it reads on", |counts| counts.finished == 70);
    running.stop();
}

#[test]
fn a_broker_that_takes_less_metadata_is_given_less_and_the_offset_is_committed() {
    let cluster = Cluster::between();
    let topic = cluster.topic("metadata", 1);
    let (group, held) = (cluster.name("g"), Arc::new(AtomicBool::new(true)));
    // Every other record is stuck, so that the map has much to say.
    write(&cluster, &topic, 1, 0..2_000);
    cluster.limit_metadata(150);
    let retry = RetryPolicy { attempts_max: u32::MAX, ..RetryPolicy::default() };
    let waits = Arc::clone(&held);
    let running =
        Running::blocking(&cluster, ConsumerOptions { retry, ..options(&group, &topic) }, move |record| {
            let is_stuck =
                number(record) >= 10 && number(record).is_multiple_of(3) && waits.load(Ordering::SeqCst);
            match is_stuck {
                true => Outcome::Retry { after: Some(Duration::from_millis(50)), reason: "stuck".into() },
                false => Outcome::Ok,
            }
        });
    until("the offset is committed, with what fits", || {
        cluster.committed(&group, &topic, 0).is_some_and(|(offset, map)| offset == 12 && !map.is_empty())
    });
    held.store(false, Ordering::SeqCst);
    until("all is committed", || cluster.committed(&group, &topic, 0).unwrap().0 == 2_000);
    running.stop();
}

#[test]
fn a_topic_that_is_deleted_under_a_consumer_is_told_and_holds_up_no_other() {
    let cluster = Cluster::start();
    let (gone, stays) = (cluster.topic("gone", 1), cluster.topic("stays", 1));
    let seen = Seen::default();
    write(&cluster, &gone, 1, 0..10);
    let topics = [&gone, &stays].map(|topic| homing::TopicName::parse(topic).unwrap()).into();
    let running =
        noting(&cluster.config, ConsumerOptions { topics, ..options(&cluster.name("g"), &gone) }, &seen);
    running.until("it has read all", |counts| counts.finished == 10);
    cluster.delete(&gone);
    running.until("it is told", |counts| {
        let is_told = |said: &String| said.contains("A03") && said.contains(&gone);
        counts.topics_missing == 1 && counts.last_error.as_ref().is_some_and(is_told)
    });
    write(&cluster, &stays, 1, 0..20);
    running.until("the other goes on", |counts| counts.finished == 30);
    running.stop();
}

#[test]
fn a_topic_made_anew_under_a_consumer_is_read_from_its_beginning() {
    let cluster = Cluster::start();
    let topic = cluster.topic("anew", 1);
    let seen = Seen::default();
    write(&cluster, &topic, 1, 0..100);
    let running = noting(&cluster.config, options(&cluster.name("g"), &topic), &seen);
    running.until("it has read all", |counts| counts.finished == 100);
    cluster.delete(&topic);
    cluster.create(&topic, 1);
    // More than before: the old position is one in the new log.
    write(&cluster, &topic, 1, 1_000..1_200);
    running.until("the new topic is read from its first record", |_| {
        (1_000..1_200).all(|number| seen.lock().unwrap().contains(&(0, number)))
    });
    running.stop();
}
