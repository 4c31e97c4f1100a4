//! The way of a message on a secured, failing cluster: the relay waits, says why, and goes on by itself.
#![allow(clippy::unwrap_used)] // everything in this file is a test

#[path = "path/way.rs"]
mod way;

use homing::{Consumer, ConsumerOptions, KafkaConfig, Outcome, RelayError, Shutdown};
use homing_broker::{Broker, BrokerOptions};
use homing_lab::cluster::Cluster;
use homing_lab::cluster::acls::{Operation, Resource};
use homing_lab::cluster::certs::{Subject, Validity};
use homing_lab::cluster::secure::{APP, Access};
use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, DeleteTopicsRequest, DescribeConfigsRequest, FetchRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use way::{WRITER, Way, alone, until};

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

#[test]
fn every_way_in_relays_with_the_least_rights() {
    let (cluster, _alone) = alone();
    let certificate = cluster.certs().client().clone();
    for access in
        [Access::Ssl, Access::SaslPlain(APP), Access::SaslScram(APP), Access::MutualTls(&certificate)]
    {
        let mut way = Way::without_topic(cluster, access);
        cluster.create_topic(&way.topic, 3, 3, &[("min.insync.replicas", "2")]).unwrap();
        cluster.allow(APP, Resource::Topic(&way.topic), &[Operation::Write, Operation::Read]).unwrap();
        way.enqueue(100, 1);
        way.start();
        way.goes_on();
        way.stop().unwrap();
        way.assert_whole();
    }
}

#[test]
fn rights_taken_away_are_waited_for_and_nothing_is_set_aside() {
    let (cluster, _alone) = alone();
    let mut way = Way::new(cluster, Access::SaslScram(APP), 3, "2");
    let topic = way.topic.clone();
    way.enqueue(50, 1);
    way.start();
    way.goes_on();
    for taken in [&[Operation::Write][..], &[Operation::Read], WRITER] {
        cluster.disallow(APP, Resource::Topic(&topic), taken).unwrap();
        way.enqueue(50, 1);
        if taken.contains(&Operation::Write) {
            way.waits_for(Some("N05"), "Write");
        }
        way.enqueue(50, 1);
        cluster.allow(APP, Resource::Topic(&topic), taken).unwrap();
        way.goes_on();
    }
    // Also by a relay that starts while they are gone.
    way.stop().unwrap();
    cluster.disallow(APP, Resource::Topic(&topic), WRITER).unwrap();
    way.enqueue(50, 1);
    way.start();
    way.waits_for(Some("N05"), "Write");
    cluster.allow(APP, Resource::Topic(&topic), WRITER).unwrap();
    way.goes_on();
    way.stop().unwrap();
    way.assert_whole();
}

#[test]
fn a_wrong_password_is_waited_for_and_the_right_one_taken_up_from_its_file() {
    let (cluster, _alone) = alone();
    let mut way = Way::new(cluster, Access::SaslScram(APP), 3, "2");
    let file = way.dir.path().join("password");
    let right = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "hunter2-wrong").unwrap();
    way.enqueue(50, 1);
    way.start();
    way.waits_for(Some("N05"), "password");
    let said = way.seen().unwrap().trouble.unwrap();
    assert!(!said.contains("hunter2"), "{said}");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, right).unwrap();
    way.goes_on();
    way.stop().unwrap();
    way.assert_whole();
}

#[test]
fn a_certificate_that_is_over_is_named_and_its_successor_taken_up() {
    let (cluster, _alone) = alone();
    let certificate = cluster.certs().client().clone();
    let mut way = Way::new(cluster, Access::MutualTls(&certificate), 3, "2");
    let own = way.dir.path().to_owned();
    let install = |validity| {
        let issued = cluster.certs().authority().issue(Subject::Client(APP.name), validity).unwrap();
        std::fs::copy(issued.key, own.join("ssl.key.location")).unwrap();
        std::fs::copy(issued.cert, own.join("ssl.certificate.location")).unwrap();
    };
    install(Validity::Expired);
    way.enqueue(50, 1);
    way.start();
    way.waits_for(Some("N05"), "ended");
    install(Validity::Long);
    way.goes_on();
    way.stop().unwrap();
    way.assert_whole();
}

#[test]
fn too_few_replicas_in_sync_are_named_and_waited_for() {
    let (cluster, _alone) = alone();
    let mut way = Way::new(cluster, Access::SaslScram(APP), 3, "3");
    way.enqueue(50, 1);
    way.start();
    way.goes_on();
    let killed = cluster.leader_of(&way.topic, 0);
    cluster.node(killed).kill().unwrap();
    way.enqueue(50, 1);
    way.waits_for(Some("B03"), "min.insync.replicas");
    cluster.node(killed).start().unwrap();
    cluster.wait_ready().unwrap();
    way.goes_on();
    way.stop().unwrap();
    way.assert_whole();
}

#[test]
fn no_broker_at_all_is_waited_for() {
    let (cluster, _alone) = alone();
    let mut way = Way::new(cluster, Access::SaslScram(APP), 3, "2");
    way.enqueue(50, 1);
    way.start();
    way.goes_on();
    cluster.stop_all().unwrap();
    way.enqueue(50, 1);
    way.waits_for(None, "Kafka");
    for node in cluster.nodes() {
        node.start().unwrap();
    }
    cluster.wait_ready().unwrap();
    way.goes_on();
    way.stop().unwrap();
    way.assert_whole();
}

#[test]
fn a_quota_that_slows_the_relay_down_is_told() {
    let (cluster, _alone) = alone();
    let mut way = Way::new(cluster, Access::SaslScram(APP), 3, "2");
    set_quota(cluster, Some(20_000.0));
    way.start();
    until("another process sees the quota", || {
        way.enqueue(200, 1000);
        way.seen().is_some_and(|relay| relay.trouble_code() == Some("N06"))
    });
    set_quota(cluster, None);
    way.goes_on();
    way.stop().unwrap();
    way.assert_whole();
}

/// Sets or takes away how many bytes a second the user may produce on each broker.
fn set_quota(cluster: &Cluster, bytes_per_s: Option<f64>) {
    let user = EntityData::default().with_entity_type(text("user")).with_entity_name(Some(text(APP.name)));
    let op = OpData::default()
        .with_key(text("producer_byte_rate"))
        .with_value(bytes_per_s.unwrap_or_default())
        .with_remove(bytes_per_s.is_none());
    let entry = EntryData::default().with_entity(vec![user]).with_ops(vec![op]);
    let request = AlterClientQuotasRequest::default().with_entries(vec![entry]);
    let answer = cluster.ask(cluster.controller(), 1, &request).unwrap();
    assert!(answer.entries.iter().all(|entry| entry.error_code == 0), "{answer:?}");
}

#[test]
fn a_topic_that_can_lose_what_it_acknowledged_is_warned_of() {
    let (cluster, _alone) = alone();
    for (replicas, min_insync, code) in
        [(1, "1", Some("B01")), (3, "1", Some("B02")), (3, "3", Some("B03")), (3, "2", None)]
    {
        let mut way = Way::new(cluster, Access::Plain, replicas, min_insync);
        way.enqueue(1, 1);
        way.start();
        way.goes_on();
        let warnings = way.outbox.stats().unwrap().warnings;
        assert_eq!(warnings.first().map(|warning| warning.code.as_str()), code, "{warnings:?}");
        way.stop().unwrap();
    }
}

#[test]
fn a_topic_of_the_relays_own_has_the_partitions_and_replicas_that_were_chosen() {
    let (cluster, _alone) = alone();
    let mut way = Way::without_topic(cluster, Access::Plain);
    way.kafka = KafkaConfig {
        create_topics: true,
        topic_partitions: 4,
        replication_factor: 3,
        min_insync_replicas: 2,
        ..way.kafka.clone()
    };
    way.enqueue(20, 1);
    way.start();
    way.goes_on();
    way.stop().unwrap();
    way.assert_whole();
    let metadata = cluster.metadata(Some(&[&way.topic])).unwrap();
    let replicas: Vec<usize> = metadata.topics[0].partitions.iter().map(|p| p.replica_nodes.len()).collect();
    assert_eq!(replicas, [3; 4]);
    let resource = DescribeConfigsResource::default()
        .with_resource_type(2) // a topic
        .with_resource_name(text(&way.topic))
        .with_configuration_keys(Some(vec![text("min.insync.replicas")]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = cluster.ask(0, 4, &request).unwrap();
    let config = &answer.results[0].configs[0];
    // Source 1 is the topic itself: not a default of the cluster that somebody may lower.
    assert_eq!((config.value.as_deref(), config.config_source), (Some("2"), 1), "{answer:?}");
}

#[test]
fn the_first_record_of_each_lane_goes_alone_and_is_acknowledged_before_the_next() {
    let (cluster, _alone) = alone();
    let mut way = Way::new(cluster, Access::Plain, 3, "2");
    way.enqueue(900, 1);
    way.start();
    way.goes_on();
    way.stop().unwrap();
    way.assert_whole();
    for partition in 0..3 {
        let batches = record_counts(cluster, &way.topic, partition);
        assert_eq!(batches[0], 1, "the canary of partition {partition}: {batches:?}");
        assert!(batches[1..].iter().any(|records| *records > 1), "the others go together: {batches:?}");
    }
}

/// How many records each stored batch of a partition has.
fn record_counts(cluster: &Cluster, topic: &str, partition: i32) -> Vec<i32> {
    let part = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_partition_max_bytes(10_000_000);
    let topic = FetchTopic::default().with_topic(TopicName(text(topic))).with_partitions(vec![part]);
    let request = FetchRequest::default()
        .with_max_wait_ms(100)
        .with_max_bytes(10_000_000)
        .with_topics(vec![topic.clone()]);
    let leader = cluster.leader_of(topic.topic.as_str(), partition);
    let answer = cluster.ask(leader, 12, &request).unwrap();
    let mut records = answer.responses[0].partitions[0].records.clone().unwrap();
    let mut counts = Vec::new();
    while records.len() >= 61 {
        // KIP-98: base offset 8, length 4, …, at 57 the number of records.
        let number = |at: usize| i32::from_be_bytes(records[at..at + 4].try_into().unwrap());
        counts.push(number(57));
        let next = 12 + usize::try_from(number(8)).unwrap();
        records = records.slice(next.min(records.len())..);
    }
    counts
}

#[test]
fn a_topic_made_anew_stops_that_topic_with_its_finding() {
    let (cluster, _alone) = alone();
    let mut way = Way::new(cluster, Access::Plain, 3, "2");
    way.enqueue(50, 1);
    way.start();
    way.goes_on();
    let state = DeleteTopicState::default().with_name(Some(TopicName(text(&way.topic))));
    let request = DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(30_000);
    let answer = cluster.ask(cluster.controller(), 6, &request).unwrap();
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
    until("the topic can be made anew", || cluster.create_topic(&way.topic, 3, 3, &[]).is_ok());
    way.enqueue(50, 1);
    way.waits_for(Some("A04"), "deleted and created again");
    way.stop().unwrap();
    // Some may have gone to the new topic before it was noticed; none of it counts as delivered.
    let stats = way.outbox.stats().unwrap();
    assert_eq!((stats.unclaimed + stats.unsettled, stats.dead_letters), (50, 0));
}

#[test]
fn another_cluster_at_the_address_stops_the_relay_with_its_finding() {
    let (cluster, _alone) = alone();
    let mut way = Way::new(cluster, Access::Plain, 3, "2");
    way.enqueue(50, 1);
    way.start();
    way.goes_on();
    way.stop().unwrap();
    let broker = Broker::start(BrokerOptions { dir: way.dir.path().join("b"), ..BrokerOptions::default() });
    let broker = broker.unwrap();
    way.kafka.bootstrap = broker.addr().to_string();
    way.enqueue(50, 1);
    way.start();
    let error = way.ends();
    assert!(matches!(error, RelayError::ClusterChanged { .. }), "{error}");
    assert_eq!(way.seen().unwrap().trouble_code(), Some("N02"), "{error}");
}

#[test]
fn a_topic_that_is_only_just_being_made_sets_no_row_aside() {
    let (cluster, _alone) = alone();
    let mut way = Way::without_topic(cluster, Access::Plain);
    way.enqueue(10, 1);
    way.start();
    way.waits_for(Some("X11"), "knows no topic");
    cluster.create_topic(&way.topic, 3, 3, &[("min.insync.replicas", "2")]).unwrap();
    way.goes_on();
    way.stop().unwrap();
    way.assert_whole();
}

#[test]
fn a_consumer_whose_rights_are_taken_away_goes_on_once_they_are_back() {
    let (cluster, _alone) = alone();
    let mut way = Way::new(cluster, Access::SaslScram(APP), 3, "2");
    let (topic, group) = (way.topic.clone(), format!("group-{}", way.topic));
    let (on_topic, on_group) = (Resource::Topic(&topic), Resource::Group(&group));
    cluster.allow(APP, on_group, &[Operation::Read]).unwrap();
    way.enqueue(50, 1);
    way.start();
    way.goes_on();
    let options =
        ConsumerOptions { dead_letter: None, ..ConsumerOptions::new(&group, [topic.as_str()]).unwrap() };
    let consumer = Consumer::new(way.kafka.clone(), options).unwrap();
    let (status, stop, told) = (consumer.status(), Shutdown::new(), Shutdown::new());
    let handled = Arc::new(Mutex::new(Vec::new()));
    let consuming = std::thread::spawn({
        let (stop, handled) = (stop.clone(), Arc::clone(&handled));
        move || {
            let handler = move |record: &homing::Record| {
                let number: u32 = String::from_utf8_lossy(record.payload().unwrap()).parse().unwrap();
                handled.lock().unwrap().push(number);
                Outcome::Ok
            };
            let ended = consumer.run_blocking(handler, &stop);
            told.trigger();
            ended
        }
    });
    let seen = || handled.lock().unwrap().iter().copied().collect::<BTreeSet<u32>>().len();
    until("the first fifty are handled", || seen() == 50);
    for (on, which) in [(on_topic, "topic"), (on_group, "group")] {
        cluster.disallow(APP, on, &[Operation::Read]).unwrap();
        let before = seen();
        if which == "topic" {
            cluster.allow(APP, on, &[Operation::Describe]).unwrap();
        }
        way.enqueue(50, 1);
        until("the consumer is told", || {
            let told = format!("{which} authorization failed");
            status.counts().last_error.is_some_and(|error| error.to_lowercase().contains(&told))
        });
        cluster.allow(APP, on, &[Operation::Read]).unwrap();
        until("what came meanwhile is handled", || seen() == before + 50);
    }
    stop.trigger();
    consuming.join().unwrap().unwrap();
    way.stop().unwrap();
    way.assert_whole();
}
