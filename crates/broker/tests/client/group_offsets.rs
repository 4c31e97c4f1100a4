//! Committed offsets: kept, fenced, fetched in every way clients ask for them.

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetFetchRequest};
use rdkafka::error::RDKafkaErrorCode;

use crate::support::{Admin, Group, Producer, Target, embedded_broker, eventually, places};
use crate::wire::{Committer, Wire, group_id, topic_name};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const FENCED_INSTANCE_ID: i16 = 82;

#[test]
fn a_group_resumes_where_it_committed() {
    let target = Target::start();
    let topic = target.topic(1);
    let group = target.name("group");
    Producer::new(target.bootstrap(), &[]).fill(&topic, 1, 100);
    let first = Group::subscribed(target.bootstrap(), &group, &topic, &[]);
    first.read(40);
    first.commit(&topic, 0, 40, "").unwrap();
    drop(first);
    let second = Group::subscribed(target.bootstrap(), &group, &topic, &[]);
    assert_eq!(second.read(1)[0].offset, 40);
}

#[test]
fn commit_metadata_comes_back_up_to_the_limit() {
    let target = Target::start();
    let topic = target.topic(2);
    let consumer = Group::new(target.bootstrap(), &target.name("group"), &[]);
    assert_eq!(consumer.committed(&topic, 0), None);
    let map = "m".repeat(4096);
    consumer.commit(&topic, 0, 7, &map).unwrap();
    assert_eq!(consumer.committed(&topic, 0), Some((7, map)));
    consumer.commit(&topic, 0, 8, "").unwrap();
    assert_eq!(consumer.committed(&topic, 0), Some((8, String::new())));
    assert_eq!(consumer.committed(&topic, 1), None);
}

#[test]
fn commit_metadata_over_the_limit_is_refused_and_changes_nothing() {
    let target = Target::start();
    let topic = target.topic(1);
    let consumer = Group::new(target.bootstrap(), &target.name("group"), &[]);
    consumer.commit(&topic, 0, 7, "good").unwrap();
    let refused = consumer.commit(&topic, 0, 8, &"m".repeat(4097)).unwrap_err();
    assert_eq!(refused.rdkafka_error_code(), Some(RDKafkaErrorCode::OffsetMetadataTooLarge));
    assert_eq!(consumer.committed(&topic, 0), Some((7, "good".to_owned())));
}

#[test]
fn a_commit_for_an_unknown_topic_or_partition_is_refused() {
    let target = Target::start();
    let topic = target.topic(1);
    let group = target.name("group");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    let missing = target.name("missing");
    assert_eq!(wire.commit(&group, &missing, &Committer::outside(), 1), UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(wire.commit(&group, &topic, &Committer::outside(), 1), 0);
}

#[test]
fn a_stale_commit_is_refused_and_changes_nothing() {
    let target = Target::start();
    let topic = target.topic(1);
    let group = target.name("group");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    let first = wire.enter(&group);
    assert_eq!(wire.sync(&group, &first, None, &[]).error_code, 0);
    let by = |generation| Committer { member: &first.member_id, generation, ..Committer::outside() };
    let old = first.generation_id;
    assert_eq!(wire.commit(&group, &topic, &by(old), 5), 0);
    // The leader joins again: a new generation.
    let second = wire.join(&group, &first.member_id, None);
    assert_eq!(second.generation_id, old + 1);
    assert_eq!(wire.commit(&group, &topic, &by(old), 6), ILLEGAL_GENERATION);
    assert_eq!(wire.commit(&group, &topic, &by(old + 1), 6), REBALANCE_IN_PROGRESS);
    assert_eq!(wire.sync(&group, &second, None, &[]).error_code, 0);
    assert_eq!(wire.commit(&group, &topic, &by(old), 7), ILLEGAL_GENERATION);
    let stranger = Committer { member: "stranger", generation: old + 1, ..Committer::outside() };
    assert_eq!(wire.commit(&group, &topic, &stranger, 7), UNKNOWN_MEMBER_ID);
    assert_eq!(wire.commit(&group, &topic, &Committer::outside(), 7), UNKNOWN_MEMBER_ID);
    let reader = Group::new(target.bootstrap(), &group, &[]);
    assert_eq!(reader.committed(&topic, 0), Some((5, String::new())));
    assert_eq!(wire.commit(&group, &topic, &by(old + 1), 8), 0);
    assert_eq!(reader.committed(&topic, 0), Some((8, String::new())));
}

#[test]
fn a_fenced_static_member_does_not_commit() {
    let target = Target::start();
    let topic = target.topic(1);
    let group = target.name("group");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    let old = wire.join(&group, "", Some("me"));
    wire.sync(&group, &old, Some("me"), &[]);
    let new = wire.join(&group, "", Some("me"));
    let by =
        |member| Committer { member, generation: old.generation_id, instance: Some("me"), metadata: None };
    assert_eq!(wire.commit(&group, &topic, &by(&old.member_id), 3), FENCED_INSTANCE_ID);
    assert_eq!(wire.commit(&group, &topic, &by(&new.member_id), 4), 0);
}

#[test]
fn an_empty_group_takes_commits_from_tools() {
    let target = Target::start();
    let topic = target.topic(1);
    let group = target.name("group");
    let member = Group::subscribed(target.bootstrap(), &group, &topic, &[]);
    places(&[&member], "it is a member", || member.owned().len() == 1);
    let tool = Group::new(target.bootstrap(), &group, &[]);
    let refused = tool.commit(&topic, 0, 3, "").unwrap_err();
    assert_eq!(refused.rdkafka_error_code(), Some(RDKafkaErrorCode::UnknownMemberId));
    drop(member);
    eventually("the member has left", || tool.commit(&topic, 0, 3, "").ok());
    assert_eq!(tool.committed(&topic, 0), Some((3, String::new())));
}

/// OffsetFetch v8+ of several groups; per group the topics with (partition, offset).
type Fetched = Vec<(String, i16, Vec<(String, Vec<(i32, i64)>)>)>;

fn fetch(wire: &mut Wire, groups: Vec<OffsetFetchRequestGroup>) -> Fetched {
    let request = OffsetFetchRequest::default().with_groups(groups).with_require_stable(true);
    let answer = wire.ask(8, &request);
    let partitions = |topic: &kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseTopics| {
        topic.partitions.iter().map(|p| (p.partition_index, p.committed_offset)).collect()
    };
    answer
        .groups
        .iter()
        .map(|g| {
            let topics = g.topics.iter().map(|t| (t.name.to_string(), partitions(t))).collect();
            (g.group_id.to_string(), g.error_code, topics)
        })
        .collect()
}

#[test]
fn one_request_fetches_the_offsets_of_several_groups_and_of_all_topics() {
    let target = Target::start();
    let (red, blue) = (target.topic(1), target.topic(1));
    // Names that hash to one coordinator are not needed: a test cluster has one broker, and
    // on more the groups are asked for where the first one lives.
    let group = target.name("group");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    assert_eq!(wire.commit(&group, &red, &Committer::outside(), 11), 0);
    assert_eq!(wire.commit(&group, &blue, &Committer::outside(), 22), 0);
    let all = OffsetFetchRequestGroup::default().with_group_id(group_id(&group)).with_topics(None);
    let asked =
        OffsetFetchRequestTopics::default().with_name(topic_name(&red)).with_partition_indexes(vec![0, 5]);
    let some =
        OffsetFetchRequestGroup::default().with_group_id(group_id(&group)).with_topics(Some(vec![asked]));
    let mut answer = fetch(&mut wire, vec![all, some]);
    answer[0].2.sort();
    let mut everything = vec![(red.clone(), vec![(0, 11)]), (blue, vec![(0, 22)])];
    everything.sort();
    assert_eq!(answer[0], (group.clone(), 0, everything));
    assert_eq!(answer[1], (group, 0, vec![(red, vec![(0, 11), (5, -1)])]));
}

#[test]
fn offsets_do_not_outlive_their_topic() {
    let target = Target::start();
    let topic = target.topic(1);
    let group = target.name("group");
    let consumer = Group::new(target.bootstrap(), &group, &[]);
    consumer.commit(&topic, 0, 9, "").unwrap();
    let admin = Admin::new(target.bootstrap());
    admin.delete(&topic).unwrap();
    eventually("the offset is gone", || consumer.committed(&topic, 0).is_none().then_some(()));
    let mut wire = Wire::connect(target.bootstrap());
    eventually("the topic is gone", || wire.topic(&topic).is_err().then_some(()));
    admin.create(&topic, 1, &[]).unwrap();
    target.await_topic(&topic, 1);
    assert_eq!(consumer.committed(&topic, 0), None);
}

#[test]
fn a_member_commits_between_rebalances_and_its_successor_goes_on_there() {
    let target = Target::start();
    let topic = target.topic(2);
    let group = target.name("group");
    Producer::new(target.bootstrap(), &[]).fill(&topic, 2, 50);
    let first = Group::subscribed(target.bootstrap(), &group, &topic, &[]);
    first.read(100);
    for partition in 0..2 {
        first.commit(&topic, partition, 50, "").unwrap();
    }
    let second = Group::subscribed(target.bootstrap(), &group, &topic, &[]);
    places(&[&first, &second], "both own one", || second.owned().len() == 1 && first.owned().len() == 1);
    Producer::new(target.bootstrap(), &[]).fill(&topic, 2, 5);
    let taken = second.read(5);
    assert!(taken.iter().all(|r| r.offset >= 50), "{taken:?}");
}

#[test]
fn embedded_a_commit_that_would_take_far_more_room_than_its_request_is_refused() {
    const INVALID_COMMIT_OFFSET_SIZE: i16 = 28;
    let dir = tempfile::tempdir().unwrap();
    let broker = embedded_broker(dir.path(), None);
    let address = broker.addr().to_string();
    Admin::new(&address).create("t", 1, &[]).unwrap();
    // Apache Kafka refuses it with UNKNOWN_SERVER_ERROR. The group's name stands with every offset: 60 KB of entries would be 60 MB on disk.
    let group = "n".repeat(20_000);
    let mut wire = Wire::to_coordinator(&address, &group);
    let entry = OffsetCommitRequestPartition::default().with_committed_offset(1);
    let topic =
        OffsetCommitRequestTopic::default().with_name(topic_name("t")).with_partitions(vec![entry; 3_000]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group_id(&group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let answer = wire.ask(8, &request);
    let codes: Vec<i16> = answer.topics[0].partitions.iter().map(|p| p.error_code).collect();
    assert!(codes.iter().all(|code| *code == INVALID_COMMIT_OFFSET_SIZE), "{:?}", codes[0]);
    let mut one = request;
    one.topics[0].partitions.truncate(1);
    assert_eq!(wire.ask(8, &one).topics[0].partitions[0].error_code, 0);
}
