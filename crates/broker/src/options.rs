//! What a broker is started with.

use crate::groups::GroupOptions;
use crate::log::FlushPolicy;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// How a broker is run; every field has a default that loses nothing.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Where everything is kept; created when missing. One broker at a time.
    pub dir: PathBuf,
    /// Address to listen on and to advertise; default 127.0.0.1 on a free port.
    pub listen: SocketAddr,
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
    /// Connections served at the same time; default 1,000. Further ones are closed at once.
    pub connections_max: usize,
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
            flush: FlushPolicy::Always,
            auto_create_topics: false,
            default_partitions: 1,
            truncate_corrupted: false,
            retention_check: Duration::from_secs(30),
            producer_id_expiration: Duration::from_secs(24 * 60 * 60),
            request_bytes_max: 100 * 1024 * 1024,
            connections_max: 1000,
            sync_threads: 3,
            groups: GroupOptions::default(),
        }
    }
}
