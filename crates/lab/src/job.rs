//! What a worker process is told: which role it plays, against which cluster, on which database.

use homing::KafkaConfig;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The cluster of a scene, and how topics are replicated there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// `host:port[,host:port]`.
    pub bootstrap: String,
    /// Replicas of a topic.
    pub replication_factor: i32,
    /// `min.insync.replicas` of a topic.
    pub min_insync_replicas: i32,
    /// Further settings of the client.
    pub client: BTreeMap<String, String>,
}

impl Site {
    /// A single node: one replica of everything.
    #[must_use]
    pub fn single(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            replication_factor: 1,
            min_insync_replicas: 1,
            client: BTreeMap::new(),
        }
    }

    /// Three nodes or more: three replicas, two of them in sync for each acknowledgement.
    #[must_use]
    pub fn replicated(bootstrap: impl Into<String>) -> Self {
        Self { replication_factor: 3, min_insync_replicas: 2, ..Self::single(bootstrap) }
    }

    /// The cluster behind `bootstrap`, replicated as its size allows.
    ///
    /// # Errors
    /// When no broker answers within 30 s.
    pub fn at(bootstrap: &str) -> Result<Self, KafkaError> {
        let asking: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
        let brokers = asking.fetch_metadata(None, Duration::from_secs(30))?.brokers().len();
        Ok(if brokers < 3 { Self::single(bootstrap) } else { Self::replicated(bootstrap) })
    }

    /// How Homing reaches it.
    #[must_use]
    pub fn kafka(&self) -> KafkaConfig {
        KafkaConfig {
            create_topics: true,
            replication_factor: self.replication_factor,
            min_insync_replicas: self.min_insync_replicas,
            client: self.client.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect(),
            ..KafkaConfig::new(&self.bootstrap)
        }
    }
}

/// What a worker does; the names are those of [`Job::role`] in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Homing's relay on the outbox.
    Relay,
    /// Homing's consumer, applying through the inbox.
    Consumer,
    /// Homing's consumer, applying each record that comes.
    ConsumerWithoutInbox,
    /// Marks rows sent when they are handed to the client.
    UnsafeRelay,
    /// Lets the client commit by itself.
    UnsafeConsumer,
}

impl Role {
    /// Whether it works on the outbox; the others work on the effects.
    #[must_use]
    pub fn is_relay(self) -> bool {
        matches!(self, Self::Relay | Self::UnsafeRelay)
    }
}

/// A worker's whole task; handed over as one JSON argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// What it does.
    pub role: Role,
    /// The cluster.
    pub site: Site,
    /// The topic of the orders.
    pub topic: String,
    /// The consumer group.
    pub group: String,
    /// The outbox, or the consumer's database.
    pub database: PathBuf,
    /// `STEP:NTH`: the worker kills itself when it reaches the step for the nth time.
    pub kill: Option<String>,
    /// Where it tells what it does: its log, with its Kafka client's, and its status each second.
    pub log: Option<PathBuf>,
    /// For [`Role::UnsafeConsumer`]: its worker applies no record from this one (counted from 1) on.
    pub stall_after: Option<u64>,
}
