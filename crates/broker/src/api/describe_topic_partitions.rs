//! DescribeTopicPartitions: topics in pages of partitions (KIP-966).

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::create_topics::is_legal_name;
use super::internal::is_internal;
use crate::catalog::Topic;
use crate::state::State;

/// `max.request.partition.size.limit`: partitions of one page.
const PAGE_PARTITIONS_MAX: i32 = 2000;
/// Every operation on a topic as bits (READ 3, WRITE 4, CREATE 5, DELETE 6, ALTER 7, DESCRIBE 8,
/// DESCRIBE_CONFIGS 10, ALTER_CONFIGS 11): without an authorizer everybody may.
const ALL_OPERATIONS: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;

pub(crate) fn answer(
    state: &State,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let cursor = request.cursor.as_ref();
    let mut names: BTreeSet<String> = request.topics.iter().map(|topic| topic.name.to_string()).collect();
    if names.is_empty() {
        names = state.catalog.all().iter().map(|topic| topic.name.clone()).collect();
    }
    // In the order of names, from the cursor on.
    let names =
        names.into_iter().filter(|name| cursor.is_none_or(|at| name.as_str() >= at.topic_name.as_str()));
    let mut left =
        usize::try_from(request.response_partition_limit.clamp(1, PAGE_PARTITIONS_MAX)).unwrap_or(1);
    let mut topics = Vec::new();
    let mut next = None;
    for name in names {
        let from =
            cursor.filter(|at| at.topic_name.as_str() == name).map_or(0, |at| at.partition_index.max(0));
        if left == 0 {
            next = Some((name, from));
            break;
        }
        match state.topic(&name, Uuid::nil()) {
            Ok(topic) => {
                let page = describe(state, &topic, from, left);
                left -= page.partitions.len();
                let described = from + i32::try_from(page.partitions.len()).unwrap_or(i32::MAX);
                topics.push(page);
                if usize::try_from(described).is_ok_and(|described| described < topic.partitions.len()) {
                    next = Some((name, described));
                    break;
                }
            }
            Err(error) => topics.push(refused(&name, error)),
        }
    }
    let next = next.map(|(name, partition)| {
        Cursor::default().with_topic_name(topic_name(&name)).with_partition_index(partition)
    });
    DescribeTopicPartitionsResponse::default().with_topics(topics).with_next_cursor(next)
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn refused(name: &str, error: ResponseError) -> DescribeTopicPartitionsResponseTopic {
    let error = if is_legal_name(name) { error } else { ResponseError::InvalidTopicException };
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(topic_name(name)))
        .with_error_code(error.code())
}

fn describe(
    state: &State,
    topic: &Arc<Topic>,
    from: i32,
    partitions_max: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let here = || vec![BrokerId(state.node_id())];
    let all = (0..).zip(&topic.partitions).skip(usize::try_from(from).unwrap_or(0)).take(partitions_max);
    let partitions = all.map(|(index, partition)| {
        let serves = partition.log().is_ok();
        let error = if serves { 0 } else { ResponseError::LeaderNotAvailable.code() };
        DescribeTopicPartitionsResponsePartition::default()
            .with_error_code(error)
            .with_partition_index(index)
            .with_leader_id(BrokerId(if serves { state.node_id() } else { -1 }))
            .with_leader_epoch(state.catalog.leader_epoch())
            .with_replica_nodes(here())
            .with_isr_nodes(here())
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
            .with_offline_replicas(if serves { Vec::new() } else { here() })
    });
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(topic.id)
        .with_is_internal(is_internal(&topic.name))
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(ALL_OPERATIONS)
}
