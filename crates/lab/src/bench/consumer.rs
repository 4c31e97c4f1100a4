//! The consumer beside a raw batch read of the same topic.

use super::broker::{BrokerProcess, create_topic_at};
use super::produce::{Load, produce_raw};
use super::report::{Aim, Line, rate};
use crate::job::Site;
use homing::consumer::{Consumer, ConsumerOptions, Outcome};
use homing::kafka::partition_list::TopicPartition;
use homing::kafka::reader::{ReadFrom, TopicReader};
use homing::{KafkaConfig, Shutdown};
use homing_core::{Partition, TopicName};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TOPIC: &str = "work";
const PARTITIONS: i32 = 6;
const KEYS: u64 = 10_000;

/// Measures the no-op and the 1 ms consumer on the embedded broker.
///
/// # Errors
/// When the broker or a client fails.
pub fn run(records: u64) -> Result<Vec<Line>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let broker = BrokerProcess::start(dir.path(), "never")?;
    let kafka = fill(&Site::single(&broker.bootstrap), records)?;
    let mut lines = no_op(&kafka, records, "consumer")?;
    let one_ms = count_async(&kafka, records, "one-ms", Duration::from_millis(1))?;
    #[allow(clippy::cast_precision_loss, reason = "a rate needs three digits")]
    let one_ms_rate = records as f64 / one_ms;
    lines.push(Line {
        what: "consumer, 1 ms of async work, 1000 in flight".into(),
        ours: rate(records, one_ms),
        beside: "100k/s".into(),
        ratio: one_ms_rate / 100_000.0,
        aim: Aim::AtLeast(1.0),
    });
    Ok(lines)
}

/// Writes `records` of 100 bytes to the topic that the other functions read.
///
/// # Errors
/// When the broker refuses.
pub fn fill(site: &Site, records: u64) -> Result<KafkaConfig, Box<dyn Error>> {
    create_topic_at(site, TOPIC, PARTITIONS)?;
    let load = Load {
        records,
        payload_bytes: 100,
        partitions: PARTITIONS,
        linger_ms: 5,
        headers: false,
        keys: KEYS,
    };
    produce_raw(&site.bootstrap, TOPIC, &load)?;
    Ok(site.kafka())
}

/// A consumer that does nothing with its records, beside a raw batch read.
///
/// # Errors
/// When the broker or a client fails.
pub fn no_op(kafka: &KafkaConfig, records: u64, who: &str) -> Result<Vec<Line>, Box<dyn Error>> {
    let raw = read_and_drop(kafka, records)?;
    let blocking = count_blocking(kafka, records)?;
    let in_async = count_async(kafka, records, "no-op-async", Duration::ZERO)?;
    let reference = format!("batch read and drop {}", rate(records, raw));
    let line = |how: &str, seconds: f64, aim| Line {
        what: format!("{who}, no-op, {how}, key order"),
        ours: rate(records, seconds),
        beside: reference.clone(),
        ratio: raw / seconds,
        aim,
    };
    Ok(vec![line("blocking workers", blocking, Aim::AtLeast(0.5)), line("async", in_async, Aim::None)])
}

/// Reads every record once and drops it; seconds from the assignment to the last record.
///
/// # Errors
/// When the client fails.
pub fn read_and_drop(kafka: &KafkaConfig, records: u64) -> Result<f64, Box<dyn Error>> {
    let topic = TopicName::parse(TOPIC)?;
    let mut reader = TopicReader::open(kafka)?;
    let from: Vec<_> = (0..PARTITIONS)
        .map(|partition| {
            (TopicPartition { topic: topic.clone(), partition: Partition(partition) }, ReadFrom::Start)
        })
        .collect();
    let started = Instant::now();
    reader.assign(&from)?;
    let mut batch = Vec::new();
    let mut seen = 0;
    while seen < records {
        seen += reader.read(&mut batch, 10_000, Duration::from_secs(1))? as u64;
        batch.clear();
    }
    Ok(started.elapsed().as_secs_f64())
}

fn options(group: &str) -> Result<ConsumerOptions, Box<dyn Error>> {
    Ok(ConsumerOptions { workers: 2, ..ConsumerOptions::new(group, [TOPIC])? })
}

/// The time of the first and of the last finished record.
#[derive(Default)]
struct Span {
    done: AtomicU64,
}

impl Span {
    fn count(&self, records: u64, shutdown: &Shutdown) {
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == records {
            shutdown.trigger();
        }
    }
}

fn count_blocking(kafka: &KafkaConfig, records: u64) -> Result<f64, Box<dyn Error>> {
    let (span, shutdown) = (Span::default(), Shutdown::new());
    let consumer = Consumer::new(kafka.clone(), options("no-op-blocking")?)?;
    let (stop, started) = (shutdown.clone(), Instant::now());
    consumer.run_blocking(
        move |_record| {
            span.count(records, &stop);
            Outcome::Ok
        },
        &shutdown,
    )?;
    Ok(started.elapsed().as_secs_f64())
}

fn count_async(
    kafka: &KafkaConfig,
    records: u64,
    group: &str,
    work: Duration,
) -> Result<f64, Box<dyn Error>> {
    let (span, shutdown) = (Arc::new(Span::default()), Shutdown::new());
    let consumer = Consumer::new(kafka.clone(), ConsumerOptions { in_flight_max: 1000, ..options(group)? })?;
    let (stop, started) = (shutdown.clone(), Instant::now());
    consumer.run_async(
        move |_record| {
            let (span, stop) = (Arc::clone(&span), stop.clone());
            async move {
                if !work.is_zero() {
                    tokio::time::sleep(work).await;
                }
                span.count(records, &stop);
                Outcome::Ok
            }
        },
        &shutdown,
    )?;
    Ok(started.elapsed().as_secs_f64())
}
