//! The way from a group request to its handler and back, injected faults included.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::{
    ApiKey, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatResponse, JoinGroupResponse,
    LeaveGroupResponse, ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest,
    OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupResponse,
};
use uuid::Uuid;

use super::find_coordinator::Node;
use super::group_member::Client;
use super::{
    Refused, Request, delete_groups, describe_groups, find_coordinator, heartbeat, injected_code, internal,
    join_group, leave_group, list_groups, offset_commit, offset_delete, offset_fetch, sync_group,
};
use crate::connection;
use crate::faults::Fault;
use crate::state::State;

/// Works on a request of the group APIs; none when it is another API's.
pub(super) async fn work(
    state: &Arc<State>,
    client: &connection::Client,
    request: &Request,
    fault: Option<Fault>,
) -> Option<Result<Bytes, Refused>> {
    let injected = injected_code(fault);
    let worked = match request.api {
        ApiKey::FindCoordinator | ApiKey::ListGroups | ApiKey::DescribeGroups | ApiKey::DeleteGroups => {
            tools(state, client, request, injected).await
        }
        ApiKey::OffsetCommit | ApiKey::OffsetFetch | ApiKey::OffsetDelete => {
            offsets(state, request, injected).await
        }
        ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::Heartbeat | ApiKey::LeaveGroup => {
            membership(state, client, request, injected).await
        }
        _ => return None,
    };
    Some(worked)
}

async fn membership(
    state: &State,
    client: &connection::Client,
    request: &Request,
    injected: Option<i16>,
) -> Result<Bytes, Refused> {
    let groups = &state.groups;
    let version = request.version;
    if let Some(code) = injected {
        return match request.api {
            ApiKey::JoinGroup => request.encode(
                &JoinGroupResponse::default()
                    .with_error_code(code)
                    .with_protocol_name(Some(Default::default())),
            ),
            ApiKey::SyncGroup => request.encode(&SyncGroupResponse::default().with_error_code(code)),
            ApiKey::Heartbeat => request.encode(&HeartbeatResponse::default().with_error_code(code)),
            _ => request.encode(&LeaveGroupResponse::default().with_error_code(code)),
        };
    }
    match request.api {
        ApiKey::JoinGroup => {
            let host = format!("/{}", client.peer.ip());
            let client = Client { id: &request.client_id, host: &host };
            request.encode(&join_group::answer(groups, &client, request.decode()?, version).await)
        }
        ApiKey::SyncGroup => request.encode(&sync_group::answer(groups, request.decode()?, version).await),
        ApiKey::Heartbeat => request.encode(&heartbeat::answer(groups, &request.decode()?)),
        _ => request.encode(&leave_group::answer(groups, &request.decode()?, version)),
    }
}

async fn offsets(state: &State, request: &Request, injected: Option<i16>) -> Result<Bytes, Refused> {
    let groups = &state.groups;
    let version = request.version;
    let topic_id = |name: &str, partition: i32| -> Option<Uuid> {
        let topic = state.catalog.by_name(name)?;
        topic.partitions.get(usize::try_from(partition).ok()?)?;
        Some(topic.id)
    };
    if request.api == ApiKey::OffsetCommit {
        let commit: OffsetCommitRequest = request.decode()?;
        let answer = match injected {
            Some(code) => refuse_commit(&commit, code),
            None => offset_commit::answer(groups, commit, version, topic_id).await,
        };
        return request.encode(&answer);
    }
    if request.api == ApiKey::OffsetDelete {
        let asked: OffsetDeleteRequest = request.decode()?;
        let answer = match injected {
            Some(code) => OffsetDeleteResponse::default().with_error_code(code),
            None => {
                let is_known = |topic: &str, partition| topic_id(topic, partition).is_some();
                offset_delete::answer(groups, &asked, is_known).await
            }
        };
        return request.encode(&answer);
    }
    let fetch: OffsetFetchRequest = request.decode()?;
    let answer = match injected {
        Some(code) => refuse_fetch(&fetch, version, code),
        None => offset_fetch::answer(groups, &fetch, version, topic_id),
    };
    request.encode(&answer)
}

async fn tools(
    state: &State,
    client: &connection::Client,
    request: &Request,
    injected: Option<i16>,
) -> Result<Bytes, Refused> {
    let groups = &state.groups;
    let version = request.version;
    match request.api {
        ApiKey::FindCoordinator => {
            let asked: FindCoordinatorRequest = request.decode()?;
            let (host, port) = state.found_at(client);
            let node = Node { id: state.node_id(), host: &host, port };
            internal::create_offsets_topic(state, &asked).await;
            let mut answer: FindCoordinatorResponse = find_coordinator::answer(&asked, version, &node);
            if let Some(code) = injected {
                answer.error_code = code;
                answer.coordinators.iter_mut().for_each(|found| found.error_code = code);
            }
            request.encode(&answer)
        }
        ApiKey::ListGroups => request.encode(&match injected {
            Some(code) => ListGroupsResponse::default().with_error_code(code),
            None => list_groups::answer(groups, &request.decode()?),
        }),
        ApiKey::DescribeGroups => {
            let asked: DescribeGroupsRequest = request.decode()?;
            let mut answer: DescribeGroupsResponse = describe_groups::answer(groups, &asked, version);
            if let Some(code) = injected {
                answer.groups.iter_mut().for_each(|group| group.error_code = code);
            }
            request.encode(&answer)
        }
        _ => {
            let asked: DeleteGroupsRequest = request.decode()?;
            request.encode(&match injected {
                Some(code) => refuse_deletion(&asked, code),
                None => delete_groups::answer(groups, &asked).await,
            })
        }
    }
}

fn refuse_deletion(asked: &DeleteGroupsRequest, code: i16) -> DeleteGroupsResponse {
    use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
    let results = asked
        .groups_names
        .iter()
        .map(|id| DeletableGroupResult::default().with_group_id(id.clone()).with_error_code(code));
    DeleteGroupsResponse::default().with_results(results.collect())
}

fn refuse_commit(commit: &OffsetCommitRequest, code: i16) -> OffsetCommitResponse {
    use kafka_protocol::messages::offset_commit_response::{
        OffsetCommitResponsePartition, OffsetCommitResponseTopic,
    };
    let topics = commit.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn refuse_fetch(fetch: &OffsetFetchRequest, version: i16, code: i16) -> OffsetFetchResponse {
    use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
    if version < 8 {
        return OffsetFetchResponse::default().with_error_code(if version >= 2 { code } else { 0 });
    }
    let groups = fetch.groups.iter().map(|group| {
        OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone()).with_error_code(code)
    });
    OffsetFetchResponse::default().with_groups(groups.collect())
}
