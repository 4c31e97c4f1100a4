//! From settings to the library's options, with relations checked and both places named.

use super::keys::CLIENT;
use super::{Settings, Value};
use crate::disk;
use crate::exit::Failure;
use homing::audit::{AuditOptions, Repairing};
use homing::consumer::{ConsumerOptions, SetAside, StartPolicy};
use homing::core::ProcessingOrder;
use homing::outbox::OutboxError;
use homing::relay::{PruneOptions, RelayOptions};
use homing::{KafkaConfig, SqliteOutbox, StreamName, TopicName};
use homing_broker::{BrokerOptions, FlushPolicy};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The bootstrap that means our own broker.
pub const EMBEDDED: &str = "embedded";

/// The database with the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database(
    /// The SQLite file.
    pub PathBuf,
);

const NO_STREAM: &str = "run `homing init` here, or name the file with --config, or set HOMING_STREAM_NAME and \
                         HOMING_STREAM_DATABASE";

impl Settings {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn whole<T: TryFrom<u64>>(&self, name: &str, field: &mut T) -> Result<(), Failure> {
        if let Some(Value::Whole(number)) = self.get(name) {
            *field = T::try_from(*number)
                .map_err(|_| Failure::new(format!("{}{name} = {number}: is too large", self.at(name))))?;
        }
        Ok(())
    }

    fn millis(&self, name: &str, field: &mut Duration) {
        if let Some(Value::Whole(number)) = self.get(name) {
            *field = Duration::from_millis(*number);
        }
    }

    fn switch(&self, name: &str, field: &mut bool) {
        if let Some(Value::Bool(switch)) = self.get(name) {
            *field = *switch;
        }
    }

    fn number(&self, name: &str, field: &mut f64) {
        if let Some(Value::Number(number)) = self.get(name) {
            *field = *number;
        }
    }

    /// `PLACE: ` when the key was given, else nothing.
    pub(super) fn at(&self, name: &str) -> String {
        self.place(name).map_or_else(String::new, |place| format!("{place}: "))
    }

    /// A library's refusal, with the places of the keys it names.
    pub(super) fn refused(&self, section: &str, error: impl std::fmt::Display) -> Failure {
        let message = error.to_string();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = |field: &str| message.split(|c| !is_word(c)).any(|word| word == field);
        let places: Vec<String> = self
            .values
            .iter()
            .filter(|(name, _)| {
                let leaf = name.strip_prefix(section).and_then(|rest| rest.strip_prefix('.'));
                let stem = leaf.map(|leaf| leaf.strip_suffix("_ms").unwrap_or(leaf));
                let stem = stem.map(|stem| stem.strip_prefix("retry_").unwrap_or(stem));
                stem.is_some_and(names)
            })
            .map(|(name, located)| format!("{name} is set at {}", located.place))
            .collect();
        let clients =
            self.client.iter().filter(|(key, _)| section == "kafka" && message.contains(key.as_str()));
        let places: Vec<String> = places
            .into_iter()
            .chain(clients.map(|(key, (_, at))| format!("{CLIENT}.{key} is set at {at}")))
            .collect();
        let failure = Failure::new(format!("settings of [{section}]: {message}"));
        if places.is_empty() { failure } else { failure.help(places.join("; ")) }
    }

    /// The stream's name.
    ///
    /// # Errors
    /// [`Failure`] when it is missing or no stream's name.
    pub fn stream(&self) -> Result<StreamName, Failure> {
        let Some(name) = self.text("stream.name") else {
            return Err(Failure::new("stream.name is not set").help(NO_STREAM));
        };
        StreamName::parse(name)
            .map_err(|error| Failure::new(format!("{}stream.name: {error}", self.at("stream.name"))))
    }

    /// The database with the outbox.
    ///
    /// A path in the file is relative to the file, one in a variable or flag to the working directory.
    ///
    /// # Errors
    /// [`Failure`] when it is missing or of a kind this version does not have.
    pub fn database(&self) -> Result<Database, Failure> {
        const NAME: &str = "stream.database";
        let Some(url) = self.text(NAME) else {
            return Err(Failure::new("stream.database is not set").help(NO_STREAM));
        };
        let path = match url.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => path.strip_prefix("//").unwrap_or(path),
            Some(("postgres" | "postgresql" | "mysql", _)) => {
                let message = format!(
                    "{}{NAME} = {url:?}: this version keeps its outbox in SQLite only",
                    self.at(NAME)
                );
                return Err(Failure::new(message).help("write database = \"sqlite:FILE\""));
            }
            _ => {
                let message = format!("{}{NAME} = {url:?}: is no database", self.at(NAME));
                return Err(Failure::new(message).help("write database = \"sqlite:FILE\""));
            }
        };
        let base = match self.place(NAME) {
            Some(super::Place::File(file, _)) => file.parent().unwrap_or(Path::new("")),
            _ => Path::new(""),
        };
        Ok(Database(base.join(path)))
    }

    /// Opens the outbox that the settings name.
    ///
    /// # Errors
    /// [`Failure`] when there is none, or it is another stream's.
    pub fn outbox(&self) -> Result<SqliteOutbox, Failure> {
        let (stream, Database(path)) = (self.stream()?, self.database()?);
        SqliteOutbox::open(&path, &stream).map_err(|error| {
            let place = self.at("stream.database");
            let failure = match error {
                OutboxError::OtherStream { .. } => {
                    return Failure::new(format!("{}{error}", self.at("stream.name")));
                }
                error => Failure::new(format!("{place}{error}")),
            };
            // SQLite says "disk I/O error" when it finds no room for its shared memory.
            match disk::full(disk::dir_of(&path)) {
                Some(full) => failure.help(format!("the disk is full: {full}")),
                None => failure,
            }
        })
    }

    /// Whether the settings ask for our own broker.
    pub fn is_embedded(&self) -> bool {
        self.bootstrap().is_none()
    }

    /// The brokers to connect to; `None` for the embedded one.
    pub fn bootstrap(&self) -> Option<&str> {
        self.text("kafka.bootstrap").filter(|bootstrap| *bootstrap != EMBEDDED)
    }

    /// Where the embedded broker keeps its data: beside the outbox.
    ///
    /// # Errors
    /// [`Failure`] when the outbox's place is not set.
    pub fn broker_dir(&self) -> Result<PathBuf, Failure> {
        let Database(path) = self.database()?;
        let mut name = path.into_os_string();
        name.push(".broker");
        Ok(name.into())
    }

    /// The Kafka settings, with `bootstrap` in place of the word embedded.
    ///
    /// # Errors
    /// [`Failure`] naming the key that cannot be used and its place.
    pub fn kafka(&self, bootstrap: &str) -> Result<KafkaConfig, Failure> {
        let config = self.unchecked_kafka(bootstrap)?;
        config.validate().map_err(|error| self.refused("kafka", error))?;
        Ok(config)
    }

    pub(super) fn unchecked_kafka(&self, bootstrap: &str) -> Result<KafkaConfig, Failure> {
        let mut config = KafkaConfig { create_topics: self.is_embedded(), ..KafkaConfig::new(bootstrap) };
        self.switch("kafka.create_topics", &mut config.create_topics);
        self.whole("kafka.topic_partitions", &mut config.topic_partitions)?;
        self.whole("kafka.replication_factor", &mut config.replication_factor)?;
        self.whole("kafka.min_insync_replicas", &mut config.min_insync_replicas)?;
        self.switch("kafka.allow_unverified_brokers", &mut config.allow_unverified_brokers);
        config.client = self.client.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
        Ok(config)
    }

    /// Checks the Kafka settings without a broker.
    ///
    /// # Errors
    /// As [`kafka`](Self::kafka).
    pub fn check_kafka(&self) -> Result<(), Failure> {
        self.kafka(self.text("kafka.bootstrap").unwrap_or(EMBEDDED)).map(|_| ())
    }

    /// The relay's options.
    ///
    /// # Errors
    /// [`Failure`] naming the key or relation that cannot be used.
    pub fn relay(&self) -> Result<RelayOptions, Failure> {
        let mut o = RelayOptions::default();
        self.millis("relay.lease_ms", &mut o.lease);
        self.whole("relay.batch_rows", &mut o.batch_rows)?;
        self.whole("relay.batch_rows_max", &mut o.batch_rows_max)?;
        self.whole("relay.batch_bytes_max", &mut o.batch_bytes_max)?;
        self.whole("relay.batches_in_flight_max", &mut o.batches_in_flight_max)?;
        self.millis("relay.poll_min_ms", &mut o.poll_min);
        self.millis("relay.poll_max_ms", &mut o.poll_max);
        self.millis("relay.drain_timeout_ms", &mut o.drain_timeout);
        self.millis("relay.request_timeout_ms", &mut o.request_timeout);
        self.millis("relay.pins_every_ms", &mut o.pins_every);
        self.millis("relay.retry_max_ms", &mut o.retry_max);
        let (mut prune, mut options) = (true, PruneOptions::default());
        self.switch("relay.prune", &mut prune);
        self.millis("relay.prune_keep_ms", &mut options.keep);
        self.millis("relay.prune_every_ms", &mut options.every);
        o.prune = prune.then_some(options);
        self.whole("relay.repair_rows_per_second", &mut o.repair_rows_per_second)?;
        self.whole("relay.repair_attempts_max", &mut o.repair_attempts_max)?;
        o.validate().map_err(|error| self.refused("relay", error))?;
        Ok(o)
    }

    /// The auditor's options.
    ///
    /// # Errors
    /// [`Failure`] naming the key or relation that cannot be used.
    pub fn audit(&self) -> Result<AuditOptions, Failure> {
        let mut o = AuditOptions::default();
        self.millis("audit.grace_ms", &mut o.grace);
        self.millis("audit.check_every_ms", &mut o.check_every);
        self.millis("audit.topics_every_ms", &mut o.topics_every);
        self.whole("audit.read_max", &mut o.read_max)?;
        self.millis("audit.request_timeout_ms", &mut o.request_timeout);
        if self.text("audit.repair") == Some("off") {
            o.repair = Repairing::Off;
        }
        self.millis("audit.repair_patience_ms", &mut o.repair_patience);
        self.whole("audit.repair_attempts_max", &mut o.repair_attempts_max)?;
        self.whole("audit.probes_max", &mut o.probes_max)?;
        self.whole("audit.gaps_max", &mut o.limits.gaps_max)?;
        self.whole("audit.memory", &mut o.limits.memory)?;
        self.whole("audit.epochs_max", &mut o.limits.epochs_max)?;
        self.whole("audit.streams_max", &mut o.limits.streams_max)?;
        o.validate().map_err(|error| self.refused("audit", error))?;
        Ok(o)
    }

    /// Whether `homing run` audits.
    pub fn is_auditing(&self) -> bool {
        let mut enabled = true;
        self.switch("audit.enabled", &mut enabled);
        enabled
    }

    /// The embedded broker's options for `dir`; the address is left to the caller.
    ///
    /// # Errors
    /// [`Failure`] when a number is too large.
    pub fn broker(&self, dir: PathBuf) -> Result<BrokerOptions, Failure> {
        let mut o = BrokerOptions { dir, ..BrokerOptions::default() };
        if let Some(listen) = self.text("broker.listen").filter(|listen| !listen.is_empty()) {
            o.listen = self.listen(listen)?;
        }
        let (mut messages, mut ms) = (10_000, 1_000);
        self.whole("broker.flush_messages", &mut messages)?;
        self.whole("broker.flush_ms", &mut ms)?;
        match self.text("broker.flush") {
            Some("interval") => o.flush = FlushPolicy::Interval { messages, ms },
            Some("never") => o.flush = FlushPolicy::Never,
            _ => {}
        }
        self.switch("broker.auto_create_topics", &mut o.auto_create_topics);
        self.whole("broker.default_partitions", &mut o.default_partitions)?;
        self.switch("broker.truncate_corrupted", &mut o.truncate_corrupted);
        self.millis("broker.retention_check_ms", &mut o.retention_check);
        self.millis("broker.producer_id_expiration_ms", &mut o.producer_id_expiration);
        self.whole("broker.request_bytes_max", &mut o.request_bytes_max)?;
        self.whole("broker.connections_max", &mut o.connections_max)?;
        self.whole("broker.connections_per_address_max", &mut o.connections_per_address_max)?;
        self.millis("broker.idle_timeout_ms", &mut o.idle_timeout);
        self.millis("broker.first_request_timeout_ms", &mut o.first_request_timeout);
        self.millis("broker.transfer_timeout_ms", &mut o.transfer_timeout);
        self.whole("broker.node_id", &mut o.node_id)?;
        self.whole("broker.held_bytes_max", &mut o.held_bytes_max)?;
        self.millis("broker.group_session_timeout_min_ms", &mut o.groups.session_timeout_min);
        if let Some(text) = self.text("broker.advertise").filter(|text| !text.is_empty()) {
            o.advertise = Some(text.parse().map_err(|why: String| self.refused("broker", why))?);
        }
        self.whole("broker.sync_threads", &mut o.sync_threads)?;
        Ok(o)
    }

    /// The consumer's options for `group` and `topics`.
    ///
    /// # Errors
    /// [`Failure`] naming the key or relation that cannot be used.
    pub fn consumer(&self, group: &str, topics: &[String]) -> Result<ConsumerOptions, Failure> {
        let mut o = ConsumerOptions::new(group, topics.iter().map(String::as_str))?;
        match self.text("consumer.order") {
            Some("partition") => o.order = ProcessingOrder::Partition,
            Some("unordered") => o.order = ProcessingOrder::Unordered,
            _ => {}
        }
        match self.text("consumer.start") {
            Some("latest") => o.start = StartPolicy::Latest,
            Some("error") => o.start = StartPolicy::Error,
            _ => {}
        }
        if self.text("consumer.set_aside") == Some("key") {
            o.set_aside = SetAside::Key;
        }
        o.instance_id = self.text("consumer.instance_id").filter(|id| !id.is_empty()).map(str::to_owned);
        let letters = match self.text("consumer.dead_letter") {
            Some("none") => None,
            Some(topic) if !topic.is_empty() => Some(topic.to_owned()),
            _ => Some(format!("{group}.dlq")),
        };
        o.dead_letter = letters.map(|topic| TopicName::parse(&topic)).transpose().map_err(|error| {
            Failure::new(format!("{}consumer.dead_letter: {error}", self.at("consumer.dead_letter")))
                .help("name one with --dead-letter TOPIC, or \"none\" to stop at a bad record")
        })?;
        self.whole("consumer.workers", &mut o.workers)?;
        self.whole("consumer.in_flight_max", &mut o.in_flight_max)?;
        self.whole("consumer.waiting_max", &mut o.waiting_max)?;
        self.whole("consumer.in_flight_bytes_max", &mut o.in_flight_bytes_max)?;
        self.whole("consumer.window_max", &mut o.window_max)?;
        self.whole("consumer.window_alarm_percent", &mut o.window_alarm_percent)?;
        self.whole("consumer.retry_attempts_max", &mut o.retry.attempts_max)?;
        self.millis("consumer.retry_backoff_first_ms", &mut o.retry.backoff_first);
        self.millis("consumer.retry_backoff_max_ms", &mut o.retry.backoff_max);
        self.number("consumer.retry_factor", &mut o.retry.factor);
        self.number("consumer.retry_jitter", &mut o.retry.jitter);
        self.whole("consumer.parked_keys_max", &mut o.parked_keys_max)?;
        self.millis("consumer.dead_letter_patience_ms", &mut o.dead_letter_patience);
        self.millis("consumer.commit_interval_ms", &mut o.commit_interval);
        self.millis("consumer.drain_timeout_ms", &mut o.drain_timeout);
        self.millis("consumer.request_timeout_ms", &mut o.request_timeout);
        o.validate().map_err(|error| self.refused("consumer", error))?;
        Ok(o)
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS;
    use super::super::{Sources, template};
    use super::*;
    use std::collections::BTreeMap;

    fn settings(text: &str) -> Settings {
        let mut settings = Settings::default();
        super::super::file::read(Path::new("homing.toml"), text, &mut settings).unwrap();
        settings
    }

    #[test]
    fn the_written_file_is_read_back_and_holds_the_librarys_defaults() {
        let chosen = template::Chosen { stream: "shop", database: "sqlite:shop.db", bootstrap: EMBEDDED };
        let written = template::full(chosen);
        let plain = settings(&written);
        assert_eq!(plain.stream().unwrap().as_str(), "shop");
        assert!(plain.is_embedded());
        // With every default switched on, except those that are examples or depend on something else.
        let is_default = |line: &str| {
            let leaf = line.split(' ').next().unwrap_or_default();
            KEYS.iter().any(|key| key.leaf() == leaf && !key.default.is_empty())
        };
        let all: String = written
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if is_default(rest) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let all = settings(&all);
        let given: BTreeMap<_, _> = all.values.keys().map(|name| (*name, ())).collect();
        assert!(given.len() > 40, "{given:?}");
        let topics = ["orders".to_owned()];
        assert_eq!(
            format!("{:?}", all.consumer("g", &topics).unwrap()),
            format!("{:?}", Settings::default().consumer("g", &topics).unwrap())
        );
        assert_eq!(all.kafka("h:1").unwrap(), plain.kafka("h:1").unwrap());
        assert_eq!(format!("{:?}", all.relay().unwrap()), format!("{:?}", RelayOptions::default()));
        assert_eq!(format!("{:?}", all.audit().unwrap()), format!("{:?}", AuditOptions::default()));
        let dir = BrokerOptions::default().dir;
        assert_eq!(format!("{:?}", all.broker(dir).unwrap()), format!("{:?}", BrokerOptions::default()));
    }

    #[test]
    fn taking_the_hash_away_works_for_every_line_and_for_all_together() {
        let chosen = template::Chosen { stream: "shop", database: "sqlite:shop.db", bootstrap: EMBEDDED };
        let written = template::full(chosen);
        let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ");
        let switched = |on: &dyn Fn(usize) -> bool| -> String {
            let line = |(at, line): (usize, &str)| match line.strip_prefix('#') {
                Some(rest) if is_setting(line) && on(at) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            };
            written.lines().enumerate().map(line).collect()
        };
        let all = settings(&switched(&|_| true));
        all.check().unwrap();
        assert_eq!(all.values.len(), KEYS.len(), "every key has a line of its own");
        for (at, line) in written.lines().enumerate().filter(|(_, line)| is_setting(line)) {
            let one = settings(&switched(&|other| other == at));
            assert_eq!(one.values.len() + one.client.len(), 4, "{line}");
            one.check().unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let short = settings(&template::short(chosen));
        assert_eq!(short.values.len(), 3);
        short.check().unwrap();
    }

    #[test]
    fn the_brokers_address_is_one_of_this_machine() {
        let listen = |listen: &str| {
            settings(&format!("[broker]\nlisten = {listen:?}\n")).broker(PathBuf::new()).map(|o| o.listen)
        };
        assert_eq!(listen("127.0.0.1:9092").unwrap(), "127.0.0.1:9092".parse().unwrap());
        for wrong in ["0.0.0.0:9092", "127.0.0.1:0", "9092", "localhost"] {
            let error = listen(wrong).unwrap_err().to_string();
            assert!(error.contains("homing.toml:2") && error.contains("broker.listen"), "{error}");
        }
    }

    #[test]
    fn a_relation_that_does_not_hold_names_both_keys_and_the_place() {
        let settings = settings("[consumer]\nretry_backoff_first_ms = 500\nretry_backoff_max_ms = 100\n");
        let error = settings.consumer("g", &["t".to_owned()]).unwrap_err().to_string();
        for part in ["backoff_max", "backoff_first", "homing.toml:2", "homing.toml:3"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_question_that_outlasts_the_lease_is_refused() {
        let error = settings("[relay]\nlease_ms = 1000\n").relay().unwrap_err().to_string();
        assert!(
            error.contains("request_timeout") && error.contains("lease_ms is set at homing.toml:2"),
            "{error}"
        );
    }

    #[test]
    fn a_client_key_below_the_floor_is_named_with_its_line() {
        let settings = settings("[kafka.client]\n\"linger.ms\" = 5\nacks = 1\n");
        let error = settings.check_kafka().unwrap_err().to_string();
        assert!(error.contains("acks") && error.contains("homing.toml:3"), "{error}");
    }

    #[test]
    fn a_path_in_the_file_is_relative_to_the_file() {
        let mut settings = Settings::default();
        let text = "[stream]\nname = \"a\"\ndatabase = \"sqlite:a.db\"\n";
        super::super::file::read(Path::new("/etc/homing/homing.toml"), text, &mut settings).unwrap();
        assert_eq!(settings.database().unwrap().0, Path::new("/etc/homing/a.db"));
        assert_eq!(settings.broker_dir().unwrap(), Path::new("/etc/homing/a.db.broker"));
        settings.read_flag("stream.database=sqlite:b.db").unwrap();
        assert_eq!(settings.database().unwrap().0, Path::new("b.db"));
    }

    #[test]
    fn a_missing_stream_says_how_to_get_one() {
        let error =
            Settings::load(&Sources { config: Some("/nonexistent/h.toml".into()), set: vec![] }).unwrap_err();
        assert!(error.to_string().contains("homing init"), "{error}");
        let error = Settings::default().outbox().unwrap_err().to_string();
        assert!(error.contains("homing init"), "{error}");
    }
}
