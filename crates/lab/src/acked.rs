//! A plain producer that remembers which of its numbered records were acknowledged, and looks which are missing.

use crate::wire;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The numbers that were acknowledged.
#[derive(Clone, Default)]
struct Acked(Arc<Mutex<BTreeSet<u32>>>);

impl ClientContext for Acked {}

impl ProducerContext for Acked {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Some(number) = result.as_ref().ok().and_then(|message| number(message.payload()?)) {
            self.numbers().insert(number);
        }
    }
}

impl Acked {
    fn numbers(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(payload: &[u8]) -> Option<u32> {
    std::str::from_utf8(payload).ok()?.parse().ok()
}

/// What became of the acknowledged records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Acknowledged records.
    pub acked: usize,
    /// Different records in the topic, acknowledged or not.
    pub there: usize,
    /// Acknowledged, and not in the topic.
    pub lost: usize,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "acknowledged {}, there {}, lost {}", self.acked, self.there, self.lost)
    }
}

/// Sends 0, 1, 2 … to partition 0 of a topic.
pub struct Numbered {
    bootstrap: String,
    topic: String,
    producer: ThreadedProducer<Acked>,
    acked: Acked,
    next: u32,
}

impl Numbered {
    /// A producer with the given settings of its own; it never gives up a record by itself.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn new(bootstrap: &str, topic: &str, settings: &[(&str, &str)]) -> Result<Self, KafkaError> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("linger.ms", "0");
        config.set("message.timeout.ms", "0").set("reconnect.backoff.max.ms", "500");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        let acked = Acked::default();
        let producer = config.create_with_context(acked.clone())?;
        Ok(Self { bootstrap: bootstrap.to_owned(), topic: topic.to_owned(), producer, acked, next: 0 })
    }

    /// Hands `count` more records to the client.
    ///
    /// # Errors
    /// When the client takes no more.
    pub fn send(&mut self, count: u32) -> Result<(), KafkaError> {
        for _ in 0..count {
            let payload = self.next.to_string();
            let record = BaseRecord::<(), str>::to(&self.topic).payload(&payload).partition(0);
            self.producer.send(record).map_err(|(error, _)| error)?;
            self.next += 1;
        }
        Ok(())
    }

    /// Waits until all that was sent is acknowledged; whether it is.
    #[must_use]
    pub fn wait_acked(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.acked.numbers().len() < self.next as usize {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// How many records are acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.acked.numbers().len()
    }

    /// Waits until every record has an outcome, then reads the topic and compares.
    ///
    /// # Errors
    /// When records stay without an outcome, or the topic cannot be read.
    pub fn compare(&self, patience: Duration) -> Result<Loss, KafkaError> {
        self.producer.flush(patience)?;
        let records = wire::read_topic(&self.bootstrap, &self.topic, patience)?;
        let there: BTreeSet<u32> = records.iter().filter_map(|record| number(&record.payload)).collect();
        let acked = self.acked.numbers();
        Ok(Loss { acked: acked.len(), there: there.len(), lost: acked.difference(&there).count() })
    }
}
