//! SyncGroup: the leader hands in the assignment, everybody gets its part.

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::group_member::{identity, text};
use crate::groups::{Coordinator, Sync};

/// From here on protocol type and name are sent along and checked.
const CHECKS_PROTOCOL: i16 = 5;

pub(crate) async fn answer(
    groups: &Coordinator,
    request: SyncGroupRequest,
    version: i16,
) -> SyncGroupResponse {
    let given = |name: &Option<kafka_protocol::protocol::StrBytes>| {
        name.as_ref().filter(|_| version >= CHECKS_PROTOCOL).map(ToString::to_string)
    };
    let sync = Sync {
        identity: identity(&request.member_id, request.group_instance_id.as_ref()),
        generation: request.generation_id,
        protocol_type: given(&request.protocol_type),
        protocol: given(&request.protocol_name),
        assignments: request
            .assignments
            .iter()
            .map(|a| (a.member_id.to_string(), Bytes::copy_from_slice(&a.assignment)))
            .collect(),
    };
    let synced = if request.group_id.is_empty() {
        Err(ResponseError::InvalidGroupId)
    } else if version >= CHECKS_PROTOCOL && (sync.protocol_type.is_none() || sync.protocol.is_none()) {
        Err(ResponseError::InconsistentGroupProtocol)
    } else {
        groups.sync(&request.group_id, sync).await
    };
    match synced {
        Ok(synced) => SyncGroupResponse::default()
            .with_protocol_type((version >= CHECKS_PROTOCOL).then(|| text(synced.protocol_type)))
            .with_protocol_name((version >= CHECKS_PROTOCOL).then(|| text(synced.protocol)))
            .with_assignment(synced.assignment),
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
    }
}
