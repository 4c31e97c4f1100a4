//! Why a consumer stopped.

use super::options::InvalidOptions;
use crate::error::Retry;
use crate::kafka::NativeError;
use crate::kafka::config::ConfigError;
use crate::kafka::partition_list::TopicPartition;
use homing_core::Offset;

/// Why a consumer stopped. Whatever it says, no unfinished record was committed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConsumerError {
    /// The Kafka settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The options cannot work.
    #[error(transparent)]
    Options(#[from] InvalidOptions),
    /// The client cannot go on, e.g. because another member has taken its instance id.
    #[error(transparent)]
    Kafka(#[from] NativeError),
    /// The committed offset is not in the log: starting elsewhere would skip or repeat records.
    #[error(
        "{at}: offset {offset} is not in the log, which holds {low} to {high}: {reason}. Retention may have \
         deleted unread records (B17), or the log was cut off or made anew (C08). Nothing was skipped; move \
         the group's offset once you know what is missing"
    )]
    OutOfRange {
        /// The partition.
        at: TopicPartition,
        /// The offset to go on from.
        offset: Offset,
        /// The log's first offset.
        low: Offset,
        /// The offset after its last.
        high: Offset,
        /// librdkafka's words.
        reason: String,
    },
    /// There is no committed offset, and the start policy is to refuse.
    #[error("{at}: group {group:?} has no committed offset and the start policy is error (C06, C07)")]
    NoCommittedOffset {
        /// The partition.
        at: TopicPartition,
        /// The group.
        group: String,
    },
    /// The topic was deleted and made again since the offset was committed.
    #[error(
        "{at}: the committed offset {offset} belongs to a topic of the same name that no longer exists \
         and the start policy is error (A04)"
    )]
    TopicRecreated {
        /// The partition.
        at: TopicPartition,
        /// The offset in the former topic.
        offset: Offset,
    },
    /// A handler said that the consumer must stop.
    #[error("{at} offset {offset}: handler asked to stop: {reason}")]
    Fatal {
        /// The record's partition.
        at: TopicPartition,
        /// The record's offset; it is not committed.
        offset: Offset,
        /// The handler's words.
        reason: String,
    },
    /// A record was rejected or failed too often, and there is no dead-letter topic.
    #[error(
        "{at} offset {offset}: given up after {attempts} attempts and no dead-letter topic is set: {reason}"
    )]
    NowhereToSetAside {
        /// The record's partition.
        at: TopicPartition,
        /// The record's offset; it is not committed.
        offset: Offset,
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        reason: String,
    },
    /// More keys are parked than may be.
    #[error(
        "{at} offset {offset}: cannot park its key: consumer.parked_keys_max = {limit} are parked already"
    )]
    TooManyParked {
        /// The record's partition.
        at: TopicPartition,
        /// The record's offset; it is not committed.
        offset: Offset,
        /// The limit.
        limit: usize,
    },
    /// The calling thread is the one that would have to run the handlers.
    #[error(
        "called on the only thread of a tokio runtime, which could then run nothing else, not even the \
         handlers: call it through tokio::task::spawn_blocking, or from a thread of its own"
    )]
    RuntimeBlocked,
    /// The threads or the runtime for the handlers could not be started.
    #[error("start workers: {0}")]
    Workers(String),
}

impl ConsumerError {
    /// Whether running the consumer again may help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Kafka(_) | Self::Fatal { .. } | Self::Workers(_) => Retry::Later,
            _ => Retry::Never,
        }
    }
}
