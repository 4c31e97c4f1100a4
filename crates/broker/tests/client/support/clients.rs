//! librdkafka clients that keep what they see: deliveries, records, assignments.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientContext, TopicPartitionList};

use super::PATIENCE;

/// What became of each message, in the order of the delivery reports.
#[derive(Default)]
pub struct Deliveries(Mutex<Vec<Result<(i32, i64), RDKafkaErrorCode>>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let outcome = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.rdkafka_error_code().expect("a delivery error has a code")),
        };
        self.0.lock().unwrap().push(outcome);
    }
}

/// A producer that waits for its deliveries.
pub struct Producer(pub BaseProducer<Deliveries>);

impl Producer {
    pub fn new(bootstrap: &str, settings: &[(&str, &str)]) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("linger.ms", "0").set("message.timeout.ms", "15000");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        Self(config.create_with_context(Deliveries::default()).unwrap())
    }

    /// Queues a record, making room when the queue is full.
    pub fn queue(&self, topic: &str, partition: i32, key: Option<&[u8]>, payload: Option<&[u8]>) {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(payload) = payload {
            record = record.payload(payload);
        }
        self.queue_record(record).unwrap();
    }

    pub fn queue_record<'a>(&self, mut record: BaseRecord<'a, [u8], [u8]>) -> Result<(), KafkaError> {
        loop {
            match self.0.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.0.poll(Duration::from_millis(10));
                    record = back;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Waits for all that is queued and says what became of it.
    pub fn deliveries(&self) -> Vec<Result<(i32, i64), RDKafkaErrorCode>> {
        self.0.flush(PATIENCE).unwrap();
        std::mem::take(&mut *self.0.context().0.lock().unwrap())
    }

    /// Sends texts to one partition and returns their offsets.
    pub fn send(&self, topic: &str, partition: i32, payloads: &[&str]) -> Vec<i64> {
        for payload in payloads {
            self.queue(topic, partition, None, Some(payload.as_bytes()));
        }
        let delivered = self.deliveries();
        assert_eq!(delivered.len(), payloads.len());
        delivered.into_iter().map(|d| d.unwrap().1).collect()
    }

    /// Sends `count` numbered records to each of `partitions` partitions.
    pub fn fill(&self, topic: &str, partitions: i32, count: usize) {
        for n in 0..count {
            for partition in 0..partitions {
                self.queue(topic, partition, None, Some(format!("{partition}/{n}").as_bytes()));
            }
        }
        assert!(self.deliveries().iter().all(Result::is_ok));
    }
}

/// A record as a consumer saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    fn of(message: &impl Message) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect(),
        }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(self.payload.as_deref().unwrap_or_default()).unwrap()
    }
}

/// One step of a consumer's assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
}

/// Keeps the history of a consumer's assignments.
#[derive(Default)]
pub struct Steps(Mutex<Vec<Step>>);

impl ClientContext for Steps {}

impl ConsumerContext for Steps {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let numbers = |list: &TopicPartitionList| list.elements().iter().map(|e| e.partition()).collect();
        let step = match rebalance {
            Rebalance::Assign(list) => Step::Assigned(numbers(list)),
            Rebalance::Revoke(list) => Step::Revoked(numbers(list)),
            Rebalance::Error(error) => panic!("rebalance failed: {error}"),
        };
        self.0.lock().unwrap().push(step);
    }
}

/// A consumer, in a group or on its own, tuned to notice rebalances fast.
pub struct Group(pub BaseConsumer<Steps>);

impl Group {
    pub fn new(bootstrap: &str, group: &str, settings: &[(&str, &str)]) -> Self {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", bootstrap)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "100")
            .set("fetch.wait.max.ms", "100")
            .set("check.crcs", "true");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        Self(config.create_with_context(Steps::default()).unwrap())
    }

    /// A member of a group that reads `topic`.
    pub fn subscribed(bootstrap: &str, group: &str, topic: &str, settings: &[(&str, &str)]) -> Self {
        let consumer = Self::new(bootstrap, group, settings);
        consumer.0.subscribe(&[topic]).unwrap();
        consumer
    }

    /// A reader of partitions `0..partitions` of `topic` from their beginning.
    pub fn assigned(bootstrap: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Self {
        let consumer = Self::new(bootstrap, "none", settings);
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).unwrap();
        }
        consumer.0.assign(&list).unwrap();
        consumer
    }

    /// The next record or error, if there is one soon.
    pub fn poll(&self) -> Option<Result<Record, KafkaError>> {
        let polled = self.0.poll(Duration::from_millis(20))?;
        Some(polled.map(|message| Record::of(&message)))
    }

    /// Reads exactly `count` records.
    #[track_caller]
    pub fn read(&self, count: usize) -> Vec<Record> {
        let deadline = Instant::now() + PATIENCE;
        let mut records = Vec::with_capacity(count);
        while records.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} records in {PATIENCE:?}", records.len());
            match self.poll() {
                Some(Ok(record)) => records.push(record),
                Some(Err(error)) => panic!("while reading: {error}"),
                None => {}
            }
        }
        records
    }

    /// The error the consumer reports next, skipping records.
    #[track_caller]
    pub fn read_error(&self) -> RDKafkaErrorCode {
        super::eventually("the consumer reports an error", || self.poll()?.err()?.rdkafka_error_code())
    }

    pub fn owned(&self) -> BTreeSet<i32> {
        self.0.assignment().unwrap().elements().iter().map(|e| e.partition()).collect()
    }

    /// Takes the history of assignments so far.
    pub fn steps(&self) -> Vec<Step> {
        std::mem::take(&mut *self.0.context().0.lock().unwrap())
    }

    /// Commits one offset with metadata and waits for the answer.
    pub fn commit(&self, topic: &str, partition: i32, offset: i64, metadata: &str) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(topic, partition);
        element.set_offset(rdkafka::Offset::Offset(offset)).unwrap();
        element.set_metadata(metadata);
        self.0.commit(&list, rdkafka::consumer::CommitMode::Sync)
    }

    /// The committed offset and metadata of one partition; −1 becomes none.
    pub fn committed(&self, topic: &str, partition: i32) -> Option<(i64, String)> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        // The list must be gone before the consumer is (rd_kafka_destroy would wait for it).
        let answer = self.0.committed_offsets(list, PATIENCE).unwrap();
        let element = answer.find_partition(topic, partition).unwrap();
        element.error().unwrap();
        let offset = element.offset().to_raw().filter(|raw| *raw >= 0)?;
        Some((offset, element.metadata().to_owned()))
    }
}

/// Polls all consumers until `done` of them.
#[track_caller]
pub fn places(consumers: &[&Group], what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    super::eventually(what, || {
        for consumer in consumers {
            if let Some(Err(error)) = consumer.0.poll(Duration::from_millis(1)) {
                panic!("{what}: {error}");
            }
        }
        done().then_some(())
    });
    start.elapsed()
}

/// Offsets of an answer by partition.
pub fn owned_offsets(list: &TopicPartitionList) -> Vec<(i32, Option<i64>)> {
    list.elements().iter().map(|e| (e.partition(), e.offset().to_raw())).collect()
}

/// Headers in the order given.
pub fn headers(list: &[(&str, Option<&[u8]>)]) -> OwnedHeaders {
    list.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(rdkafka::message::Header { key, value: value.map(<[u8]>::to_vec).as_ref() })
    })
}

/// Topics, partitions and settings, one call at a time.
pub struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    pub fn new(bootstrap: &str) -> Self {
        let client = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { client, runtime }
    }

    /// Runs one call of the admin client.
    pub fn run<T>(
        &self,
        call: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> Result<T, KafkaError>,
    ) -> T {
        let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
        self.runtime.block_on(call(&self.client, &options)).unwrap()
    }

    pub fn create(
        &self,
        name: &str,
        partitions: i32,
        config: &[(&str, &str)],
    ) -> Result<(), RDKafkaErrorCode> {
        // As many replicas as the cluster has by default.
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        only(self.run(async |client, options| client.create_topics([&topic], options).await))
    }

    pub fn delete(&self, name: &str) -> Result<(), RDKafkaErrorCode> {
        only(self.run(async |client, options| client.delete_topics(&[name], options).await))
    }

    /// The leader of each partition, or the topic's error.
    pub fn topic_metadata(&self, name: &str) -> Result<Vec<i32>, RDKafkaErrorCode> {
        let metadata = self.client.inner().fetch_metadata(Some(name), PATIENCE).unwrap();
        let topic = metadata.topics().iter().find(|t| t.name() == name).expect("asked for by name");
        match topic.error() {
            Some(error) => Err(error.into()),
            None => Ok(topic.partitions().iter().map(|p| p.leader()).collect()),
        }
    }
}

/// The single result of a call about a single topic.
pub fn only(mut results: Vec<rdkafka::admin::TopicResult>) -> Result<(), RDKafkaErrorCode> {
    assert_eq!(results.len(), 1);
    results.remove(0).map(|_| ()).map_err(|(_, code)| code)
}
