//! What a reader learns of topics that change under it.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod cluster;

use cluster::{Cluster, until};
use homing::kafka::partition_list::TopicPartition;
use homing::kafka::reader::TopicReader;
use homing::{Offset, Partition, TopicName};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(5);

fn ends(reader: &TopicReader, topic: &str, partition: i32) -> Option<(Offset, Offset)> {
    let at = TopicPartition { topic: TopicName::parse(topic).unwrap(), partition: Partition(partition) };
    reader.watermarks(&at, WAIT).ok()
}

#[test]
fn a_partition_that_is_added_later_is_found_though_the_client_remembers_the_topic_without_it() {
    let cluster = Cluster::start();
    let topic = cluster.topic("grows", 1);
    let reader = TopicReader::open(&cluster.config).unwrap();
    until("the first is there", || ends(&reader, &topic, 0).is_some());
    assert_eq!(ends(&reader, &topic, 1), None, "there is no second yet");
    cluster.grow(&topic, 2);
    until("the second is there", || ends(&reader, &topic, 1) == Some((Offset(0), Offset(0))));
}

#[test]
fn partitions_of_topics_just_made_are_found_at_once() {
    let cluster = Cluster::start();
    let reader = TopicReader::open(&cluster.config).unwrap();
    for number in 0..20 {
        // Asked about from the moment that it may be there, in part or whole.
        let topic = cluster.name(&format!("new{number}"));
        std::thread::scope(|scope| {
            scope.spawn(|| cluster.create(&topic, 4));
            until("all partitions are there", || {
                (0..4).all(|partition| ends(&reader, &topic, partition).is_some())
            });
        });
    }
}
