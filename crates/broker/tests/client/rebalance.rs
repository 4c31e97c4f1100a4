//! Sharing partitions: members come, go, die, are stopped, come back.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::admin::NewPartitions;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::kcat::Kcat;
use crate::support::{Admin, Group, Producer, Step, Target, eventually, only, places};
use crate::wire::{Wire, join_request, text};

const REBALANCE_IN_PROGRESS: i16 = 27;
const FENCED_INSTANCE_ID: i16 = 82;

fn all(partitions: i32) -> BTreeSet<i32> {
    (0..partitions).collect()
}

/// Whether the members own all partitions, each exactly one owner, all members something.
fn shared_out(members: &[&Group], partitions: i32) -> bool {
    let owned: Vec<BTreeSet<i32>> = members.iter().map(|m| m.owned()).collect();
    let total: usize = owned.iter().map(BTreeSet::len).sum();
    let union: BTreeSet<i32> = owned.iter().flatten().copied().collect();
    total == partitions as usize && union == all(partitions) && owned.iter().all(|o| !o.is_empty())
}

fn two_members_share(assignor: &str) {
    let target = Target::start();
    let topic = target.topic(6);
    let group = target.name("group");
    let join = || {
        let settings = [("partition.assignment.strategy", assignor)];
        Group::subscribed(target.bootstrap(), &group, &topic, &settings)
    };
    let first = join();
    let alone = places(&[&first], "the first member owns all", || first.owned() == all(6));
    let second = join();
    let both = places(&[&first, &second], "two members share", || shared_out(&[&first, &second], 6));
    assert_eq!(first.owned().len(), 3);
    println!("{assignor}: first join {alone:?}, second member shares after {both:?}");
    Producer::new(target.bootstrap(), &[]).fill(&topic, 6, 10);
    let (a, b) = (first.read(30), second.read(30));
    let of =
        |records: &[crate::support::Record]| records.iter().map(|r| r.partition).collect::<BTreeSet<i32>>();
    assert_eq!((of(&a), of(&b)), (first.owned(), second.owned()));
}

#[test]
fn two_members_share_by_range() {
    two_members_share("range");
}

#[test]
fn two_members_share_by_roundrobin() {
    two_members_share("roundrobin");
}

#[test]
fn two_members_share_by_cooperative_sticky() {
    two_members_share("cooperative-sticky");
}

#[test]
fn with_cooperative_sticky_a_member_goes_on_with_what_it_keeps() {
    let target = Target::start();
    let topic = target.topic(4);
    let group = target.name("group");
    let settings = [("partition.assignment.strategy", "cooperative-sticky")];
    let join = || Group::subscribed(target.bootstrap(), &group, &topic, &settings);
    let first = join();
    places(&[&first], "the first member owns all", || first.owned() == all(4));
    first.steps();
    let second = join();
    places(&[&first, &second], "two members share", || shared_out(&[&first, &second], 4));
    let revoked: Vec<i32> = first
        .steps()
        .into_iter()
        .flat_map(|step| if let Step::Revoked(list) = step { list } else { Vec::new() })
        .collect();
    let moved: Vec<i32> = second.owned().into_iter().collect();
    assert_eq!(revoked, moved, "only what moved was taken away");
}

#[test]
fn a_third_member_takes_its_part_and_gives_it_back() {
    let target = Target::start();
    let topic = target.topic(6);
    let group = target.name("group");
    let join = || Group::subscribed(target.bootstrap(), &group, &topic, &[]);
    let (first, second) = (join(), join());
    places(&[&first, &second], "two members share", || shared_out(&[&first, &second], 6));
    let third = join();
    let members = [&first, &second, &third];
    let joined = places(&members, "three members share", || shared_out(&members, 6));
    assert!(members.iter().all(|m| m.owned().len() == 2));
    drop(third);
    let left = places(&[&first, &second], "two members share again", || shared_out(&[&first, &second], 6));
    println!("third member in after {joined:?}, its part taken over {left:?} after it left");
    assert!(left < Duration::from_secs(5), "leaving is told, it does not wait for the session: {left:?}");
}

#[test]
fn groups_do_not_disturb_each_other() {
    let target = Target::start();
    let topic = target.topic(2);
    Producer::new(target.bootstrap(), &[]).fill(&topic, 2, 20);
    let join = |group: &str| Group::subscribed(target.bootstrap(), &target.name(group), &topic, &[]);
    let (one, other) = (join("one"), join("other"));
    assert_eq!((one.read(40).len(), other.read(40).len()), (40, 40));
}

/// A kcat member owns a partition of two; then something happens to it.
fn survivor_takes_over(misfortune: impl FnOnce(&mut Kcat)) {
    let target = Target::start();
    let topic = target.topic(2);
    let group = target.name("group");
    let survivor = Group::subscribed(target.bootstrap(), &group, &topic, &[]);
    let mut victim = Kcat::group_member(target.bootstrap(), &group, &topic);
    places(&[&survivor], "the victim has its part", || survivor.owned().len() == 1);
    // The assignment is computed before the victim has it: wait until it reads.
    let producer = Producer::new(target.bootstrap(), &[]);
    producer.fill(&topic, 2, 1);
    eventually("the victim reads", || {
        // The survivor must go on polling or it is thrown out itself.
        let _ = survivor.0.poll(Duration::from_millis(1));
        victim.has_printed().then_some(())
    });
    misfortune(&mut victim);
    let after = places(&[&survivor], "the survivor owns all", || survivor.owned() == all(2));
    println!("taken over after {after:?} with a session of 6 s");
    assert!(after >= Duration::from_secs(4), "it still had its session: {after:?}");
}

#[test]
fn the_part_of_a_killed_member_is_taken_over_after_its_session() {
    survivor_takes_over(Kcat::kill);
}

#[test]
fn the_part_of_a_stopped_member_is_taken_over_after_its_session() {
    survivor_takes_over(Kcat::stop);
}

#[test]
fn a_static_member_that_restarts_gets_its_part_back_without_a_rebalance() {
    let target = Target::start();
    let topic = target.topic(4);
    let group = target.name("group");
    let join =
        |instance| Group::subscribed(target.bootstrap(), &group, &topic, &[("group.instance.id", instance)]);
    let (stays, restarts) = (join("stays"), join("restarts"));
    places(&[&stays, &restarts], "two members share", || shared_out(&[&stays, &restarts], 4));
    let part = restarts.owned();
    drop(restarts);
    stays.steps();
    let back = join("restarts");
    let after = places(&[&stays, &back], "the part is back", || back.owned() == part);
    println!("static member back after {after:?}");
    assert_eq!(stays.steps(), [], "the other member noticed nothing");
}

#[test]
fn a_second_process_with_the_same_instance_fences_the_first() {
    let target = Target::start();
    let topic = target.topic(1);
    let group = target.name("group");
    let join = || Group::subscribed(target.bootstrap(), &group, &topic, &[("group.instance.id", "me")]);
    let first = join();
    places(&[&first], "the first owns the partition", || first.owned() == all(1));
    let second = join();
    let error = eventually("the first is fenced", || {
        let _ = second.0.poll(Duration::from_millis(1));
        first.poll()?.err()
    });
    let fatal = first.0.client().fatal_error().map(|(code, _)| code);
    assert_eq!(fatal, Some(RDKafkaErrorCode::FencedInstanceId), "{error}");
    places(&[&second], "the second owns the partition", || second.owned() == all(1));
}

#[test]
fn a_static_member_by_hand_is_replaced_and_its_former_self_is_fenced_everywhere() {
    let target = Target::start();
    let group = target.name("group");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    let old = wire.join(&group, "", Some("me"));
    assert_eq!(old.error_code, 0, "static members need no second round");
    let part: &[(&str, &[u8])] = &[(&old.member_id, b"part")];
    assert_eq!(wire.sync(&group, &old, Some("me"), part).assignment, b"part".as_slice());
    let new = wire.join(&group, "", Some("me"));
    assert_eq!((new.error_code, new.generation_id), (0, old.generation_id), "no new generation");
    assert_ne!(new.member_id, old.member_id);
    assert_eq!(wire.sync(&group, &new, Some("me"), &[]).assignment, b"part".as_slice());
    let generation = old.generation_id;
    assert_eq!(wire.heartbeat(&group, &old.member_id, generation, Some("me")), FENCED_INSTANCE_ID);
    assert_eq!(wire.sync(&group, &old, Some("me"), &[]).error_code, FENCED_INSTANCE_ID);
    assert_eq!(wire.join(&group, &old.member_id, Some("me")).error_code, FENCED_INSTANCE_ID);
    assert_eq!(wire.heartbeat(&group, &new.member_id, generation, Some("me")), 0);
}

#[test]
fn heartbeats_tell_a_member_to_come_back_while_others_wait_for_it() {
    let target = Target::start();
    let group = target.name("group");
    let mut first = Wire::to_coordinator(target.bootstrap(), &group);
    let joined = first.enter(&group);
    assert_eq!(first.sync(&group, &joined, None, &[]).error_code, 0);
    assert_eq!(first.heartbeat(&group, &joined.member_id, joined.generation_id, None), 0);
    let mut second = Wire::to_coordinator(target.bootstrap(), &group);
    let id = second.join(&group, "", None).member_id;
    second.send(7, &join_request(&group, &id, None));
    eventually("the first is told", || {
        let told = first.heartbeat(&group, &joined.member_id, joined.generation_id, None);
        (told == REBALANCE_IN_PROGRESS).then_some(())
    });
    let again = first.join(&group, &joined.member_id, None);
    let other = second.receive::<kafka_protocol::messages::JoinGroupRequest>(7);
    assert_eq!(
        (again.generation_id, other.generation_id),
        (joined.generation_id + 1, joined.generation_id + 1)
    );
    assert_eq!((again.members.len(), other.members.len()), (2, 0));
    let mut unlike = join_request(&group, "", None);
    unlike.protocols[0].name = text("cooperative-sticky");
    assert_eq!(second.ask(7, &unlike).error_code, 23, "INCONSISTENT_GROUP_PROTOCOL");
}

#[test]
fn added_partitions_are_shared_out() {
    let target = Target::start();
    let topic = target.topic(1);
    let settings = [("topic.metadata.refresh.interval.ms", "200")];
    let consumer = Group::subscribed(target.bootstrap(), &target.name("group"), &topic, &settings);
    places(&[&consumer], "one partition", || consumer.owned() == all(1));
    let admin = Admin::new(target.bootstrap());
    let to = NewPartitions::new(&topic, 3);
    only(admin.run(async |client, options| client.create_partitions([&to], options).await)).unwrap();
    places(&[&consumer], "three partitions", || consumer.owned() == all(3));
}

#[test]
fn a_pattern_subscription_finds_topics_made_later() {
    let target = Target::start();
    let prefix = target.name("pattern");
    let consumer = Group::new(
        target.bootstrap(),
        &target.name("group"),
        &[("topic.metadata.refresh.interval.ms", "200")],
    );
    consumer.0.subscribe(&[&format!("^{prefix}-.*")]).unwrap();
    let admin = Admin::new(target.bootstrap());
    for n in ["a", "b"] {
        admin.create(&format!("{prefix}-{n}"), 1, &[]).unwrap();
    }
    let topics = || consumer.0.assignment().unwrap().elements().len();
    eventually("both topics", || {
        match consumer.0.poll(Duration::from_millis(5)) {
            // Before the first of them exists there is nothing to subscribe to.
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)))
            | Some(Ok(_))
            | None => {}
            Some(Err(error)) => panic!("{error}"),
        }
        (topics() == 2).then_some(())
    });
}
