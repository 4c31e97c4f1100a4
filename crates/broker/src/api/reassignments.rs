//! AlterPartitionReassignments and ListPartitionReassignments: every partition is where it can be, none is on its way.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
    ListPartitionReassignmentsResponse,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::refusal::{Refusal, refusal};
use crate::catalog::Topic;
use crate::state::State;

/// None is under way, whichever are asked about.
pub(crate) fn list() -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}

pub(crate) fn alter(
    state: &State,
    request: &AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let topics = request.topics.iter().map(|topic| {
        let found = state.topic(&topic.name, Uuid::nil());
        let partitions = topic.partitions.iter().map(|partition| {
            let checked = found
                .as_ref()
                .map_err(|error| Refusal::from(*error))
                .and_then(|t| check(state, t, partition));
            let answer = ReassignablePartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_error_message(None);
            match checked {
                Ok(()) => answer,
                Err(refusal) => answer
                    .with_error_code(refusal.error.code())
                    .with_error_message(Some(StrBytes::from_string(refusal.why))),
            }
        });
        ReassignableTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_error_message(None)
        .with_responses(topics.collect())
}

fn check(state: &State, topic: &Topic, partition: &ReassignablePartition) -> Result<(), Refusal> {
    let index = usize::try_from(partition.partition_index).ok();
    if index.is_none_or(|index| index >= topic.partitions.len()) {
        return Err(ResponseError::UnknownTopicOrPartition.into());
    }
    match &partition.replicas {
        None => Err(refusal(ResponseError::NoReassignmentInProgress, "no reassignment is under way")),
        Some(replicas) if replicas.iter().map(|id| id.0).eq([state.node_id()]) => Ok(()),
        Some(_) => {
            let why = format!("a partition can have one replica, on node {}", state.node_id());
            Err(refusal(ResponseError::InvalidReplicaAssignment, why))
        }
    }
}
