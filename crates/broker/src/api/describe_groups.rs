//! DescribeGroups: a group's state, members and assignments.

use std::collections::HashSet;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use kafka_protocol::protocol::StrBytes;

use super::group_member::text;
use crate::groups::{Coordinator, Description, MemberDescription};

/// From here on an unknown group is an error instead of a dead group (KIP-1043).
const UNKNOWN_IS_AN_ERROR: i16 = 6;
/// READ, DELETE and DESCRIBE as bits: without an authorizer everybody may.
const ALL_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8;
const OPERATIONS_NOT_ASKED_FOR: i32 = i32::MIN;

pub(crate) fn answer(
    groups: &Coordinator,
    request: &DescribeGroupsRequest,
    version: i16,
) -> DescribeGroupsResponse {
    let operations =
        if request.include_authorized_operations { ALL_OPERATIONS } else { OPERATIONS_NOT_ASKED_FOR };
    // What is named twice is described once: a small request must not ask for gigabytes.
    let mut seen = HashSet::new();
    let described = request.groups.iter().filter(|id| seen.insert(id.as_str())).map(|id| {
        let group = groups.describe(id).map_or_else(|| dead(version), |group| described(group, version));
        group.with_group_id(GroupId(id.0.clone())).with_authorized_operations(operations)
    });
    DescribeGroupsResponse::default().with_groups(described.collect())
}

fn dead(version: i16) -> DescribedGroup {
    let group = DescribedGroup::default().with_group_state(StrBytes::from_static_str("Dead"));
    if version < UNKNOWN_IS_AN_ERROR {
        return group.with_error_message(None);
    }
    group
        .with_error_code(ResponseError::GroupIdNotFound.code())
        .with_error_message(Some(StrBytes::from_static_str("there is no such group")))
}

fn described(group: Description, version: i16) -> DescribedGroup {
    DescribedGroup::default()
        .with_error_message(None)
        .with_group_state(StrBytes::from_static_str(group.state))
        .with_protocol_type(text(group.protocol_type))
        .with_protocol_data(text(group.protocol))
        .with_members(group.members.into_iter().map(|m| member(m, version)).collect())
}

fn member(member: MemberDescription, version: i16) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(text(member.identity.member_id))
        .with_group_instance_id(member.identity.instance_id.filter(|_| version >= 4).map(text))
        .with_client_id(text(member.client_id))
        .with_client_host(text(member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment)
}
