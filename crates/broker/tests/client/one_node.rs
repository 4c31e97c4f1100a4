//! What tools ask about a cluster: placement, directories, quorum, elections; and what clients conclude from versions.

use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsResource, AlterableConfig as LegacyConfig,
};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, ApiVersionsRequest, BrokerId,
    CreatePartitionsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeQuorumRequest, DescribeTopicPartitionsRequest, ElectLeadersRequest, FindCoordinatorRequest,
    ListPartitionReassignmentsRequest, MetadataRequest, OffsetDeleteRequest, ProduceRequest,
};
use kafka_protocol::protocol::Request;

use crate::support::{Admin, Group, Producer, Target, embedded_broker, eventually, places};
use crate::wire::{Committer, Wire, group_id, text, topic_name};
use homing_broker::{Advertised, Broker, BrokerOptions};

const TOPIC: i8 = 2;

#[test]
fn produce_is_advertised_from_its_first_version_for_old_librdkafkas() {
    let target = Target::start();
    let mut wire = Wire::connect(target.bootstrap());
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("by-hand"))
        .with_client_software_version(text("1"));
    let offered = wire.ask(3, &request).api_keys;
    let produce = offered.iter().find(|api| api.api_key == ProduceRequest::KEY).unwrap();
    assert_eq!(produce.min_version, 0, "KAFKA-18659: librdkafka up to 2.11 would send uncompressed");
}

#[test]
fn a_group_makes_the_offsets_topic_seen_as_internal_and_nobody_may_write_to_it() {
    let target = Target::start();
    let mut wire = Wire::connect(target.bootstrap());
    let group = target.name("group");
    wire.ask(2, &FindCoordinatorRequest::default().with_key(text(&group)));
    let found = eventually("the topic is listed", || {
        let all = wire.ask(9, &MetadataRequest::default().with_topics(None));
        all.topics.into_iter().find(|topic| {
            topic.name.as_ref().is_some_and(|name| name.as_str() == "__consumer_offsets")
                && topic.error_code == 0
                && !topic.partitions.is_empty()
        })
    });
    assert!(found.is_internal);
    let producer = Producer::new(target.bootstrap(), &[]);
    producer.queue("__consumer_offsets", 0, Some(b"k"), Some(b"v"));
    let refused = producer.deliveries().remove(0);
    assert_eq!(refused, Err(rdkafka::error::RDKafkaErrorCode::InvalidTopic));
}

#[test]
fn settings_replaced_as_a_whole_put_the_others_back_to_their_defaults() {
    let target = Target::start();
    let topic = target.topic_with(1, &[("retention.ms", "1000"), ("max.message.bytes", "5000")]);
    let mut wire = Wire::connect(target.bootstrap());
    let mut alter = |name: &str, value: Option<&str>, validate_only: bool| {
        let config = LegacyConfig::default().with_name(text(name)).with_value(value.map(text));
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(&topic))
            .with_configs(vec![config]);
        let request =
            AlterConfigsRequest::default().with_resources(vec![resource]).with_validate_only(validate_only);
        wire.ask(1, &request).responses[0].error_code
    };
    assert_eq!(alter("retention.ms", Some("soon"), false), 40, "INVALID_CONFIG");
    assert_eq!(alter("no.such.setting", Some("1"), false), 40);
    assert_eq!(alter("retention.ms", Some("3000"), true), 0);
    assert_eq!(alter("retention.ms", Some("2000"), false), 0);
    let described = eventually("the change is seen", || {
        let resource =
            DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text(&topic));
        let answer = wire.ask(1, &DescribeConfigsRequest::default().with_resources(vec![resource]));
        let value = |name: &str| {
            let found = answer.results[0].configs.iter().find(|config| config.name.as_str() == name).unwrap();
            found.value.as_ref().unwrap().to_string()
        };
        (value("retention.ms") == "2000").then(|| value("max.message.bytes"))
    });
    assert_eq!(described, "1048588");
}

#[test]
fn single_offsets_are_forgotten_but_not_those_of_a_topic_that_is_read() {
    let target = Target::start();
    let (read, left) = (target.topic(1), target.topic(1));
    let group = target.name("group");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    assert_eq!(wire.commit(&group, &read, &Committer::outside(), 5), 0);
    assert_eq!(wire.commit(&group, &left, &Committer::outside(), 7), 0);
    let delete = |wire: &mut Wire, group: &str, topic: &str| {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
        let topic =
            OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
        let request = OffsetDeleteRequest::default().with_group_id(group_id(group)).with_topics(vec![topic]);
        let answer = wire.ask(0, &request);
        match answer.error_code {
            0 => answer.topics[0].partitions[0].error_code,
            code => code,
        }
    };
    let member = Group::subscribed(target.bootstrap(), &group, &read, &[]);
    places(&[&member], "the topic is read", || member.owned().len() == 1);
    assert_eq!(delete(&mut wire, &group, &read), 86, "GROUP_SUBSCRIBED_TO_TOPIC");
    assert_eq!(delete(&mut wire, &group, &left), 0);
    assert_eq!(delete(&mut wire, &group, "no-such-topic"), 3);
    let none = target.name("none");
    let mut its_coordinator = Wire::to_coordinator(target.bootstrap(), &none);
    assert_eq!(delete(&mut its_coordinator, &none, &left), 69, "GROUP_ID_NOT_FOUND");
    assert_eq!(member.committed(&left, 0), None);
    assert_eq!(member.committed(&read, 0).map(|(offset, _)| offset), Some(5));
}

#[test]
fn embedded_a_forgotten_offset_stays_forgotten_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = embedded_broker(dir.path(), None);
    let address = broker.addr().to_string();
    Admin::new(&address).create("t", 1, &[]).unwrap();
    let mut wire = Wire::connect(&address);
    assert_eq!(wire.commit("g", "t", &Committer::outside(), 5), 0);
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic =
        OffsetDeleteRequestTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default().with_group_id(group_id("g")).with_topics(vec![topic]);
    assert_eq!(wire.ask(0, &request).topics[0].partitions[0].error_code, 0);
    broker.stop();
    let broker = embedded_broker(dir.path(), None);
    let group = Group::new(&broker.addr().to_string(), "g", &[]);
    assert_eq!(group.committed("t", 0), None);
    drop(group);
}

#[test]
fn log_directories_say_what_each_partition_takes_and_how_much_room_there_is() {
    let target = Target::start();
    let topic = target.topic(1);
    Producer::new(target.bootstrap(), &[]).send(&topic, 0, &["some bytes"]);
    let mut sizes = Vec::new();
    for broker in target.bootstrap().split(',') {
        let answer = Wire::connect(broker).ask(4, &DescribeLogDirsRequest::default().with_topics(None));
        assert_eq!(answer.error_code, 0);
        for dir in answer.results {
            assert_eq!(dir.error_code, 0);
            assert!(dir.total_bytes > 0 && dir.usable_bytes > 0 && dir.usable_bytes <= dir.total_bytes);
            let ours = dir.topics.into_iter().filter(|described| described.name.as_str() == topic);
            sizes.extend(ours.flat_map(|topic| topic.partitions).map(|partition| partition.partition_size));
        }
    }
    assert!(!sizes.is_empty() && sizes.iter().all(|size| *size > 0), "{sizes:?}");
}

#[test]
fn a_topic_is_described_page_by_page() {
    let target = Target::start();
    let topic = target.topic(5);
    let mut wire = Wire::connect(target.bootstrap());
    let ask = |wire: &mut Wire, limit: i32, from: Option<i32>| {
        let cursor =
            from.map(|from| Cursor::default().with_topic_name(topic_name(&topic)).with_partition_index(from));
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(vec![TopicRequest::default().with_name(topic_name(&topic))])
            .with_response_partition_limit(limit)
            .with_cursor(cursor);
        wire.ask(0, &request)
    };
    let mut seen = Vec::new();
    let mut from = None;
    loop {
        let page = ask(&mut wire, 2, from);
        assert_eq!(page.topics[0].error_code, 0);
        assert!(page.topics[0].partitions.iter().all(|partition| partition.leader_id.0 > 0));
        seen.extend(page.topics[0].partitions.iter().map(|partition| partition.partition_index));
        match page.next_cursor {
            Some(next) => from = Some(next.partition_index),
            None => break,
        }
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
    assert!(ask(&mut wire, 2000, None).next_cursor.is_none());
    let missing = TopicRequest::default().with_name(topic_name("no-such-topic"));
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![missing])
        .with_response_partition_limit(10);
    assert_eq!(wire.ask(0, &request).topics[0].error_code, 3);
}

#[test]
fn the_quorum_has_a_leader_among_its_voters() {
    let target = Target::start();
    let mut wire = Wire::connect(target.bootstrap());
    let topic = TopicData::default()
        .with_topic_name(topic_name("__cluster_metadata"))
        .with_partitions(vec![PartitionData::default().with_partition_index(0)]);
    let answer = wire.ask(2, &DescribeQuorumRequest::default().with_topics(vec![topic]));
    assert_eq!(answer.error_code, 0);
    let partition = &answer.topics[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    assert!(partition.current_voters.iter().any(|voter| voter.replica_id == partition.leader_id));
    assert!(partition.high_watermark > 0 && partition.leader_epoch >= 0);
    assert!(answer.nodes.iter().any(|node| node.node_id == partition.leader_id));
}

#[test]
fn a_partition_that_is_led_needs_no_election() {
    let target = Target::start();
    let topic = target.topic(2);
    let mut wire = Wire::connect(target.bootstrap());
    let wanted = TopicPartitions::default().with_topic(topic_name(&topic)).with_partitions(vec![0, 1]);
    let missing = TopicPartitions::default().with_topic(topic_name("no-such-topic")).with_partitions(vec![0]);
    let request = ElectLeadersRequest::default()
        .with_election_type(0)
        .with_topic_partitions(Some(vec![wanted, missing]))
        .with_timeout_ms(10_000);
    let answer = wire.ask(2, &request);
    assert_eq!(answer.error_code, 0);
    let mut codes: Vec<_> = answer
        .replica_election_results
        .iter()
        .flat_map(|topic| topic.partition_result.iter().map(|result| result.error_code))
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [3, 84, 84], "UNKNOWN_TOPIC_OR_PARTITION, ELECTION_NOT_NEEDED");
}

#[test]
fn no_partition_is_on_its_way_and_one_that_is_where_it_shall_be_is_moved_at_once() {
    let target = Target::start();
    let topic = target.topic(1);
    let mut wire = Wire::connect(target.bootstrap());
    let list = ListPartitionReassignmentsRequest::default().with_timeout_ms(10_000).with_topics(None);
    let answer = wire.ask(0, &list);
    assert_eq!((answer.error_code, answer.topics.len()), (0, 0));
    let named = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic_name(&topic)))]));
    let replicas = wire.ask(9, &named).topics[0].partitions[0].replica_nodes.clone();
    let mut alter = |replicas| {
        let partition = ReassignablePartition::default().with_partition_index(0).with_replicas(replicas);
        let topic =
            ReassignableTopic::default().with_name(topic_name(&topic)).with_partitions(vec![partition]);
        let request =
            AlterPartitionReassignmentsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
        let answer = wire.ask(0, &request);
        assert_eq!(answer.error_code, 0);
        answer.responses[0].partitions[0].error_code
    };
    assert_eq!(alter(Some(replicas)), 0);
    assert_eq!(alter(Some(vec![99.into()])), 39, "INVALID_REPLICA_ASSIGNMENT");
    assert_eq!(alter(None), 85, "NO_REASSIGNMENT_IN_PROGRESS");
}

#[test]
fn new_partitions_may_say_on_which_node_they_go() {
    let target = Target::start();
    let topic = target.topic(1);
    let mut wire = Wire::connect(target.bootstrap());
    let named = MetadataRequestTopic::default().with_name(Some(topic_name(&topic)));
    let described = wire.ask(9, &MetadataRequest::default().with_topics(Some(vec![named])));
    // Apache Kafka wants as many replicas for the new ones as the others have.
    let here = described.topics[0].partitions[0].replica_nodes.clone();
    let nowhere = vec![BrokerId(99); here.len()];
    let mut grow = |count, places: &[&Vec<BrokerId>]| {
        let assignments = places
            .iter()
            .map(|place| CreatePartitionsAssignment::default().with_broker_ids((*place).clone()));
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(&topic))
            .with_count(count)
            .with_assignments(Some(assignments.collect()));
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        wire.ask(2, &request).results[0].error_code
    };
    assert_eq!(grow(3, &[&here]), 39, "INVALID_REPLICA_ASSIGNMENT: two are new");
    assert_eq!(grow(3, &[&here, &nowhere]), 39);
    assert_eq!(grow(3, &[&here, &here]), 0);
    target.await_topic(&topic, 3);
}

#[test]
fn embedded_clients_are_told_to_come_back_to_the_advertised_address() {
    let dir = tempfile::tempdir().unwrap();
    let told = Advertised { host: "kafka.example".to_owned(), port: Some(19_092) };
    let options =
        BrokerOptions { dir: dir.path().to_path_buf(), advertise: Some(told), ..BrokerOptions::default() };
    let broker = Broker::start(options).unwrap();
    let mut wire = Wire::connect(&broker.addr().to_string());
    let node = wire.ask(9, &MetadataRequest::default().with_topics(Some(Vec::new()))).brokers.remove(0);
    assert_eq!((node.host.as_str(), node.port), ("kafka.example", 19_092));
    let found = wire.ask(2, &FindCoordinatorRequest::default().with_key(text("g")));
    assert_eq!((found.host.as_str(), found.port), ("kafka.example", 19_092));
    let cluster = wire.ask(0, &DescribeClusterRequest::default());
    assert_eq!((cluster.brokers[0].host.as_str(), cluster.brokers[0].port), ("kafka.example", 19_092));
}

#[test]
fn embedded_the_shortest_session_of_a_member_can_be_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = BrokerOptions { dir: dir.path().to_path_buf(), ..BrokerOptions::default() };
    options.groups.session_timeout_min = std::time::Duration::from_millis(100);
    let broker = Broker::start(options).unwrap();
    let request = crate::wire::join_request("g", "", None).with_session_timeout_ms(100);
    let answer = Wire::connect(&broker.addr().to_string()).ask(3, &request);
    assert_eq!(answer.error_code, 0);
}
