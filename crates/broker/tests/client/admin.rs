//! Topics and settings: made, changed, looked at, deleted.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    ApiVersionsRequest, DescribeClusterRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
};
use rdkafka::admin::{ConfigSource, NewPartitions, ResourceSpecifier};
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use crate::support::{Admin, Group, PATIENCE, Producer, Target, eventually, only};
use crate::wire::{Wire, text};

const TOPIC: i8 = 2;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// A topic's setting: value and where it comes from.
fn setting(admin: &Admin, topic: &str, key: &str) -> (Option<String>, ConfigSource) {
    let specifier = ResourceSpecifier::Topic(topic);
    let resource = admin
        .run(async |client, options| client.describe_configs([&specifier], options).await)
        .remove(0)
        .unwrap();
    let entry = resource.entries.into_iter().find(|entry| entry.name == key);
    let entry = entry.unwrap_or_else(|| panic!("{key} is not described"));
    (entry.value, entry.source)
}

#[test]
fn a_topic_is_made_with_its_partitions_and_settings() {
    let target = Target::start();
    let topic = target.topic_with(7, &[("retention.ms", "123456"), ("cleanup.policy", "delete")]);
    let admin = Admin::new(target.bootstrap());
    assert_eq!(admin.topic_metadata(&topic).unwrap().len(), 7);
    let (value, source) = setting(&admin, &topic, "retention.ms");
    assert_eq!((value.as_deref(), source), (Some("123456"), ConfigSource::DynamicTopic));
}

#[test]
fn a_topic_that_cannot_be_made_is_refused_with_the_reason() {
    let target = Target::start();
    let topic = target.topic(1);
    let admin = Admin::new(target.bootstrap());
    assert_eq!(admin.create(&topic, 1, &[]), Err(RDKafkaErrorCode::TopicAlreadyExists));
    assert_eq!(admin.create("not/a/topic", 1, &[]), Err(RDKafkaErrorCode::InvalidTopic));
    let long = "x".repeat(250);
    assert_eq!(admin.create(&long, 1, &[]), Err(RDKafkaErrorCode::InvalidTopic));
    assert_eq!(admin.create(&target.name("none"), 0, &[]), Err(RDKafkaErrorCode::InvalidPartitions));
    let odd = admin.create(&target.name("odd"), 1, &[("retention.ms", "soon")]);
    assert_eq!(odd, Err(RDKafkaErrorCode::InvalidConfig));
    let unknown = admin.create(&target.name("odd"), 1, &[("no.such.setting", "1")]);
    assert_eq!(unknown, Err(RDKafkaErrorCode::InvalidConfig));
}

#[test]
fn partitions_are_added_but_never_taken_away() {
    let target = Target::start();
    let topic = target.topic(2);
    let admin = Admin::new(target.bootstrap());
    let producer = Producer::new(target.bootstrap(), &[]);
    producer.fill(&topic, 2, 3);
    let grow = |name: &str, count| {
        let to = NewPartitions::new(name, count);
        only(admin.run(async |client, options| client.create_partitions([&to], options).await))
    };
    assert_eq!(grow(&topic, 5), Ok(()));
    target.await_topic(&topic, 5);
    assert_eq!(grow(&topic, 5), Err(RDKafkaErrorCode::InvalidPartitions));
    assert_eq!(grow(&topic, 3), Err(RDKafkaErrorCode::InvalidPartitions));
    assert_eq!(grow(&target.name("missing"), 3), Err(RDKafkaErrorCode::UnknownTopicOrPartition));
    Producer::new(target.bootstrap(), &[]).send(&topic, 4, &["new"]);
    let read = Group::assigned(target.bootstrap(), &topic, 5, &[]).read(7);
    assert_eq!(read.iter().filter(|r| r.partition == 4).count(), 1);
}

#[test]
fn an_unknown_topic_is_reported_as_such() {
    let target = Target::start();
    let missing = target.name("missing");
    let mut wire = Wire::connect(target.bootstrap());
    assert_eq!(wire.topic(&missing), Err(UNKNOWN_TOPIC_OR_PARTITION));
    assert_eq!(
        Admin::new(target.bootstrap()).delete(&missing),
        Err(RDKafkaErrorCode::UnknownTopicOrPartition)
    );
    let consumer = Group::subscribed(target.bootstrap(), &target.name("g"), &missing, &[]);
    assert_eq!(consumer.read_error(), RDKafkaErrorCode::UnknownTopicOrPartition);
}

#[test]
fn a_topic_made_again_under_its_name_has_another_id_and_none_of_the_records() {
    let target = Target::start();
    let topic = target.topic(1);
    let admin = Admin::new(target.bootstrap());
    let mut wire = Wire::connect(target.bootstrap());
    let (first, _) = wire.topic(&topic).unwrap();
    assert!(!first.is_nil());
    Producer::new(target.bootstrap(), &[]).fill(&topic, 1, 5);
    assert_eq!(admin.delete(&topic), Ok(()));
    eventually("the topic is gone", || (wire.topic(&topic) == Err(UNKNOWN_TOPIC_OR_PARTITION)).then_some(()));
    admin.create(&topic, 1, &[]).unwrap();
    let second = eventually("the topic is there again", || wire.topic(&topic).ok()).0;
    assert_ne!(first, second);
    let consumer = Group::new(target.bootstrap(), "none", &[]);
    assert_eq!(consumer.0.fetch_watermarks(&topic, 0, PATIENCE).unwrap(), (0, 0));
}

#[test]
fn the_settings_a_doctor_needs_are_described() {
    let target = Target::start();
    let topic = target.topic(1);
    let admin = Admin::new(target.bootstrap());
    for key in [
        "cleanup.policy",
        "compression.type",
        "flush.messages",
        "flush.ms",
        "max.message.bytes",
        "message.timestamp.type",
        "min.insync.replicas",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.ms",
        "unclean.leader.election.enable",
    ] {
        let (value, source) = setting(&admin, &topic, key);
        assert!(value.is_some(), "{key} has no value");
        assert_ne!(source, ConfigSource::DynamicTopic, "{key} was never set on the topic");
    }
    let missing = target.name("missing");
    // The Rust client drops the error of a single resource, so this one is asked by hand.
    let resource =
        DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text(&missing));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = Wire::connect(target.bootstrap()).ask(4, &request);
    assert_eq!(answer.results[0].error_code, UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn the_brokers_own_settings_are_described() {
    let target = Target::start();
    let consumer = Group::new(target.bootstrap(), "none", &[]);
    let metadata = consumer.0.fetch_metadata(None, PATIENCE).unwrap();
    let admin = Admin::new(target.bootstrap());
    let specifier = ResourceSpecifier::Broker(metadata.brokers()[0].id());
    let resource = admin
        .run(async |client, options| client.describe_configs([&specifier], options).await)
        .remove(0)
        .unwrap();
    for key in
        ["auto.create.topics.enable", "default.replication.factor", "min.insync.replicas", "num.partitions"]
    {
        assert!(resource.get(key).is_some_and(|e| e.value.is_some()), "{key} is not described");
    }
}

/// IncrementalAlterConfigs of one setting of one topic; returns the error code.
fn alter(wire: &mut Wire, topic: &str, key: &str, operation: i8, value: Option<&str>) -> i16 {
    let change = AlterableConfig::default()
        .with_name(text(key))
        .with_config_operation(operation)
        .with_value(value.map(text));
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configs(vec![change]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    wire.ask(1, &request).responses[0].error_code
}

#[test]
fn a_setting_is_changed_and_set_back() {
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    const INVALID_CONFIG: i16 = 40;
    let target = Target::start();
    let topic = target.topic_with(1, &[("segment.ms", "777777")]);
    let admin = Admin::new(target.bootstrap());
    let mut wire = Wire::connect(target.bootstrap());
    let default = setting(&admin, &topic, "retention.ms");
    assert_eq!(alter(&mut wire, &topic, "retention.ms", SET, Some("60000")), 0);
    eventually("the new value shows", || {
        (setting(&admin, &topic, "retention.ms").0.as_deref() == Some("60000")).then_some(())
    });
    assert_eq!(setting(&admin, &topic, "segment.ms").0.as_deref(), Some("777777"), "others stay");
    assert_eq!(alter(&mut wire, &topic, "retention.ms", DELETE, None), 0);
    eventually("the default shows", || {
        (setting(&admin, &topic, "retention.ms").0 == default.0).then_some(())
    });
    assert_eq!(alter(&mut wire, &topic, "retention.ms", SET, Some("many")), INVALID_CONFIG);
    let missing = target.name("missing");
    assert_eq!(alter(&mut wire, &missing, "retention.ms", SET, Some("1")), UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn a_lowered_message_limit_holds_for_the_next_record() {
    let target = Target::start();
    let topic = target.topic(1);
    let producer = Producer::new(target.bootstrap(), &[]);
    producer.queue(&topic, 0, None, Some(&[1; 5000]));
    assert!(producer.deliveries()[0].is_ok());
    let mut wire = Wire::connect(target.bootstrap());
    assert_eq!(alter(&mut wire, &topic, "max.message.bytes", 0, Some("2000")), 0);
    let refused = eventually("the limit holds", || {
        producer.queue(&topic, 0, None, Some(&[1; 5000]));
        producer.deliveries()[0].err()
    });
    assert_eq!(refused, RDKafkaErrorCode::MessageSizeTooLarge);
}

#[test]
fn deleting_records_moves_the_start_of_the_log() {
    let target = Target::start();
    let topic = target.topic(1);
    Producer::new(target.bootstrap(), &[]).fill(&topic, 1, 20);
    let admin = Admin::new(target.bootstrap());
    let consumer = Group::new(target.bootstrap(), "none", &[]);
    let before = |offset| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, offset).unwrap();
        let answer = admin.run(async |client, options| client.delete_records(&list, options).await);
        let element = answer.find_partition(&topic, 0).unwrap();
        element.error().map(|()| element.offset()).map_err(|e| e.rdkafka_error_code().unwrap())
    };
    let marks = || consumer.0.fetch_watermarks(&topic, 0, PATIENCE).unwrap();
    assert_eq!(before(Offset::Offset(7)), Ok(Offset::Offset(7)));
    assert_eq!(marks(), (7, 20));
    assert_eq!(Group::assigned(target.bootstrap(), &topic, 1, &[]).read(1)[0].offset, 7);
    assert_eq!(before(Offset::Offset(5)), Ok(Offset::Offset(7)), "it never goes back");
    assert_eq!(before(Offset::Offset(21)), Err(RDKafkaErrorCode::OffsetOutOfRange));
    assert_eq!(before(Offset::End), Ok(Offset::Offset(20)));
    assert_eq!(marks(), (20, 20));
    assert_eq!(Producer::new(target.bootstrap(), &[]).send(&topic, 0, &["next"]), [20]);
}

#[test]
fn the_cluster_names_itself_its_controller_and_its_brokers() {
    let target = Target::start();
    let mut wire = Wire::connect(target.bootstrap());
    let answer = wire.ask(0, &DescribeClusterRequest::default());
    assert_eq!(answer.error_code, 0);
    assert!(!answer.cluster_id.is_empty());
    assert!(!answer.brokers.is_empty());
    assert!(
        answer.brokers.iter().any(|b| b.broker_id == answer.controller_id) || answer.controller_id.0 >= 0
    );
    let again = Wire::connect(target.bootstrap()).ask(0, &DescribeClusterRequest::default());
    assert_eq!(again.cluster_id, answer.cluster_id);
}

#[test]
fn api_versions_beyond_the_brokers_are_answered_with_what_it_has() {
    const UNSUPPORTED_VERSION: i16 = 35;
    let target = Target::start();
    let mut wire = Wire::connect(target.bootstrap());
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("by-hand"))
        .with_client_software_version(text("1"));
    let answer = wire.ask(3, &request);
    assert_eq!(answer.error_code, 0);
    assert!(answer.api_keys.iter().all(|k| k.min_version <= k.max_version));
    // A client from the future: header and answer are those of version 0 (KIP-511).
    let mut future = bytes::BytesMut::new();
    bytes::BufMut::put_slice(&mut future, &[0, 18, 0, 99, 0, 0, 0, 2, 0xff, 0xff, 0]);
    let mut wire = Wire::connect(target.bootstrap());
    wire.expect_correlation(2);
    wire.send_frame(&future);
    let answer = wire.receive::<ApiVersionsRequest>(0);
    assert_eq!(answer.error_code, UNSUPPORTED_VERSION);
    assert!(answer.api_keys.iter().any(|k| k.api_key == 18));
}
