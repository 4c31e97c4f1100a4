//! Produce: batches are appended in the order of the requests; the answer waits until they are durable.

use super::{Refused, Reply, Request, encode, injected_code};
use crate::faults::Fault;
use crate::log::PartitionLog;
use crate::state::{State, now_ms};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use std::sync::Arc;

/// What became of one partition's records.
struct Outcome {
    index: i32,
    result: Result<Waiting, i16>,
}

/// Records appended and perhaps not durable yet.
struct Waiting {
    base_offset: i64,
    durable_at: i64,
    /// None where a fault lied.
    log: Option<Arc<PartitionLog>>,
}

/// Appends at once; the reply completes when everything is durable.
pub(super) fn begin(state: &Arc<State>, request: &Request, fault: Option<Fault>) -> Result<Reply, Refused> {
    let produce: ProduceRequest = request.decode()?;
    let acks = produce.acks;
    let is_injected = injected_code(fault).is_some();
    let refused_whole = refuse_whole(&produce).or(injected_code(fault));
    let mut topics = Vec::with_capacity(produce.topic_data.len());
    for topic in produce.topic_data {
        let found = state.topic(&topic.name, topic.topic_id);
        let outcomes = topic.partition_data.iter().map(|data| {
            let result = match (refused_whole, &found) {
                // An unknown topic is said first, as Kafka does.
                (_, Err(error)) if !is_injected => Err(error.code()),
                (Some(code), _) => Err(code),
                (None, Err(error)) => Err(error.code()),
                (None, Ok(found)) => {
                    let records = data.records.as_deref().unwrap_or_default();
                    let lie = fault == Some(Fault::AckWithoutAppend);
                    found
                        .log(data.index)
                        .and_then(|log| append(log, records, lie))
                        .map_err(|error| error.code())
                }
            };
            Outcome { index: data.index, result }
        });
        topics.push((topic.name.clone(), outcomes.collect::<Vec<_>>()));
    }
    if acks == 0 {
        return Ok(Reply::Nothing);
    }
    let (api, version, correlation_id) = (request.api, request.version, request.correlation_id);
    Ok(Reply::Later(Box::pin(async move {
        let answer = complete(topics).await;
        encode(api, version, correlation_id, &answer).unwrap_or_else(|Refused(why)| {
            tracing::error!(why, "cannot answer a Produce request");
            bytes::Bytes::new()
        })
    })))
}

fn refuse_whole(produce: &ProduceRequest) -> Option<i16> {
    let transactional = produce.transactional_id.is_some();
    match produce.acks {
        _ if transactional => Some(ResponseError::TransactionalIdAuthorizationFailed.code()),
        -1..=1 => None,
        _ => Some(ResponseError::InvalidRequiredAcks.code()),
    }
}

fn append(log: &Arc<PartitionLog>, records: &[u8], lie: bool) -> Result<Waiting, ResponseError> {
    if lie {
        let (_, _, end) = log.offsets();
        return Ok(Waiting { base_offset: end, durable_at: end, log: None });
    }
    let appended = log.append(records, now_ms())?;
    let (base_offset, durable_at) = (appended.base_offset, appended.durable_at);
    Ok(Waiting { base_offset, durable_at, log: Some(Arc::clone(log)) })
}

async fn complete(topics: Vec<(TopicName, Vec<Outcome>)>) -> ProduceResponse {
    let mut responses = Vec::with_capacity(topics.len());
    for (name, outcomes) in topics {
        let mut partitions = Vec::with_capacity(outcomes.len());
        for Outcome { index, result } in outcomes {
            partitions.push(match result {
                Ok(waiting) => acknowledged(index, waiting).await,
                Err(code) => refused(index, code),
            });
        }
        responses.push(TopicProduceResponse::default().with_name(name).with_partition_responses(partitions));
    }
    ProduceResponse::default().with_responses(responses)
}

async fn acknowledged(index: i32, waiting: Waiting) -> PartitionProduceResponse {
    let mut start_offset = 0;
    if let Some(log) = waiting.log {
        if let Err(error) = log.until_durable(waiting.durable_at).await {
            return refused(index, error.code());
        }
        start_offset = log.offsets().0;
    }
    PartitionProduceResponse::default()
        .with_index(index)
        .with_base_offset(waiting.base_offset)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(start_offset)
}

fn refused(index: i32, code: i16) -> PartitionProduceResponse {
    PartitionProduceResponse::default()
        .with_index(index)
        .with_error_code(code)
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1)
}
