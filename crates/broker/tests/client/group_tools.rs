//! Looking at groups and deleting them, as operators' tools do.

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, LeaveGroupRequest, ListGroupsRequest,
};
use rdkafka::consumer::Consumer;

use crate::support::{Group, PATIENCE, Target, eventually, places};
use crate::wire::{Committer, Wire, group_id, text};

const UNKNOWN_MEMBER_ID: i16 = 25;
const NON_EMPTY_GROUP: i16 = 68;
const GROUP_ID_NOT_FOUND: i16 = 69;

fn states(wire: &mut Wire, filter: &[&str]) -> Vec<(String, String)> {
    let request = ListGroupsRequest::default().with_states_filter(filter.iter().map(|s| text(s)).collect());
    let answer = wire.ask(4, &request);
    assert_eq!(answer.error_code, 0);
    answer.groups.iter().map(|g| (g.group_id.to_string(), g.group_state.to_string())).collect()
}

fn delete(wire: &mut Wire, group: &str) -> i16 {
    wire.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)])).results[0]
        .error_code
}

#[test]
fn groups_are_listed_with_their_states() {
    let target = Target::start();
    let topic = target.topic(1);
    let (full, empty) = (target.name("full"), target.name("empty"));
    let member = Group::subscribed(target.bootstrap(), &full, &topic, &[]);
    places(&[&member], "it is a member", || member.owned().len() == 1);
    Group::new(target.bootstrap(), &empty, &[]).commit(&topic, 0, 1, "").unwrap();
    // Each broker lists the groups it coordinates.
    let listing = |group: &str, filter: &[&str]| {
        let list = states(&mut Wire::to_coordinator(target.bootstrap(), group), filter);
        list.into_iter().find(|(listed, _)| listed == group).map(|(_, state)| state)
    };
    let state = |name: &str| Some(name.to_owned());
    assert_eq!((listing(&full, &[]), listing(&empty, &[])), (state("Stable"), state("Empty")));
    assert_eq!((listing(&full, &["Stable"]), listing(&empty, &["Stable"])), (state("Stable"), None));
    let both = ["Stable", "Empty"];
    assert_eq!((listing(&full, &both), listing(&empty, &both)), (state("Stable"), state("Empty")));
}

#[test]
fn a_group_is_described_with_members_and_assignments() {
    let target = Target::start();
    let topic = target.topic(2);
    let group = target.name("group");
    let member = Group::subscribed(target.bootstrap(), &group, &topic, &[("client.id", "a-client")]);
    places(&[&member], "it is a member", || member.owned().len() == 2);
    let list = member.0.fetch_group_list(Some(&group), PATIENCE).unwrap();
    let described = &list.groups()[0];
    assert_eq!((described.name(), described.state()), (group.as_str(), "Stable"));
    assert_eq!((described.protocol_type(), described.protocol()), ("consumer", "range"));
    let [only] = described.members() else { panic!("{} members", described.members().len()) };
    assert_eq!(only.client_id(), "a-client");
    assert!(only.id().starts_with("a-client-") && only.client_host().contains("127.0.0.1"));
    let contains_topic = |bytes: Option<&[u8]>| {
        bytes.unwrap_or_default().windows(topic.len()).any(|window| window == topic.as_bytes())
    };
    assert!(contains_topic(only.metadata()) && contains_topic(only.assignment()));
}

#[test]
fn a_group_that_does_not_exist_is_described_as_dead() {
    let target = Target::start();
    let group = target.name("nobody");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(&group)]);
    let answer = wire.ask(5, &request);
    assert_eq!((answer.groups[0].error_code, answer.groups[0].group_state.as_str()), (0, "Dead"));
    // Kafka 3.9 ends at version 5.
    if wire.newest::<DescribeGroupsRequest>() >= 6 {
        let answer = wire.ask(6, &request);
        assert_eq!(answer.groups[0].error_code, GROUP_ID_NOT_FOUND, "since version 6");
    }
}

#[test]
fn a_group_is_deleted_when_it_has_no_members() {
    let target = Target::start();
    let topic = target.topic(1);
    let group = target.name("group");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    assert_eq!(delete(&mut wire, &group), GROUP_ID_NOT_FOUND);
    let joined = wire.enter(&group);
    assert_eq!(wire.sync(&group, &joined, None, &[]).error_code, 0);
    let by =
        Committer { member: &joined.member_id, generation: joined.generation_id, ..Committer::outside() };
    assert_eq!(wire.commit(&group, &topic, &by, 5), 0);
    assert_eq!(delete(&mut wire, &group), NON_EMPTY_GROUP);
    let leave =
        LeaveGroupRequest::default().with_group_id(group_id(&group)).with_member_id(joined.member_id.clone());
    assert_eq!(wire.ask(2, &leave).error_code, 0);
    eventually("the empty group is deleted", || (delete(&mut wire, &group) == 0).then_some(()));
    assert_eq!(Group::new(target.bootstrap(), &group, &[]).committed(&topic, 0), None);
    assert!(!states(&mut wire, &[]).iter().any(|(listed, _)| *listed == group));
}

#[test]
fn several_members_leave_with_one_request_each_with_its_own_answer() {
    let target = Target::start();
    let group = target.name("group");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    let joined = wire.join(&group, "", Some("fixed"));
    assert_eq!(wire.sync(&group, &joined, Some("fixed"), &[]).error_code, 0);
    let by_instance =
        MemberIdentity::default().with_member_id(text("")).with_group_instance_id(Some(text("fixed")));
    let stranger = MemberIdentity::default().with_member_id(text("stranger"));
    let leave = LeaveGroupRequest::default()
        .with_group_id(group_id(&group))
        .with_members(vec![by_instance, stranger]);
    let answer = wire.ask(4, &leave);
    assert_eq!(answer.error_code, 0);
    let codes: Vec<i16> = answer.members.iter().map(|m| m.error_code).collect();
    assert_eq!(codes, [0, UNKNOWN_MEMBER_ID]);
    let gone = wire.heartbeat(&group, &joined.member_id, joined.generation_id, Some("fixed"));
    assert_eq!(gone, UNKNOWN_MEMBER_ID);
}

#[test]
fn coordinators_of_several_groups_are_found_with_one_request() {
    let target = Target::start();
    let groups = [target.name("a"), target.name("b")];
    let mut wire = Wire::connect(target.bootstrap());
    // The cluster may have to make its offsets topic first.
    Wire::to_coordinator(target.bootstrap(), &groups[0]);
    let request =
        FindCoordinatorRequest::default().with_coordinator_keys(groups.iter().map(|g| text(g)).collect());
    let found = wire.ask(4, &request).coordinators;
    let keys: Vec<&str> = found.iter().map(|c| c.key.as_str()).collect();
    assert_eq!(keys, [groups[0].as_str(), groups[1].as_str()]);
    assert!(found.iter().all(|c| c.error_code == 0 && c.port > 0 && !c.host.is_empty()));
}

#[test]
fn bad_group_names_and_sessions_are_refused() {
    const INVALID_GROUP_ID: i16 = 24;
    const INVALID_SESSION_TIMEOUT: i16 = 26;
    let target = Target::start();
    let group = target.name("group");
    let mut wire = Wire::to_coordinator(target.bootstrap(), &group);
    assert_eq!(wire.join("", "", None).error_code, INVALID_GROUP_ID);
    let hasty = crate::wire::join_request(&group, "", None).with_session_timeout_ms(10);
    assert_eq!(wire.ask(7, &hasty).error_code, INVALID_SESSION_TIMEOUT);
    assert_eq!(wire.join(&group, "never-heard-of", None).error_code, UNKNOWN_MEMBER_ID);
}
