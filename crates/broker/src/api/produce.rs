//! Produce: batches are appended in the order of the requests; the answer waits until they are durable.

use super::{Refused, Reply, Request, encode, injected_code, internal};
use crate::faults::Fault;
use crate::log::{PartitionLog, batch};
use crate::state::{State, now_ms};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;

/// From here on an answer may say in words what is wrong.
const MESSAGE_SINCE: i16 = 8;

/// What became of one partition's records.
struct Outcome {
    index: i32,
    result: Result<Waiting, NotTaken>,
}

/// Why a partition's records were not taken.
struct NotTaken {
    code: i16,
    /// For the client's log: what the disk said.
    why: Option<String>,
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
    let topics = append_all(state, request.version, produce, fault);
    if acks == 0 {
        return Ok(without_answer(request, &topics));
    }
    let (api, version, correlation_id) = (request.api, request.version, request.correlation_id);
    Ok(Reply::Later(Box::pin(async move {
        let answer = complete(topics, version).await;
        let encoded = encode(api, version, correlation_id, &answer).unwrap_or_else(|Refused(why)| {
            tracing::error!(why, "cannot answer a Produce request");
            bytes::Bytes::new()
        });
        encoded.into()
    })))
}

/// The end of a connection is all that tells a producer that wants no answer of a refusal, in Apache Kafka, too.
fn without_answer(request: &Request, topics: &[(TopicName, Vec<Outcome>)]) -> Reply {
    let mut all = topics.iter().flat_map(|(topic, outcomes)| outcomes.iter().map(move |one| (topic, one)));
    let refused = all.find_map(|(topic, one)| Some((topic, one.index, one.result.as_ref().err()?.code)));
    let Some((topic, partition, code)) = refused else { return Reply::Nothing };
    tracing::warn!(
        topic = topic.as_str(),
        partition,
        code,
        client = request.client_id,
        "refused records of a producer with acks=0; its connection is closed to tell it"
    );
    Reply::Close
}

fn append_all(
    state: &Arc<State>,
    version: i16,
    produce: ProduceRequest,
    fault: Option<Fault>,
) -> Vec<(TopicName, Vec<Outcome>)> {
    let acks = produce.acks;
    let refused_whole = injected_code(fault).or(refuse_whole(&produce));
    let lie = fault == Some(Fault::AckWithoutAppend);
    let mut topics = Vec::with_capacity(produce.topic_data.len());
    for topic in produce.topic_data {
        let found = if internal::is_internal(&topic.name) {
            Err(ResponseError::InvalidTopicException)
        } else {
            state.topic(&topic.name, topic.topic_id)
        };
        let outcomes = topic.partition_data.iter().map(|data| {
            // What is wrong is named in Kafka's order: the topic, the records' form, the acks, the records.
            let append = || -> Result<Waiting, NotTaken> {
                let log = found.as_ref().map_err(|error| *error)?.log(data.index)?;
                let batch = batch::sole(data.records.as_deref().unwrap_or_default(), version)?;
                if !(-1..=1).contains(&acks) {
                    return Err(ResponseError::InvalidRequiredAcks.into());
                }
                append(log, batch, lie).map_err(|error| {
                    let trouble = state.catalog.troubles().at(log.dir());
                    NotTaken {
                        code: error.code(),
                        why: trouble
                            .filter(|_| error == ResponseError::KafkaStorageError)
                            .map(|t| t.to_string()),
                    }
                })
            };
            let result = refused_whole.map_or_else(append, |code| Err(NotTaken { code, why: None }));
            Outcome { index: data.index, result }
        });
        topics.push((topic.name.clone(), outcomes.collect::<Vec<_>>()));
    }
    topics
}

impl From<ResponseError> for NotTaken {
    fn from(error: ResponseError) -> Self {
        Self { code: error.code(), why: None }
    }
}

/// Transactions are not offered: `InitProducerId` gives no id to them.
fn refuse_whole(produce: &ProduceRequest) -> Option<i16> {
    let refused = ResponseError::TransactionalIdAuthorizationFailed.code();
    if produce.transactional_id.is_some() {
        return Some(refused);
    }
    let records = produce.topic_data.iter().flat_map(|topic| &topic.partition_data);
    let mut looked_at =
        records.map(|data| batch::is_transactional(data.records.as_deref().unwrap_or_default()));
    looked_at.find_map(|is_transactional| match is_transactional {
        Ok(true) => Some(refused),
        Ok(false) => None,
        Err(error) => Some(error.code()),
    })
}

fn append(log: &Arc<PartitionLog>, batch: &[u8], lie: bool) -> Result<Waiting, ResponseError> {
    if lie {
        let (_, _, end) = log.offsets();
        return Ok(Waiting { base_offset: end, durable_at: end, log: None });
    }
    let appended = log.append(batch, now_ms())?;
    let (base_offset, durable_at) = (appended.base_offset, appended.durable_at);
    Ok(Waiting { base_offset, durable_at, log: Some(Arc::clone(log)) })
}

async fn complete(topics: Vec<(TopicName, Vec<Outcome>)>, version: i16) -> ProduceResponse {
    let mut responses = Vec::with_capacity(topics.len());
    for (name, outcomes) in topics {
        let mut partitions = Vec::with_capacity(outcomes.len());
        for Outcome { index, result } in outcomes {
            partitions.push(match result {
                Ok(waiting) => acknowledged(index, waiting).await,
                Err(not_taken) => refused(index, not_taken, version),
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
            return refused(index, error.into(), 0);
        }
        start_offset = log.offsets().0;
    }
    PartitionProduceResponse::default()
        .with_index(index)
        .with_base_offset(waiting.base_offset)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(start_offset)
}

fn refused(index: i32, not_taken: NotTaken, version: i16) -> PartitionProduceResponse {
    let why = not_taken.why.filter(|_| version >= MESSAGE_SINCE);
    PartitionProduceResponse::default()
        .with_index(index)
        .with_error_code(not_taken.code)
        .with_error_message(why.map(StrBytes::from_string))
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1)
}
