//! Makes sure that topics are there before they are consumed or written to.

use super::admin::{Admin, TopicAnswer};
use super::config::{ConfigError, KafkaConfig};
use super::native::NativeError;
use super::producer::ProducerError;
use homing_core::TopicName;
use std::time::Duration;

/// Whether a topic is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It was there.
    Present,
    /// It was created, as [`KafkaConfig::create_topics`] allows.
    Created,
    /// There is no such topic, and it may not be created.
    Missing,
    /// Kafka does not let us look at it.
    NotAuthorised,
}

/// Why it is not known whether topics are there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnsureError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Kafka did not answer, or refused.
    #[error(transparent)]
    Kafka(#[from] NativeError),
}

impl From<ProducerError> for EnsureError {
    fn from(error: ProducerError) -> Self {
        match error {
            ProducerError::Config(error) => Self::Config(error),
            ProducerError::Native(error) => Self::Kafka(error),
        }
    }
}

/// Looks for `topics` and creates what is missing when the settings say so;
/// answers in their order. Each question waits up to `wait`.
///
/// # Errors
/// [`EnsureError`] when the settings cannot be used or Kafka does not answer.
pub fn ensure_topics(
    config: &KafkaConfig,
    topics: &[TopicName],
    wait: Duration,
) -> Result<Vec<Presence>, EnsureError> {
    let admin = Admin::open(config, wait)?;
    let names: Vec<&TopicName> = topics.iter().collect();
    let answers = admin.topics(&names)?;
    topics
        .iter()
        .zip(answers)
        .map(|(topic, answer)| match answer {
            TopicAnswer::Present(_) => Ok(Presence::Present),
            TopicAnswer::Missing if config.create_topics => {
                admin.create_topic(topic, config)?;
                Ok(Presence::Created)
            }
            TopicAnswer::Missing => Ok(Presence::Missing),
            TopicAnswer::NotAuthorised => Ok(Presence::NotAuthorised),
            TopicAnswer::Unclear(error) => Err(error.into()),
        })
        .collect()
}
