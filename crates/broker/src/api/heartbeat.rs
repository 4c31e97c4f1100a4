//! Heartbeat: a member says it is alive and learns whether to join again.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::group_member::identity;
use crate::groups::Coordinator;

pub(crate) fn answer(groups: &Coordinator, request: &HeartbeatRequest) -> HeartbeatResponse {
    let heard = if request.group_id.is_empty() {
        Err(ResponseError::InvalidGroupId)
    } else {
        let identity = identity(&request.member_id, request.group_instance_id.as_ref());
        groups.heartbeat(&request.group_id, &identity, request.generation_id)
    };
    HeartbeatResponse::default().with_error_code(heard.err().map_or(0, |error| error.code()))
}
