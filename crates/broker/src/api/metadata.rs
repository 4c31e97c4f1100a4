//! Metadata: this one node, and the topics there are.

use super::create_topics;
use super::injected_code;
use super::internal::is_internal;
use crate::catalog::Topic;
use crate::connection::Client;
use crate::faults::Fault;
use crate::state::State;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::HashSet;
use std::sync::Arc;

pub(super) fn answer(
    state: &State,
    client: &Client,
    request: MetadataRequest,
    version: i16,
    fault: Option<Fault>,
) -> MetadataResponse {
    let everything = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    let creates = state.options.auto_create_topics && request.allow_auto_topic_creation;
    let topics = if everything {
        state.catalog.all().iter().map(|topic| describe(state, topic)).collect()
    } else {
        let mut wanted = request.topics.unwrap_or_default();
        // A topic named twice is described once.
        let mut seen = HashSet::new();
        wanted.retain(|topic| seen.insert((topic.name.clone(), topic.topic_id)));
        wanted.into_iter().map(|wanted| one(state, wanted, creates, fault)).collect()
    };
    let (host, port) = state.found_at(client);
    let node = MetadataResponseBroker::default()
        .with_node_id(BrokerId(state.node_id()))
        .with_host(StrBytes::from_string(host))
        .with_port(i32::from(port));
    MetadataResponse::default()
        .with_brokers(vec![node])
        .with_cluster_id(Some(StrBytes::from_string(state.catalog.cluster_id().to_owned())))
        .with_controller_id(BrokerId(state.node_id()))
        .with_topics(topics)
}

fn one(
    state: &State,
    wanted: MetadataRequestTopic,
    creates: bool,
    fault: Option<Fault>,
) -> MetadataResponseTopic {
    let name = wanted.name.clone().unwrap_or_default();
    let mut found = match injected_code(fault) {
        Some(code) => Err(code),
        None => state.topic(&name, wanted.topic_id).map_err(|error| error.code()),
    };
    if found.is_err() && creates && wanted.topic_id.is_nil() && fault.is_none() {
        found = create_topics::create_default(state, &name).map_err(|error| error.code());
    }
    match found {
        Ok(topic) => describe(state, &topic),
        Err(code) => {
            let invalid = wanted.topic_id.is_nil() && !create_topics::is_legal_name(&name);
            let code = if invalid { ResponseError::InvalidTopicException.code() } else { code };
            MetadataResponseTopic::default()
                .with_error_code(code)
                .with_name(wanted.name)
                .with_topic_id(wanted.topic_id)
        }
    }
}

fn describe(state: &State, topic: &Arc<Topic>) -> MetadataResponseTopic {
    let partitions = (0..).zip(&topic.partitions).map(|(index, partition)| {
        let serves = partition.log().is_ok();
        MetadataResponsePartition::default()
            .with_error_code(partition.log().err().map_or(0, |_| ResponseError::LeaderNotAvailable.code()))
            .with_partition_index(index)
            .with_leader_id(BrokerId(if serves { state.node_id() } else { -1 }))
            .with_leader_epoch(state.catalog.leader_epoch())
            .with_replica_nodes(vec![BrokerId(state.node_id())])
            .with_isr_nodes(vec![BrokerId(state.node_id())])
            .with_offline_replicas(if serves { Vec::new() } else { vec![BrokerId(state.node_id())] })
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(topic.name.clone()))))
        .with_topic_id(topic.id)
        .with_is_internal(is_internal(&topic.name))
        .with_partitions(partitions.collect())
}
