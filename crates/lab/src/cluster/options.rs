//! What kind of cluster a test wants.

use super::{ClusterError, fetch};
use std::collections::BTreeMap;

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How many nodes, each broker and controller in one, each with a rack of
    /// its own. Default 3. More than 5 do not fit a test machine.
    pub nodes: usize,
    /// Apache Kafka's version; default `HOMING_KAFKA_VERSION`, or the pinned one.
    pub version: String,
    /// Lines of `server.properties` for every node, on top of the harness's own.
    pub settings: BTreeMap<String, String>,
    /// Whether there are listeners for TLS and logins, and an authorizer.
    /// Default false: they cost some start-up time.
    pub secure: bool,
    /// Whether clients and brokers reach each node through proxies that can cut,
    /// delay and throttle. Default false.
    pub link_proxies: bool,
    /// Where the nodes keep their logs.
    pub storage: Storage,
    /// What the nodes' Java is tuned for.
    pub jvm: Jvm,
}

/// Where nodes keep their logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// In directories of the temporary directory.
    #[default]
    Directory,
    /// Each on an ext4 of its own, whose power can be cut; root only.
    LoopMounts {
        /// The size of each file system in MiB.
        mib: u32,
    },
}

/// What a node's Java is tuned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jvm {
    /// A quick start and little memory: 384 MiB of heap, the quick compiler only.
    #[default]
    QuickStart,
    /// Throughput, for benchmarks: 1 GiB of heap, G1, both compilers, as Kafka's own scripts have it.
    Throughput,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            version: fetch::version(),
            settings: BTreeMap::new(),
            secure: false,
            link_proxies: false,
            storage: Storage::default(),
            jvm: Jvm::default(),
        }
    }
}

impl ClusterOptions {
    pub(super) fn validate(&self) -> Result<(), ClusterError> {
        if (1..=5).contains(&self.nodes) {
            return Ok(());
        }
        Err(ClusterError::Options(format!("nodes must be 1 to 5, not {}", self.nodes)))
    }
}

impl Jvm {
    pub(super) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::QuickStart => &["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"],
            Self::Throughput => &["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"],
        }
    }
}
