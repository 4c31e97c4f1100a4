//! JoinGroup: a member enters a group or comes back for the next generation.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;

use super::group_member::{Client, identity, text};
use crate::groups::{Coordinator, Join, JoinRefused, Joined, Protocol};

/// From here on a member without an id is given one to come again with (KIP-394).
const NEEDS_KNOWN_ID: i16 = 4;
/// From here on names may be null and the protocol type is echoed.
const NULLABLE_NAMES: i16 = 7;
/// From here on a returning static leader is told to skip the assignment (KIP-814).
const SKIPS_ASSIGNMENT: i16 = 9;

pub(crate) async fn answer(
    groups: &Coordinator,
    client: &Client<'_>,
    request: JoinGroupRequest,
    version: i16,
) -> JoinGroupResponse {
    if request.group_id.is_empty() {
        let member_id = request.member_id.to_string();
        return refused(JoinRefused { error: ResponseError::InvalidGroupId, member_id }, version);
    }
    match groups.join(&request.group_id, join(client, &request, version)).await {
        Ok(joined) => accepted(joined, version),
        Err(refusal) => refused(refusal, version),
    }
}

fn join(client: &Client<'_>, request: &JoinGroupRequest, version: i16) -> Join {
    let session_timeout = millis(request.session_timeout_ms);
    let identity = identity(&request.member_id, request.group_instance_id.as_ref());
    let name = identity.instance_id.as_deref().unwrap_or(client.id);
    let protocols = request.protocols.iter().map(|p| Protocol {
        name: p.name.to_string(),
        // Copied: a slice would keep the whole request alive as long as the member.
        metadata: Bytes::copy_from_slice(&p.metadata),
    });
    Join {
        fresh_member_id: format!("{name}-{}", uuid::Uuid::now_v7()),
        client_id: client.id.to_owned(),
        client_host: client.host.to_owned(),
        session_timeout,
        rebalance_timeout: if version == 0 { session_timeout } else { millis(request.rebalance_timeout_ms) },
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols.collect(),
        needs_known_id: version >= NEEDS_KNOWN_ID,
        can_skip_assignment: version >= SKIPS_ASSIGNMENT,
        identity,
    }
}

fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn accepted(joined: Joined, version: i16) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| {
        JoinGroupResponseMember::default()
            .with_member_id(text(member.identity.member_id))
            .with_group_instance_id(member.identity.instance_id.filter(|_| version >= 5).map(text))
            .with_metadata(member.metadata)
    });
    JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_type((version >= NULLABLE_NAMES).then(|| text(joined.protocol_type)))
        .with_protocol_name(Some(text(joined.protocol)))
        .with_leader(text(joined.leader))
        .with_skip_assignment(joined.skip_assignment)
        .with_member_id(text(joined.member_id))
        .with_members(members.collect())
}

fn refused(refusal: JoinRefused, version: i16) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(refusal.error.code())
        .with_generation_id(-1)
        .with_protocol_type(None)
        .with_protocol_name((version < NULLABLE_NAMES).then(StrBytes::default))
        .with_member_id(text(refusal.member_id))
}
