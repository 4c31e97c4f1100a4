//! A cluster, an outbox and relays to start, stop and crash; shared by the relay's tests.
#![allow(dead_code)]

#[path = "../cluster/mod.rs"]
pub mod cluster;

pub use cluster::{Cluster, LONG, until as wait_until};
use homing::kafka::partition_list::TopicPartition;
use homing::kafka::reader::{ReadFrom, TopicReader};
use homing::kafka::record::Record;
use homing::testing::Steps;
use homing::{KafkaConfig, Message, Outbox, Partition, Relay, RelayError, RelayOptions, RelayStatus};
use homing::{RelaySummary, Shutdown, SqliteOutbox, StreamName, TopicName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A record as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub epoch: u32,
    pub seq: u64,
    pub id: uuid::Uuid,
    pub flags: Option<String>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

pub struct Bench {
    pub outbox: SqliteOutbox,
    pub kafka: KafkaConfig,
    /// The topic of the orders, which the relay makes.
    pub orders: String,
    pub dir: tempfile::TempDir,
    pub cluster: Cluster,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut KafkaConfig)) -> Self {
        Self::at(Cluster::start(), change)
    }

    /// Behind a go-between, for tests that do something to requests and connections.
    pub fn between() -> Self {
        Self::at(Cluster::between(), |_| {})
    }

    /// For tests that need more of our broker than Kafka's protocol.
    pub fn embedded() -> Self {
        Self::at(Cluster::embedded(), |_| {})
    }

    fn at(cluster: Cluster, change: impl FnOnce(&mut KafkaConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let outbox =
            SqliteOutbox::create(dir.path().join("o.db"), &StreamName::parse("shop").unwrap()).unwrap();
        let mut kafka = cluster.config.clone();
        kafka.create_topics = true;
        kafka.topic_partitions = 3;
        change(&mut kafka);
        Self { outbox, kafka, orders: cluster.name("orders"), dir, cluster }
    }

    pub fn message(&self, key: usize, n: usize) -> Message {
        self.order().key(format!("k{key}")).payload(n.to_string())
    }

    /// An order without key and payload.
    pub fn order(&self) -> Message {
        Message::new(&self.orders).unwrap()
    }

    pub fn enqueue(&self, messages: impl IntoIterator<Item = Message>) {
        let mut db = self.outbox.connect().unwrap();
        let tx = db.transaction().unwrap();
        Outbox::enqueue_all(&tx, messages).unwrap();
        tx.commit().unwrap();
    }

    pub fn options(&self) -> RelayOptions {
        RelayOptions {
            lease: Duration::from_millis(1500),
            request_timeout: Duration::from_millis(500),
            drain_timeout: Duration::from_secs(30),
            retry_max: Duration::from_millis(200),
            ..RelayOptions::default()
        }
    }

    pub fn relay(&self) -> RunningRelay {
        self.relay_with(self.options())
    }

    pub fn relay_with(&self, options: RelayOptions) -> RunningRelay {
        let relay = Relay::new(self.outbox.clone(), self.kafka.clone(), options).unwrap();
        let (status, shutdown) = (relay.status(), Shutdown::new());
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || relay.run(&stop));
        RunningRelay { thread: Some(thread), shutdown, status }
    }

    /// Runs a relay that dies when it reaches `step` for the `nth` time: its
    /// thread unwinds, nothing is settled or given back, its producer's queue is lost.
    pub fn crash_at(&self, step: &'static str, nth: usize, options: RelayOptions) {
        let count = AtomicUsize::new(0);
        let steps = Steps::observed_by(move |reached| {
            if reached == step && count.fetch_add(1, Ordering::SeqCst) + 1 == nth {
                std::panic::resume_unwind(Box::new("crash"));
            }
        });
        let mut relay = self.relay_with(RelayOptions { steps, ..options });
        let thread = relay.thread.take().unwrap();
        let deadline = Instant::now() + LONG;
        while !thread.is_finished() {
            assert!(Instant::now() < deadline, "step {step} was not reached");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(thread.join().is_err(), "the relay crashed at {step}");
    }

    /// Waits until every row is settled or set aside.
    pub fn wait_settled(&self) {
        let deadline = Instant::now() + LONG;
        loop {
            let stats = self.outbox.stats().unwrap();
            if stats.unclaimed == 0 && stats.unsettled == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "not settled: {stats:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn records(&self) -> Vec<Seen> {
        self.records_of(&self.orders)
    }

    /// Everything in the topic, as a consumer gets it.
    pub fn read_all(&self, topic: &str) -> Vec<Record> {
        let topic = TopicName::parse(topic).unwrap();
        let mut reader = TopicReader::open(&self.kafka).unwrap();
        let wait = Duration::from_secs(10);
        let mut ends = Vec::new();
        for partition in 0.. {
            let at = TopicPartition { topic: topic.clone(), partition: Partition(partition) };
            match reader.watermarks(&at, wait) {
                Ok((_, high)) => ends.push((at, high)),
                Err(_) => break,
            }
        }
        let from: Vec<_> = ends.iter().map(|(at, _)| (at.clone(), ReadFrom::Start)).collect();
        reader.assign(&from).unwrap();
        let mut records = Vec::new();
        let deadline = Instant::now() + LONG;
        while !ends.iter().all(|(at, end)| end.0 == 0 || reader.has_reached(at, *end).unwrap()) {
            assert!(Instant::now() < deadline, "topic {topic} cannot be read");
            reader.read(&mut records, 10_000, Duration::from_millis(50)).unwrap();
        }
        records
    }

    /// Everything in the topic, partition by partition, in offset order.
    pub fn records_of(&self, topic: &str) -> Vec<Seen> {
        let records = self.read_all(topic);
        let mut seen: Vec<_> = records
            .iter()
            .map(|record| {
                let stamp = record.stamp().expect("every record of the relay has a stamp");
                assert_eq!(stamp.stream.as_str(), "shop");
                assert_eq!(stamp.partition, record.partition());
                assert_eq!(stamp.crc, homing_core::PayloadCrc::of(record.key(), record.payload()));
                let header = |name: &str| {
                    record
                        .headers()
                        .find(|(n, _)| *n == name)
                        .and_then(|(_, value)| value.map(<[u8]>::to_vec))
                };
                Seen {
                    partition: record.partition().0,
                    offset: record.offset().0,
                    epoch: stamp.epoch.0,
                    seq: stamp.seq.0,
                    id: uuid::Uuid::try_parse_ascii(&header("homing-id").unwrap()).unwrap(),
                    flags: header("homing-flags").map(|value| String::from_utf8(value).unwrap()),
                    key: record.key().map(<[u8]>::to_vec),
                    payload: record.payload().map(<[u8]>::to_vec),
                    headers: record
                        .headers()
                        .filter(|(name, _)| !name.starts_with("homing-"))
                        .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                        .collect(),
                }
            })
            .collect();
        seen.sort_by_key(|record| (record.partition, record.offset));
        seen
    }

    /// Every seq of each lane from 1 on, first appearances in order.
    pub fn assert_lanes_are_gapless(&self, records: &[Seen]) {
        let mut next: BTreeMap<(u32, i32), u64> = BTreeMap::new();
        for record in records {
            let next = next.entry((record.epoch, record.partition)).or_insert(1);
            assert!(record.seq <= *next, "a hole before {record:?}, {next} should come");
            *next = (*next).max(record.seq + 1);
        }
    }

    /// All `rows` numbered payloads are there, each under one number, per key in
    /// commit order; resends are identical.
    pub fn assert_each_row_once_in_order(&self, rows: usize) {
        let records = self.records();
        self.assert_lanes_are_gapless(&records);
        let mut numbers: BTreeMap<(u32, i32, u64), &Seen> = BTreeMap::new();
        for record in &records {
            let first = numbers.entry((record.epoch, record.partition, record.seq)).or_insert(record);
            assert_eq!((&first.payload, first.id), (&record.payload, record.id), "one number, one message");
        }
        let mut payloads: Vec<usize> = numbers
            .values()
            .map(|r| String::from_utf8(r.payload.clone().unwrap()).unwrap().parse().unwrap())
            .collect();
        let mut last: BTreeMap<&[u8], usize> = BTreeMap::new();
        for ((_, record), payload) in numbers.iter().zip(&payloads) {
            let key = record.key.as_deref().unwrap_or_default();
            if let Some(before) = last.insert(key, *payload) {
                assert!(before < *payload, "key {key:?}: {payload} after {before}");
            }
        }
        payloads.sort_unstable();
        assert_eq!(payloads, (0..rows).collect::<Vec<_>>(), "every row under exactly one number");
    }
}

pub struct RunningRelay {
    pub thread: Option<JoinHandle<Result<RelaySummary, RelayError>>>,
    pub shutdown: Shutdown,
    pub status: Arc<RelayStatus>,
}

impl RunningRelay {
    pub fn stop(mut self) -> RelaySummary {
        self.shutdown.trigger();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }

    /// Waits for the relay to end by itself, with an error.
    pub fn error(mut self) -> RelayError {
        let thread = self.thread.take().unwrap();
        wait_until("the relay stops", || thread.is_finished());
        thread.join().unwrap().unwrap_err()
    }
}

impl Drop for RunningRelay {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
