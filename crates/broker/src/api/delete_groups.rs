//! DeleteGroups: groups without members, with all they have committed.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse, GroupId};

use crate::groups::Coordinator;

pub(crate) async fn answer(groups: &Coordinator, request: &DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for id in &request.groups_names {
        let deleted = groups.delete(id).await;
        results.push(
            DeletableGroupResult::default()
                .with_group_id(GroupId(id.0.clone()))
                .with_error_code(deleted.err().map_or(0, |error| error.code())),
        );
    }
    DeleteGroupsResponse::default().with_results(results)
}
