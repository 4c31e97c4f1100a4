//! AlterReplicaLogDirs: there is one directory, and everything is in it already.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse};
use uuid::Uuid;

use super::describe_log_dirs::log_dir;
use crate::state::State;

pub(crate) fn answer(state: &State, request: &AlterReplicaLogDirsRequest) -> AlterReplicaLogDirsResponse {
    let ours = log_dir(state);
    let topics = request.dirs.iter().flat_map(|dir| dir.topics.iter().map(move |topic| (dir, topic)));
    let results = topics.map(|(dir, topic)| {
        let found = state.topic(&topic.name, Uuid::nil());
        let partitions = topic.partitions.iter().map(|index| {
            let known =
                found.as_ref().map_err(|error| *error).and_then(|topic| topic.log(*index).map(|_| ()));
            let moved = if dir.path.as_str() == ours { known } else { Err(ResponseError::LogDirNotFound) };
            AlterReplicaLogDirPartitionResult::default()
                .with_partition_index(*index)
                .with_error_code(moved.err().map_or(0, |error| error.code()))
        });
        AlterReplicaLogDirTopicResult::default()
            .with_topic_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    AlterReplicaLogDirsResponse::default().with_results(results.collect())
}
