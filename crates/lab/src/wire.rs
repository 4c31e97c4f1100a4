//! Reads whole topics with a client of its own, so that the code under test is no witness in its own cause.

use crate::checker::WireRecord;
use rdkafka::ClientConfig;
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::time::{Duration, Instant};

/// Reads every record of `topic`, from the log's start to its end as of now, in offset order per partition.
///
/// # Errors
/// What the client reports; a time-out after `patience` without the end reached.
pub fn read_topic(bootstrap: &str, topic: &str, patience: Duration) -> Result<Vec<WireRecord>, KafkaError> {
    let deadline = Instant::now() + patience;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "homing-lab-wire")
        .set("enable.auto.commit", "false")
        .set("check.crcs", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), patience)?;
    let partitions = metadata.topics().first().map_or(0, |t| t.partitions().len());
    let mut assignment = TopicPartitionList::new();
    let mut ends = Vec::new();
    for partition in 0..i32::try_from(partitions).expect("a partition count fits i32") {
        let (low, high) = watermarks(&consumer, topic, partition, deadline)?;
        ends.push((high > low).then_some(high));
        if high > low {
            assignment.add_partition_offset(topic, partition, Offset::Offset(low))?;
        }
    }
    consumer.assign(&assignment)?;
    let mut records = Vec::new();
    while ends.iter().any(Option::is_some) {
        if Instant::now() > deadline {
            return Err(KafkaError::MessageConsumption(rdkafka::types::RDKafkaErrorCode::OperationTimedOut));
        }
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        let end = &mut ends[usize::try_from(message.partition()).expect("partitions are not negative")];
        if end.is_none_or(|end| message.offset() >= end) {
            continue;
        }
        if end.is_some_and(|end| message.offset() + 1 >= end) {
            *end = None;
        }
        records.push(WireRecord {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().unwrap_or_default().to_vec(),
            payload: message.payload().unwrap_or_default().to_vec(),
            stamp: header(&message, "homing-stamp"),
            id: header(&message, "homing-id"),
        });
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    Ok(records)
}

/// A partition that just got a leader does not know its end yet, or is not found yet: it is asked again.
fn watermarks(
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    deadline: Instant,
) -> Result<(i64, i64), KafkaError> {
    loop {
        match consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
            answer => return answer,
        }
    }
}

fn header(message: &impl Message, name: &str) -> String {
    let found = message.headers().and_then(|headers| headers.iter().find(|header| header.key == name));
    found.and_then(|header| header.value).map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
}
