//! The consumer beside a raw batch read of the same topic.

use super::broker::{BrokerProcess, create_topic};
use super::produce::{Load, produce_raw};
use super::report::{Aim, Line, rate};
use homing::consumer::{Consumer, ConsumerOptions, Outcome};
use homing::kafka::partition_list::TopicPartition;
use homing::kafka::reader::{ReadFrom, TopicReader};
use homing::{KafkaConfig, Shutdown};
use homing_core::{Partition, TopicName};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;
const KEYS: u64 = 10_000;

/// Measures the no-op and the 1 ms consumer.
///
/// # Errors
/// When the broker or a client fails.
pub fn run(records: u64) -> Result<Vec<Line>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let broker = BrokerProcess::start(dir.path(), "never")?;
    create_topic(&broker.bootstrap, "work", PARTITIONS)?;
    let load = Load {
        records,
        payload_bytes: 100,
        partitions: PARTITIONS,
        linger_ms: 5,
        headers: false,
        keys: KEYS,
    };
    produce_raw(&broker.bootstrap, "work", &load)?;
    let kafka = KafkaConfig { bootstrap: broker.bootstrap.clone(), ..KafkaConfig::default() };
    let raw = read_and_drop(&kafka, records)?;
    let blocking = count_blocking(&kafka, records)?;
    let no_op = count_async(&kafka, records, "no-op-async", Duration::ZERO)?;
    let one_ms = count_async(&kafka, records, "one-ms", Duration::from_millis(1))?;
    let reference = format!("batch read and drop {}", rate(records, raw));
    #[allow(clippy::cast_precision_loss, reason = "a rate needs three digits")]
    let one_ms_rate = records as f64 / one_ms;
    Ok(vec![
        Line {
            what: "consumer, no-op, blocking workers, key order".into(),
            ours: rate(records, blocking),
            beside: reference.clone(),
            ratio: raw / blocking,
            aim: Aim::AtLeast(0.5),
        },
        Line {
            what: "consumer, no-op, async, key order".into(),
            ours: rate(records, no_op),
            beside: reference,
            ratio: raw / no_op,
            aim: Aim::None,
        },
        Line {
            what: "consumer, 1 ms of async work, 1000 in flight".into(),
            ours: rate(records, one_ms),
            beside: "100k/s".into(),
            ratio: one_ms_rate / 100_000.0,
            aim: Aim::AtLeast(1.0),
        },
    ])
}

/// Reads every record once and drops it; seconds from the assignment to the last record.
fn read_and_drop(kafka: &KafkaConfig, records: u64) -> Result<f64, Box<dyn Error>> {
    let topic = TopicName::parse("work")?;
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
    Ok(ConsumerOptions { workers: 2, ..ConsumerOptions::new(group, ["work"])? })
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
