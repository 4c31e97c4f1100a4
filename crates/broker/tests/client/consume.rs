//! Getting records out: positions, times, limits, resets and waiting.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::BaseRecord;
use rdkafka::{Offset, TopicPartitionList};

use crate::support::{Admin, Group, PATIENCE, Producer, Target, eventually, owned_offsets};

#[test]
fn a_consumer_seeks_forth_and_back() {
    let target = Target::start();
    let topic = target.topic(1);
    Producer::new(target.bootstrap(), &[]).fill(&topic, 1, 100);
    let consumer = Group::assigned(target.bootstrap(), &topic, 1, &[]);
    assert_eq!(consumer.read(1)[0].offset, 0);
    for to in [90, 10, 50] {
        consumer.0.seek(&topic, 0, Offset::Offset(to), PATIENCE).unwrap();
        assert_eq!(consumer.read(1)[0].offset, to);
    }
}

#[test]
fn watermarks_are_where_the_log_begins_and_ends() {
    let target = Target::start();
    let topic = target.topic(2);
    Producer::new(target.bootstrap(), &[]).send(&topic, 1, &["a", "b", "c"]);
    let consumer = Group::new(target.bootstrap(), "none", &[]);
    assert_eq!(consumer.0.fetch_watermarks(&topic, 0, PATIENCE).unwrap(), (0, 0));
    assert_eq!(consumer.0.fetch_watermarks(&topic, 1, PATIENCE).unwrap(), (0, 3));
}

#[test]
fn a_time_is_answered_with_the_first_offset_not_before_it() {
    let target = Target::start();
    let topic = target.topic(1);
    let producer = Producer::new(target.bootstrap(), &[]);
    let start = 1_700_000_000_000;
    for n in 0..20 {
        let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(0).payload(b"x".as_slice());
        producer.queue_record(record.timestamp(start + n * 1000)).unwrap();
        if n % 3 == 0 {
            // Batches of different sizes: an answer inside a batch must be exact as well.
            let deliveries = producer.deliveries();
            assert!(deliveries.iter().all(Result::is_ok), "{n}: {deliveries:?}");
        }
    }
    assert!(producer.deliveries().iter().all(Result::is_ok));
    let consumer = Group::new(target.bootstrap(), "none", &[]);
    let at = |time: i64| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(time)).unwrap();
        owned_offsets(&consumer.0.offsets_for_times(list, PATIENCE).unwrap())[0].1
    };
    assert_eq!(at(0), Some(0));
    assert_eq!(at(start), Some(0));
    assert_eq!(at(start + 6_999), Some(7));
    assert_eq!(at(start + 7_000), Some(7));
    assert_eq!(at(start + 7_001), Some(8));
    assert_eq!(at(start + 19_000), Some(19));
    let after_the_end = rdkafka::Offset::End.to_raw();
    assert_eq!(at(start + 19_001), after_the_end);
}

#[test]
fn beginning_end_and_tail_are_found() {
    let target = Target::start();
    let topic = target.topic(1);
    let producer = Producer::new(target.bootstrap(), &[]);
    producer.fill(&topic, 1, 30);
    let from = |offset| {
        let consumer = Group::new(target.bootstrap(), "none", &[]);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, offset).unwrap();
        consumer.0.assign(&list).unwrap();
        consumer
    };
    assert_eq!(from(Offset::Beginning).read(1)[0].offset, 0);
    assert_eq!(from(Offset::OffsetTail(5)).read(1)[0].offset, 25);
    let at_end = from(Offset::End);
    let mut sent = 30;
    let first = eventually("a record sent after the consumer found the end", || {
        sent = producer.send(&topic, 0, &["late"])[0];
        at_end.poll().map(Result::unwrap)
    });
    assert!((30..=sent).contains(&first.offset), "{first:?}");
}

#[test]
fn the_end_of_a_partition_is_reported_when_asked_for() {
    let target = Target::start();
    let topic = target.topic(1);
    Producer::new(target.bootstrap(), &[]).send(&topic, 0, &["only"]);
    let consumer = Group::assigned(target.bootstrap(), &topic, 1, &[("enable.partition.eof", "true")]);
    assert_eq!(consumer.read(1)[0].text(), "only");
    let end = eventually("the end", || consumer.poll());
    assert!(matches!(end, Err(KafkaError::PartitionEOF(0))), "{end:?}");
}

/// A topic whose first 10 of 20 records are deleted, and a consumer that asks for offset 3.
fn behind_the_log_start(target: &Target, reset: &str) -> (String, Group) {
    let topic = target.topic(1);
    Producer::new(target.bootstrap(), &[]).fill(&topic, 1, 20);
    let admin = Admin::new(target.bootstrap());
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(10)).unwrap();
    admin.run(async |client, options| client.delete_records(&list, options).await);
    let consumer = Group::new(target.bootstrap(), "none", &[("auto.offset.reset", reset)]);
    list.set_partition_offset(&topic, 0, Offset::Offset(3)).unwrap();
    consumer.0.assign(&list).unwrap();
    (topic, consumer)
}

#[test]
fn an_offset_out_of_range_is_an_error_when_no_reset_is_allowed() {
    let target = Target::start();
    let (topic, consumer) = behind_the_log_start(&target, "error");
    assert_eq!(consumer.read_error(), RDKafkaErrorCode::AutoOffsetReset);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(21)).unwrap();
    consumer.0.assign(&list).unwrap();
    assert_eq!(consumer.read_error(), RDKafkaErrorCode::AutoOffsetReset, "beyond the end as well");
}

#[test]
fn an_offset_out_of_range_goes_to_the_earliest_when_asked_to() {
    let target = Target::start();
    let (_, consumer) = behind_the_log_start(&target, "earliest");
    assert_eq!(consumer.read(1)[0].offset, 10);
}

#[test]
fn a_record_larger_than_the_fetch_limits_is_delivered_all_the_same() {
    let target = Target::start();
    let topic = target.topic(2);
    let producer = Producer::new(target.bootstrap(), &[]);
    for partition in 0..2 {
        producer.queue(&topic, partition, None, Some(&[7; 50_000]));
        producer.queue(&topic, partition, None, Some(&[8; 50_000]));
    }
    assert!(producer.deliveries().iter().all(Result::is_ok));
    let limits =
        [("max.partition.fetch.bytes", "1000"), ("fetch.max.bytes", "1000"), ("message.max.bytes", "1000")];
    let read = Group::assigned(target.bootstrap(), &topic, 2, &limits).read(4);
    assert!(read.iter().all(|r| r.payload.as_ref().unwrap().len() == 50_000));
}

#[test]
fn plain_records_are_visible_to_read_committed_and_uncommitted_alike() {
    let target = Target::start();
    let topic = target.topic(1);
    Producer::new(target.bootstrap(), &[("enable.idempotence", "true")]).fill(&topic, 1, 50);
    for isolation in ["read_committed", "read_uncommitted"] {
        let consumer = Group::assigned(target.bootstrap(), &topic, 1, &[("isolation.level", isolation)]);
        assert_eq!(consumer.read(50)[49].offset, 49, "{isolation}");
    }
}

#[test]
fn an_idle_consumer_sees_a_new_record_within_20_ms() {
    let target = Target::start();
    let topic = target.topic(1);
    let producer = Producer::new(target.bootstrap(), &[("acks", "all")]);
    let idle = Group::assigned(target.bootstrap(), &topic, 1, &[("fetch.wait.max.ms", "5000")]);
    producer.send(&topic, 0, &["warm up"]);
    idle.read(1);
    let mut waits: Vec<Duration> = (0..40)
        .map(|n| {
            // Long enough for the consumer's next fetch to be parked at the broker.
            assert!(idle.0.poll(Duration::from_millis(15)).is_none());
            let sent = Instant::now();
            producer.queue(&topic, 0, None, Some(format!("{n}").as_bytes()));
            producer.0.poll(Duration::ZERO);
            let record = idle.0.poll(PATIENCE).unwrap().unwrap();
            drop(record);
            sent.elapsed()
        })
        .collect();
    waits.sort();
    let (p50, p90) = (waits[20], waits[36]);
    println!("send to receipt by an idle consumer: p50 {p50:?}, p90 {p90:?}, max {:?}", waits[39]);
    assert!(p50 <= Duration::from_millis(20), "p50 {p50:?}");
}

#[test]
fn several_partitions_are_read_in_one_go_and_pausing_one_leaves_the_others() {
    let target = Target::start();
    let topic = target.topic(3);
    let producer = Producer::new(target.bootstrap(), &[]);
    let consumer = Group::assigned(target.bootstrap(), &topic, 3, &[]);
    let mut paused = TopicPartitionList::new();
    paused.add_partition(&topic, 1);
    consumer.0.pause(&paused).unwrap();
    producer.fill(&topic, 3, 10);
    assert!(consumer.read(20).iter().all(|r| r.partition != 1));
    consumer.0.resume(&paused).unwrap();
    assert!(consumer.read(10).iter().all(|r| r.partition == 1));
}
