//! OffsetCommit: a group's positions, kept durably before the answer goes out.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use uuid::Uuid;

use super::group_member::identity;
use crate::groups::{Commit, Coordinator, NewOffset, Place};

/// Up to here the client brings its own retention.
const OWN_RETENTION: i16 = 4;
/// Clients before this version know another word for a group that is not there.
const GROUP_ID_NOT_FOUND_SINCE: i16 = 9;

/// `topic_id` gives the id of a topic that has the partition.
pub(crate) async fn answer(
    groups: &Coordinator,
    request: OffsetCommitRequest,
    version: i16,
    topic_id: impl Fn(&str, i32) -> Option<Uuid>,
) -> OffsetCommitResponse {
    let mut offsets = Vec::new();
    let mut refused = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            match new_offset(groups, &topic.name, partition, topic_id(&topic.name, partition.partition_index))
            {
                Ok(new) => {
                    offsets.push(new);
                    refused.push(None);
                }
                Err(error) => refused.push(Some(error)),
            }
        }
    }
    let commit = Commit {
        identity: identity(&request.member_id, request.group_instance_id.as_ref()),
        generation: request.generation_id_or_member_epoch,
        retention_ms: Some(request.retention_time_ms).filter(|ms| version <= OWN_RETENTION && *ms >= 0),
        offsets,
    };
    // As in Kafka, the group is not asked at all when no partition is known.
    let is_any_known = refused.iter().any(|error| *error != Some(ResponseError::UnknownTopicOrPartition));
    let committed = if is_any_known { groups.commit(&request.group_id, commit).await } else { Ok(()) };
    let committed = committed.map_err(|error| match error {
        ResponseError::GroupIdNotFound if version < GROUP_ID_NOT_FOUND_SINCE => {
            ResponseError::IllegalGeneration
        }
        error => error,
    });
    let mut refused = refused.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            // As in Kafka: the partition first, then who commits, then the metadata.
            let error = match (refused.next().flatten(), committed) {
                (Some(ResponseError::OffsetMetadataTooLarge), Err(error)) => Some(error),
                (refused, committed) => refused.or(committed.err()),
            };
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.map_or(0, |error| error.code()))
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn new_offset(
    groups: &Coordinator,
    topic: &str,
    partition: &OffsetCommitRequestPartition,
    topic_id: Option<Uuid>,
) -> Result<NewOffset, ResponseError> {
    let topic_id = topic_id.ok_or(ResponseError::UnknownTopicOrPartition)?;
    let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
    if !groups.metadata_fits(metadata) {
        return Err(ResponseError::OffsetMetadataTooLarge);
    }
    Ok(NewOffset {
        place: Place { topic: topic.to_owned(), partition: partition.partition_index },
        topic_id,
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: metadata.to_owned(),
    })
}
