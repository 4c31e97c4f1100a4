//! Every setting there is: its name, kind and default, and what goes wrong when it is too low or too high.
//!
//! The one list behind parsing, `HOMING_*` variables, `--set`, the file that
//! `homing init` writes, and docs/config.md.

/// What a setting's value looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number of at least this.
    Count(u64),
    /// A whole number of milliseconds, at least this.
    Millis(u64),
    /// A number between these, ends included.
    Ratio(f64, f64),
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Section and key, with a dot between.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// The default as the file would spell it; empty when there is none.
    pub default: &'static str,
    /// What it does; no full stop.
    pub what: &'static str,
    /// What goes wrong when it is too low, too high or chosen badly; may be empty.
    pub risk: &'static str,
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    what: &'static str,
    risk: &'static str,
) -> Key {
    Key { name, kind, default, what, risk }
}

/// The sections in the order they are written, with what each is about.
pub const SECTIONS: &[(&str, &str)] = &[
    ("stream", "Whose messages these are, and where the outbox is."),
    ("kafka", "Where the messages go."),
    ("relay", "How `homing run` sends."),
    ("consumer", "How `homing consume` works."),
    ("audit", "How what arrived is checked."),
    ("broker", "The embedded broker: `bootstrap = \"embedded\"` and `homing broker`."),
];

/// The section whose keys are librdkafka's.
pub const CLIENT: &str = "kafka.client";

use Kind::{Bool, Choice, Count, Millis, Ratio, Text};

/// Every setting but those of [`CLIENT`], section by section.
pub const KEYS: &[Key] = &[
    key(
        "stream.name",
        Text,
        "",
        "the stream's name, [a-z0-9][a-z0-9._-]{0,63}; part of every record's stamp, so choose it once",
        "two outboxes of one name look like one that forked",
    ),
    key(
        "stream.database",
        Text,
        "",
        "the database with the outbox: sqlite:FILE, relative to this file",
        "on a network file system SQLite's locks may not hold",
    ),
    key(
        "kafka.bootstrap",
        Text,
        "\"embedded\"",
        "host:port[,host:port] of one cluster, or \"embedded\": a broker in a directory beside the outbox",
        "embedded is one node: a lost disk loses what is on it",
    ),
    key(
        "kafka.create_topics",
        Bool,
        "",
        "whether a missing topic is created; default true when embedded, else false",
        "true: a typo becomes a topic; false: messages for a topic that is not there wait",
    ),
    key(
        "kafka.topic_partitions",
        Count(1),
        "6",
        "partitions of a topic Homing creates",
        "too low: bounds consumers for good; too high: file handles, small batches",
    ),
    key(
        "kafka.replication_factor",
        Count(1),
        "1",
        "replicas of a topic Homing creates; 3 on a cluster",
        "too low: a lost broker loses messages",
    ),
    key(
        "kafka.min_insync_replicas",
        Count(1),
        "1",
        "min.insync.replicas of a topic Homing creates; 2 on a cluster",
        "too low: an acknowledged record may have one copy only",
    ),
    key(
        "kafka.allow_unverified_brokers",
        Bool,
        "false",
        "whether keys of [kafka.client] may keep TLS from checking whom it talks to",
        "true: whoever is in the way can acknowledge messages and keep none",
    ),
    key(
        "relay.lease_ms",
        Millis(100),
        "10000",
        "how long the outbox stays this relay's without a sign of life",
        "too low: a pause hands over and resends; too high: another host waits that long after this one died",
    ),
    key(
        "relay.batch_rows",
        Count(1),
        "1000",
        "rows in a batch when there are few; one batch is one commit",
        "too low: a commit for few rows; too high: more to look through after a crash",
    ),
    key(
        "relay.batch_rows_max",
        Count(1),
        "20000",
        "rows in a batch under backlog, at least batch_rows",
        "too low: slow backlog; too high: memory",
    ),
    key(
        "relay.batch_bytes_max",
        Count(1),
        "8388608",
        "bytes in a batch after its first row",
        "too low: small batches; too high: memory, times batches_in_flight_max",
    ),
    key(
        "relay.batches_in_flight_max",
        Count(1),
        "4",
        "batches sent and not yet settled",
        "1: sending waits for each settle; too high: memory, more resends after a crash",
    ),
    key(
        "relay.poll_min_ms",
        Millis(1),
        "1",
        "the shortest wait between two looks at an empty outbox",
        "too high: latency",
    ),
    key(
        "relay.poll_max_ms",
        Millis(1),
        "50",
        "the longest such wait, at least poll_min_ms",
        "too low: an idle relay costs CPU; too high: the first message after a quiet time is late",
    ),
    key(
        "relay.drain_timeout_ms",
        Millis(0),
        "10000",
        "how long a stop waits for acknowledgements",
        "too low: more resends at the next start; too high: a stop takes long while Kafka is away",
    ),
    key(
        "relay.request_timeout_ms",
        Millis(10),
        "2000",
        "how long one question to Kafka waits, at most a third of lease_ms",
        "too low: a slow broker looks dead; too high: trouble is noticed late",
    ),
    key(
        "relay.pins_every_ms",
        Millis(1),
        "10000",
        "how often cluster id, topic ids and partition counts are looked at again",
        "too high: a recreated topic is noticed late",
    ),
    key(
        "relay.retry_max_ms",
        Millis(1),
        "1000",
        "the longest wait before something that failed is tried again",
        "too low: load on a broker in trouble; too high: work goes on late",
    ),
    key(
        "relay.prune",
        Bool,
        "true",
        "whether verified rows are deleted from the outbox",
        "false: the outbox grows for ever",
    ),
    key(
        "relay.prune_keep_ms",
        Millis(0),
        "3600000",
        "how long a sent and verified row stays",
        "too low: nothing left to repair a later loss from; too high: disk",
    ),
    key(
        "relay.prune_every_ms",
        Millis(1),
        "5000",
        "how often rows to delete are looked for",
        "too low: load; too high: deletes come in bursts",
    ),
    key(
        "relay.repair_rows_per_second",
        Count(1),
        "1000",
        "rows a second that repairs may resend",
        "too low: repairs take long; too high: repairs crowd out new messages",
    ),
    key(
        "relay.repair_attempts_max",
        Count(1),
        "5",
        "how often one repair is tried",
        "too low: a passing fault ends it",
    ),
    key(
        "consumer.order",
        Choice(&["key", "partition", "unordered"]),
        "\"key\"",
        "which records wait for one another",
        "unordered: records of one key may overtake each other; partition: one at a time",
    ),
    key(
        "consumer.workers",
        Count(1),
        "16",
        "records, or commands of --exec, worked on at once",
        "too low: slow work bounds the rate; too high: memory, load",
    ),
    key(
        "consumer.in_flight_max",
        Count(1),
        "10000",
        "records that run or may start at once, one of each lane",
        "too low: workers run dry; too high: memory, more done twice after a crash",
    ),
    key(
        "consumer.waiting_max",
        Count(1),
        "10000",
        "records beside these that wait behind their key or for another attempt",
        "too low: a hot key slows the others down to its pace; too high: memory, longer drains",
    ),
    key(
        "consumer.in_flight_bytes_max",
        Count(1),
        "67108864",
        "the bytes of key and payload of all these",
        "too low: workers run dry; too high: memory",
    ),
    key(
        "consumer.window_max",
        Count(1),
        "100000",
        "offsets between a partition's oldest unfinished record and the newest taken",
        "too low: one slow key holds its partition up; too high: memory, repeats after a crash",
    ),
    key(
        "consumer.window_alarm_percent",
        Count(1),
        "50",
        "share of that window, in percent, at which the record in the way is reported",
        "",
    ),
    key(
        "consumer.retry_attempts_max",
        Count(1),
        "10",
        "how often a record is tried in all",
        "too low: a short outage makes dead letters; too high: a bad record blocks its key for long",
    ),
    key(
        "consumer.retry_backoff_first_ms",
        Millis(0),
        "100",
        "the pause after the first failure",
        "too low: a struggling service is hammered",
    ),
    key(
        "consumer.retry_backoff_max_ms",
        Millis(0),
        "30000",
        "the longest pause, at least retry_backoff_first_ms",
        "too high: work goes on late after an outage",
    ),
    key(
        "consumer.retry_factor",
        Ratio(1.0, 1000.0),
        "2.0",
        "what the pause is multiplied by after each failure",
        "",
    ),
    key(
        "consumer.retry_jitter",
        Ratio(0.0, 1.0),
        "0.2",
        "the share of a pause that is random",
        "too low: failed records come back in one burst",
    ),
    key(
        "consumer.dead_letter",
        Text,
        "",
        "the topic for records that were given up; default GROUP.dlq, \"none\": stop instead",
        "\"none\": one bad record stops the consumer",
    ),
    key(
        "consumer.set_aside",
        Choice(&["record", "key"]),
        "\"record\"",
        "whether a given-up record goes alone or takes later records of its key along",
        "record: later records of the key are handled without it",
    ),
    key(
        "consumer.parked_keys_max",
        Count(1),
        "10000",
        "keys set aside that are remembered",
        "too low: the consumer stops",
    ),
    key(
        "consumer.dead_letter_patience_ms",
        Millis(0),
        "5000",
        "how long a dead letter may go unacknowledged before nothing new is taken",
        "too high: more is taken while nothing can be set aside",
    ),
    key(
        "consumer.start",
        Choice(&["earliest", "latest", "error"]),
        "\"earliest\"",
        "where a group without a committed offset begins",
        "latest skips what is there",
    ),
    key(
        "consumer.commit_interval_ms",
        Millis(1),
        "200",
        "how often finished work is committed",
        "too low: load; too high: more done twice after a crash",
    ),
    key(
        "consumer.drain_timeout_ms",
        Millis(0),
        "10000",
        "how long running work may finish when partitions go or the consumer stops",
        "too low: work done twice; too high: rebalances wait",
    ),
    key(
        "consumer.request_timeout_ms",
        Millis(1),
        "10000",
        "how long one question to a broker may take; it is asked again",
        "too low: repeated questions to a slow broker",
    ),
    key(
        "consumer.instance_id",
        Text,
        "",
        "a name for this member that outlives its process; a restart then needs no rebalance",
        "two processes of one name fence each other",
    ),
    key(
        "audit.enabled",
        Bool,
        "true",
        "whether `homing run` audits beside the relay",
        "false: rows are never verified, so the outbox is never pruned",
    ),
    key(
        "audit.grace_ms",
        Millis(0),
        "10000",
        "how long sent numbers may stay away before they count as missing",
        "too low: what is late is called lost and sent again; too high: a loss is known that much later",
    ),
    key(
        "audit.check_every_ms",
        Millis(1),
        "500",
        "pause between two looks at the outbox for gaps and repairs",
        "too low: commits beside the relay's; too high: more is read again after a crash",
    ),
    key(
        "audit.topics_every_ms",
        Millis(1),
        "5000",
        "pause between two looks for new or recreated topics",
        "",
    ),
    key("audit.read_max", Count(1), "10000", "records taken from the client at once", "too high: memory"),
    key(
        "audit.request_timeout_ms",
        Millis(10),
        "5000",
        "how long one question to Kafka waits",
        "too low: a slow broker looks dead",
    ),
    key(
        "audit.repair",
        Choice(&["order", "off"]),
        "\"order\"",
        "whether the relay is told to send missing numbers again",
        "off: they are reported only",
    ),
    key(
        "audit.repair_patience_ms",
        Millis(0),
        "30000",
        "how long a repair may stay without effect before it is ordered again",
        "too low: a slow reader has records sent twice",
    ),
    key(
        "audit.repair_attempts_max",
        Count(1),
        "5",
        "how often one gap is repaired before it is given up",
        "too low: a passing fault ends it",
    ),
    key(
        "audit.probes_max",
        Count(1),
        "8",
        "reads of single records that the diagnosis of one gap may cost",
        "too low: a long gap of several causes is told as one",
    ),
    key(
        "audit.gaps_max",
        Count(1),
        "1024",
        "open gaps remembered per lane",
        "too low: gaps run together; too high: memory",
    ),
    key(
        "audit.memory",
        Count(1),
        "256",
        "recent numbers per lane whose identity is remembered",
        "too low: a fork looks like a duplicate; too high: memory",
    ),
    key(
        "audit.epochs_max",
        Count(1),
        "8",
        "epochs remembered per stream",
        "too low: a gap of an old epoch is forgotten",
    ),
    key(
        "audit.streams_max",
        Count(1),
        "64",
        "streams remembered per partition",
        "too low: records of more streams go unchecked",
    ),
    key(
        "broker.listen",
        Text,
        "",
        "the address of the broker beside the outbox, on this machine; without it a free port is chosen once and kept",
        "another program on that port: the broker does not start",
    ),
    key(
        "broker.flush",
        Choice(&["always", "interval", "never"]),
        "\"always\"",
        "when records are on disk: before they are acknowledged, every so often, or when the system likes",
        "interval and never lose acknowledged records at a power cut; kill -9 alone loses none",
    ),
    key(
        "broker.flush_messages",
        Count(1),
        "10000",
        "with interval: sync after so many records",
        "too high: more to lose",
    ),
    key("broker.flush_ms", Millis(1), "1000", "with interval: sync after so long", "too high: more to lose"),
    key(
        "broker.auto_create_topics",
        Bool,
        "false",
        "whether a client's question for a topic creates it",
        "true: a typo becomes a topic",
    ),
    key("broker.default_partitions", Count(1), "1", "partitions of a topic created without a count", ""),
    key(
        "broker.truncate_corrupted",
        Bool,
        "false",
        "whether a damaged partition is cut before the damage instead of refused",
        "true: what is cut may have been acknowledged",
    ),
    key(
        "broker.retention_check_ms",
        Millis(1),
        "30000",
        "pause between two looks for segments to forget",
        "",
    ),
    key(
        "broker.producer_id_expiration_ms",
        Millis(1),
        "86400000",
        "how long an idle producer's numbers are remembered",
        "too low: a late resend is appended twice",
    ),
    key(
        "broker.request_bytes_max",
        Count(1024),
        "104857600",
        "the largest request",
        "too low: large messages are cut off; too high: memory",
    ),
    key(
        "broker.connections_max",
        Count(1),
        "1000",
        "connections served at the same time; a further one takes the place of a silent one",
        "too low: clients are turned away; too high: more files than the process may open",
    ),
    key(
        "broker.connections_per_address_max",
        Count(1),
        "800",
        "connections from one address",
        "too high: one machine can take all places",
    ),
    key(
        "broker.idle_timeout_ms",
        Millis(1),
        "600000",
        "a connection without a request for so long is closed; clients come back",
        "too low: they come back all the time",
    ),
    key(
        "broker.first_request_timeout_ms",
        Millis(1),
        "30000",
        "how long a new connection may be silent",
        "too low: a client behind a slow line never gets through",
    ),
    key(
        "broker.transfer_timeout_ms",
        Millis(1),
        "60000",
        "how long a request or an answer may be on its way beyond what 16 KiB/s explain",
        "too low: clients that stop for a moment are cut off; too high: half a request holds its memory so long",
    ),
    key(
        "broker.held_bytes_max",
        Count(1024),
        "536870912",
        "bytes of half-read requests and unread answers in all; at least request_bytes_max",
        "too low: clients that are behind wait for each other; too high: memory",
    ),
    key(
        "broker.advertise",
        Text,
        "",
        "where clients are told to find the broker, HOST or HOST:PORT; without it, where they reached it",
        "wrong: clients reach it once and never again",
    ),
    key("broker.node_id", Count(0), "1", "the broker's id (node.id), which clients see", ""),
    key(
        "broker.group_session_timeout_min_ms",
        Millis(1),
        "6000",
        "the shortest session a group's member may ask for (group.min.session.timeout.ms)",
        "too low: a short pause of a client costs its group a rebalance",
    ),
    key(
        "broker.sync_threads",
        Count(1),
        "3",
        "threads that sync files",
        "too low: many partitions wait for each other",
    ),
];

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// The section.
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    /// The name within its section.
    pub fn leaf(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    /// The default as a file would spell it, or an example for a key that has none.
    pub fn spelled(&self) -> &'static str {
        match self.name {
            _ if !self.default.is_empty() => self.default,
            "kafka.create_topics" => "true",
            "consumer.dead_letter" => "\"billing.dlq\"",
            "consumer.instance_id" => "\"billing-1\"",
            "broker.listen" => "\"127.0.0.1:9092\"",
            _ => "\"\"",
        }
    }

    /// The variable that sets it.
    pub fn variable(&self) -> String {
        format!("HOMING_{}", self.name.replace('.', "_").to_uppercase())
    }
}

impl Kind {
    /// What a value must be, for messages.
    pub fn expected(self) -> String {
        match self {
            Text => "a text in quotes".into(),
            Bool => "true or false".into(),
            Count(least) => format!("a whole number of at least {least}"),
            Millis(least) => format!("a whole number of milliseconds, at least {least}"),
            Ratio(least, most) => format!("a number from {least} to {most}"),
            Choice(words) => words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or "),
        }
    }
}

/// The known name nearest to `name`, when one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (distance(name.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 4))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_belongs_to_a_section_and_is_listed_once() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(SECTIONS.iter().any(|(name, _)| *name == key.section()), "{}", key.name);
            assert!(KEYS[..index].iter().all(|other| other.name != key.name), "{} twice", key.name);
            assert!(!key.what.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn a_typo_finds_the_name_that_was_meant() {
        let names = || KEYS.iter().map(|key| key.name);
        assert_eq!(nearest("stream.nme", names()), Some("stream.name"));
        assert_eq!(nearest("relay.batch_row", names()), Some("relay.batch_rows"));
        assert_eq!(nearest("colour.of.sky", names()), None);
    }
}
