//! ListGroups: which groups there are, by state and type.

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

use super::group_member::text;
use crate::groups::Coordinator;

/// All groups here follow the classic protocol.
const TYPE: &str = "classic";

pub(crate) fn answer(groups: &Coordinator, request: &ListGroupsRequest) -> ListGroupsResponse {
    let asked_for = |filter: &[StrBytes], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    let listed = groups
        .list()
        .into_iter()
        .filter(|(_, _, state)| {
            asked_for(&request.states_filter, state) && asked_for(&request.types_filter, TYPE)
        })
        .map(|(id, protocol_type, state)| {
            ListedGroup::default()
                .with_group_id(GroupId(text(id)))
                .with_protocol_type(text(protocol_type))
                .with_group_state(StrBytes::from_static_str(state))
                .with_group_type(StrBytes::from_static_str(TYPE))
        });
    ListGroupsResponse::default().with_groups(listed.collect())
}
