//! What a broker is started with.

use crate::groups::GroupOptions;
use crate::log::FlushPolicy;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where clients are told to find the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// A name or address as clients know it.
    pub host: String,
    /// The port as clients know it; none: the one listened on.
    pub port: Option<u16>,
}

impl FromStr for Advertised {
    type Err = String;

    /// Reads `HOST`, `HOST:PORT` or `[V6]:PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let unreadable = || format!("{text:?} is no HOST or HOST:PORT");
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(unreadable)?))
            }
            _ => (text, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_host = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/,[]".contains(c));
        if is_host { Ok(Self { host: host.to_owned(), port }) } else { Err(unreadable()) }
    }
}

/// How a broker is run; every field has a default that loses nothing.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Where everything is kept; created when missing. One broker at a time.
    pub dir: PathBuf,
    /// Address to listen on; default 127.0.0.1 on a free port. Nothing but the network protects what
    /// listens on another one: there is neither TLS nor a password.
    pub listen: SocketAddr,
    /// Where clients are told to find the broker; default: where they reached it, which is right
    /// unless something between changes addresses (a container's port, a forwarded port).
    pub advertise: Option<Advertised>,
    /// `node.id`; default 1. Clients that have seen another one must look for it anew.
    pub node_id: i32,
    /// When records are durable; default [`FlushPolicy::Always`]: synced before they are acknowledged.
    pub flush: FlushPolicy,
    /// Creates a topic when a client asks for its metadata and allows it; default false, because
    /// a typo would become a topic (catalogue A08).
    pub auto_create_topics: bool,
    /// Partitions of topics created without a count; default 1.
    pub default_partitions: i32,
    /// Keeps what stands before a damaged batch and moves the rest aside, instead of refusing the
    /// partition; default false, because what is cut may be acknowledged.
    pub truncate_corrupted: bool,
    /// Pause between two looks for segments to forget; default 30 s.
    pub retention_check: Duration,
    /// `producer.id.expiration.ms`; default one day. Too low: a late resend is appended twice (P17).
    pub producer_id_expiration: Duration,
    /// Largest request, in bytes; default 100 MiB. A client that announces more is cut off.
    pub request_bytes_max: usize,
    /// Connections served at the same time; default 1,000. A further one takes the place of a silent
    /// one; when all are at work it is closed. Too high: more file descriptors than the process has.
    pub connections_max: usize,
    /// Connections from one address; default 800, so that no single one takes all.
    pub connections_per_address_max: usize,
    /// `connections.max.idle.ms`; default 10 min. A connection without a request for so long is
    /// closed; clients come back. Too low: they come back all the time.
    pub idle_timeout: Duration,
    /// How long a new connection may be silent before its first request; default 30 s.
    pub first_request_timeout: Duration,
    /// How long a request that has begun, or an answer, may take beyond what 16 KiB/s explain; default
    /// 60 s. Too low: a client that stops for a moment is cut off. Too high: half a request, or
    /// an answer nobody reads, holds its memory so long.
    pub transfer_timeout: Duration,
    /// Bytes that half-read requests and unread answers may take in all; default 512 MiB. Too low:
    /// clients that are behind wait for each other. Not below `request_bytes_max`.
    pub held_bytes_max: usize,
    /// Threads that sync files; default 3. More help when many partitions are written at once.
    pub sync_threads: usize,
    /// Limits of the consumer groups.
    pub groups: GroupOptions,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("homing-broker"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
            node_id: 1,
            flush: FlushPolicy::Always,
            auto_create_topics: false,
            default_partitions: 1,
            truncate_corrupted: false,
            retention_check: Duration::from_secs(30),
            producer_id_expiration: Duration::from_secs(24 * 60 * 60),
            request_bytes_max: 100 * 1024 * 1024,
            connections_max: 1000,
            connections_per_address_max: 800,
            idle_timeout: Duration::from_secs(10 * 60),
            first_request_timeout: Duration::from_secs(30),
            transfer_timeout: Duration::from_secs(60),
            held_bytes_max: 512 * 1024 * 1024,
            sync_threads: 3,
            groups: GroupOptions::default(),
        }
    }
}

impl BrokerOptions {
    /// Checks the relations between the fields.
    ///
    /// # Errors
    /// A sentence naming both settings.
    pub fn validate(&self) -> Result<(), String> {
        if self.held_bytes_max < self.request_bytes_max {
            return Err(format!(
                "held_bytes_max ({}) is below request_bytes_max ({}): the largest request would never fit",
                self.held_bytes_max, self.request_bytes_max
            ));
        }
        if self.node_id < 0 {
            return Err(format!("node_id ({}) is below 0", self.node_id));
        }
        self.groups.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_address_is_a_host_with_or_without_a_port() {
        let read = |text: &str| text.parse::<Advertised>().map(|a| (a.host, a.port));
        assert_eq!(read("kafka.local"), Ok(("kafka.local".to_owned(), None)));
        assert_eq!(read("10.0.0.1:19092"), Ok(("10.0.0.1".to_owned(), Some(19092))));
        assert_eq!(read("[fe80::1]:9092"), Ok(("fe80::1".to_owned(), Some(9092))));
        assert_eq!(read("fe80::1"), Ok(("fe80::1".to_owned(), None)));
        for odd in ["", ":9092", "host:", "host:x", "host:0", "a b:1", "http://host"] {
            assert!(read(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn limits_that_contradict_each_other_are_named() {
        let options = BrokerOptions { held_bytes_max: 1, ..BrokerOptions::default() };
        let why = options.validate().unwrap_err();
        assert!(why.contains("held_bytes_max") && why.contains("request_bytes_max"), "{why}");
        assert_eq!(BrokerOptions::default().validate(), Ok(()));
    }
}
