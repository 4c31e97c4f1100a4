//! Sets records aside for good: the one door, and only behind the dead letter's own delivery.
//!
//! | a record set aside is | until |
//! |---|---|
//! | waiting | it was handed to the producer; again after a pause when that fails |
//! | sent | Kafka acknowledges it, or refuses and it waits again |
//! | done | – its record may be completed and its lane goes on |
//!
//! A crash before the acknowledgement leaves the record unfinished: it is
//! handled, and set aside, again. While one has failed or waits too long, the
//! consumer takes nothing new in.
//!
//! A letter that is larger than its topic takes is written without its record's
//! payload, and if that is not enough without its key and headers: it says where the
//! record lies and why it was given up, so that it can be read there for as long as
//! its own topic keeps it.

use super::dispatch::Aside;
use super::status::ConsumerStatus;
use crate::kafka::acked_producer::{AckedProducer, Outgoing, SendError};
use crate::kafka::admin::Admin;
use crate::kafka::bell::Bell;
use crate::kafka::config::KafkaConfig;
use crate::testing::Steps;
use homing_core::TopicName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The headers a dead letter bears beside its record's own.
pub mod header {
    /// What every one of them starts with; a record's own of this kind are replaced.
    pub const PREFIX: &str = "homing-dlq-";
    /// The last failure, or that it follows its parked key.
    pub const REASON: &str = "homing-dlq-reason";
    /// The consumer group that gave up.
    pub const GROUP: &str = "homing-dlq-group";
    /// The topic it was read from.
    pub const TOPIC: &str = "homing-dlq-topic";
    /// The partition there.
    pub const PARTITION: &str = "homing-dlq-partition";
    /// The offset there.
    pub const OFFSET: &str = "homing-dlq-offset";
    /// Failed attempts.
    pub const ATTEMPTS: &str = "homing-dlq-attempts";
    /// What of the record is not in the letter, as there was no room; only then.
    pub const LEFT_OUT: &str = "homing-dlq-left-out";
    /// The bytes of the payload that was left out.
    pub const PAYLOAD_BYTES: &str = "homing-dlq-payload-bytes";
}

/// A reason longer than this is cut: it must not make the letter too large to write.
const REASON_BYTES_MAX: usize = 2048;
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long making the topic may keep the poll thread.
const CREATE_WAIT: Duration = Duration::from_secs(5);

/// How much of its record a letter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    WithoutPayload,
    OriginOnly,
}

impl Form {
    fn shorter(self) -> Option<Self> {
        match self {
            Self::Whole => Some(Self::WithoutPayload),
            Self::WithoutPayload => Some(Self::OriginOnly),
            Self::OriginOnly => None,
        }
    }

    /// What is left out, in the words of its header.
    fn left_out(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::WithoutPayload => Some("payload"),
            Self::OriginOnly => Some("payload,key,headers"),
        }
    }
}

struct Pending {
    aside: Aside,
    form: Form,
    since: Instant,
    /// `None` while it is with the producer.
    retry_at: Option<Instant>,
    failures: u32,
}

type Deliveries = Arc<Mutex<Vec<(u64, Result<(), SendError>)>>>;

/// Where dead letters go, and which are on their way.
pub(crate) struct DeadLetters {
    config: KafkaConfig,
    group: String,
    topic: Option<TopicName>,
    patience: Duration,
    bell: Arc<Bell>,
    status: Arc<ConsumerStatus>,
    steps: Steps,
    /// Opened when first needed.
    producer: Option<AckedProducer>,
    /// Guards what the producer's thread has heard.
    deliveries: Deliveries,
    pending: BTreeMap<u64, Pending>,
    tag: u64,
}

impl DeadLetters {
    pub fn new(
        (config, group): (KafkaConfig, String),
        (topic, patience): (Option<TopicName>, Duration),
        bell: Arc<Bell>,
        status: Arc<ConsumerStatus>,
        steps: Steps,
    ) -> Self {
        Self {
            config,
            group,
            topic,
            patience,
            bell,
            status,
            steps,
            producer: None,
            deliveries: Deliveries::default(),
            pending: BTreeMap::new(),
            tag: 0,
        }
    }

    /// Whether there is a topic for them.
    pub fn have_a_place(&self) -> bool {
        self.topic.is_some()
    }

    /// Takes a record to be set aside.
    pub fn submit(&mut self, aside: Aside) {
        self.tag += 1;
        let now = Instant::now();
        self.pending.insert(
            self.tag,
            Pending { aside, form: Form::Whole, since: now, retry_at: Some(now), failures: 0 },
        );
        self.send(self.tag);
    }

    /// When to come again for a letter that failed.
    pub fn next_at(&self) -> Option<Instant> {
        self.pending.values().filter_map(|pending| pending.retry_at).min()
    }

    /// Moves the records whose letters are acknowledged to `done`, and sends again what failed.
    pub fn tick(&mut self, done: &mut Vec<Aside>) {
        if self.pending.is_empty() {
            return;
        }
        let deliveries = std::mem::take(&mut *self.deliveries.lock().unwrap_or_else(PoisonError::into_inner));
        for (tag, outcome) in deliveries {
            match outcome {
                Err(error) => self.failed(tag, &error),
                Ok(()) => {
                    self.steps.reached("consumer.dead_letter_acked");
                    done.extend(self.pending.remove(&tag).map(|pending| self.written(pending)));
                }
            }
        }
        let now = Instant::now();
        let is_due = |pending: &Pending| pending.retry_at.is_some_and(|at| at <= now);
        let due: Vec<u64> = self.pending.iter().filter(|(_, p)| is_due(p)).map(|(tag, _)| *tag).collect();
        due.into_iter().for_each(|tag| self.send(tag));
    }

    /// Says so when a letter had no room for its record.
    fn written(&self, Pending { aside, form, .. }: Pending) -> Aside {
        if let (Some(left_out), Some(topic)) = (form.left_out(), &self.topic) {
            ConsumerStatus::add(&self.status.dead_letters_cut, 1);
            tracing::warn!(
                %topic, left_out, record = ?aside.job.record,
                "a dead letter was larger than its topic takes and was written without: read the record \
                 where it lies before its own topic forgets it"
            );
        }
        aside
    }

    /// Why nothing new should be taken in, if so.
    pub fn obstacle(&self) -> Option<String> {
        let topic = self.topic.as_ref()?;
        let now = Instant::now();
        let stuck = |p: &&Pending| p.failures > 0 || now.duration_since(p.since) > self.patience;
        let first = self.pending.values().find(stuck)?;
        let waited = now.duration_since(first.since).as_secs();
        Some(format!(
            "the dead letter of {:?} cannot be written to {topic} for {waited} s",
            first.aside.job.record
        ))
    }

    fn send(&mut self, tag: u64) {
        if let Err(error) = self.try_send(tag) {
            self.failed(tag, &error);
        }
    }

    fn try_send(&mut self, tag: u64) -> Result<(), SendError> {
        if self.producer.as_ref().is_none_or(AckedProducer::is_broken) {
            let (deliveries, bell) = (Arc::clone(&self.deliveries), Arc::clone(&self.bell));
            let on_delivery = Box::new(move |tag, outcome| {
                deliveries.lock().unwrap_or_else(PoisonError::into_inner).push((tag, outcome));
                bell.ring();
            });
            self.create_topic();
            self.producer = Some(AckedProducer::open(&self.config, on_delivery)?);
        }
        let (Some(producer), Some(pending), Some(topic)) =
            (&self.producer, self.pending.get_mut(&tag), &self.topic)
        else {
            return Ok(());
        };
        let letter = letter(&self.group, pending);
        let headers = letter.own.iter().map(|(name, value)| (*name, Some(value.as_bytes())));
        let headers = letter.original.into_iter().chain(headers).collect();
        let letter = Outgoing { topic, key: letter.key, payload: letter.payload, headers };
        producer.send(letter, tag)?;
        pending.retry_at = None;
        self.steps.reached("consumer.dead_letter_sent");
        Ok(())
    }

    /// Creates the topic where the settings say so. If that fails, so does the first send, and
    /// both are tried again.
    fn create_topic(&self) {
        let Some(topic) = self.topic.as_ref().filter(|_| self.config.create_topics) else { return };
        let created = Admin::open(&self.config, CREATE_WAIT)
            .map_err(|error| error.to_string())
            .and_then(|admin| admin.create_topic(topic, &self.config).map_err(|error| error.to_string()));
        if let Err(error) = created {
            tracing::warn!(%topic, error, "create the dead-letter topic");
        }
    }

    fn failed(&mut self, tag: u64, error: &SendError) {
        let Some(pending) = self.pending.get_mut(&tag) else { return };
        if let (SendError::TooLarge { .. }, Some(shorter)) = (error, pending.form.shorter()) {
            (pending.form, pending.retry_at) = (shorter, Some(Instant::now()));
            return;
        }
        let pause = RETRY_FIRST.saturating_mul(1 << pending.failures.min(8)).min(RETRY_MAX);
        pending.failures += 1;
        pending.retry_at = Some(Instant::now() + pause);
        let text = format!("write the dead letter of {:?}: {error}", pending.aside.job.record);
        tracing::error!(attempts = pending.failures, "{text}; taking nothing in until it is written");
        ConsumerStatus::add(&self.status.dead_letter_failures, 1);
        self.status.failed(text);
    }
}

/// What a dead letter consists of.
struct Letter<'a> {
    key: Option<&'a [u8]>,
    payload: Option<&'a [u8]>,
    original: Vec<(&'a str, Option<&'a [u8]>)>,
    own: Vec<(&'static str, String)>,
}

fn letter<'a>(group: &str, pending: &'a Pending) -> Letter<'a> {
    let (record, job, form) = (&pending.aside.job.record, &pending.aside.job, pending.form);
    let mut own = vec![
        (header::REASON, cut(&pending.aside.reason).to_owned()),
        (header::GROUP, group.to_owned()),
        (header::TOPIC, record.topic().to_owned()),
        (header::PARTITION, record.partition().to_string()),
        (header::OFFSET, record.offset().to_string()),
        (header::ATTEMPTS, job.failures.to_string()),
    ];
    let payload = record.payload();
    if let Some(left_out) = form.left_out() {
        own.push((header::LEFT_OUT, left_out.to_owned()));
        own.push((header::PAYLOAD_BYTES, payload.map_or(0, <[u8]>::len).to_string()));
    }
    let original = record.headers().filter(|(name, _)| !name.starts_with(header::PREFIX));
    Letter {
        key: record.key().filter(|_| form != Form::OriginOnly),
        // Empty and not null: that would be a tombstone, which deletes the key's earlier letters
        // where the topic is compacted.
        payload: if form == Form::Whole { payload } else { Some(&[]) },
        original: if form == Form::OriginOnly { Vec::new() } else { original.collect() },
        own,
    }
}

/// The reason, cut at a character's border.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "ä".repeat(2000);
        assert_eq!(cut(&reason).len(), REASON_BYTES_MAX);
        assert_eq!(cut(&format!("x{reason}")).len(), REASON_BYTES_MAX - 1);
        assert_eq!(cut("short"), "short");
    }
}
