//! The raw client: produces fixed bytes and waits for every acknowledgement.

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// What is produced.
#[derive(Debug, Clone)]
pub struct Load {
    /// How many records.
    pub records: u64,
    /// Each record's payload, in bytes.
    pub payload_bytes: usize,
    /// Over how many partitions, in turn.
    pub partitions: i32,
    /// The producer's linger, in ms.
    pub linger_ms: u32,
    /// Whether each record carries the two headers that Homing adds.
    pub headers: bool,
    /// How many different keys; 0 sends no key.
    pub keys: u64,
}

#[derive(Default)]
struct Acks {
    good: AtomicU64,
    bad: AtomicU64,
}

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.good } else { &self.bad };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Produces `load` with an idempotent librdkafka producer; the time from the first send to the last acknowledgement.
///
/// # Errors
/// When the producer cannot be made, or any record was not acknowledged.
pub fn produce_raw(bootstrap: &str, topic: &str, load: &Load) -> Result<Duration, KafkaError> {
    let producer: BaseProducer<Acks> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", load.linger_ms.to_string())
        .set("queue.buffering.max.messages", "200000")
        .create_with_context(Acks::default())?;
    producer.client().fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let payload: Vec<u8> =
        (0..load.payload_bytes).map(|i| b'a' + u8::try_from(i % 26).expect("below 26")).collect();
    let started = Instant::now();
    for n in 0..load.records {
        let key = (load.keys > 0).then(|| format!("key-{:06}", scatter(n) % load.keys));
        let partition =
            i32::try_from(n % u64::from(load.partitions.unsigned_abs())).expect("below the partition count");
        let mut record = BaseRecord::<str, [u8]>::to(topic).payload(&payload).partition(partition);
        if let Some(key) = &key {
            record = record.key(key);
        }
        if load.headers {
            record = record.headers(headers(n));
        }
        while let Err((error, refused)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error);
            }
            producer.poll(Duration::from_millis(1));
            record = refused;
        }
        if n % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(120))?;
    let elapsed = started.elapsed();
    let (good, bad) =
        (producer.context().good.load(Ordering::Relaxed), producer.context().bad.load(Ordering::Relaxed));
    assert_eq!((good, bad), (load.records, 0), "every record must be acknowledged");
    Ok(elapsed)
}

/// How long single sends took until they were acknowledged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waits {
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
}

/// Tells the sending thread of each delivery.
struct Tell(Sender<bool>);

impl ClientContext for Tell {}

impl ProducerContext for Tell {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // Nobody waits any more: the run is over.
        let _ = self.0.send(result.is_ok());
    }
}

/// Sends `count` records of 200 bytes one by one, each when the one before is acknowledged.
///
/// # Errors
/// When the producer cannot be made, or a record is refused.
pub fn produce_and_wait_each(bootstrap: &str, topic: &str, count: u32) -> Result<Waits, Box<dyn Error>> {
    let (tell, told) = channel();
    // A thread of its own polls: delivery is told the moment it is known.
    let producer: ThreadedProducer<Tell> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "0")
        .create_with_context(Tell(tell))?;
    let payload = [b'x'; 200];
    let mut waited = Vec::new();
    // The first tenth makes connections and warms caches up.
    for n in 0..count + count / 10 {
        let started = Instant::now();
        producer.send(BaseRecord::<[u8], [u8]>::to(topic).payload(&payload)).map_err(|(error, _)| error)?;
        if !told.recv_timeout(Duration::from_secs(60))? {
            return Err("a record was not acknowledged".into());
        }
        if n >= count / 10 {
            waited.push(started.elapsed());
        }
    }
    waited.sort_unstable();
    let at = |share: usize| waited[(waited.len() * share / 100).min(waited.len() - 1)].as_secs_f64() * 1e3;
    Ok(Waits { p50_ms: at(50), p99_ms: at(99) })
}

fn headers(n: u64) -> OwnedHeaders {
    let stamp = format!("bench/1/0/{n}/00000000");
    OwnedHeaders::new_with_capacity(2)
        .insert(Header { key: "homing-stamp", value: Some(&stamp) })
        .insert(Header { key: "homing-id", value: Some("0193a3d4-5f60-7000-8000-000000000000") })
}

/// Spreads consecutive numbers over the keys (Fibonacci hashing).
fn scatter(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}
