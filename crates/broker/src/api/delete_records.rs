//! DeleteRecords: moves a partition's start forward.

use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use uuid::Uuid;

use crate::state::State;

pub(crate) fn answer(state: &State, request: &DeleteRecordsRequest) -> DeleteRecordsResponse {
    let topics = request.topics.iter().map(|asked| {
        let topic = state.topic(&asked.name, Uuid::nil());
        let partitions = asked.partitions.iter().map(|partition| {
            let moved = topic
                .as_ref()
                .map_err(|error| *error)
                .and_then(|topic| topic.log(partition.partition_index))
                .and_then(|log| log.delete_before(partition.offset));
            let result =
                DeleteRecordsPartitionResult::default().with_partition_index(partition.partition_index);
            match moved {
                Ok(start) => result.with_low_watermark(start),
                Err(error) => result.with_low_watermark(-1).with_error_code(error.code()),
            }
        });
        DeleteRecordsTopicResult::default()
            .with_name(asked.name.clone())
            .with_partitions(partitions.collect())
    });
    DeleteRecordsResponse::default().with_topics(topics.collect())
}
