//! The durable form of groups and offsets: keys and values in the journal.
//!
//! ```text
//! key      := 1 group:text topic:text partition:i32        an offset
//!           | 2 group:text                                 a group
//! offset   := 1 offset:i64 leader_epoch:i32 committed_ms:i64 expires_ms:i64 topic_id:16 metadata:text
//! group    := 1 generation:i32 protocol_type:text? protocol:text? leader:text? empty_since_ms:i64
//!             count:u32 member*
//! member   := id:text instance:text? client:text host:text session_ms:u64 rebalance_ms:u64
//!             assignment:bytes count:u32 (name:text metadata:bytes)*
//! text, bytes := length:u32be content         text? := 0 | 1 text          i64 −1: none
//! ```

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use uuid::Uuid;

use super::member::Protocol;
use super::messages::Identity;
use super::offsets::Committed;

const VERSION: u8 = 1;
const OFFSET_KEY: u8 = 1;
const GROUP_KEY: u8 = 2;

/// What a journal key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Offset { group: String, topic: String, partition: i32 },
    Group { group: String },
}

/// A group between two runs of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord {
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    /// Wall clock; none while it has members.
    pub empty_since_ms: Option<i64>,
    pub members: Vec<MemberRecord>,
}

/// A member between two runs of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    pub identity: Identity,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    pub assignment: Bytes,
    pub protocols: Vec<Protocol>,
}

impl Key {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Offset { group, topic, partition } => {
                out.put_u8(OFFSET_KEY);
                put_text(&mut out, group);
                put_text(&mut out, topic);
                out.put_i32(*partition);
            }
            Self::Group { group } => {
                out.put_u8(GROUP_KEY);
                put_text(&mut out, group);
            }
        }
        out.into()
    }

    /// None when the bytes are no key of this version.
    pub fn decode(mut data: Bytes) -> Option<Self> {
        let key = match data.try_get_u8().ok()? {
            OFFSET_KEY => Self::Offset {
                group: get_text(&mut data)?,
                topic: get_text(&mut data)?,
                partition: data.try_get_i32().ok()?,
            },
            GROUP_KEY => Self::Group { group: get_text(&mut data)? },
            _ => return None,
        };
        data.is_empty().then_some(key)
    }
}

/// The value of an offset key.
pub fn encode_offset(committed: &Committed) -> Bytes {
    let mut out = Vec::with_capacity(49 + committed.metadata.len());
    out.put_u8(VERSION);
    out.put_i64(committed.offset);
    out.put_i32(committed.leader_epoch);
    out.put_i64(committed.committed_ms);
    out.put_i64(committed.expires_ms.unwrap_or(-1));
    out.put_slice(committed.topic_id.as_bytes());
    put_text(&mut out, &committed.metadata);
    out.into()
}

/// None when the bytes are no offset of this version.
pub fn decode_offset(mut data: Bytes) -> Option<Committed> {
    if data.try_get_u8().ok()? != VERSION {
        return None;
    }
    let committed = Committed {
        offset: data.try_get_i64().ok()?,
        leader_epoch: data.try_get_i32().ok()?,
        committed_ms: data.try_get_i64().ok()?,
        expires_ms: some_time(data.try_get_i64().ok()?),
        topic_id: Uuid::from_u128(data.try_get_u128().ok()?),
        metadata: get_text(&mut data)?,
    };
    data.is_empty().then_some(committed)
}

impl GroupRecord {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        out.put_u8(VERSION);
        out.put_i32(self.generation);
        put_optional(&mut out, self.protocol_type.as_deref());
        put_optional(&mut out, self.protocol.as_deref());
        put_optional(&mut out, self.leader.as_deref());
        out.put_i64(self.empty_since_ms.unwrap_or(-1));
        out.put_u32(self.members.len() as u32);
        for member in &self.members {
            member.encode(&mut out);
        }
        out.into()
    }

    /// None when the bytes are no group of this version.
    pub fn decode(mut data: Bytes) -> Option<Self> {
        if data.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut record = Self {
            generation: data.try_get_i32().ok()?,
            protocol_type: get_optional(&mut data)?,
            protocol: get_optional(&mut data)?,
            leader: get_optional(&mut data)?,
            empty_since_ms: some_time(data.try_get_i64().ok()?),
            members: Vec::new(),
        };
        for _ in 0..data.try_get_u32().ok()? {
            record.members.push(MemberRecord::decode(&mut data)?);
        }
        data.is_empty().then_some(record)
    }
}

impl MemberRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        put_text(out, &self.identity.member_id);
        put_optional(out, self.identity.instance_id.as_deref());
        put_text(out, &self.client_id);
        put_text(out, &self.client_host);
        out.put_u64(self.session_timeout.as_millis() as u64);
        out.put_u64(self.rebalance_timeout.as_millis() as u64);
        put_bytes(out, &self.assignment);
        out.put_u32(self.protocols.len() as u32);
        for protocol in &self.protocols {
            put_text(out, &protocol.name);
            put_bytes(out, &protocol.metadata);
        }
    }

    fn decode(data: &mut Bytes) -> Option<Self> {
        let mut member = Self {
            identity: Identity { member_id: get_text(data)?, instance_id: get_optional(data)? },
            client_id: get_text(data)?,
            client_host: get_text(data)?,
            session_timeout: Duration::from_millis(data.try_get_u64().ok()?),
            rebalance_timeout: Duration::from_millis(data.try_get_u64().ok()?),
            assignment: get_bytes(data)?,
            protocols: Vec::new(),
        };
        for _ in 0..data.try_get_u32().ok()? {
            member.protocols.push(Protocol { name: get_text(data)?, metadata: get_bytes(data)? });
        }
        Some(member)
    }
}

fn some_time(ms: i64) -> Option<i64> {
    (ms >= 0).then_some(ms)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn put_optional(out: &mut Vec<u8>, text: Option<&str>) {
    out.put_u8(text.is_some().into());
    if let Some(text) = text {
        put_text(out, text);
    }
}

fn get_bytes(data: &mut Bytes) -> Option<Bytes> {
    let length = data.try_get_u32().ok()? as usize;
    (data.len() >= length).then(|| Bytes::copy_from_slice(&data.split_to(length)))
}

fn get_text(data: &mut Bytes) -> Option<String> {
    String::from_utf8(get_bytes(data)?.into()).ok()
}

fn get_optional(data: &mut Bytes) -> Option<Option<String>> {
    match data.try_get_u8().ok()? {
        0 => Some(None),
        1 => Some(Some(get_text(data)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn member() -> impl Strategy<Value = MemberRecord> {
        let protocols = proptest::collection::vec(
            ("[a-z-]{1,9}", bytes()).prop_map(|(name, metadata)| Protocol { name, metadata }),
            0..3,
        );
        (("\\PC{0,9}", any::<Option<String>>()), "\\PC{0,9}", any::<u32>(), bytes(), protocols).prop_map(
            |((member_id, instance_id), client, ms, assignment, protocols)| MemberRecord {
                identity: Identity { member_id, instance_id },
                client_host: client.clone(),
                client_id: client,
                session_timeout: Duration::from_millis(ms.into()),
                rebalance_timeout: Duration::from_millis(u64::from(ms) * 3),
                assignment,
                protocols,
            },
        )
    }

    proptest! {
        #[test]
        fn every_key_is_read_back(group in "\\PC{0,20}", topic in "\\PC{0,20}", partition: i32) {
            let offset = Key::Offset { group: group.clone(), topic, partition };
            prop_assert_eq!(Key::decode(offset.encode()), Some(offset));
            let key = Key::Group { group };
            prop_assert_eq!(Key::decode(key.encode()), Some(key));
        }

        #[test]
        fn every_offset_is_read_back(offset: i64, leader_epoch: i32, committed_ms: i64,
                                     expires in proptest::option::of(0..i64::MAX), id: u128, metadata in "\\PC{0,40}") {
            let committed = Committed { offset, leader_epoch, committed_ms, expires_ms: expires,
                                        topic_id: Uuid::from_u128(id), metadata };
            prop_assert_eq!(decode_offset(encode_offset(&committed)), Some(committed));
        }

        #[test]
        fn every_group_is_read_back(generation: i32, names in any::<[Option<String>; 3]>(),
                                    empty in proptest::option::of(0..i64::MAX),
                                    members in proptest::collection::vec(member(), 0..4)) {
            let [protocol_type, protocol, leader] = names;
            let record = GroupRecord { generation, protocol_type, protocol, leader, empty_since_ms: empty, members };
            prop_assert_eq!(GroupRecord::decode(record.encode()), Some(record));
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(data in proptest::collection::vec(any::<u8>(), 0..80)) {
            let data = Bytes::from(data);
            let _ = (Key::decode(data.clone()), decode_offset(data.clone()), GroupRecord::decode(data));
        }
    }
}
