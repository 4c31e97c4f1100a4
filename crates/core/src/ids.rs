//! The newtypes every part shares: stream, topic, epoch, partition, offset, seq, lane.

use std::fmt;
use std::sync::Arc;

/// A name that does not follow the rule of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} name {name:?}: {rule}")]
pub struct InvalidName {
    /// What the name was meant for: `stream` or `topic`.
    pub kind: &'static str,
    /// The name as given.
    pub name: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

/// A named source of messages; one outbox is one stream.
///
/// Matches `[a-z0-9][a-z0-9._-]{0,63}`, so that it can stand in a stamp
/// between slashes without escaping. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// Checks `name` and keeps it.
    ///
    /// # Errors
    /// [`InvalidName`] when the name is empty, longer than 64 bytes, starts
    /// with other than a letter or digit, or holds a byte outside `[a-z0-9._-]`.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        if Self::is_valid(name) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidName {
                kind: "stream",
                name: name.to_owned(),
                rule: "must match [a-z0-9][a-z0-9._-]{0,63}",
            })
        }
    }

    /// Says whether `name` follows the rule of stream names.
    #[must_use]
    pub fn is_valid(name: &str) -> bool {
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        bytes.first().is_some_and(plain)
            && bytes.len() <= 64
            && bytes.iter().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Kafka topic's name. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks `name` by Kafka's own rule and keeps it.
    ///
    /// # Errors
    /// [`InvalidName`] when the name is empty, `.` or `..`, longer than 249
    /// bytes, or holds a byte outside `[a-zA-Z0-9._-]` (Apache Kafka,
    /// `org.apache.kafka.common.internals.Topic`).
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        let well = !name.is_empty()
            && name != "."
            && name != ".."
            && name.len() <= 249
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if well {
            Ok(Self(name.into()))
        } else {
            Err(InvalidName {
                kind: "topic",
                name: name.to_owned(),
                rule: "must be 1 to 249 of [a-zA-Z0-9._-] and neither . nor ..",
            })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Counts how often a stream's numbering had to start again; the first is 1.
    Epoch(u32)
}
number! {
    /// A Kafka partition's index, 0 or more.
    Partition(i32)
}
number! {
    /// A record's offset in its partition, 0 or more.
    Offset(i64)
}
number! {
    /// A message's number in its lane: 1, 2, 3 … without holes.
    Seq(u64)
}

impl Epoch {
    /// The epoch a new stream starts with.
    pub const FIRST: Self = Self(1);
}

impl Seq {
    /// The first number of every lane.
    pub const FIRST: Self = Self(1);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Offset {
    /// The offset after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The unit of numbering and of order: one stream's records of one epoch in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The stream the records come from.
    pub stream: StreamName,
    /// The numbering's epoch.
    pub epoch: Epoch,
    /// The topic the records go to.
    pub topic: TopicName,
    /// The partition they go to.
    pub partition: Partition,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}[{}]", self.stream, self.epoch, self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_names_follow_the_wire_rule() {
        for good in ["a", "orders-db", "0", "orders.07", &"x".repeat(64)] {
            assert_eq!(StreamName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "Orders", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(StreamName::parse(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn topic_names_follow_kafkas_rule() {
        for good in ["orders", "Orders.v1_x-y", &"x".repeat(249)] {
            assert_eq!(TopicName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "ö", &"x".repeat(250)] {
            assert!(TopicName::parse(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
