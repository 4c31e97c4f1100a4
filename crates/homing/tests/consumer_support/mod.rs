//! What the consumer tests share: a broker, topics, records, and a consumer in a thread.
#![allow(dead_code)]

#[path = "../cluster/mod.rs"]
mod cluster;

pub use cluster::{Cluster, LONG, until};
use homing::consumer::{
    Consumer, ConsumerCounts, ConsumerError, ConsumerOptions, ConsumerStatus, ConsumerSummary, Outcome,
    Record,
};
use homing::core::{Epoch, Partition, PayloadCrc, Seq, Stamp, StreamName};
use homing::{KafkaConfig, Shutdown};
use rdkafka::consumer::Consumer as _;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Reads everything that is in a topic now.
pub fn read_all(cluster: &Cluster, topic: &str, partitions: i32) -> Vec<Letter> {
    let consumer = cluster.bare("reads-all");
    let (mut list, mut expected) = (TopicPartitionList::new(), 0);
    for partition in 0..partitions {
        let (low, high) = cluster.watermarks(topic, partition).unwrap();
        expected += high - low;
        list.add_partition_offset(topic, partition, Offset::Offset(low)).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut letters = Vec::new();
    let begun = Instant::now();
    while (letters.len() as i64) < expected {
        assert!(begun.elapsed() < LONG, "read {} of {expected}", letters.len());
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            letters.push(Letter::of(&message.unwrap()));
        }
    }
    letters
}

/// A record as it lies in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub key: Option<String>,
    pub payload: Option<String>,
    pub headers: BTreeMap<String, String>,
}

impl Letter {
    fn of(message: &impl rdkafka::Message) -> Self {
        use rdkafka::message::Headers;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = message.headers().map(|headers| {
            headers.iter().map(|h| (h.key.to_owned(), h.value.map(text).unwrap_or_default())).collect()
        });
        Self {
            key: message.key().map(text),
            payload: message.payload().map(text),
            headers: headers.unwrap_or_default(),
        }
    }
}

/// Writes records with the floor's producer.
pub struct Writer {
    producer: BaseProducer,
}

impl Writer {
    pub fn new(cluster: &Cluster) -> Self {
        Self { producer: cluster.config.producer_config().unwrap().create().unwrap() }
    }

    pub fn put(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&str>,
        payload: &str,
        stamp: Option<Stamp>,
    ) {
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(topic).payload(payload);
        record.key = key;
        record.partition = partition;
        if let Some(stamp) = &stamp {
            let text = stamp.to_string();
            let header = Header { key: "homing-stamp", value: Some(&text) };
            record = record.headers(OwnedHeaders::new().insert(header));
        }
        while let Err((_, back)) = self.producer.send(record) {
            record = back;
            self.producer.poll(Duration::from_millis(10));
        }
    }

    pub fn flush(&self) {
        self.producer.flush(LONG).unwrap();
    }
}

/// `count` records with the numbers 0.. as payload; `key` names each one's key.
pub fn fill(cluster: &Cluster, topic: &str, count: u32, key: impl Fn(u32) -> String) {
    let writer = Writer::new(cluster);
    for number in 0..count {
        writer.put(topic, None, Some(&key(number)), &number.to_string(), None);
    }
    writer.flush();
}

/// `count` stamped records in one partition.
pub fn fill_stamped(cluster: &Cluster, topic: &str, partition: i32, seqs: impl Iterator<Item = u64>) {
    let writer = Writer::new(cluster);
    for seq in seqs {
        let (key, payload) = (format!("key-{}", seq % 50), seq.to_string());
        let stamp = stamp(partition, seq, &key, &payload);
        writer.put(topic, Some(partition), Some(&key), &payload, Some(stamp));
    }
    writer.flush();
}

pub fn stamp(partition: i32, seq: u64, key: &str, payload: &str) -> Stamp {
    Stamp {
        stream: StreamName::parse("tests").unwrap(),
        epoch: Epoch(1),
        partition: Partition(partition),
        seq: Seq(seq),
        crc: PayloadCrc::of(Some(key.as_bytes()), Some(payload.as_bytes())),
    }
}

/// The number a record of [`fill`] carries.
pub fn number(record: &Record) -> u32 {
    std::str::from_utf8(record.payload().unwrap()).unwrap().parse().unwrap()
}

pub fn key(record: &Record) -> String {
    String::from_utf8(record.key().unwrap().to_vec()).unwrap()
}

/// A consumer at work in a thread of its own.
pub struct Running {
    pub status: Arc<ConsumerStatus>,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<ConsumerSummary, ConsumerError>>>,
}

impl Running {
    pub fn blocking(
        cluster: &Cluster,
        options: ConsumerOptions,
        handler: impl Fn(&Record) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self::start(cluster.config.clone(), options, |consumer, shutdown| {
            consumer.run_blocking(handler, shutdown)
        })
    }

    pub fn start(
        config: KafkaConfig,
        options: ConsumerOptions,
        run: impl FnOnce(Consumer, &Shutdown) -> Result<ConsumerSummary, ConsumerError> + Send + 'static,
    ) -> Self {
        let consumer = Consumer::new(config, options).unwrap();
        let (status, shutdown) = (consumer.status(), Shutdown::new());
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || run(consumer, &stop));
        Self { status, shutdown, thread: Some(thread) }
    }

    pub fn counts(&self) -> ConsumerCounts {
        self.status.counts()
    }

    /// Waits until the counters are so.
    pub fn until(&self, what: &str, so: impl Fn(&ConsumerCounts) -> bool) -> ConsumerCounts {
        let begun = Instant::now();
        loop {
            let counts = self.counts();
            if so(&counts) {
                return counts;
            }
            assert!(begun.elapsed() < LONG, "waited for {what}: {counts:?}");
            if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                panic!("the consumer ended while waiting for {what}: {counts:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn trigger(&self) {
        self.shutdown.trigger();
    }

    /// Tells it to stop, and waits for its end.
    pub fn stop(self) -> ConsumerSummary {
        self.shutdown.trigger();
        self.end().unwrap()
    }

    /// Waits for its end, for as long as anything may take: one that hangs is left to itself.
    pub fn end_in_time(self) -> Result<ConsumerSummary, ConsumerError> {
        let begun = Instant::now();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if begun.elapsed() > LONG {
                let counts = self.counts();
                std::mem::forget(self);
                panic!("the consumer does not end: {counts:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.end()
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<ConsumerSummary, ConsumerError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            let _ended_badly_already = thread.join();
        }
    }
}

pub fn options(group: &str, topic: &str) -> ConsumerOptions {
    ConsumerOptions {
        commit_interval: Duration::from_millis(50),
        ..ConsumerOptions::new(group, [topic]).unwrap()
    }
}
