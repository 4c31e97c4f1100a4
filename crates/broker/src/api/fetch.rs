//! Fetch: whole batches from where the client is; waits for more when there is too little.
//!
//! Every answer stands alone: session id 0 tells a client that no fetch session
//! was made (KIP-227), so it names all its partitions each time.

use super::splice::Parts;
use super::{Refused, Request, injected_code};
use crate::faults::Fault;
use crate::frame::Frame;
use crate::log::Read;
use crate::state::State;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use kafka_protocol::protocol::HeaderVersion;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of one answer, whatever the client allows: bounds the broker's memory.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The answer as it goes out: records straight from where they were read to.
pub(super) fn encode(request: &Request, mut answer: FetchResponse) -> Result<Frame, Refused> {
    let mut parts = Parts::default();
    for data in answer.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
        data.records = data.records.take().map(|records| parts.take(records));
    }
    let is_flexible = FetchResponse::header_version(request.version) >= 1;
    parts.put_back(request.encode(&answer)?, is_flexible)
}

/// One look at all partitions.
#[derive(Default)]
struct Collected {
    topics: Vec<FetchableTopicResponse>,
    bytes: usize,
    failed: bool,
}

pub(super) async fn answer(state: &Arc<State>, request: FetchRequest, fault: Option<Fault>) -> FetchResponse {
    if let Some(code) = injected_code(fault) {
        return FetchResponse::default().with_error_code(code).with_responses(all_refused(&request, code));
    }
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let enough = usize::try_from(request.min_bytes).unwrap_or(0);
    let deadline = Instant::now() + wait;
    let more = Arc::new(Notify::new());
    loop {
        // Asked for before the look, so that nothing that comes between the two is missed.
        for log in logs(state, &request) {
            log.wake_when_more(&more);
        }
        let collected = state.on_disk(|| collect(state, &request)).await;
        if collected.bytes >= enough || collected.failed {
            return FetchResponse::default().with_responses(collected.topics);
        }
        if tokio::time::timeout_at(deadline, more.notified()).await.is_err() {
            return FetchResponse::default().with_responses(collected.topics);
        }
    }
}

fn logs(state: &State, request: &FetchRequest) -> Vec<Arc<crate::log::PartitionLog>> {
    let mut logs = Vec::new();
    for topic in &request.topics {
        let Ok(found) = state.topic(&topic.topic, topic.topic_id) else { continue };
        logs.extend(topic.partitions.iter().filter_map(|wanted| found.log(wanted.partition).ok().cloned()));
    }
    logs
}

fn collect(state: &State, request: &FetchRequest) -> Collected {
    let allowed = usize::try_from(request.max_bytes).unwrap_or(0).min(ANSWER_BYTES_MAX);
    let mut collected = Collected::default();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let room = allowed.saturating_sub(collected.bytes);
            let data = match read(state, topic, wanted, room, collected.bytes == 0) {
                Ok(read) => {
                    collected.bytes += read.records.len();
                    partition_data(wanted.partition, 0, read.start_offset, read.high_watermark)
                        .with_records(Some(read.records))
                }
                Err(failed) => {
                    collected.failed = true;
                    partition_data(wanted.partition, failed.code(), -1, -1)
                }
            };
            partitions.push(data);
        }
        let answer =
            FetchableTopicResponse::default().with_topic(topic.topic.clone()).with_topic_id(topic.topic_id);
        collected.topics.push(answer.with_partitions(partitions));
    }
    collected
}

fn read(
    state: &State,
    topic: &FetchTopic,
    wanted: &FetchPartition,
    room: usize,
    is_first: bool,
) -> Result<Read, ResponseError> {
    let found = state.topic(&topic.topic, topic.topic_id)?;
    let log = found.log(wanted.partition)?;
    state.check_leader_epoch(wanted.current_leader_epoch)?;
    let bytes_max = usize::try_from(wanted.partition_max_bytes).unwrap_or(0).min(room);
    log.read(wanted.fetch_offset, bytes_max, is_first)
}

fn partition_data(index: i32, code: i16, start_offset: i64, high_watermark: i64) -> PartitionData {
    PartitionData::default()
        .with_partition_index(index)
        .with_error_code(code)
        .with_high_watermark(high_watermark)
        .with_last_stable_offset(high_watermark)
        .with_log_start_offset(start_offset)
}

fn all_refused(request: &FetchRequest, code: i16) -> Vec<FetchableTopicResponse> {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| partition_data(wanted.partition, code, -1, -1));
        FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    topics.collect()
}
