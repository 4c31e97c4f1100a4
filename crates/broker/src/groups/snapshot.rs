//! A group's views of itself: what is stored, what tools are shown, what it subscribes to.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::group::{Group, Phase};
use super::member::Member;
use super::messages::Identity;
use super::offsets::Retention;
use super::options::GroupOptions;
use super::record::{GroupRecord, MemberRecord};

/// A group as DescribeGroups shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub state: &'static str,
    pub protocol_type: String,
    /// Empty unless stable.
    pub protocol: String,
    pub members: Vec<MemberDescription>,
}

/// A member as DescribeGroups shows it; metadata and assignment only while stable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    pub identity: Identity,
    pub client_id: String,
    pub client_host: String,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

impl Group {
    /// The durable form.
    pub fn record(&self, empty_since_ms: Option<i64>) -> GroupRecord {
        GroupRecord {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            empty_since_ms,
            members: self.members.values().map(member_record).collect(),
        }
    }

    /// The group as it was stored. Its members have a full session from `now` to be heard, so
    /// a restart of the broker costs no rebalance.
    pub fn restore(options: Arc<GroupOptions>, record: GroupRecord, now: Instant) -> Self {
        let mut group = Self::new(options);
        for stored in record.members {
            group.add_member(restored_member(stored, now));
        }
        group.generation = record.generation;
        group.protocol_type = record.protocol_type;
        group.protocol = record.protocol;
        group.leader = record.leader.filter(|id| group.members.contains_key(id));
        if !group.members.is_empty() {
            group.phase = Phase::Stable;
            group.leader = group.leader.or_else(|| group.members.keys().next().cloned());
        }
        group
    }

    /// What tools are shown.
    pub fn describe(&self) -> Description {
        let stable = self.phase == Phase::Stable;
        let protocol = self.protocol.clone().filter(|_| stable).unwrap_or_default();
        let describe = |m: &Member| MemberDescription {
            identity: Identity { member_id: m.id.clone(), instance_id: m.instance_id.clone() },
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: if stable { m.metadata_for(&protocol) } else { Bytes::new() },
            assignment: if stable { m.assignment.clone() } else { Bytes::new() },
        };
        Description {
            state: self.state_name(),
            protocol_type: self.protocol_type(),
            members: self.members.values().map(describe).collect(),
            protocol,
        }
    }

    /// `consumer` for consumers, empty for a group that only holds offsets.
    pub fn protocol_type(&self) -> String {
        self.protocol_type.clone().unwrap_or_default()
    }

    /// By which rule its offsets age.
    pub fn retention(&self, empty_since_ms: Option<i64>) -> Retention {
        match (self.phase, empty_since_ms) {
            (Phase::Empty, Some(since_ms)) if self.protocol_type.is_some() => Retention::EmptySince(since_ms),
            (Phase::Empty, _) => Retention::Simple,
            // Between generations nobody knows what will be subscribed.
            (Phase::Stable, _) if self.protocol_type.as_deref() == Some("consumer") => {
                Retention::Subscribed(self.subscribed_topics())
            }
            _ => Retention::Subscribed(None),
        }
    }

    fn subscribed_topics(&self) -> Option<Vec<String>> {
        let protocol = self.protocol.as_deref()?;
        let mut topics = Vec::new();
        for member in self.members.values() {
            topics.extend(parse_subscription(member.metadata_for(protocol))?);
        }
        Some(topics)
    }
}

/// The topics of a `ConsumerProtocolSubscription`; all versions start with version and topics.
fn parse_subscription(mut metadata: Bytes) -> Option<Vec<String>> {
    let _version = metadata.try_get_i16().ok()?;
    let count = metadata.try_get_i32().ok()?;
    let mut topics = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(metadata.try_get_i16().ok()?).ok()?;
        if metadata.len() < length {
            return None;
        }
        topics.push(String::from_utf8(metadata.split_to(length).to_vec()).ok()?);
    }
    Some(topics)
}

fn member_record(member: &Member) -> MemberRecord {
    MemberRecord {
        identity: Identity { member_id: member.id.clone(), instance_id: member.instance_id.clone() },
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        session_timeout: member.session_timeout,
        rebalance_timeout: member.rebalance_timeout,
        assignment: member.assignment.clone(),
        protocols: member.protocols.clone(),
    }
}

fn restored_member(stored: MemberRecord, now: Instant) -> Member {
    Member {
        id: stored.identity.member_id,
        instance_id: stored.identity.instance_id,
        client_id: stored.client_id,
        client_host: stored.client_host,
        session_timeout: stored.session_timeout,
        rebalance_timeout: stored.rebalance_timeout,
        protocols: stored.protocols,
        assignment: stored.assignment,
        is_new: false,
        expires: now + stored.session_timeout,
        awaiting_join: None,
        awaiting_sync: None,
    }
}
