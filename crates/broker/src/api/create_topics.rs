//! CreateTopics: durable before it is answered; one replica, because there is one node.

use super::injected_code;
use crate::catalog::{NewTopic, Topic};
use crate::config;
use crate::faults::Fault;
use crate::state::State;
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// More partitions than this in one topic would be a slip, and too many open files.
const PARTITIONS_MAX: i32 = 10_000;

/// A refusal: Kafka's code and a sentence.
type Refusal = (ResponseError, String);

pub(super) fn answer(
    state: &State,
    request: CreateTopicsRequest,
    fault: Option<Fault>,
) -> CreateTopicsResponse {
    let mut named: HashMap<String, u32> = HashMap::new();
    for topic in &request.topics {
        *named.entry(topic.name.to_string()).or_default() += 1;
    }
    // A topic named twice is answered once.
    let mut seen = HashSet::new();
    let once = request.topics.iter().filter(|topic| seen.insert(topic.name.clone()));
    let results = once.map(|topic| {
        let outcome = match injected_code(fault) {
            Some(code) => {
                Err((code.err().unwrap_or(ResponseError::UnknownServerError), "injected".to_owned()))
            }
            None if named[topic.name.as_str()] > 1 => {
                Err((ResponseError::InvalidRequest, "the topic is named twice in one request".to_owned()))
            }
            None => create(state, topic, request.validate_only),
        };
        result(topic, outcome)
    });
    CreateTopicsResponse::default().with_topics(results.collect())
}

/// A created topic, or one that only was checked.
struct Created {
    id: Uuid,
    partitions: i32,
    settings: BTreeMap<String, String>,
}

fn create(state: &State, topic: &CreatableTopic, only_check: bool) -> Result<Created, Refusal> {
    let new = check(state, topic)?;
    let settings = new.settings.clone();
    let partitions = new.partitions;
    if only_check {
        return Ok(Created { id: Uuid::nil(), partitions, settings });
    }
    let created = state.catalog.create(new).map_err(|refusal| (refusal.error, refusal.why))?;
    Ok(Created { id: created.id, partitions, settings })
}

/// Creates a topic with the broker's defaults, for clients that may.
pub(super) fn create_default(state: &State, name: &str) -> Result<Arc<Topic>, ResponseError> {
    if !is_legal_name(name) {
        return Err(ResponseError::InvalidTopicException);
    }
    let new = NewTopic {
        name: name.to_owned(),
        partitions: state.options.default_partitions,
        settings: BTreeMap::new(),
    };
    tokio::task::block_in_place(|| state.catalog.create(new)).map_err(|refusal| refusal.error)
}

/// Kafka's rule for topic names (`org.apache.kafka.common.internals.Topic`).
pub(super) fn is_legal_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name != "." && name != ".." && name.len() <= 249 && name.bytes().all(legal)
}

fn check(state: &State, topic: &CreatableTopic) -> Result<NewTopic, Refusal> {
    if !is_legal_name(&topic.name) {
        let why = format!("topic name {:?} must be 1 to 249 of [a-zA-Z0-9._-]", topic.name.as_str());
        return Err((ResponseError::InvalidTopicException, why));
    }
    // In Kafka's order: whether it is there already, then its settings, then its size.
    if state.catalog.by_name(&topic.name).is_some() {
        let why = format!("Topic '{}' already exists.", topic.name.as_str());
        return Err((ResponseError::TopicAlreadyExists, why));
    }
    let mut settings = BTreeMap::new();
    for setting in &topic.configs {
        let value = setting.value.as_deref().unwrap_or_default();
        config::check(&setting.name, value).map_err(|why| (ResponseError::InvalidConfig, why))?;
        settings.insert(setting.name.to_string(), value.to_owned());
    }
    let partitions =
        if topic.assignments.is_empty() { count(state, topic)? } else { assigned(state, topic)? };
    if !(1..=PARTITIONS_MAX).contains(&partitions) {
        let why = format!("{partitions} partitions: must be 1 to {PARTITIONS_MAX}");
        return Err((ResponseError::InvalidPartitions, why));
    }
    Ok(NewTopic { name: topic.name.to_string(), partitions, settings })
}

fn count(state: &State, topic: &CreatableTopic) -> Result<i32, Refusal> {
    // In Kafka's order: what no cluster could do, then what one node cannot.
    let factor = topic.replication_factor;
    if factor < 1 && factor != -1 {
        let why = format!("Replication factor {factor}: must be above 0, or -1");
        return Err((ResponseError::InvalidReplicationFactor, why));
    }
    if topic.num_partitions < 1 && topic.num_partitions != -1 {
        let why = format!("{} partitions: must be 1 to {PARTITIONS_MAX}", topic.num_partitions);
        return Err((ResponseError::InvalidPartitions, why));
    }
    if factor > 1 {
        let why =
            format!("Unable to replicate the partition {factor} time(s): only 1 broker(s) are registered.");
        return Err((ResponseError::InvalidReplicationFactor, why));
    }
    Ok(if topic.num_partitions == -1 { state.options.default_partitions } else { topic.num_partitions })
}

/// Partitions given with their brokers: each index once from 0, each on this node.
fn assigned(state: &State, topic: &CreatableTopic) -> Result<i32, Refusal> {
    let refuse = |why: &str| (ResponseError::InvalidReplicaAssignment, why.to_owned());
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        return Err((ResponseError::InvalidRequest, "give either assignments or numbers".to_owned()));
    }
    let mut indexes: Vec<i32> = topic.assignments.iter().map(|a| a.partition_index).collect();
    indexes.sort_unstable();
    if !(0..).zip(&indexes).all(|(expected, index)| expected == *index) {
        return Err(refuse("partitions must be numbered from 0 without holes"));
    }
    let here = |ids: &[kafka_protocol::messages::BrokerId]| matches!(ids, [id] if id.0 == state.node_id());
    if !topic.assignments.iter().all(|assignment| here(&assignment.broker_ids)) {
        return Err(refuse("each partition must have exactly this broker"));
    }
    i32::try_from(indexes.len()).map_err(|_| refuse("too many partitions"))
}

fn result(topic: &CreatableTopic, outcome: Result<Created, Refusal>) -> CreatableTopicResult {
    let answer = CreatableTopicResult::default().with_name(topic.name.clone());
    match outcome {
        Ok(created) => answer
            .with_topic_id(created.id)
            .with_num_partitions(created.partitions)
            .with_replication_factor(1)
            .with_configs(Some(effective(&created.settings))),
        Err((error, why)) => answer
            .with_error_code(error.code())
            .with_error_message(Some(StrBytes::from_string(why)))
            .with_num_partitions(-1)
            .with_replication_factor(-1),
    }
}

fn effective(settings: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    const DYNAMIC_TOPIC: i8 = 1;
    const DEFAULT: i8 = 5;
    let all = config::SETTINGS.iter().map(|setting| {
        let set = settings.get(setting.name);
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(setting.name))
            .with_value(Some(
                set.map_or(StrBytes::from_static_str(setting.default), |v| StrBytes::from_string(v.clone())),
            ))
            .with_config_source(if set.is_some() { DYNAMIC_TOPIC } else { DEFAULT })
    });
    all.collect()
}
