//! What goes into a group's state machine and what comes out, free of wire versions.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::member::Protocol;

/// Stands for a parked request; the state machine answers each ticket exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A member's answer to "who are you": its id and, for static members, its instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Empty when the member has none yet.
    pub member_id: String,
    pub instance_id: Option<String>,
}

/// JoinGroup.
#[derive(Debug, Clone)]
pub struct Join {
    pub identity: Identity,
    /// The id to give when `identity.member_id` is empty.
    pub fresh_member_id: String,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    pub protocol_type: String,
    pub protocols: Vec<Protocol>,
    /// JoinGroup v4+: an unknown dynamic member must come again with the id it was given.
    pub needs_known_id: bool,
    /// JoinGroup v9+: a returning static leader may be told to skip the assignment.
    pub can_skip_assignment: bool,
}

/// A successful join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub member_id: String,
    pub generation: i32,
    pub protocol_type: String,
    pub protocol: String,
    pub leader: String,
    pub skip_assignment: bool,
    /// Only for the leader.
    pub members: Vec<JoinedMember>,
}

/// What the leader learns of each member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    pub identity: Identity,
    pub metadata: Bytes,
}

/// A refused join; `MEMBER_ID_REQUIRED` carries the id to come again with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRefused {
    pub error: ResponseError,
    pub member_id: String,
}

/// SyncGroup.
#[derive(Debug, Clone)]
pub struct Sync {
    pub identity: Identity,
    pub generation: i32,
    /// Checked only when given (v5+).
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    /// Given by the leader only: member id and its assignment.
    pub assignments: Vec<(String, Bytes)>,
}

/// A successful sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    pub protocol_type: String,
    pub protocol: String,
    pub assignment: Bytes,
}

/// An answer to a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Join(Ticket, Result<Joined, JoinRefused>),
    Sync(Ticket, Result<Synced, ResponseError>),
}

/// What one step of a group asks of its surroundings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub answers: Vec<Answer>,
    /// The group's durable form changed: store it before any answer goes out.
    pub store: bool,
}
