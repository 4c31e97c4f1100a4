//! DescribeConfigs: what a topic or the broker is set to, and where each value comes from.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::create_topics::is_legal_name;
use super::refusal::{Refusal, refusal};
use crate::config::{Kind, SETTINGS};
use crate::log::FlushPolicy;
use crate::state::State;

pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;

/// Where a value comes from, with Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Set on the topic.
    Topic = 1,
    /// Given to the broker when it started.
    Broker = 4,
    Default = 5,
}

/// One value with where it comes from.
struct Value {
    name: &'static str,
    value: String,
    source: Source,
    config_type: i8,
    read_only: bool,
    /// What would hold if this one were deleted, strongest first.
    behind: Vec<(String, Source)>,
}

pub(crate) fn answer(
    state: &State,
    request: &DescribeConfigsRequest,
    version: i16,
) -> DescribeConfigsResponse {
    // What is named twice is described once: a small request must not ask for gigabytes.
    let mut seen = HashSet::new();
    let once = request.resources.iter().filter(|r| seen.insert((r.resource_type, r.resource_name.as_str())));
    let results = once.map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe(state, resource) {
            Ok(values) => {
                let shown = values.into_iter().map(|value| show(value, request, version));
                result.with_error_message(None).with_configs(shown.collect())
            }
            Err(refusal) => result
                .with_error_code(refusal.error.code())
                .with_error_message(Some(StrBytes::from_string(refusal.why))),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn describe(state: &State, resource: &DescribeConfigsResource) -> Result<Vec<Value>, Refusal> {
    let mut values = match resource.resource_type {
        TOPIC if !is_legal_name(&resource.resource_name) => {
            let why = format!("{:?} is no name of a topic", resource.resource_name.as_str());
            return Err(refusal(ResponseError::InvalidTopicException, why));
        }
        TOPIC => {
            let topic = state.topic(&resource.resource_name, uuid::Uuid::nil())?;
            topic_values(state, &topic.settings)
        }
        BROKER if resource.resource_name.as_str() == state.node_id().to_string() => broker_values(state),
        BROKER => {
            let why = format!("the only broker of this cluster is {}", state.node_id());
            return Err(refusal(ResponseError::InvalidRequest, why));
        }
        _ => {
            let why = "this broker describes topics and brokers";
            return Err(refusal(ResponseError::InvalidRequest, why));
        }
    };
    // No keys, and no list of them either, means all.
    if let Some(keys) = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty()) {
        values.retain(|value| keys.iter().any(|key| key.as_str() == value.name));
    }
    Ok(values)
}

fn show(value: Value, request: &DescribeConfigsRequest, version: i16) -> DescribeConfigsResourceResult {
    let synonym = |(text, source): (String, Source)| {
        DescribeConfigsSynonym::default()
            .with_name(StrBytes::from_static_str(value.name))
            .with_value(Some(StrBytes::from_string(text)))
            .with_source(source as i8)
    };
    let synonyms = if request.include_synonyms {
        let first = (value.value.clone(), value.source);
        std::iter::once(first).chain(value.behind).map(synonym).collect()
    } else {
        Vec::new()
    };
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(value.name))
        .with_value(Some(StrBytes::from_string(value.value)))
        .with_read_only(value.read_only)
        .with_config_source(value.source as i8)
        .with_synonyms(synonyms)
        .with_config_type(if version >= 3 { value.config_type } else { 0 })
        .with_documentation(None)
}

fn topic_values(state: &State, set: &BTreeMap<String, String>) -> Vec<Value> {
    let value = |setting: &crate::config::Setting| {
        let (default, source) = match broker_default(state, setting.name) {
            Some(given) => (given, Source::Broker),
            None => (setting.default.to_owned(), Source::Default),
        };
        let config_type = config_type(setting.name, setting.kind);
        let (value, source, behind) = match set.get(setting.name) {
            Some(value) => (value.clone(), Source::Topic, vec![(default, source)]),
            None => (default, source, Vec::new()),
        };
        Value { name: setting.name, value, source, config_type, read_only: false, behind }
    };
    SETTINGS.iter().map(value).collect()
}

/// What the broker's own flush policy makes of a topic's flush settings: reported as what
/// really happens, or a doctor would see a danger that is not there.
fn broker_default(state: &State, name: &str) -> Option<String> {
    match (state.options.flush, name) {
        (FlushPolicy::Always, "flush.messages") => Some("1".to_owned()),
        (FlushPolicy::Interval { messages, .. }, "flush.messages") => Some(messages.to_string()),
        (FlushPolicy::Interval { ms, .. }, "flush.ms") => Some(ms.to_string()),
        _ => None,
    }
}

/// Kafka's numbers for the types of values.
fn config_type(name: &str, kind: Kind) -> i8 {
    const BOOLEAN: i8 = 1;
    const STRING: i8 = 2;
    const INT: i8 = 3;
    const LONG: i8 = 5;
    const LIST: i8 = 7;
    match kind {
        Kind::Bool => BOOLEAN,
        Kind::OneOf(_) if name == "preallocate" => BOOLEAN,
        Kind::OneOf(_) => STRING,
        Kind::ListOf(_) => LIST,
        Kind::Number(_, high) if high <= i64::from(i32::MAX) => INT,
        Kind::Number(..) => LONG,
    }
}

fn advertised(state: &State) -> String {
    match &state.options.advertise {
        Some(told) => format!("{}:{}", told.host, told.port.unwrap_or(state.address.port())),
        None => state.address.to_string(),
    }
}

fn broker_values(state: &State) -> Vec<Value> {
    const STRING: i8 = 2;
    let options = &state.options;
    let groups = &options.groups;
    let (flush_messages, flush_ms) = match options.flush {
        FlushPolicy::Always => ("1".to_owned(), None),
        FlushPolicy::Interval { messages, ms } => (messages.to_string(), Some(ms.to_string())),
        FlushPolicy::Never => (i64::MAX.to_string(), None),
    };
    let default_of = |name: &str| {
        crate::config::setting(name).map(|setting| setting.default.to_owned()).unwrap_or_default()
    };
    let given = [
        ("node.id", state.node_id().to_string()),
        ("broker.id", state.node_id().to_string()),
        ("advertised.listeners", format!("PLAINTEXT://{}", advertised(state))),
        ("listeners", format!("PLAINTEXT://{}", options.listen)),
        ("log.dirs", options.dir.display().to_string()),
        ("auto.create.topics.enable", options.auto_create_topics.to_string()),
        ("num.partitions", options.default_partitions.to_string()),
        ("log.flush.interval.messages", flush_messages),
        ("log.flush.interval.ms", flush_ms.unwrap_or_default()),
        ("log.retention.check.interval.ms", options.retention_check.as_millis().to_string()),
        ("producer.id.expiration.ms", options.producer_id_expiration.as_millis().to_string()),
        ("socket.request.max.bytes", options.request_bytes_max.to_string()),
        ("max.connections", options.connections_max.to_string()),
        ("max.connections.per.ip", options.connections_per_address_max.to_string()),
        ("connections.max.idle.ms", options.idle_timeout.as_millis().to_string()),
        ("group.min.session.timeout.ms", groups.session_timeout_min.as_millis().to_string()),
        ("group.max.session.timeout.ms", groups.session_timeout_max.as_millis().to_string()),
        ("group.initial.rebalance.delay.ms", groups.initial_rebalance_delay.as_millis().to_string()),
        ("group.max.size", groups.group_size_max.to_string()),
        ("offset.metadata.max.bytes", groups.offset_metadata_chars_max.to_string()),
        ("offsets.retention.minutes", (groups.offsets_retention.as_secs() / 60).to_string()),
        ("offsets.commit.timeout.ms", groups.commit_timeout.as_millis().to_string()),
    ];
    let fixed = [
        ("default.replication.factor", "1".to_owned()),
        ("min.insync.replicas", default_of("min.insync.replicas")),
        ("offsets.topic.replication.factor", "1".to_owned()),
        ("unclean.leader.election.enable", default_of("unclean.leader.election.enable")),
        ("compression.type", default_of("compression.type")),
        ("message.max.bytes", default_of("max.message.bytes")),
        ("log.segment.bytes", default_of("segment.bytes")),
        ("log.retention.ms", default_of("retention.ms")),
        ("log.retention.bytes", default_of("retention.bytes")),
        ("log.cleanup.policy", default_of("cleanup.policy")),
        ("log.message.timestamp.type", default_of("message.timestamp.type")),
    ];
    let of = |source| {
        move |(name, value)| Value {
            name,
            value,
            source,
            config_type: STRING,
            read_only: true,
            behind: Vec::new(),
        }
    };
    given.into_iter().map(of(Source::Broker)).chain(fixed.into_iter().map(of(Source::Default))).collect()
}
