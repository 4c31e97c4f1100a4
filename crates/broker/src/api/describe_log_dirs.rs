//! DescribeLogDirs: the one directory, its room, and how many bytes each partition takes.

use std::collections::HashMap;

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::catalog::Topic;
use crate::space;
use crate::state::State;

pub(crate) fn answer(state: &State, request: &DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let wanted: Option<HashMap<&str, &[i32]>> = request.topics.as_ref().map(|topics| {
        topics.iter().map(|topic| (topic.topic.as_str(), topic.partitions.as_slice())).collect()
    });
    let topics = state.catalog.all().into_iter().filter_map(|topic| {
        let only = match &wanted {
            None => None,
            Some(wanted) => Some(*wanted.get(topic.name.as_str())?),
        };
        Some(describe(&topic, only)).filter(|described| !described.partitions.is_empty())
    });
    let result = DescribeLogDirsResult::default()
        .with_log_dir(StrBytes::from_string(log_dir(state)))
        .with_topics(topics.collect());
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let result = match space::of(&state.options.dir) {
        Some(space) => result.with_total_bytes(bytes(space.total)).with_usable_bytes(bytes(space.usable)),
        None => result,
    };
    DescribeLogDirsResponse::default().with_results(vec![result])
}

/// The directory's name as tools see it.
pub(super) fn log_dir(state: &State) -> String {
    state.options.dir.display().to_string()
}

/// What is served of a topic; a partition that is not served has no size that means anything.
fn describe(topic: &Topic, only: Option<&[i32]>) -> DescribeLogDirsTopic {
    let partitions = (0..).zip(&topic.partitions).filter(|(index, _)| only.is_none_or(|o| o.contains(index)));
    let described = partitions.filter_map(|(index, partition)| {
        let bytes = partition.log().ok()?.bytes();
        Some(
            DescribeLogDirsPartition::default()
                .with_partition_index(index)
                .with_partition_size(i64::try_from(bytes).unwrap_or(i64::MAX)),
        )
    });
    DescribeLogDirsTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.name.clone())))
        .with_partitions(described.collect())
}
