//! Reads partitions from given offsets to their end, in batches, without a group.
//!
//! For whoever looks at a log instead of working through it: the auditor, and
//! a relay's tail read. A consumer with a group is [`crate::consumer`].
//!
//! Partition-end events stay off (librdkafka #4844): the end is where the
//! broker says it was when asked ([`TopicReader::watermarks`]), and a reader
//! that has come that far, control records included, is at the end.

use super::config::{ConfigError, KafkaConfig};
use super::native::{Client, NativeError};
use super::native_call::{ReadBuffer, ReadError, SharedClient, Source, TopicId};
use super::partition_list::{Entry, TopicPartition};
use super::record::Record;
use homing_core::{Offset, TopicName};
use std::collections::BTreeMap;
use std::time::Duration;

/// Why a read did not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReaderError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Kafka or the client refused; transient trouble is not reported, it is mended inside.
    #[error(transparent)]
    Kafka(#[from] NativeError),
    /// The offset to read from is not, or no longer, in the log.
    #[error(
        "{at}: offset {offset} is not in the log: {reason} (C08: truncated or recreated; B17: retention)"
    )]
    OutOfRange {
        /// The partition.
        at: TopicPartition,
        /// The offset that was asked for.
        offset: i64,
        /// librdkafka's words.
        reason: String,
    },
}

/// Where to begin in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// The oldest record there is.
    Start,
    /// Behind the newest record there is.
    End,
    /// This offset; an error comes out of reading when the log does not hold it.
    At(Offset),
}

/// Reads assigned partitions in batches.
///
/// Records keep the connection alive; drop them before expecting it closed.
pub struct TopicReader {
    client: SharedClient,
    buffer: ReadBuffer,
    errors: Vec<ReadError>,
    starts: BTreeMap<TopicPartition, i64>,
}

impl TopicReader {
    /// Opens a reader; nothing is read before [`assign`](Self::assign).
    ///
    /// # Errors
    /// [`ReaderError::Config`] for a setting below the floor,
    /// [`ReaderError::Kafka`] for one that librdkafka does not know.
    pub fn open(config: &KafkaConfig) -> Result<Self, ReaderError> {
        // librdkafka wants a group name even where no group is used; it is never sent.
        let settings = config.tuned_consumer_config("homing-reader")?;
        let client = Client::open(&settings, None)?;
        Ok(Self { client, buffer: ReadBuffer::default(), errors: Vec::new(), starts: BTreeMap::new() })
    }

    /// Opens a reader that passes by no record: those of open transactions come too, so that a
    /// foreign transaction cannot hide what lies behind it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_uncommitted(config: &KafkaConfig) -> Result<Self, ReaderError> {
        let mut settings = config.tuned_consumer_config("homing-reader")?;
        settings.set("isolation.level", "read_uncommitted");
        let client = Client::open(&settings, None)?;
        Ok(Self { client, buffer: ReadBuffer::default(), errors: Vec::new(), starts: BTreeMap::new() })
    }

    /// Reads these partitions from now on, and no others.
    ///
    /// # Errors
    /// [`ReaderError::Kafka`] when the client refuses the assignment.
    pub fn assign(&mut self, from: &[(TopicPartition, ReadFrom)]) -> Result<(), ReaderError> {
        let entries: Vec<_> =
            from.iter().map(|(at, from)| Entry { offset: from.as_raw(), ..Entry::of(at.clone()) }).collect();
        self.starts = entries.iter().map(|entry| (entry.at.clone(), entry.offset)).collect();
        Ok(self.client.assign(&entries)?)
    }

    /// Appends up to `max` records to `out`, waiting up to `wait` for the first; returns how many.
    ///
    /// # Errors
    /// [`ReaderError::OutOfRange`] when a partition's offset is not in the log (other
    /// partitions go on), [`ReaderError::Kafka`] for what the client cannot mend by itself.
    pub fn read(&mut self, out: &mut Vec<Record>, max: usize, wait: Duration) -> Result<usize, ReaderError> {
        let before = out.len();
        self.take(out, (1, wait));
        if out.len() > before && max > 1 {
            self.take(out, (max - 1, Duration::ZERO));
        }
        for record in &mut out[before..] {
            record.keep(&self.client);
        }
        self.first_error()?;
        Ok(out.len() - before)
    }

    fn take(&mut self, out: &mut Vec<Record>, limit: (usize, Duration)) {
        self.client.read(Source::Consumer, &mut self.buffer, limit, out, &mut self.errors);
    }

    fn first_error(&mut self) -> Result<(), ReaderError> {
        let (_, errors) = self.client.take_events();
        if let Some(fatal) = errors.into_iter().find(|error| error.fatal) {
            return Err(fatal.into());
        }
        for ReadError { at, offset, error } in self.errors.drain(..) {
            match at {
                Some(at) if error.is_out_of_range() || error.is_truncation() => {
                    return Err(ReaderError::OutOfRange { at, offset, reason: error.reason });
                }
                at => {
                    // What the client goes on to mend by itself: connections, leaders, time-outs.
                    tracing::debug!(at = at.map(|at| at.to_string()), %error, "read trouble");
                }
            }
        }
        Ok(())
    }

    /// The partition's first offset and the one after its last, as the broker says now.
    ///
    /// # Errors
    /// [`ReaderError::Kafka`] when there is no answer within `wait`.
    pub fn watermarks(&self, at: &TopicPartition, wait: Duration) -> Result<(Offset, Offset), ReaderError> {
        Ok(self.client.watermarks(at, wait)?)
    }

    /// As [`watermarks`](Self::watermarks), of many partitions at once, in their order: each has an
    /// answer or an error of its own.
    pub(crate) fn ends(
        &self,
        of: &[TopicPartition],
        wait: Duration,
    ) -> Vec<Result<(Offset, Offset), NativeError>> {
        self.client.ends(of, wait)
    }

    /// Whether all below `end` has been taken from the partition, control records included.
    ///
    /// # Errors
    /// [`ReaderError::Kafka`] when the partition is unknown to the client.
    pub fn has_reached(&self, at: &TopicPartition, end: Offset) -> Result<bool, ReaderError> {
        let started = self.starts.get(at).is_some_and(|start| *start >= end.0);
        let positions = self.client.positions(std::slice::from_ref(at))?;
        Ok(started || positions.first().is_some_and(|entry| entry.offset >= end.0))
    }

    /// The topics' ids in the given order; `None` where there is no such topic.
    ///
    /// # Errors
    /// [`ReaderError::Kafka`] when there is no answer within `wait`.
    pub fn topic_ids(
        &self,
        topics: &[TopicName],
        wait: Duration,
    ) -> Result<Vec<Option<TopicId>>, ReaderError> {
        Ok(self.client.topic_ids(topics, wait)?)
    }

    /// The cluster's id, if it answers within `wait`.
    #[must_use]
    pub fn cluster_id(&self, wait: Duration) -> Option<String> {
        self.client.cluster_id(wait)
    }

    /// Stops fetching these partitions; what was fetched already is dropped and fetched again later.
    ///
    /// # Errors
    /// [`ReaderError::Kafka`] when a partition is not assigned.
    pub fn pause(&mut self, at: &[TopicPartition]) -> Result<(), ReaderError> {
        Ok(self.client.pause(at)?)
    }

    /// Fetches these partitions again.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&mut self, at: &[TopicPartition]) -> Result<(), ReaderError> {
        Ok(self.client.resume(at)?)
    }

    /// Reads a partition on from another offset.
    ///
    /// # Errors
    /// [`ReaderError::Kafka`] when the partition is not assigned or does not answer within `wait`.
    pub fn seek(&mut self, at: &TopicPartition, from: ReadFrom, wait: Duration) -> Result<(), ReaderError> {
        let entry = Entry { offset: from.as_raw(), ..Entry::of(at.clone()) };
        self.client.seek(&[entry], wait)?;
        self.starts.insert(at.clone(), from.as_raw());
        Ok(())
    }
}

impl ReadFrom {
    fn as_raw(self) -> i64 {
        match self {
            Self::Start => i64::from(rdkafka::bindings::RD_KAFKA_OFFSET_BEGINNING),
            Self::End => i64::from(rdkafka::bindings::RD_KAFKA_OFFSET_END),
            Self::At(offset) => offset.0,
        }
    }
}
