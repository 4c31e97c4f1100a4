//! A topic's settings: the names, defaults and checks of Apache Kafka that this broker honours.

use kafka_protocol::ResponseError;
use std::collections::BTreeMap;

/// How a value is checked and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number in this range.
    Number(i64, i64),
    /// `true` or `false`.
    Bool,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A comma list of these words, at least one.
    ListOf(&'static [&'static str]),
}

/// One setting of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Kafka's name for it.
    pub name: &'static str,
    /// Kafka's default, but for `segment.bytes`, which is smaller for a small machine.
    pub default: &'static str,
    /// Its values.
    pub kind: Kind,
}

const fn number(name: &'static str, default: &'static str, low: i64, high: i64) -> Setting {
    Setting { name, default, kind: Kind::Number(low, high) }
}

const FOREVER: &str = "9223372036854775807";
const INT_MAX: i64 = i32::MAX as i64;

/// Every setting a topic may have, in Kafka's order of names.
pub const SETTINGS: &[Setting] = &[
    Setting { name: "cleanup.policy", default: "delete", kind: Kind::ListOf(&["delete"]) },
    Setting { name: "compression.type", default: "producer", kind: Kind::OneOf(&["producer"]) },
    number("delete.retention.ms", "86400000", 0, i64::MAX),
    number("file.delete.delay.ms", "60000", 0, i64::MAX),
    number("flush.messages", FOREVER, 1, i64::MAX),
    number("flush.ms", FOREVER, 0, i64::MAX),
    number("index.interval.bytes", "4096", 0, INT_MAX),
    number("max.message.bytes", "1048588", 0, INT_MAX),
    number("message.timestamp.after.max.ms", "3600000", 0, i64::MAX),
    number("message.timestamp.before.max.ms", FOREVER, 0, i64::MAX),
    Setting { name: "message.timestamp.type", default: "CreateTime", kind: Kind::OneOf(&["CreateTime"]) },
    number("min.insync.replicas", "1", 1, 1),
    Setting { name: "preallocate", default: "false", kind: Kind::OneOf(&["false"]) },
    number("retention.bytes", "-1", -1, i64::MAX),
    number("retention.ms", "604800000", -1, i64::MAX),
    number("segment.bytes", "134217728", 14, INT_MAX),
    number("segment.ms", "604800000", 1, i64::MAX),
    Setting { name: "unclean.leader.election.enable", default: "false", kind: Kind::Bool },
];

/// Finds a setting by its name.
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// Checks one value.
///
/// # Errors
/// A sentence that names setting, value and rule.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let setting = setting(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    let rule = match setting.kind {
        Kind::Number(low, high) => match value.trim().parse::<i64>() {
            Ok(number) if (low..=high).contains(&number) => return Ok(()),
            _ => format!("must be a number from {low} to {high}"),
        },
        Kind::Bool if matches!(value, "true" | "false") => return Ok(()),
        Kind::Bool => "must be true or false".to_owned(),
        Kind::OneOf(words) if words.contains(&value) => return Ok(()),
        Kind::OneOf(words) => format!("this broker offers {}", words.join(", ")),
        Kind::ListOf(words)
            if !value.is_empty() && value.split(',').all(|word| words.contains(&word.trim())) =>
        {
            return Ok(());
        }
        Kind::ListOf(words) => format!("this broker offers {}", words.join(", ")),
    };
    Err(format!("Invalid value {value} for configuration {name}: {rule}"))
}

/// A topic's settings as its logs use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// `max.message.bytes`.
    pub max_message_bytes: usize,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `retention.ms`; -1 keeps for ever.
    pub retention_ms: i64,
    /// `retention.bytes`; -1 keeps any amount.
    pub retention_bytes: i64,
    /// Whether `cleanup.policy` holds `delete`.
    pub deletes_by_retention: bool,
    /// `flush.messages`.
    pub flush_messages: i64,
    /// `flush.ms`.
    pub flush_ms: i64,
    timestamp_before_max_ms: i64,
    timestamp_after_max_ms: i64,
}

impl TopicConfig {
    /// The settings that result from what was set for a topic; every value was checked before.
    pub fn from_set(set: &BTreeMap<String, String>) -> Self {
        let number = |name: &str| {
            let setting = setting(name).expect("only known settings are asked for");
            let text = set.get(name).map_or(setting.default, String::as_str);
            text.trim().parse::<i64>().expect("values are checked before they are set")
        };
        let size = |name| usize::try_from(number(name)).unwrap_or(usize::MAX);
        Self {
            max_message_bytes: size("max.message.bytes"),
            segment_bytes: size("segment.bytes") as u64,
            segment_ms: number("segment.ms"),
            retention_ms: number("retention.ms"),
            retention_bytes: number("retention.bytes"),
            deletes_by_retention: set.get("cleanup.policy").is_none_or(|policy| policy.contains("delete")),
            flush_messages: number("flush.messages"),
            flush_ms: number("flush.ms"),
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
        }
    }

    /// Refuses records whose times, from `earliest` to `latest` (-1: none has one), are too far from now
    /// (KIP-937; catalogue P24, B19).
    ///
    /// # Errors
    /// `INVALID_TIMESTAMP`.
    pub fn check_timestamp(&self, earliest: i64, latest: i64, now_ms: i64) -> Result<(), ResponseError> {
        if latest == -1 {
            return Ok(());
        }
        let too_late = latest.saturating_sub(now_ms) > self.timestamp_after_max_ms;
        let too_early = now_ms.saturating_sub(earliest) > self.timestamp_before_max_ms;
        if too_late || too_early { Err(ResponseError::InvalidTimestamp) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_passes_its_own_check() {
        for setting in SETTINGS {
            assert_eq!(check(setting.name, setting.default), Ok(()), "{}", setting.name);
        }
        let config = TopicConfig::from_set(&BTreeMap::new());
        assert_eq!((config.retention_ms, config.max_message_bytes), (604_800_000, 1_048_588));
    }

    #[test]
    fn what_this_broker_cannot_keep_is_refused() {
        for (name, value) in [
            ("cleanup.policy", "compact"),
            ("min.insync.replicas", "2"),
            ("retention.ms", "soon"),
            ("no.such.thing", "1"),
        ] {
            assert!(check(name, value).unwrap_err().contains(name));
        }
    }
}
