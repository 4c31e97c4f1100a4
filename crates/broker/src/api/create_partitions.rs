//! CreatePartitions: a topic gets more partitions; which keys go where changes with it.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use kafka_protocol::protocol::StrBytes;

use super::refusal::{Refusal, refusal};
use crate::state::State;

/// Partitions one topic may have: each is a directory with open files.
pub(crate) const PARTITIONS_MAX: i32 = 10_000;

pub(crate) fn answer(state: &State, request: &CreatePartitionsRequest) -> CreatePartitionsResponse {
    let results = request.topics.iter().map(|topic| {
        let raised = check(state, topic).and_then(|()| {
            if request.validate_only {
                return Ok(());
            }
            state.catalog.raise_partitions(&topic.name, topic.count)
        });
        let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        match raised {
            Ok(()) => result.with_error_message(None),
            Err(refusal) => result
                .with_error_code(refusal.error.code())
                .with_error_message(Some(StrBytes::from_string(refusal.why))),
        }
    });
    CreatePartitionsResponse::default().with_results(results.collect())
}

fn check(state: &State, topic: &CreatePartitionsTopic) -> Result<(), Refusal> {
    let Some(known) = state.catalog.by_name(&topic.name) else {
        return Err(ResponseError::UnknownTopicOrPartition.into());
    };
    let current = known.partitions.len();
    let asked = usize::try_from(topic.count).unwrap_or(0);
    if asked <= current || topic.count > PARTITIONS_MAX {
        let why = format!(
            "topic {} has {current} partitions; it can have more, up to {PARTITIONS_MAX}, but not {}",
            topic.name.as_str(),
            topic.count
        );
        return Err(refusal(ResponseError::InvalidPartitions, why));
    }
    let Some(assignments) = &topic.assignments else { return Ok(()) };
    let placed_here = assignments.iter().all(|a| a.broker_ids.iter().map(|id| id.0).eq([state.node_id()]));
    if assignments.len() == asked - current && placed_here {
        return Ok(());
    }
    let why = format!("each new partition can have one replica, on node {}", state.node_id());
    Err(refusal(ResponseError::InvalidReplicaAssignment, why))
}
