//! LeaveGroup: members go, or a tool takes static members out.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::group_member::identity;
use crate::groups::Coordinator;

/// From here on one request names several members, each with an answer of its own.
const SEVERAL: i16 = 3;

pub(crate) fn answer(groups: &Coordinator, request: &LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
    if request.group_id.is_empty() {
        return LeaveGroupResponse::default().with_error_code(ResponseError::InvalidGroupId.code());
    }
    let code = |left: Result<(), ResponseError>| left.err().map_or(0, |error| error.code());
    if version < SEVERAL {
        let left = groups.leave(&request.group_id, &identity(&request.member_id, None));
        return LeaveGroupResponse::default().with_error_code(code(left));
    }
    let members = request.members.iter().map(|member| {
        let identity = identity(&member.member_id, member.group_instance_id.as_ref());
        MemberResponse::default()
            .with_member_id(member.member_id.clone())
            .with_group_instance_id(member.group_instance_id.clone())
            .with_error_code(code(groups.leave(&request.group_id, &identity)))
    });
    LeaveGroupResponse::default().with_members(members.collect())
}
