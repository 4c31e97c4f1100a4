//! How a consumer works, and the checks on it.

use crate::testing::Steps;
use homing_core::{InvalidName, InvalidRetryPolicy, ProcessingOrder, RetryPolicy, TopicName};
use std::time::Duration;

/// Where to begin in a partition for which the group has no committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartPolicy {
    /// At the oldest record there is: nothing is missed.
    #[default]
    Earliest,
    /// Behind the newest record there is: everything before is skipped, by choice. The
    /// position is committed at once, so that a crash does not move it.
    Latest,
    /// Not at all: the run ends with an error.
    Error,
}

/// What becomes of a record that a handler rejects or fails too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetAside {
    /// The record alone becomes a dead letter; later records of its key are handled.
    #[default]
    Record,
    /// Its key is parked: later records of the key follow it to the dead-letter topic, in
    /// order, unhandled, for as long as this consumer holds the partition. In memory only.
    Key,
}

/// How a consumer works.
///
/// ```
/// use homing::consumer::ConsumerOptions;
/// let options = ConsumerOptions { workers: 4, ..ConsumerOptions::new("billing", ["orders"])? };
/// options.validate()?;
/// assert!(ConsumerOptions { workers: 0, ..options }.validate().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// The consumer group; no default. Its committed offsets are where work goes on.
    pub group: String,
    /// The topics to work through; no default.
    pub topics: Vec<TopicName>,
    /// A name for this member that outlives its process (`group.instance.id`); default none.
    /// With one, a member restarted within the session timeout gets its partitions back at
    /// once; two members of one name at a time fence each other.
    pub instance_id: Option<String>,
    /// Which records wait for one another; default by key.
    pub order: ProcessingOrder,
    /// Threads for blocking handlers, or of the async runtime when Homing starts it; default
    /// 16. Too few: slow handlers bound the rate. Too many: memory, and context switches.
    pub workers: usize,
    /// Records that run or may start at once, of one lane never more than one; default 10,000.
    /// Also how many async handlers run at once. Too low: workers run dry. Too high: memory, and
    /// more work done twice after a crash.
    pub in_flight_max: usize,
    /// Records beside these that wait behind another of their lane, or for another attempt;
    /// default 10,000. A partition that does not get on may have as many as are free for the
    /// others, and is held back beyond that. Too low: a hot key runs dry between two reads, and
    /// slows its neighbours down to its own pace. Too high: memory, and longer drains.
    pub waiting_max: usize,
    /// The bytes of key and payload of all these; default 64 MiB. The first record always passes.
    pub in_flight_bytes_max: usize,
    /// Offsets of one partition between its oldest unfinished record and the newest taken;
    /// default 100,000. A partition beyond it is paused until the oldest is finished. Too low:
    /// one slow key holds its partition up. Too high: memory, and a commit map that must leave
    /// finished records out.
    pub window_max: u64,
    /// The share of that window, in percent, at which a record that holds it up raises an
    /// alarm; default 50.
    pub window_alarm_percent: u8,
    /// Pauses and attempts when a handler fails.
    pub retry: RetryPolicy,
    /// Where rejected and exhausted records go; default none. Without one such a record stops
    /// the consumer, unfinished.
    pub dead_letter: Option<TopicName>,
    /// Whether a rejected or exhausted record goes alone or parks its key; default alone.
    pub set_aside: SetAside,
    /// Parked keys held in memory at most; default 10,000. One more stops the consumer.
    pub parked_keys_max: usize,
    /// How long a dead letter may go unacknowledged before intake stops; default 5 s.
    pub dead_letter_patience: Duration,
    /// Where to begin without a committed offset; default at the oldest record.
    pub start: StartPolicy,
    /// How often finished work is committed; default 200 ms. Too long: more work done twice
    /// after a crash. Too short: load on the coordinator.
    pub commit_interval: Duration,
    /// How long running handlers may finish when partitions are taken away or the consumer
    /// stops; default 10 s. Too short: their records are handled twice. Too long: a rebalance
    /// waits; keep it well below `max.poll.interval.ms`.
    pub drain_timeout: Duration,
    /// How long one question to the coordinator or a broker may take; default 10 s. It is
    /// asked again until it is answered.
    pub request_timeout: Duration,
    /// How long a partition with unread records may receive nothing before it is read anew, and then
    /// before the client is opened anew; default 30 s. Too short: a slow cluster is taken for a
    /// stuck client. Too long: records of a partition that is stuck wait.
    pub stall_after: Duration,
    /// Told each crash-relevant step; default nobody.
    pub steps: Steps,
}

/// Options that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidOptions {
    /// A field with an impossible value.
    #[error("consumer.{field}: {rule}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The retry policy contradicts itself.
    #[error("consumer.retry: {0}")]
    Retry(#[from] InvalidRetryPolicy),
}

impl ConsumerOptions {
    /// Options for `group` to work through `topics`, everything else at its default.
    ///
    /// # Errors
    /// [`InvalidName`] for a topic name that Kafka would refuse.
    pub fn new<'a>(group: &str, topics: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidName> {
        Ok(Self {
            group: group.to_owned(),
            topics: topics.into_iter().map(TopicName::parse).collect::<Result<_, _>>()?,
            instance_id: None,
            order: ProcessingOrder::Key,
            workers: 16,
            in_flight_max: 10_000,
            waiting_max: 10_000,
            in_flight_bytes_max: 64 << 20,
            window_max: 100_000,
            window_alarm_percent: 50,
            retry: RetryPolicy::default(),
            dead_letter: None,
            set_aside: SetAside::Record,
            parked_keys_max: 10_000,
            dead_letter_patience: Duration::from_secs(5),
            start: StartPolicy::Earliest,
            commit_interval: Duration::from_millis(200),
            drain_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            stall_after: Duration::from_secs(30),
            steps: Steps::default(),
        })
    }

    /// Checks every field and their relations.
    ///
    /// # Errors
    /// [`InvalidOptions`] names the first field that does not fit.
    pub fn validate(&self) -> Result<(), InvalidOptions> {
        let checks = [
            (!self.group.is_empty(), "group", "must not be empty"),
            (!self.topics.is_empty(), "topics", "must name at least one topic"),
            ((1..=4096).contains(&self.workers), "workers", "must be 1 to 4096"),
            ((1..=10_000_000).contains(&self.in_flight_max), "in_flight_max", "must be 1 to 10,000,000"),
            ((1..=10_000_000).contains(&self.waiting_max), "waiting_max", "must be 1 to 10,000,000"),
            (self.in_flight_bytes_max > 0, "in_flight_bytes_max", "must be at least 1"),
            (self.window_max >= 1, "window_max", "must be at least 1"),
            ((1..=100).contains(&self.window_alarm_percent), "window_alarm_percent", "must be 1 to 100"),
            (self.parked_keys_max >= 1, "parked_keys_max", "must be at least 1"),
            (!self.commit_interval.is_zero(), "commit_interval", "must be above zero"),
            (!self.request_timeout.is_zero(), "request_timeout", "must be above zero"),
            (self.stall_after >= Duration::from_millis(100), "stall_after", "must be at least 100 ms"),
            (
                self.dead_letter.as_ref().is_none_or(|topic| !self.topics.contains(topic)),
                "dead_letter",
                "must not be one of consumer.topics: dead letters would be consumed for ever",
            ),
            (
                self.set_aside == SetAside::Record || self.dead_letter.is_some(),
                "set_aside",
                "parking a key needs consumer.dead_letter, where its records go",
            ),
        ];
        if let Some((_, field, rule)) = checks.into_iter().find(|(fits, _, _)| !fits) {
            return Err(InvalidOptions::Field { field, rule });
        }
        Ok(self.retry.validate()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_topic_that_is_also_consumed_is_refused() {
        let mut options = ConsumerOptions::new("g", ["a", "b"]).unwrap();
        options.validate().unwrap();
        options.dead_letter = Some(TopicName::parse("b").unwrap());
        let error = options.validate().unwrap_err().to_string();
        assert!(error.contains("consumer.dead_letter") && error.contains("consumer.topics"), "{error}");
    }

    #[test]
    fn parking_needs_a_place_for_the_parked() {
        let options =
            ConsumerOptions { set_aside: SetAside::Key, ..ConsumerOptions::new("g", ["a"]).unwrap() };
        assert!(options.validate().unwrap_err().to_string().contains("consumer.dead_letter"));
    }
}
