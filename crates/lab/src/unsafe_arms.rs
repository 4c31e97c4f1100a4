//! The same work without Homing's care, so that a kill test can show that its kills bite.
//!
//! Each arm leaves out exactly one rule and must break exactly the promise that
//! the rule keeps. An unsafe arm that loses nothing makes the test invalid, so
//! each is killed where it must: it reports the step behind which its rule is
//! missing, and only comes there when the damage is certain.

use crate::{effects, workload};
use homing::testing::Steps;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use rusqlite::{Connection, OptionalExtension};
use std::error::Error;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

/// The step of [`relay_that_marks_on_enqueue`]: rows are marked and still lie in the client.
pub const MARKED: &str = "unsafe.marked";

/// The step of [`consumer_that_auto_commits`]: a record is committed that the worker has not applied.
pub const COMMITTED_AHEAD: &str = "unsafe.committed_ahead";

/// How long the client of the marking relay gathers records: a process that dies right after
/// marking takes them along.
const LINGER_MS: &str = "1000";

/// A relay that marks rows sent when they are handed to the client, not when they are acknowledged (catalogue X05).
///
/// # Errors
/// When the database or the client refuses.
pub fn relay_that_marks_on_enqueue(
    bootstrap: &str,
    topic: &str,
    outbox: &Path,
    steps: &Steps,
) -> Result<(), Box<dyn Error>> {
    let connection = Connection::open(outbox)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.execute_batch("CREATE TABLE IF NOT EXISTS unsafe_cursor (last INTEGER NOT NULL)")?;
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", LINGER_MS)
        .create()?;
    loop {
        let last: Option<i64> =
            connection.query_row("SELECT last FROM unsafe_cursor", [], |row| row.get(0)).optional()?;
        let mut rows = connection.prepare_cached(
            "SELECT id, message_key, payload FROM homing_outbox WHERE id > ?1 ORDER BY id LIMIT 20",
        )?;
        let page: Vec<(i64, Vec<u8>, Vec<u8>)> = rows
            .query_map([last.unwrap_or(0)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        let Some((newest, ..)) = page.last() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        for (_, key, payload) in &page {
            let sent = producer.send(BaseRecord::to(topic).key(key).payload(payload));
            sent.map_err(|(error, _)| error)?;
        }
        connection.execute("DELETE FROM unsafe_cursor", [])?;
        connection.execute("INSERT INTO unsafe_cursor VALUES (?1)", [newest])?;
        steps.reached(MARKED);
    }
}

/// A consumer that hands records to a worker while the client commits by itself (catalogue C01).
///
/// With `stall_after` the worker stops for good before the record of that number (from 1) and
/// [`COMMITTED_AHEAD`] is reached once the client has committed that record all the same.
///
/// # Errors
/// When the database or the client refuses.
pub fn consumer_that_auto_commits(
    bootstrap: &str,
    topic: &str,
    group: &str,
    database: &Path,
    (stall_after, steps): (Option<u64>, &Steps),
) -> Result<(), Box<dyn Error>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("group.instance.id", "unsafe-1")
        .set("auto.offset.reset", "earliest")
        .set("auto.commit.interval.ms", "20")
        .create()?;
    consumer.subscribe(&[topic])?;
    let (jobs, taken) = channel::<(Vec<u8>, Vec<u8>)>();
    let mut connection = effects::open(database)?;
    let worker = std::thread::spawn(move || {
        for (key, payload) in taken {
            let order_no = workload::order_no(&payload).expect("the workload numbers its orders");
            let tx = connection.transaction().expect("the database takes transactions");
            effects::apply(&tx, order_no, &key, &payload).expect("the database takes effects");
            tx.commit().expect("the database commits");
        }
    });
    let mut handed_over = 0;
    let mut left_out: Option<TopicPartitionList> = None;
    while !worker.is_finished() {
        if let Some(left_out) = &left_out
            && is_committed(&consumer, left_out)?
        {
            steps.reached(COMMITTED_AHEAD);
        }
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
        handed_over += 1;
        if stall_after.is_some_and(|after| handed_over >= after) {
            if left_out.is_none() {
                let mut record = TopicPartitionList::new();
                record.add_partition_offset(topic, message.partition(), Offset::Offset(message.offset()))?;
                left_out = Some(record);
            }
            continue;
        }
        let owned = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
        jobs.send((owned(message.key()), owned(message.payload())))?;
    }
    Err("the worker ended".into())
}

/// Whether the group has committed past the one record in `record`.
fn is_committed(consumer: &BaseConsumer, record: &TopicPartitionList) -> Result<bool, Box<dyn Error>> {
    let at = |list: &TopicPartitionList| list.elements().first().map(|one| one.offset());
    let committed = consumer.committed_offsets(record.clone(), Duration::from_secs(10))?;
    Ok(match (at(&committed), at(record)) {
        (Some(Offset::Offset(committed)), Some(Offset::Offset(record))) => committed > record,
        _ => false,
    })
}
