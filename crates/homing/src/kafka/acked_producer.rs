//! Sends single records and reports each one's own acknowledgement.

use super::config::{ConfigError, KafkaConfig};
use homing_core::TopicName;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

/// A record to send.
pub(crate) struct Outgoing<'a> {
    pub topic: &'a TopicName,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// Why a record was not, or perhaps not, written.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The client's limit or the topic's is below this record's size. It was not written.
    #[error("{reason}")]
    TooLarge { reason: String },
    #[error("{reason}")]
    Kafka { reason: String },
}

impl From<KafkaError> for SendError {
    fn from(error: KafkaError) -> Self {
        use RDKafkaErrorCode::{MessageBatchTooLarge, MessageSizeTooLarge};
        let is_too_large =
            matches!(error.rdkafka_error_code(), Some(MessageSizeTooLarge | MessageBatchTooLarge));
        let reason = match error {
            // Its own words would hold the value, which may be a secret.
            KafkaError::ClientConfig(_, why, key, _) => format!("client key {key}: {why}"),
            error => error.to_string(),
        };
        if is_too_large { Self::TooLarge { reason } } else { Self::Kafka { reason } }
    }
}

/// Told the outcome of each send by its tag, on the producer's own thread.
pub(crate) type OnDelivery = Box<dyn Fn(u64, Result<(), SendError>) + Send + Sync>;

struct Acks(OnDelivery);

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: Box<u64>) {
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(SendError::from(error.clone())),
        };
        (self.0)(*tag, outcome);
    }
}

/// A producer with the locked floor: acks=all, idempotent, no time-out.
pub(crate) struct AckedProducer {
    producer: ThreadedProducer<Acks>,
}

impl AckedProducer {
    pub fn open(config: &KafkaConfig, on_delivery: OnDelivery) -> Result<Self, SendError> {
        let mut settings = config.producer_config()?;
        if settings.get("linger.ms").is_none() {
            settings.set("linger.ms", "2");
        }
        // The topic's limit decides. Kafka holds it against a whole batch, so each record goes in one
        // of its own: a large one must not have its neighbours refused.
        if settings.get("message.max.bytes").is_none() {
            settings.set("message.max.bytes", "1000000000");
        }
        settings.set("batch.num.messages", "1");
        Ok(Self { producer: settings.create_with_context(Acks(on_delivery))? })
    }

    /// Hands a record over; its outcome comes with `tag`, unless this call fails.
    pub fn send(&self, record: Outgoing<'_>, tag: u64) -> Result<(), SendError> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header { key, value });
        }
        let mut base: BaseRecord<'_, [u8], [u8], Box<u64>> =
            BaseRecord::with_opaque_to(record.topic.as_str(), Box::new(tag)).headers(headers);
        base.key = record.key;
        base.payload = record.payload;
        self.producer.send(base).map_err(|(error, _)| SendError::from(error))
    }

    /// Whether the producer can send nothing any more and has to be opened anew.
    pub fn is_broken(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }
}
