//! The cluster under test: the one named by `HOMING_TEST_BOOTSTRAP`, or an embedded broker.

use std::net::SocketAddr;
use std::path::Path;

use homing_broker::{Broker, BrokerOptions, RunningBroker};

use super::{Admin, eventually};
use crate::wire::Wire;

/// A cluster for one test; an embedded one ends with it.
pub struct Target {
    bootstrap: String,
    /// Dropped before the directory it writes to.
    _embedded: Option<(RunningBroker, tempfile::TempDir)>,
}

impl Target {
    /// The given cluster, or a new broker in a temporary directory.
    pub fn start() -> Self {
        if let Ok(bootstrap) = std::env::var("HOMING_TEST_BOOTSTRAP") {
            return Self { bootstrap, _embedded: None };
        }
        let dir = tempfile::tempdir().unwrap();
        let broker = embedded_broker(dir.path(), None);
        Self { bootstrap: broker.addr().to_string(), _embedded: Some((broker, dir)) }
    }

    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A name no other test and no other run uses.
    pub fn name(&self, what: &str) -> String {
        let unique = uuid::Uuid::now_v7().simple().to_string();
        format!("{what}-{}", &unique[unique.len() - 12..])
    }

    /// A new topic that every broker knows of.
    pub fn topic(&self, partitions: i32) -> String {
        self.topic_with(partitions, &[])
    }

    pub fn topic_with(&self, partitions: i32, config: &[(&str, &str)]) -> String {
        let name = self.name("topic");
        let admin = Admin::new(&self.bootstrap);
        admin.create(&name, partitions, config).unwrap();
        self.await_topic(&name, partitions);
        name
    }

    /// Waits until every broker says that the topic has so many partitions, each with a leader.
    pub fn await_topic(&self, name: &str, partitions: i32) {
        for broker in self.bootstrap.split(',') {
            let mut wire = Wire::connect(broker);
            eventually("every broker knows the topic", || {
                (wire.leaders(name) == partitions as usize).then_some(())
            });
        }
    }
}

/// Our own broker in `dir`, on the given address or a free port.
pub fn embedded_broker(dir: &Path, listen: Option<SocketAddr>) -> RunningBroker {
    let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    Broker::start(BrokerOptions { dir: dir.to_path_buf(), listen, ..BrokerOptions::default() }).unwrap()
}
