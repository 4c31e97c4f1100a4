//! What every request of one broker works on.

use crate::catalog::{Catalog, Topic};
use crate::connection::Client;
use crate::connections::Connections;
use crate::faults::Faults;
use crate::groups::Coordinator;
use crate::options::BrokerOptions;
use kafka_protocol::ResponseError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Requests that may be at the disk at the same time. Fewer than the threads the runtime may start:
/// so a disk that hangs holds up only those who need it.
pub const DISK_TURNS: usize = 64;

/// One broker.
#[derive(Debug)]
pub struct State {
    /// What it was started with.
    pub options: BrokerOptions,
    /// Where it listens, and what it tells clients.
    pub address: SocketAddr,
    /// Its topics.
    pub catalog: Catalog,
    /// Its consumer groups.
    pub groups: Arc<Coordinator>,
    /// Who is connected.
    pub connections: Arc<Connections>,
    /// A turn at the disk for each request that reads or writes files.
    pub disk: Semaphore,
    /// What goes wrong on purpose.
    pub faults: Arc<Faults>,
}

impl State {
    /// The topic by its name, or by its id where the request has no names.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION` or `UNKNOWN_TOPIC_ID`.
    pub fn topic(&self, name: &str, id: Uuid) -> Result<Arc<Topic>, ResponseError> {
        if id.is_nil() {
            self.catalog.by_name(name).ok_or(ResponseError::UnknownTopicOrPartition)
        } else {
            self.catalog.by_id(id).ok_or(ResponseError::UnknownTopicId)
        }
    }

    /// The id of the one node.
    pub fn node_id(&self) -> i32 {
        self.options.node_id
    }

    /// Does work that reads or writes files; requests that do not need the disk go on meanwhile.
    ///
    /// # Cancel safety
    /// Dropped before its turn, the work is not begun; once begun it is done to its end.
    pub async fn on_disk<T>(&self, work: impl FnOnce() -> T) -> T {
        // An error would mean that the semaphore is closed, which nobody does.
        let _turn = self.disk.acquire().await.ok();
        tokio::task::block_in_place(work)
    }

    /// Where a client is told to find this broker: host and port.
    pub fn found_at(&self, client: &Client) -> (String, u16) {
        let reached = client.reached;
        match &self.options.advertise {
            Some(told) => (told.host.clone(), told.port.unwrap_or(reached.port())),
            None => (reached.ip().to_string(), reached.port()),
        }
    }

    /// Refuses a client that believes in another leader epoch than this start's (KIP-320).
    ///
    /// # Errors
    /// `FENCED_LEADER_EPOCH` or `UNKNOWN_LEADER_EPOCH`.
    pub fn check_leader_epoch(&self, believed: i32) -> Result<(), ResponseError> {
        let ours = self.catalog.leader_epoch();
        match believed {
            epoch if epoch < 0 || epoch == ours => Ok(()),
            epoch if epoch < ours => Err(ResponseError::FencedLeaderEpoch),
            _ => Err(ResponseError::UnknownLeaderEpoch),
        }
    }
}

/// Now, in ms since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
