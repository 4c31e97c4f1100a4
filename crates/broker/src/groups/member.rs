//! One member of a group: what it supports, what it was assigned, what it waits for.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::messages::Ticket;

/// One way of assigning partitions a member supports, with the member's data for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// The assignor's name: `range`, `roundrobin`, `cooperative-sticky`, …
    pub name: String,
    /// The member's subscription in that assignor's format; opaque to the broker.
    pub metadata: Bytes,
}

/// A member as the coordinator keeps it.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    /// True until its first join is answered: it does not know its id, so it cannot heartbeat.
    pub is_new: bool,
    /// When it is considered dead.
    pub expires: Instant,
    /// Its parked JoinGroup.
    pub awaiting_join: Option<Ticket>,
    /// Its parked SyncGroup.
    pub awaiting_sync: Option<Ticket>,
}

impl Member {
    pub fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|p| p.name == protocol)
    }

    /// The member's data for `protocol`; empty when it does not support it.
    pub fn metadata_for(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|p| p.name == protocol).map(|p| p.metadata.clone()).unwrap_or_default()
    }

    /// The first protocol of its preference among `candidates`.
    pub fn vote<'a>(&self, candidates: &[&'a str]) -> Option<&'a str> {
        self.protocols.iter().find_map(|p| candidates.iter().find(|c| **c == p.name).copied())
    }

    /// A member that waits for its group is alive, whatever its heartbeats: its client cannot
    /// send any while the join is parked. New members are the exception, see `is_new`.
    pub fn is_dead_at(&self, now: Instant) -> bool {
        let waiting = self.awaiting_join.is_some() || self.awaiting_sync.is_some();
        now >= self.expires && (self.is_new || !waiting)
    }

    /// When [`Self::is_dead_at`] turns true, if nothing is heard.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.awaiting_join.is_some() || self.awaiting_sync.is_some();
        (self.is_new || !waiting).then_some(self.expires)
    }

    pub fn heard(&mut self, now: Instant) {
        self.expires = now + self.session_timeout;
    }
}
