//! DescribeQuorum: one voter, who leads; the metadata log is the catalog's file.
//!
//! Its epoch is the number of this start, and its high watermark how many starts there were: what
//! rises, as a watcher expects, without a log behind it.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{BrokerId, DescribeQuorumRequest, DescribeQuorumResponse};
use kafka_protocol::protocol::StrBytes;

use crate::connection::Client;
use crate::state::{State, now_ms};

const METADATA_TOPIC: &str = "__cluster_metadata";
/// From here on directories, endpoints and messages belong to the answer.
const NODES: i16 = 2;

pub(crate) fn answer(
    state: &State,
    client: &Client,
    request: &DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let is_the_one = topic.topic_name.as_str() == METADATA_TOPIC && partition.partition_index == 0;
            let answer = PartitionData::default().with_partition_index(partition.partition_index);
            if is_the_one { described(state, answer, version) } else { unknown(answer, version) }
        });
        TopicData::default().with_topic_name(topic.topic_name.clone()).with_partitions(partitions.collect())
    });
    let answer = DescribeQuorumResponse::default().with_error_message(None).with_topics(topics.collect());
    if version < NODES {
        return answer;
    }
    let (host, port) = state.found_at(client);
    let listener = Listener::default()
        .with_name(StrBytes::from_static_str("PLAINTEXT"))
        .with_host(StrBytes::from_string(host))
        .with_port(port);
    answer.with_nodes(vec![
        Node::default().with_node_id(BrokerId(state.node_id())).with_listeners(vec![listener]),
    ])
}

fn described(state: &State, answer: PartitionData, version: i16) -> PartitionData {
    let end = i64::from(state.catalog.leader_epoch()) + 1;
    let mut voter =
        ReplicaState::default().with_replica_id(BrokerId(state.node_id())).with_log_end_offset(end);
    if version >= 1 {
        voter = voter.with_last_fetch_timestamp(now_ms()).with_last_caught_up_timestamp(now_ms());
    }
    answer
        .with_error_message(None)
        .with_leader_id(BrokerId(state.node_id()))
        .with_leader_epoch(state.catalog.leader_epoch())
        .with_high_watermark(end)
        .with_current_voters(vec![voter])
}

fn unknown(answer: PartitionData, version: i16) -> PartitionData {
    let why = StrBytes::from_static_str("only partition 0 of __cluster_metadata has a quorum");
    answer
        .with_error_code(ResponseError::UnknownTopicOrPartition.code())
        .with_error_message(Some(why).filter(|_| version >= NODES))
}
