//! OffsetDelete: single committed offsets of a group are forgotten.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use crate::groups::{Coordinator, Place};

/// `is_known` tells whether there is such a topic with such a partition.
pub(crate) async fn answer(
    groups: &Coordinator,
    request: &OffsetDeleteRequest,
    is_known: impl Fn(&str, i32) -> bool,
) -> OffsetDeleteResponse {
    let mut outcomes: BTreeMap<Place, Option<ResponseError>> = BTreeMap::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let place = Place { topic: topic.name.to_string(), partition: partition.partition_index };
            let known = is_known(&place.topic, place.partition);
            outcomes.insert(place, (!known).then_some(ResponseError::UnknownTopicOrPartition));
        }
    }
    let known = outcomes.iter().filter(|(_, error)| error.is_none()).map(|(place, _)| place.clone());
    match groups.delete_offsets(&request.group_id, known.collect()).await {
        Ok(subscribed) => {
            for place in subscribed {
                outcomes.insert(place, Some(ResponseError::GroupSubscribedToTopic));
            }
        }
        Err(error) => return OffsetDeleteResponse::default().with_error_code(error.code()),
    }
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let place = Place { topic: topic.name.to_string(), partition: partition.partition_index };
            let error = outcomes.get(&place).copied().flatten();
            OffsetDeleteResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.map_or(0, |error| error.code()))
        });
        OffsetDeleteResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
