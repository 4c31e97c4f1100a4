//! ListOffsets: the offset for a time, and the log's start and end.

use super::injected_code;
use crate::faults::Fault;
use crate::state::State;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use uuid::Uuid;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;

/// An offset found: its timestamp (-1 where none belongs to it) and the epoch it is of.
struct Found {
    timestamp: i64,
    offset: i64,
    leader_epoch: i32,
}

pub(super) fn answer(
    state: &State,
    request: ListOffsetsRequest,
    version: i16,
    fault: Option<Fault>,
) -> ListOffsetsResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(wanted.partition_index);
            let found = match injected_code(fault) {
                Some(code) => Err(code),
                None if !is_known(wanted.timestamp, version) => Err(ResponseError::UnsupportedVersion.code()),
                None => find(state, &topic.name, wanted).map_err(|error| error.code()),
            };
            match found {
                Ok(found) => answer
                    .with_timestamp(found.timestamp)
                    .with_offset(found.offset)
                    .with_leader_epoch(if version >= 4 { found.leader_epoch } else { -1 }),
                Err(code) => answer.with_error_code(code).with_timestamp(-1).with_offset(-1),
            }
        });
        let partitions = partitions.collect();
        ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

/// Whether a timestamp means something in a version: the negative ones came one after the other.
fn is_known(timestamp: i64, version: i16) -> bool {
    match timestamp {
        LATEST | EARLIEST => true,
        MAX_TIMESTAMP => version >= 7,
        EARLIEST_LOCAL => version >= 8,
        time => time >= 0,
    }
}

fn find(state: &State, topic: &str, wanted: &ListOffsetsPartition) -> Result<Found, ResponseError> {
    let topic = state.topic(topic, Uuid::nil())?;
    let log = topic.log(wanted.partition_index)?;
    state.check_leader_epoch(wanted.current_leader_epoch)?;
    let (start, high_watermark, _) = log.offsets();
    let none = Found { timestamp: -1, offset: -1, leader_epoch: -1 };
    let at = |offset| Found { timestamp: -1, offset, leader_epoch: log.epoch_at(offset) };
    match wanted.timestamp {
        LATEST => Ok(Found { leader_epoch: state.catalog.leader_epoch(), ..at(high_watermark) }),
        EARLIEST | EARLIEST_LOCAL => Ok(at(start)),
        time => {
            let found = if time == MAX_TIMESTAMP { log.highest_time()? } else { log.offset_for_time(time)? };
            Ok(found.map_or(none, |(timestamp, offset)| Found { timestamp, ..at(offset) }))
        }
    }
}
