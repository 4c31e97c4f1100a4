//! Load without a client library: batches encoded once and sent raw, so that the broker is what is measured.
//!
//! A client library spends about as much time on a record as a broker does, and
//! on two cores it is the client that both brokers would wait for.

use crate::cluster::Connection;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{FetchRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;
const RECORDS_A_BATCH: u64 = 1000;
const PATIENCE: Duration = Duration::from_secs(60);
type Failed = Box<dyn Error + Send + Sync>;

/// One batch of records of `payload_bytes` each, without a producer's numbers.
fn batch(payload_bytes: usize) -> Result<Bytes, Failed> {
    let value = Bytes::from(vec![b'x'; payload_bytes]);
    let records: Vec<Record> = (0..i64::try_from(RECORDS_A_BATCH)?)
        .map(|offset| Record {
            transactional: false,
            control: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset,
            // The encoder wants sequences to rise with offsets; -1 at the base means none.
            sequence: i32::try_from(offset).expect("below a batch's size") - 1,
            timestamp: 1_790_000_000_000,
            key: None,
            value: Some(value.clone()),
            headers: Default::default(),
            delete_horizon: false,
        })
        .collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options)?;
    Ok(bytes.freeze())
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// Produces at least `records` records over `partitions` connections, one for each partition, each
/// request when the one before is acknowledged by all; seconds.
///
/// # Errors
/// When a connection breaks or a request is refused.
pub fn produce(
    address: SocketAddr,
    topic: &str,
    partitions: i32,
    records: u64,
    payload_bytes: usize,
) -> Result<f64, Box<dyn Error>> {
    let batch = batch(payload_bytes).map_err(|error| error as Box<dyn Error>)?;
    let left = AtomicU64::new(records.div_ceil(RECORDS_A_BATCH));
    in_parallel(partitions, |partition| {
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.clone()));
        let data = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![data]);
        let mut connection = Connection::open(address, PATIENCE)?;
        while take(&left) {
            let answer = connection.ask(PRODUCE_VERSION, &request)?;
            let code = answer.responses[0].partition_responses[0].error_code;
            if code != 0 {
                return Err(format!("produce: error code {code}").into());
            }
        }
        Ok(())
    })
}

fn take(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Reads everything that is in the topic, over one connection for each partition; seconds.
///
/// # Errors
/// When a connection breaks or a request is refused.
pub fn fetch(address: SocketAddr, topic: &str, partitions: i32) -> Result<f64, Box<dyn Error>> {
    in_parallel(partitions, |partition| {
        let mut connection = Connection::open(address, PATIENCE)?;
        let mut next = 0;
        loop {
            let wanted = FetchPartition::default()
                .with_partition(partition)
                .with_fetch_offset(next)
                .with_partition_max_bytes(1 << 20);
            let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![wanted]);
            let request = FetchRequest::default()
                .with_replica_id((-1).into())
                .with_max_wait_ms(100)
                .with_min_bytes(1)
                .with_max_bytes(50 << 20)
                .with_session_epoch(-1)
                .with_topics(vec![topic]);
            let answer = connection.ask(FETCH_VERSION, &request)?;
            let data = &answer.responses[0].partitions[0];
            if data.error_code != 0 {
                return Err(format!("fetch: error code {}", data.error_code).into());
            }
            next = next.max(end_of(data.records.as_deref().unwrap_or_default()).unwrap_or(next));
            if next >= data.high_watermark {
                return Ok(());
            }
        }
    })
}

/// The offset behind the last whole batch in `bytes`, from the batches' heads alone.
fn end_of(mut bytes: &[u8]) -> Option<i64> {
    const HEAD: usize = 27;
    let mut end = None;
    while bytes.len() >= HEAD {
        let base = i64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
        let length = i32::from_be_bytes(bytes[8..12].try_into().expect("four bytes"));
        let last_delta = i32::from_be_bytes(bytes[23..27].try_into().expect("four bytes"));
        let whole = 12 + usize::try_from(length).ok()?;
        if bytes.len() < whole {
            break;
        }
        end = Some(base + i64::from(last_delta) + 1);
        bytes = &bytes[whole..];
    }
    end
}

fn in_parallel(
    partitions: i32,
    work: impl Fn(i32) -> Result<(), Failed> + Sync,
) -> Result<f64, Box<dyn Error>> {
    let started = Instant::now();
    let work = &work;
    let worked = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..partitions).map(|partition| scope.spawn(move || work(partition))).collect();
        let mut ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended.try_for_each(|ended| ended.unwrap_or_else(|_| Err("a connection's thread panicked".into())))
    });
    worked.map_err(|error| error as Box<dyn Error>)?;
    Ok(started.elapsed().as_secs_f64())
}
