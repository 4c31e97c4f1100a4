//! How to reach Kafka, and the floor no client setting may go below.
//!
//! `[kafka.client]` accepts any librdkafka key. A key that would weaken a
//! promise is refused with the key, the value and the floor's value, never
//! accepted with a warning (design §4, §6). Consumer keys in a producer's
//! configuration and the other way round are left out, so that librdkafka does
//! not warn about them.

use super::client_value::ClientValue;
use rdkafka::ClientConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash as _, Hasher as _};

/// How to reach Kafka and what to do about missing topics.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host:port[,host:port]` of the brokers; no default. All of one cluster: the
    /// relay pins the cluster id and stops when it changes.
    pub bootstrap: String,
    /// Any librdkafka key and value; default empty. What weakens the floor is refused.
    pub client: BTreeMap<String, ClientValue>,
    /// Lets client keys switch off that TLS checks whom it talks to; default false.
    /// When true, whoever is in the way can acknowledge messages and keep none (N02).
    pub allow_unverified_brokers: bool,
    /// Creates a missing topic with the three numbers below; default false. When
    /// false, rows for a missing topic wait until somebody creates it.
    pub create_topics: bool,
    /// Partitions of a topic Homing creates; default 6. Too low bounds consumer
    /// parallelism for good (a later change starts a new epoch); too high costs
    /// file handles and batching.
    pub topic_partitions: i32,
    /// Replicas of a topic Homing creates; default 1 (the embedded broker has one
    /// node), use 3 on a cluster. Too low: a lost broker loses messages.
    pub replication_factor: i32,
    /// `min.insync.replicas` of a topic Homing creates; default 1, use 2 on a
    /// cluster. Too low: acks=all may mean one copy (P02); higher than
    /// `replication_factor` could never be written and is refused.
    pub min_insync_replicas: i32,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap: String::new(),
            client: BTreeMap::new(),
            allow_unverified_brokers: false,
            create_topics: false,
            topic_partitions: 6,
            replication_factor: 1,
            min_insync_replicas: 1,
        }
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.client.iter().map(|(key, value)| (key, value.shown(key)));
        f.debug_struct("KafkaConfig")
            .field("bootstrap", &self.bootstrap)
            .field("client", &shown.collect::<BTreeMap<_, _>>())
            .field("allow_unverified_brokers", &self.allow_unverified_brokers)
            .field("create_topics", &self.create_topics)
            .field("topic_partitions", &self.topic_partitions)
            .field("replication_factor", &self.replication_factor)
            .field("min_insync_replicas", &self.min_insync_replicas)
            .finish()
    }
}

/// A Kafka setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A client key that would weaken a promise.
    #[error("kafka.client key {key} = {value} is below the floor: it must be {floor} ({why})")]
    BelowFloor {
        /// The key as given.
        key: String,
        /// The value as given, in quotes; or where it was read from.
        value: String,
        /// What the floor demands.
        floor: &'static str,
        /// What the weaker value would put at risk.
        why: &'static str,
    },
    /// A client key that has its own place in the configuration, or none.
    #[error("kafka.client key {key} cannot be set here: {why}")]
    NotHere {
        /// The key as given.
        key: String,
        /// Where it belongs, or why it is refused.
        why: &'static str,
    },
    /// A client key whose file or variable cannot be read.
    #[error("kafka.client key {key}: {from} cannot be read: {reason}")]
    Unreadable {
        /// The key.
        key: String,
        /// The file or variable.
        from: String,
        /// Why not.
        reason: String,
    },
    /// A field with an impossible value.
    #[error("kafka.{field} = {value}: {rule}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
}

impl ConfigError {
    /// Whether it may go away by itself: a file that is just being replaced.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreadable { .. })
    }
}

/// Which client a rule concerns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Both,
    Producer,
    Consumer,
}

enum Demand {
    /// One of these spellings; the first is what Homing sets itself.
    OneOf(&'static [&'static str]),
    /// A number in this range.
    Range(i64, i64),
}

struct Rule {
    keys: &'static [&'static str],
    side: Side,
    demand: Demand,
    floor: &'static str,
    why: &'static str,
}

const TRUE: Demand = Demand::OneOf(&["true", "t", "1"]);
const FALSE: Demand = Demand::OneOf(&["false", "f", "0"]);

/// The locked floor. Names and aliases as in librdkafka 2.12 CONFIGURATION.md.
const FLOOR: &[Rule] = &[
    Rule {
        keys: &["acks", "request.required.acks"],
        side: Side::Producer,
        demand: Demand::OneOf(&["all", "-1"]),
        floor: "all",
        why: "P01: a leader may die before its followers have the record",
    },
    Rule {
        keys: &["enable.idempotence"],
        side: Side::Producer,
        demand: TRUE,
        floor: "true",
        why: "P03, P04: retries would duplicate and reorder",
    },
    Rule {
        keys: &["max.in.flight.requests.per.connection", "max.in.flight"],
        side: Side::Producer,
        demand: Demand::Range(1, 5),
        floor: "1 to 5",
        why: "P04: the broker keeps order for at most five requests in flight",
    },
    Rule {
        keys: &["message.timeout.ms", "delivery.timeout.ms"],
        side: Side::Producer,
        demand: Demand::OneOf(&["0"]),
        floor: "0",
        why: "P06: the outbox is the timeout; an expired batch would leave a hole",
    },
    Rule {
        keys: &["message.send.max.retries", "retries"],
        side: Side::Producer,
        demand: Demand::OneOf(&["2147483647"]),
        floor: "2147483647",
        why: "P06: a batch given up leaves a hole",
    },
    Rule {
        keys: &["partitioner"],
        side: Side::Producer,
        demand: Demand::OneOf(&["murmur2_random", "murmur2"]),
        floor: "murmur2_random",
        why: "P20: Homing chooses the partition by murmur2 and sends it explicitly",
    },
    Rule {
        keys: &["delivery.report.only.error"],
        side: Side::Producer,
        demand: FALSE,
        floor: "false",
        why: "P07: a row is settled only by its own delivery report",
    },
    Rule {
        keys: &["allow.auto.create.topics"],
        side: Side::Both,
        demand: FALSE,
        floor: "false",
        why: "A08: a typo or a race would create a topic with the broker's defaults; use kafka.create_topics",
    },
    Rule {
        keys: &["enable.auto.commit"],
        side: Side::Consumer,
        demand: FALSE,
        floor: "false",
        why: "an offset would be committed before its record is handled",
    },
    Rule {
        keys: &["enable.auto.offset.store"],
        side: Side::Consumer,
        demand: FALSE,
        floor: "false",
        why: "an offset would be stored before its record is handled",
    },
    Rule {
        keys: &["auto.offset.reset"],
        side: Side::Consumer,
        demand: Demand::OneOf(&["error"]),
        floor: "error",
        why: "a lost position would skip or repeat records in silence; use the start policy",
    },
    Rule {
        keys: &["check.crcs"],
        side: Side::Consumer,
        demand: TRUE,
        floor: "true",
        why: "N07: a record corrupted on the way would be handled",
    },
    Rule {
        keys: &["isolation.level"],
        side: Side::Consumer,
        demand: Demand::OneOf(&["read_committed"]),
        floor: "read_committed",
        why: "records of aborted transactions would be handled",
    },
    Rule {
        keys: &["enable.partition.eof"],
        side: Side::Consumer,
        demand: FALSE,
        floor: "false",
        why: "the batch reader would take the end of a partition for an error",
    },
];

/// What keeps TLS from checking whom it talks to; only with `allow_unverified_brokers`.
const VERIFIED: &[Rule] = &[
    Rule {
        keys: &["enable.ssl.certificate.verification"],
        side: Side::Both,
        demand: TRUE,
        floor: "true, unless kafka.allow_unverified_brokers = true",
        why: "N02: anybody could acknowledge messages and keep none",
    },
    Rule {
        keys: &["ssl.endpoint.identification.algorithm"],
        side: Side::Both,
        demand: Demand::OneOf(&["https"]),
        floor: "https, unless kafka.allow_unverified_brokers = true",
        why: "N02: any host with a certificate of the same authority could acknowledge messages and keep none",
    },
];

/// Keys that are set elsewhere or that Homing does not work with.
const NOT_HERE: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.bootstrap"),
    ("metadata.broker.list", "set kafka.bootstrap"),
    ("group.id", "it is given with the consumer"),
    ("transactional.id", "Homing does not use Kafka transactions (T02)"),
    ("test.mock.num.brokers", "a mock cluster keeps records in memory only and loses them"),
];

impl KafkaConfig {
    /// A configuration for `bootstrap` with every other field at its default.
    #[must_use]
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self { bootstrap: bootstrap.into(), ..Self::default() }
    }

    /// Checks every field and every client key.
    ///
    /// # Errors
    /// [`ConfigError`] for the first field or key that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_fields()?;
        self.settings().map(drop)
    }

    fn validate_fields(&self) -> Result<(), ConfigError> {
        let field = |field, value: String, rule| Err(ConfigError::Field { field, value, rule });
        if self.bootstrap.trim().is_empty() {
            return field("bootstrap", format!("{:?}", self.bootstrap), "must name at least one host:port");
        }
        if self.topic_partitions < 1 {
            return field("topic_partitions", self.topic_partitions.to_string(), "must be at least 1");
        }
        if !(1..=i32::from(i16::MAX)).contains(&self.replication_factor) {
            return field("replication_factor", self.replication_factor.to_string(), "must be at least 1");
        }
        if self.min_insync_replicas < 1 || self.min_insync_replicas > self.replication_factor {
            return field(
                "min_insync_replicas",
                self.min_insync_replicas.to_string(),
                "must be at least 1 and at most kafka.replication_factor",
            );
        }
        Ok(())
    }

    /// The client keys with their values, read and checked.
    fn settings(&self) -> Result<BTreeMap<&str, String>, ConfigError> {
        let mut settings = BTreeMap::new();
        for (key, value) in &self.client {
            let text = value.read(key)?;
            check_key(key, &text, FLOOR, value)?;
            if !self.allow_unverified_brokers {
                check_key(key, &text, VERIFIED, value)?;
            }
            settings.insert(key.as_str(), text);
        }
        Ok(settings)
    }

    /// A number that changes when a value, or a file that a key names (a certificate), does.
    pub(crate) fn fingerprint(&self) -> Option<u64> {
        let mut hasher = std::hash::DefaultHasher::new();
        for (key, text) in self.settings().ok()? {
            if key.ends_with(".location") && std::path::Path::new(&text).is_file() {
                std::fs::read(&text).ok()?.hash(&mut hasher);
            }
            (key, text).hash(&mut hasher);
        }
        Some(hasher.finish())
    }

    /// The client's certificate in words and since when it is over, in seconds, if it is.
    pub(crate) fn expired_certificate(&self, now_s: i64) -> Option<(String, i64)> {
        let from_file = self.client_text("ssl.certificate.location");
        let (name, pem) = match from_file {
            Some(path) => (format!("client certificate {path}"), std::fs::read_to_string(&path).ok()?),
            None => ("client certificate".to_owned(), self.client_text("ssl.certificate.pem")?),
        };
        let over = now_s - super::certificate::ends_at(&pem)?;
        (over >= 0).then_some((name, over))
    }

    /// The text of one client key; `None` when it is not given or cannot be read.
    pub(crate) fn client_text(&self, key: &str) -> Option<String> {
        self.client.get(key).and_then(|value| value.read(key).ok())
    }

    /// The producer's configuration with the floor locked: acks=all, idempotence,
    /// at most 5 in flight, no message timeout.
    ///
    /// # Errors
    /// [`ConfigError`] when [`validate`](Self::validate) refuses a field or key.
    pub fn producer_config(&self) -> Result<ClientConfig, ConfigError> {
        self.build(Side::Producer)
    }

    /// A consumer's configuration for `group` with the floor of design §6 locked.
    ///
    /// # Errors
    /// [`ConfigError`] when [`validate`](Self::validate) refuses a field or key.
    pub fn consumer_config(&self, group: &str) -> Result<ClientConfig, ConfigError> {
        let mut config = self.build(Side::Consumer)?;
        config.set("group.id", group);
        Ok(config)
    }

    /// The configuration of a client that only asks and creates (no produce, no group).
    ///
    /// # Errors
    /// [`ConfigError`] when [`validate`](Self::validate) refuses a field or key.
    pub fn admin_config(&self) -> Result<ClientConfig, ConfigError> {
        self.build(Side::Both)
    }

    /// User keys first, then the floor over them; `Side::Both` takes only what concerns any client.
    fn build(&self, side: Side) -> Result<ClientConfig, ConfigError> {
        self.validate_fields()?;
        let mut config = ClientConfig::new();
        for (key, value) in self.settings()? {
            if concerns(key, side) {
                config.set(key, value);
            }
        }
        for rule in FLOOR.iter().filter(|rule| rule.side == Side::Both || rule.side == side) {
            let own = match rule.demand {
                Demand::OneOf(spellings) => Some(spellings[0].to_owned()),
                Demand::Range(_, most) => {
                    (!rule.keys.iter().any(|key| self.client.contains_key(*key))).then(|| most.to_string())
                }
            };
            if let Some(own) = own {
                for alias in &rule.keys[1..] {
                    config.remove(alias);
                }
                config.set(rule.keys[0], own);
            }
        }
        config.set("bootstrap.servers", self.bootstrap.trim());
        Ok(config)
    }
}

fn check_key(key: &str, text: &str, rules: &[Rule], value: &ClientValue) -> Result<(), ConfigError> {
    if let Some((_, why)) = NOT_HERE.iter().find(|(name, _)| *name == key) {
        return Err(ConfigError::NotHere { key: key.to_owned(), why });
    }
    let Some(rule) = rules.iter().find(|rule| rule.keys.contains(&key)) else { return Ok(()) };
    let given = text.trim();
    let well = match rule.demand {
        Demand::OneOf(spellings) => spellings.iter().any(|s| s.eq_ignore_ascii_case(given)),
        Demand::Range(least, most) => given.parse().is_ok_and(|n: i64| (least..=most).contains(&n)),
    };
    if well {
        return Ok(());
    }
    Err(ConfigError::BelowFloor {
        key: key.to_owned(),
        value: value.shown(key),
        floor: rule.floor,
        why: rule.why,
    })
}

/// Keys only a producer reads (librdkafka CONFIGURATION.md, column P), beyond those of the floor.
const PRODUCER_ONLY: &[&str] = &[
    "enable.gapless.guarantee",
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.ms",
    "linger.ms",
    "retry.backoff.ms",
    "retry.backoff.max.ms",
    "queue.buffering.backpressure.threshold",
    "compression.codec",
    "compression.type",
    "compression.level",
    "batch.num.messages",
    "batch.size",
    "sticky.partitioning.linger.ms",
    "request.timeout.ms",
    "queuing.strategy",
    "transaction.timeout.ms",
];

/// Keys only a consumer reads (column C), beyond those of the floor.
const CONSUMER_ONLY: &[&str] = &[
    "group.instance.id",
    "partition.assignment.strategy",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "coordinator.query.interval.ms",
    "max.poll.interval.ms",
    "auto.commit.interval.ms",
    "queued.min.messages",
    "queued.max.messages.kbytes",
    "fetch.wait.max.ms",
    "fetch.queue.backoff.ms",
    "fetch.message.max.bytes",
    "max.partition.fetch.bytes",
    "fetch.max.bytes",
    "fetch.min.bytes",
    "fetch.error.backoff.ms",
    "consume.callback.max.messages",
];

fn concerns(key: &str, side: Side) -> bool {
    let own = FLOOR.iter().find(|rule| rule.keys.contains(&key)).map(|rule| rule.side);
    let of_key = own.unwrap_or(if PRODUCER_ONLY.contains(&key) {
        Side::Producer
    } else if CONSUMER_ONLY.contains(&key) {
        Side::Consumer
    } else {
        Side::Both
    });
    of_key == Side::Both || of_key == side
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> KafkaConfig {
        let mut config = KafkaConfig::new("localhost:9092");
        config.client.insert(key.into(), value.into());
        config
    }

    #[test]
    fn every_key_below_the_floor_is_refused_by_name() {
        for (key, value) in [
            ("acks", "1"),
            ("request.required.acks", "0"),
            ("enable.idempotence", "false"),
            ("max.in.flight", "6"),
            ("max.in.flight.requests.per.connection", "1000000"),
            ("message.timeout.ms", "300000"),
            ("delivery.timeout.ms", "120000"),
            ("retries", "3"),
            ("partitioner", "consistent_random"),
            ("delivery.report.only.error", "true"),
            ("allow.auto.create.topics", "true"),
            ("enable.auto.commit", "true"),
            ("enable.auto.offset.store", "true"),
            ("auto.offset.reset", "latest"),
            ("check.crcs", "false"),
            ("isolation.level", "read_uncommitted"),
            ("enable.partition.eof", "true"),
        ] {
            let error = with(key, value).validate().unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, ConfigError::BelowFloor { .. }), "{text}");
            assert!(text.contains(key) && text.contains(value), "{text}");
        }
        for key in ["bootstrap.servers", "group.id", "transactional.id", "test.mock.num.brokers"] {
            assert!(matches!(with(key, "x").validate(), Err(ConfigError::NotHere { .. })), "{key}");
        }
    }

    #[test]
    fn a_broker_nobody_verifies_needs_a_word_of_its_own() {
        for (key, value) in [
            ("enable.ssl.certificate.verification", "false"),
            ("ssl.endpoint.identification.algorithm", "none"),
        ] {
            let mut config = with(key, value);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("allow_unverified_brokers"), "{error}");
            config.allow_unverified_brokers = true;
            config.validate().unwrap();
        }
        with("ssl.endpoint.identification.algorithm", "https").validate().unwrap();
    }

    #[test]
    fn a_secret_shows_in_no_debug_and_no_error() {
        let mut config = with("sasl.password", "hunter2");
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        assert_eq!(config.producer_config().unwrap().get("sasl.password"), Some("hunter2"));
        let file = std::env::temp_dir().join(format!("homing-secret-{}", std::process::id()));
        std::fs::write(&file, "hunter2\n").unwrap();
        config.client.insert("acks".into(), ClientValue::File(file.clone()));
        let error = config.validate().unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        let error = config.validate().unwrap_err();
        assert!(error.may_pass() && error.to_string().contains("acks"), "{error}");
    }

    #[test]
    fn the_floor_is_set_and_harmless_keys_pass() {
        let config = with("linger.ms", "7").producer_config().unwrap();
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("enable.idempotence"), Some("true"));
        assert_eq!(config.get("message.timeout.ms"), Some("0"));
        assert_eq!(config.get("max.in.flight.requests.per.connection"), Some("5"));
        assert_eq!(config.get("linger.ms"), Some("7"));
        let config = with("max.in.flight", "1").producer_config().unwrap();
        assert_eq!(config.get("max.in.flight"), Some("1"));
        assert_eq!(config.get("max.in.flight.requests.per.connection"), None);
        let config = with("linger.ms", "7").consumer_config("g").unwrap();
        assert_eq!(config.get("linger.ms"), None, "a producer's key stays out of a consumer");
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(config.get("group.id"), Some("g"));
        let config = with("security.protocol", "ssl").admin_config().unwrap();
        assert_eq!(config.get("security.protocol"), Some("ssl"));
        assert_eq!(config.get("acks"), None);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        assert!(KafkaConfig::new(" ").validate().is_err());
        let base = KafkaConfig::new("b:1");
        assert!(KafkaConfig { topic_partitions: 0, ..base.clone() }.validate().is_err());
        assert!(KafkaConfig { replication_factor: 0, ..base.clone() }.validate().is_err());
        let error = KafkaConfig { min_insync_replicas: 2, ..base.clone() }.validate().unwrap_err();
        assert!(error.to_string().contains("replication_factor"), "{error}");
        base.validate().unwrap();
    }
}
