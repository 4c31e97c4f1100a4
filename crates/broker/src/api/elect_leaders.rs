//! ElectLeaders: each partition's one replica leads already.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::state::State;

/// From here on the request says what kind of election it wants, and the answer has a code of its own.
const KINDS: i16 = 1;
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

pub(crate) fn answer(state: &State, request: &ElectLeadersRequest, version: i16) -> ElectLeadersResponse {
    if version >= KINDS && !matches!(request.election_type, PREFERRED | UNCLEAN) {
        return ElectLeadersResponse::default().with_error_code(ResponseError::InvalidRequest.code());
    }
    // As in Kafka: without names it is about all, and says only where something was done: nowhere.
    let Some(topics) = &request.topic_partitions else { return ElectLeadersResponse::default() };
    let mut by_topic: BTreeMap<&TopicName, Vec<i32>> = BTreeMap::new();
    for topic in topics {
        by_topic.entry(&topic.topic).or_default().extend(&topic.partitions);
    }
    let results = by_topic.into_iter().map(|(name, partitions)| {
        let found = state.topic(name, Uuid::nil());
        let results = partitions.iter().map(|index| {
            let log = found.as_ref().map_err(|error| *error).and_then(|topic| topic.log(*index));
            let (error, why) = match log {
                Ok(_) => (ResponseError::ElectionNotNeeded, "its one replica leads already"),
                Err(ResponseError::KafkaStorageError) if request.election_type == UNCLEAN => {
                    (ResponseError::EligibleLeadersNotAvailable, "its one replica is damaged")
                }
                Err(ResponseError::KafkaStorageError) => {
                    (ResponseError::PreferredLeaderNotAvailable, "its one replica is damaged")
                }
                Err(error) => (error, "there is no such topic or partition"),
            };
            PartitionResult::default()
                .with_partition_id(*index)
                .with_error_code(error.code())
                .with_error_message(Some(StrBytes::from_static_str(why)))
        });
        ReplicaElectionResult::default().with_topic(name.clone()).with_partition_result(results.collect())
    });
    ElectLeadersResponse::default().with_replica_election_results(results.collect())
}
