//! Each operation as a request, and its answer without what must differ: ids, times, addresses, words.

use super::batch::{beginning, describe};
use super::ops::{Op, Topic, Who};
use super::side::{Outcome, Side};
use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Request, StrBytes};
use std::io;
use uuid::Uuid;

const TIMEOUT_MS: i32 = 10_000;
/// A consumer's subscription, or assignment, of no topics: version 0, an empty list, no user data.
/// Kafka reads them, and never answers a member whose subscription it cannot read.
const NOTHING: &[u8] = &[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

/// A compared answer, or the connection's end.
fn told<T>(outcome: Outcome<T>, tell: impl FnOnce(T) -> String) -> String {
    match outcome {
        Outcome::Answer(answer) => tell(answer),
        Outcome::Closed => "closed".to_owned(),
        Outcome::Silent => "silent".to_owned(),
    }
}

fn list<T>(items: impl IntoIterator<Item = T>, tell: impl FnMut(T) -> String) -> String {
    format!("[{}]", items.into_iter().map(tell).collect::<Vec<_>>().join("; "))
}

impl Topic {
    fn text(self, side: &Side) -> String {
        match self {
            Self::Own(n) => side.name(format!("t{n}")),
            Self::Missing => side.name("never-made"),
            Self::Bad(name) => name.to_owned(),
        }
    }

    fn name(self, side: &Side) -> TopicName {
        TopicName(text(self.text(side)))
    }

    /// The id the broker gave it last; of any other topic one that nobody has.
    fn id(self, side: &Side) -> Uuid {
        side.topic_ids.get(&self.text(side)).copied().unwrap_or(Uuid::from_u128(0xd1ff))
    }
}

fn group(side: &Side, group: u8) -> GroupId {
    GroupId(text(side.name(format!("g{group}"))))
}

fn member(side: &Side, group: u8, who: Who) -> StrBytes {
    text(match who {
        Who::Known => side.members.get(&group).map(|known| known.member.clone()).unwrap_or_default(),
        Who::Empty => String::new(),
        Who::Stranger => "stranger".to_owned(),
    })
}

fn generation(side: &Side, group: u8) -> i32 {
    side.members.get(&group).map_or(0, |known| known.generation)
}

impl Op {
    /// Asks one side; what it answered, comparable with the other side's.
    ///
    /// # Errors
    /// When the broker neither answers nor ends the connection.
    pub fn ask(&self, side: &mut Side) -> io::Result<String> {
        match self {
            Self::Garbled(garble) => garble.ask(side),
            Self::CreateTopic { .. }
            | Self::DeleteTopic { .. }
            | Self::Grow { .. }
            | Self::DescribeConfig { .. }
            | Self::AlterConfig { .. } => self.ask_topics(side),
            Self::Metadata { .. }
            | Self::DescribeCluster { .. }
            | Self::ApiVersions { .. }
            | Self::FindCoordinator { .. } => self.ask_cluster(side),
            Self::InitProducerId { .. }
            | Self::Produce { .. }
            | Self::Fetch { .. }
            | Self::ListOffsets { .. }
            | Self::OffsetForLeaderEpoch { .. }
            | Self::DeleteRecords { .. } => self.ask_records(side),
            Self::Join { .. } | Self::Sync { .. } | Self::Heartbeat { .. } | Self::Leave { .. } => {
                self.ask_membership(side)
            }
            Self::Commit { .. }
            | Self::Committed { .. }
            | Self::ListGroups { .. }
            | Self::DescribeGroup { .. }
            | Self::DeleteGroup { .. } => self.ask_group(side),
        }
    }

    fn ask_topics(&self, side: &mut Side) -> io::Result<String> {
        match self {
            Self::CreateTopic { v, topic, partitions, replicas, config, validate_only, twice } => {
                let version = side.version::<CreateTopicsRequest>(*v);
                let configs = config.iter().map(|(key, value)| {
                    create_topics_request::CreatableTopicConfig::default()
                        .with_name(text(*key))
                        .with_value(Some(text(*value)))
                });
                let wanted = create_topics_request::CreatableTopic::default()
                    .with_name(topic.name(side))
                    .with_num_partitions(*partitions)
                    .with_replication_factor(*replicas)
                    .with_configs(configs.collect());
                let topics = vec![wanted; if *twice { 2 } else { 1 }];
                let request = CreateTopicsRequest::default()
                    .with_topics(topics)
                    .with_timeout_ms(TIMEOUT_MS)
                    .with_validate_only(*validate_only);
                let outcome = side.exchange(version, &request)?;
                if let (Outcome::Answer(answer), true) = (&outcome, version >= 7) {
                    for made in answer.topics.iter().filter(|made| made.error_code == 0 && !validate_only) {
                        side.topic_ids.insert(made.name.to_string(), made.topic_id);
                    }
                }
                Ok(told(outcome, |answer| {
                    list(answer.topics, |made| {
                        let shape = (version >= 5).then_some((made.num_partitions, made.replication_factor));
                        format!("error {} shape {shape:?}", made.error_code)
                    })
                }))
            }
            Self::DeleteTopic { v, topic } => {
                let version = side.version::<DeleteTopicsRequest>(*v);
                let request = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
                let request = if version >= 6 {
                    let state = delete_topics_request::DeleteTopicState::default();
                    request.with_topics(vec![state.with_name(Some(topic.name(side)))])
                } else {
                    request.with_topic_names(vec![topic.name(side)])
                };
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.responses, |gone| format!("error {}", gone.error_code))
                }))
            }
            Self::Grow { v, topic, count, validate_only } => {
                let version = side.version::<CreatePartitionsRequest>(*v);
                let wanted = create_partitions_request::CreatePartitionsTopic::default()
                    .with_name(topic.name(side))
                    .with_count(*count)
                    .with_assignments(None);
                let request = CreatePartitionsRequest::default()
                    .with_topics(vec![wanted])
                    .with_timeout_ms(TIMEOUT_MS)
                    .with_validate_only(*validate_only);
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.results, |grown| format!("error {}", grown.error_code))
                }))
            }
            Self::DescribeConfig { v, topic, keys } => {
                let version = side.version::<DescribeConfigsRequest>(*v);
                // No keys means all, and Kafka has some that concern what one node does not do.
                let all = keys.as_ref().is_none_or(Vec::is_empty);
                let keys = keys.as_ref().map(|keys| keys.iter().map(|key| text(*key)).collect());
                let resource = describe_configs_request::DescribeConfigsResource::default()
                    .with_resource_type(2)
                    .with_resource_name(text(topic.text(side)))
                    .with_configuration_keys(keys);
                let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.results, |mut found| {
                        if all {
                            return format!("error {} some {}", found.error_code, !found.configs.is_empty());
                        }
                        found.configs.sort_by(|a, b| a.name.cmp(&b.name));
                        // Segments differ by design in their default size.
                        let told = found.configs.iter().filter(|config| {
                            config.name.as_str() != "segment.bytes" || config.config_source == 1
                        });
                        let told = list(told, |config| {
                            // Whether it is the topic's own; where else it comes from is the cluster's matter.
                            let own = config.config_source == 1;
                            format!("{}={:?} own {own}", config.name, config.value)
                        });
                        format!("error {} {told}", found.error_code)
                    })
                }))
            }
            Self::AlterConfig { v, topic, key, how, value, validate_only } => {
                let version = side.version::<IncrementalAlterConfigsRequest>(*v);
                let config = incremental_alter_configs_request::AlterableConfig::default()
                    .with_name(text(*key))
                    .with_config_operation(*how)
                    .with_value(value.map(text));
                let resource = incremental_alter_configs_request::AlterConfigsResource::default()
                    .with_resource_type(2)
                    .with_resource_name(text(topic.text(side)))
                    .with_configs(vec![config]);
                let request = IncrementalAlterConfigsRequest::default()
                    .with_resources(vec![resource])
                    .with_validate_only(*validate_only);
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.responses, |altered| format!("error {}", altered.error_code))
                }))
            }
            _ => unreachable!("ask sends only operations on topics here"),
        }
    }

    fn ask_cluster(&self, side: &mut Side) -> io::Result<String> {
        match self {
            Self::Metadata { v, topics } => {
                let version = side.version::<MetadataRequest>(*v);
                let wanted = topics.iter().map(|topic| {
                    metadata_request::MetadataRequestTopic::default().with_name(Some(topic.name(side)))
                });
                let request = MetadataRequest::default()
                    .with_topics(Some(wanted.collect()))
                    .with_allow_auto_topic_creation(version < 4);
                Ok(told(side.exchange(version, &request)?, |mut answer| {
                    answer.topics.sort_by_key(|topic| topic.name.clone());
                    let brokers = answer.brokers.len();
                    let topics = list(answer.topics, |mut topic| {
                        topic.partitions.sort_by_key(|partition| partition.partition_index);
                        let partitions = list(topic.partitions, |partition| {
                            let (replicas, isr) = (partition.replica_nodes.len(), partition.isr_nodes.len());
                            let led = partition.leader_id.0 >= 0;
                            let (at, code) = (partition.partition_index, partition.error_code);
                            format!("{at} error {code} led {led} replicas {replicas} in sync {isr}")
                        });
                        format!("error {} internal {} {partitions}", topic.error_code, topic.is_internal)
                    });
                    format!("{brokers} brokers, error {}, {topics}", answer.error_code)
                }))
            }
            Self::DescribeCluster { v } => {
                let version = side.version::<DescribeClusterRequest>(*v);
                let request = DescribeClusterRequest::default();
                let request = if version >= 1 { request.with_endpoint_type(1) } else { request };
                Ok(told(side.exchange(version, &request)?, |answer| {
                    format!("error {} brokers {}", answer.error_code, answer.brokers.len())
                }))
            }
            Self::ApiVersions { version } => {
                // A version nobody knows is answered in version 0, so only its head can be read.
                let header_version = if *version >= 3 { 2 } else { 1 };
                let body: &[u8] = if *version >= 3 { &[2, b'x', 2, b'1', 0] } else { &[] };
                let outcome = side.exchange_raw(ApiVersionsRequest::KEY, *version, header_version, body)?;
                Ok(told(outcome, |answer| format!("error {:?}", answer.get(4..6))))
            }
            Self::FindCoordinator { v, key, kind } => {
                let version = side.version::<FindCoordinatorRequest>(*v);
                let key = if key.is_empty() { StrBytes::default() } else { text(side.name(*key)) };
                let request = FindCoordinatorRequest::default();
                let request = if version >= 1 { request.with_key_type(*kind) } else { request };
                let request = if version >= 4 {
                    request.with_coordinator_keys(vec![key])
                } else {
                    request.with_key(key)
                };
                Ok(told(side.exchange(version, &request)?, |answer| {
                    if version >= 4 {
                        list(answer.coordinators, |found| {
                            format!("error {} found {}", found.error_code, found.node_id.0 >= 0)
                        })
                    } else {
                        format!("error {} found {}", answer.error_code, answer.node_id.0 >= 0)
                    }
                }))
            }
            _ => unreachable!("ask sends only questions about the cluster here"),
        }
    }

    fn ask_records(&self, side: &mut Side) -> io::Result<String> {
        match self {
            Self::InitProducerId { v } => {
                let version = side.version::<InitProducerIdRequest>(*v);
                let request = InitProducerIdRequest::default()
                    .with_transactional_id(None)
                    .with_transaction_timeout_ms(60_000)
                    .with_producer_id((-1).into())
                    .with_producer_epoch(-1);
                let outcome = side.exchange(version, &request)?;
                if let Outcome::Answer(answer) = &outcome
                    && answer.error_code == 0
                {
                    side.producer = (answer.producer_id.0, answer.producer_epoch);
                }
                Ok(told(outcome, |answer| {
                    let given = answer.producer_id.0 >= 0;
                    format!("error {} given {given} epoch {}", answer.error_code, answer.producer_epoch)
                }))
            }
            Self::Produce { v, topic, partition, acks, batch } => {
                let version = side.version::<ProduceRequest>(*v);
                let data = produce_request::PartitionProduceData::default()
                    .with_index(*partition)
                    .with_records(Some(batch.bytes(side.producer)));
                let data = produce_request::TopicProduceData::default()
                    .with_name(topic.name(side))
                    .with_partition_data(vec![data]);
                let request = ProduceRequest::default()
                    .with_transactional_id(None)
                    .with_acks(*acks)
                    .with_timeout_ms(TIMEOUT_MS)
                    .with_topic_data(vec![data]);
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.responses, |topic| {
                        list(topic.partition_responses, |at| {
                            format!("{} error {} at {}", at.index, at.error_code, at.base_offset)
                        })
                    })
                }))
            }
            Self::Fetch { v, topic, partition, offset, bytes_max } => {
                let version = side.version::<FetchRequest>(*v);
                let wanted = fetch_request::FetchPartition::default()
                    .with_partition(*partition)
                    .with_fetch_offset(*offset)
                    .with_partition_max_bytes(*bytes_max);
                let asked = fetch_request::FetchTopic::default().with_partitions(vec![wanted]);
                let asked = if version >= 13 {
                    asked.with_topic_id(topic.id(side))
                } else {
                    asked.with_topic(topic.name(side))
                };
                let request = FetchRequest::default()
                    .with_replica_id((-1).into())
                    .with_min_bytes(0)
                    .with_max_bytes(1 << 20)
                    .with_topics(vec![asked]);
                let request = if version >= 7 { request.with_session_epoch(-1) } else { request };
                Ok(told(side.exchange(version, &request)?, |answer| {
                    let topics = list(answer.responses, |topic| {
                        list(topic.partitions, |at| {
                            let records = describe(at.records.as_deref().unwrap_or_default());
                            let (index, code, high) = (at.partition_index, at.error_code, at.high_watermark);
                            let (stable, start) = (at.last_stable_offset, at.log_start_offset);
                            format!("{index} error {code} from {start} stable {stable} to {high}: {records}")
                        })
                    });
                    format!("error {} {topics}", answer.error_code)
                }))
            }
            Self::ListOffsets { v, topic, partition, timestamp } => {
                let version = side.version::<ListOffsetsRequest>(*v);
                let wanted = list_offsets_request::ListOffsetsPartition::default()
                    .with_partition_index(*partition)
                    .with_timestamp(if *timestamp > 0 { beginning() + timestamp } else { *timestamp });
                let wanted = list_offsets_request::ListOffsetsTopic::default()
                    .with_name(topic.name(side))
                    .with_partitions(vec![wanted]);
                let request =
                    ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![wanted]);
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.topics, |topic| {
                        list(topic.partitions, |at| {
                            let moment =
                                if at.timestamp > 0 { at.timestamp - beginning() } else { at.timestamp };
                            let (index, code, offset) = (at.partition_index, at.error_code, at.offset);
                            format!("{index} error {code} offset {offset} at {moment}")
                        })
                    })
                }))
            }
            Self::OffsetForLeaderEpoch { v, topic, partition, epoch } => {
                let version = side.version::<OffsetForLeaderEpochRequest>(*v);
                let wanted = offset_for_leader_epoch_request::OffsetForLeaderPartition::default()
                    .with_partition(*partition)
                    .with_current_leader_epoch(-1)
                    .with_leader_epoch(*epoch);
                let wanted = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
                    .with_topic(topic.name(side))
                    .with_partitions(vec![wanted]);
                let request = OffsetForLeaderEpochRequest::default().with_topics(vec![wanted]);
                let request = if version >= 3 { request.with_replica_id((-1).into()) } else { request };
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.topics, |topic| {
                        list(topic.partitions, |at| {
                            format!(
                                "{} error {} epoch {} end {}",
                                at.partition, at.error_code, at.leader_epoch, at.end_offset
                            )
                        })
                    })
                }))
            }
            Self::DeleteRecords { v, topic, partition, offset } => {
                let version = side.version::<DeleteRecordsRequest>(*v);
                let wanted = delete_records_request::DeleteRecordsPartition::default()
                    .with_partition_index(*partition)
                    .with_offset(*offset);
                let wanted = delete_records_request::DeleteRecordsTopic::default()
                    .with_name(topic.name(side))
                    .with_partitions(vec![wanted]);
                let request =
                    DeleteRecordsRequest::default().with_timeout_ms(TIMEOUT_MS).with_topics(vec![wanted]);
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.topics, |topic| {
                        list(topic.partitions, |at| {
                            format!("{} error {} low {}", at.partition_index, at.error_code, at.low_watermark)
                        })
                    })
                }))
            }
            _ => unreachable!("ask sends only operations on records here"),
        }
    }

    fn ask_membership(&self, side: &mut Side) -> io::Result<String> {
        match self {
            Self::Join { v, group: at, who, session_ms, kind, protocols } => {
                // A second member would hold the group up until its session ends, ten seconds each time.
                let is_second = *who == Who::Empty && side.members.contains_key(at);
                let who = if is_second { Who::Known } else { *who };
                // Below version 4 each join without an id makes another member.
                let version = side.version::<JoinGroupRequest>(*v).max(4);
                let protocols = protocols.iter().map(|name| {
                    join_group_request::JoinGroupRequestProtocol::default()
                        .with_name(text(*name))
                        .with_metadata(Bytes::from_static(NOTHING))
                });
                let request = JoinGroupRequest::default()
                    .with_group_id(group(side, *at))
                    .with_session_timeout_ms(*session_ms)
                    // A former member that does not join again holds the group up no longer than this.
                    .with_rebalance_timeout_ms(300)
                    .with_member_id(member(side, *at, who))
                    .with_protocol_type(text(*kind))
                    .with_protocols(protocols.collect());
                let outcome = side.exchange(version, &request)?;
                let me = outcome_member(&outcome);
                if let Some(membership) = me {
                    side.members.insert(*at, membership);
                }
                Ok(told(outcome, |answer| {
                    let leads = !answer.member_id.is_empty() && answer.leader == answer.member_id;
                    let (code, generation) = (answer.error_code, answer.generation_id);
                    let (named, members) = (!answer.member_id.is_empty(), answer.members.len());
                    let protocol = answer.protocol_name.unwrap_or_default();
                    format!(
                        "error {code} generation {generation} named {named} leads {leads} of {members} by {protocol:?}"
                    )
                }))
            }
            Self::Sync { v, group: at, who, generation_off } => {
                let version = side.version::<SyncGroupRequest>(*v);
                let request = SyncGroupRequest::default()
                    .with_group_id(group(side, *at))
                    .with_generation_id(generation(side, *at) + generation_off)
                    .with_member_id(member(side, *at, *who))
                    .with_assignments(vec![
                        sync_group_request::SyncGroupRequestAssignment::default()
                            .with_member_id(member(side, *at, Who::Known))
                            .with_assignment(Bytes::from_static(NOTHING)),
                    ]);
                let request = if version >= 5 {
                    request.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")))
                } else {
                    request
                };
                Ok(told(side.exchange(version, &request)?, |answer| {
                    format!("error {} assigned {:?}", answer.error_code, answer.assignment)
                }))
            }
            Self::Heartbeat { v, group: at, who, generation_off } => {
                let version = side.version::<HeartbeatRequest>(*v);
                let request = HeartbeatRequest::default()
                    .with_group_id(group(side, *at))
                    .with_generation_id(generation(side, *at) + generation_off)
                    .with_member_id(member(side, *at, *who));
                Ok(told(side.exchange(version, &request)?, |answer| format!("error {}", answer.error_code)))
            }
            Self::Leave { v, group: at, who } => {
                let version = side.version::<LeaveGroupRequest>(*v);
                let (request, me) =
                    (LeaveGroupRequest::default().with_group_id(group(side, *at)), member(side, *at, *who));
                let request = if version >= 3 {
                    request
                        .with_members(vec![leave_group_request::MemberIdentity::default().with_member_id(me)])
                } else {
                    request.with_member_id(me)
                };
                Ok(told(side.exchange(version, &request)?, |answer| {
                    let members = list(answer.members, |left| format!("error {}", left.error_code));
                    format!("error {} {members}", answer.error_code)
                }))
            }
            _ => unreachable!("ask sends only operations of members here"),
        }
    }

    fn ask_group(&self, side: &mut Side) -> io::Result<String> {
        match self {
            Self::Commit { v, group: at, generation: wanted, who, topic, partition, offset, metadata } => {
                let version = side.version::<OffsetCommitRequest>(*v);
                let place = offset_commit_request::OffsetCommitRequestPartition::default()
                    .with_partition_index(*partition)
                    .with_committed_offset(*offset)
                    .with_committed_metadata(Some(text("m".repeat(usize::from(*metadata)))));
                let place = offset_commit_request::OffsetCommitRequestTopic::default()
                    .with_name(topic.name(side))
                    .with_partitions(vec![place]);
                let request = OffsetCommitRequest::default()
                    .with_group_id(group(side, *at))
                    .with_generation_id_or_member_epoch(wanted.unwrap_or(generation(side, *at)))
                    .with_member_id(member(side, *at, *who))
                    .with_topics(vec![place]);
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.topics, |topic| {
                        list(topic.partitions, |at| format!("{} error {}", at.partition_index, at.error_code))
                    })
                }))
            }
            Self::Committed { v, group: at, topic } => self.ask_committed(side, *v, *at, *topic),
            Self::ListGroups { v, state } => {
                let version = side.version::<ListGroupsRequest>(*v);
                let request = ListGroupsRequest::default();
                let request = match state {
                    Some(state) if version >= 4 => request.with_states_filter(vec![text(*state)]),
                    _ => request,
                };
                let mine = side.name("");
                Ok(told(side.exchange(version, &request)?, |answer| {
                    let mut groups: Vec<_> =
                        answer.groups.into_iter().filter(|group| group.group_id.starts_with(&mine)).collect();
                    groups.sort_by_key(|group| group.group_id.clone());
                    let groups = list(groups, |group| {
                        let name = group.group_id.trim_start_matches(&mine).to_owned();
                        let state = if version >= 4 { group.group_state.to_string() } else { String::new() };
                        format!("{name} {:?} {state}", group.protocol_type)
                    });
                    format!("error {} {groups}", answer.error_code)
                }))
            }
            Self::DescribeGroup { v, group: at } => {
                let version = side.version::<DescribeGroupsRequest>(*v);
                let request = DescribeGroupsRequest::default().with_groups(vec![group(side, *at)]);
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.groups, |group| {
                        let (code, state, kind) = (group.error_code, group.group_state, group.protocol_type);
                        let (protocol, members) = (group.protocol_data, group.members.len());
                        format!("error {code} {state} {kind:?} {protocol:?} members {members}")
                    })
                }))
            }
            Self::DeleteGroup { v, group: at } => {
                let version = side.version::<DeleteGroupsRequest>(*v);
                let request = DeleteGroupsRequest::default().with_groups_names(vec![group(side, *at)]);
                Ok(told(side.exchange(version, &request)?, |answer| {
                    list(answer.results, |gone| format!("error {}", gone.error_code))
                }))
            }
            _ => unreachable!("ask sends only operations on groups here"),
        }
    }

    fn ask_committed(&self, side: &mut Side, v: u8, at: u8, topic: Option<Topic>) -> io::Result<String> {
        let version = side.version::<OffsetFetchRequest>(v);
        let group = group(side, at);
        let name = topic.map(|topic| topic.name(side));
        let told_place = |at: i32, code: i16, offset: i64, metadata: Option<StrBytes>| {
            format!("{at} error {code} offset {offset} metadata {}", metadata.map_or(0, |m| m.len()))
        };
        if version >= 8 {
            let topics = name.map(|name| {
                let topic = offset_fetch_request::OffsetFetchRequestTopics::default();
                vec![topic.with_name(name).with_partition_indexes(vec![0, 1])]
            });
            let asked = offset_fetch_request::OffsetFetchRequestGroup::default()
                .with_group_id(group)
                .with_topics(topics);
            let asked = if version >= 9 { asked.with_member_epoch(-1) } else { asked };
            let request = OffsetFetchRequest::default().with_groups(vec![asked]);
            return Ok(told(side.exchange(version, &request)?, |answer| {
                list(answer.groups, |mut group| {
                    group.topics.sort_by_key(|topic| topic.name.clone());
                    let topics = list(group.topics, |mut topic| {
                        topic.partitions.sort_by_key(|at| at.partition_index);
                        list(topic.partitions, |at| {
                            told_place(at.partition_index, at.error_code, at.committed_offset, at.metadata)
                        })
                    });
                    format!("error {} {topics}", group.error_code)
                })
            }));
        }
        // "All topics" came with version 2.
        let topics = match name {
            None if version >= 2 => None,
            name => Some(
                name.map(|name| {
                    let topic = offset_fetch_request::OffsetFetchRequestTopic::default();
                    topic.with_name(name).with_partition_indexes(vec![0, 1])
                })
                .into_iter()
                .collect(),
            ),
        };
        let request = OffsetFetchRequest::default().with_group_id(group).with_topics(topics);
        Ok(told(side.exchange(version, &request)?, |mut answer| {
            answer.topics.sort_by_key(|topic| topic.name.clone());
            let topics = list(answer.topics, |mut topic| {
                topic.partitions.sort_by_key(|at| at.partition_index);
                list(topic.partitions, |at| {
                    told_place(at.partition_index, at.error_code, at.committed_offset, at.metadata)
                })
            });
            format!("error {} {topics}", answer.error_code)
        }))
    }
}

/// The member id and generation that an answer to JoinGroup gives, if any.
fn outcome_member(outcome: &Outcome<JoinGroupResponse>) -> Option<super::side::Membership> {
    const MEMBER_ID_REQUIRED: i16 = 79;
    let Outcome::Answer(answer) = outcome else { return None };
    matches!(answer.error_code, 0 | MEMBER_ID_REQUIRED).then(|| super::side::Membership {
        member: answer.member_id.to_string(),
        generation: answer.generation_id,
    })
}
