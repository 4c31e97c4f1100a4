//! Every version of every group API: the answer encodes and decodes again.

use std::fmt::Debug;

use bytes::BytesMut;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, Message, Request, StrBytes};
use uuid::Uuid;

use super::find_coordinator::Node;
use super::group_member::Client;
use super::*;
use crate::groups::{Coordinator, GroupOptions, JournalOptions};
use crate::log::FlushPolicy;

const CLIENT: Client<'_> = Client { id: "client", host: "/127.0.0.1" };
const NODE: Node<'_> = Node { id: 1, host: "localhost", port: 9092 };
const TOPIC: Uuid = Uuid::from_u128(7);

fn name(value: &'static str) -> StrBytes {
    StrBytes::from_static_str(value)
}

fn group(value: &'static str) -> GroupId {
    GroupId(name(value))
}

/// What a client makes of the answer.
fn over_the_wire<T: Encodable + Decodable + Debug>(answer: &T, version: i16) -> T {
    let mut buffer = BytesMut::new();
    answer.encode(&mut buffer, version).unwrap_or_else(|e| panic!("v{version} of {answer:?}: {e}"));
    let mut bytes = buffer.freeze();
    let decoded = T::decode(&mut bytes, version).unwrap();
    assert!(bytes.is_empty());
    decoded
}

fn versions<R: Request>() -> std::ops::RangeInclusive<i16> {
    let both = R::VERSIONS.intersect(&<R::Response as Message>::VERSIONS);
    both.min..=both.max
}

fn run(test: impl AsyncFnOnce(Coordinator)) {
    let dir = tempfile::tempdir().unwrap();
    let journal = JournalOptions::new(dir.path().join("groups.journal"), FlushPolicy::Never);
    let coordinator = Coordinator::open(GroupOptions::default(), journal).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(test(coordinator));
}

fn topic_id(topic: &str, partition: i32) -> Option<Uuid> {
    (topic == "orders" && partition == 0).then_some(TOPIC)
}

fn join(group_id: &'static str) -> JoinGroupRequest {
    let range = join_group_request::JoinGroupRequestProtocol::default().with_name(name("range"));
    JoinGroupRequest::default()
        .with_group_id(group(group_id))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(name("consumer"))
        .with_protocols(vec![range])
}

#[test]
fn find_coordinator_names_this_node_in_every_version() {
    for version in versions::<FindCoordinatorRequest>() {
        let request =
            FindCoordinatorRequest::default().with_key(name("g")).with_coordinator_keys(vec![name("g")]);
        let answer = over_the_wire(&find_coordinator::answer(&request, version, &NODE), version);
        let (id, port) = match answer.coordinators.first() {
            Some(found) => (found.node_id, found.port),
            None => (answer.node_id, answer.port),
        };
        assert_eq!((id.0, port), (1, 9092), "v{version}");
        if version > 0 {
            let request = request.with_key_type(1);
            let answer = over_the_wire(&find_coordinator::answer(&request, version, &NODE), version);
            let code = answer.coordinators.first().map_or(answer.error_code, |found| found.error_code);
            assert_eq!(code, 53, "v{version} of a transactional id");
        }
    }
}

#[test]
fn members_live_a_whole_life_in_every_version() {
    run(async |groups| {
        for version in versions::<JoinGroupRequest>() {
            let mut joined =
                over_the_wire(&join_group::answer(&groups, &CLIENT, join("g"), version).await, version);
            if version >= 4 {
                assert_eq!(joined.error_code, 79, "v{version}");
                let again = join("g").with_member_id(joined.member_id);
                joined = over_the_wire(&join_group::answer(&groups, &CLIENT, again, version).await, version);
            }
            assert_eq!((joined.error_code, joined.members.len()), (0, 1), "v{version}");
            assert!(joined.member_id.starts_with("client-"));
            let sync_version = version.min(5);
            let request = SyncGroupRequest::default()
                .with_group_id(group("g"))
                .with_generation_id(joined.generation_id)
                .with_member_id(joined.member_id.clone())
                .with_protocol_type(Some(name("consumer")))
                .with_protocol_name(Some(name("range")));
            let synced = sync_group::answer(&groups, request, sync_version).await;
            assert_eq!(over_the_wire(&synced, sync_version).error_code, 0, "v{sync_version}");
            let beat = HeartbeatRequest::default()
                .with_group_id(group("g"))
                .with_generation_id(joined.generation_id)
                .with_member_id(joined.member_id.clone());
            let heard = heartbeat::answer(&groups, &beat);
            assert_eq!(over_the_wire(&heard, version.min(4)).error_code, 0);
            for version in versions::<DescribeGroupsRequest>() {
                let request = DescribeGroupsRequest::default().with_groups(vec![group("g"), group("nobody")]);
                let answer = over_the_wire(&describe_groups::answer(&groups, &request, version), version);
                assert_eq!(answer.groups[0].group_state.as_str(), "Stable");
                assert_eq!(answer.groups[0].members.len(), 1);
                assert_eq!(answer.groups[1].error_code, if version >= 6 { 69 } else { 0 });
            }
            let leave_version = version.min(5);
            let leaving =
                leave_group_request::MemberIdentity::default().with_member_id(joined.member_id.clone());
            let request = LeaveGroupRequest::default()
                .with_group_id(group("g"))
                .with_member_id(joined.member_id)
                .with_members(vec![leaving]);
            let left = leave_group::answer(&groups, &request, leave_version);
            let left = over_the_wire(&left, leave_version);
            assert_eq!(left.members.first().map_or(left.error_code, |m| m.error_code), 0);
        }
    });
}

#[test]
fn refusals_encode_in_every_version() {
    run(async |groups| {
        for version in versions::<JoinGroupRequest>() {
            let request = join("g").with_member_id(name("stranger"));
            let refused = join_group::answer(&groups, &CLIENT, request, version).await;
            assert_eq!(over_the_wire(&refused, version).error_code, 25);
            let nameless = join_group::answer(&groups, &CLIENT, join(""), version).await;
            assert_eq!(over_the_wire(&nameless, version).error_code, 24);
        }
        for version in versions::<SyncGroupRequest>() {
            let request = SyncGroupRequest::default().with_group_id(group("g"));
            let code =
                over_the_wire(&sync_group::answer(&groups, request, version).await, version).error_code;
            assert_eq!(code, if version >= 5 { 23 } else { 25 }, "v{version}");
        }
        for version in versions::<LeaveGroupRequest>() {
            let request = LeaveGroupRequest::default().with_group_id(group("g")).with_member_id(name("x"));
            over_the_wire(&leave_group::answer(&groups, &request, version), version);
        }
    });
}

#[test]
fn offsets_are_committed_and_fetched_in_every_version() {
    run(async |groups| {
        for (n, version) in versions::<OffsetCommitRequest>().enumerate() {
            let partition = |index| {
                offset_commit_request::OffsetCommitRequestPartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(n as i64)
                    .with_committed_metadata(Some(name("map")))
            };
            let topic = offset_commit_request::OffsetCommitRequestTopic::default()
                .with_name(TopicName(name("orders")))
                .with_partitions(vec![partition(1), partition(0)]);
            let request = OffsetCommitRequest::default()
                .with_group_id(group("g"))
                .with_generation_id_or_member_epoch(-1)
                .with_retention_time_ms(-1)
                .with_topics(vec![topic]);
            let answer = offset_commit::answer(&groups, request, version, topic_id).await;
            let answer = over_the_wire(&answer, version);
            let codes: Vec<i16> = answer.topics[0].partitions.iter().map(|p| p.error_code).collect();
            assert_eq!(codes, [3, 0], "v{version}: the unknown partition is refused, the other committed");
            assert_eq!(fetched(&groups), vec![n as i64; 9], "after a commit with v{version}");
        }
    });
}

/// The offset of orders/0 as each version of OffsetFetch gives it.
fn fetched(groups: &Coordinator) -> Vec<i64> {
    let fetch = |version| {
        let old = offset_fetch_request::OffsetFetchRequestTopic::default()
            .with_name(TopicName(name("orders")))
            .with_partition_indexes(vec![0]);
        let new = offset_fetch_request::OffsetFetchRequestTopics::default()
            .with_name(TopicName(name("orders")))
            .with_partition_indexes(vec![0]);
        let one = offset_fetch_request::OffsetFetchRequestGroup::default()
            .with_group_id(group("g"))
            .with_topics(Some(vec![new]));
        let request = OffsetFetchRequest::default()
            .with_group_id(group("g"))
            .with_topics(Some(vec![old]))
            .with_groups(vec![one]);
        let answer = over_the_wire(&offset_fetch::answer(groups, &request, version, topic_id), version);
        match answer.groups.first() {
            Some(group) => group.topics[0].partitions[0].committed_offset,
            None => answer.topics[0].partitions[0].committed_offset,
        }
    };
    versions::<OffsetFetchRequest>().map(fetch).collect()
}

#[test]
fn an_offset_of_a_topics_predecessor_is_never_handed_out() {
    run(async |groups| {
        let partition =
            offset_commit_request::OffsetCommitRequestPartition::default().with_committed_offset(9);
        let topic = offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(TopicName(name("orders")))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group("g"))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        offset_commit::answer(&groups, request, 8, topic_id).await;
        let everything = offset_fetch_request::OffsetFetchRequestGroup::default()
            .with_group_id(group("g"))
            .with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(vec![everything]);
        let topics = |id: u128| {
            let answer = offset_fetch::answer(&groups, &request, 8, |_, _| Some(Uuid::from_u128(id)));
            answer.groups[0].topics.len()
        };
        assert_eq!((topics(7), topics(8)), (1, 0));
    });
}

#[test]
fn groups_are_listed_and_deleted_in_every_version() {
    run(async |groups| {
        join_group::answer(&groups, &CLIENT, join("g"), 3).await;
        for version in versions::<ListGroupsRequest>() {
            let filter = if version >= 4 { vec![name("completingrebalance")] } else { Vec::new() };
            let request = ListGroupsRequest::default().with_states_filter(filter);
            let answer = over_the_wire(&list_groups::answer(&groups, &request), version);
            assert_eq!(answer.groups.len(), 1, "v{version}");
            let none = ListGroupsRequest::default().with_types_filter(vec![name("share")]);
            assert!(list_groups::answer(&groups, &none).groups.is_empty());
        }
        for version in versions::<DeleteGroupsRequest>() {
            let request = DeleteGroupsRequest::default().with_groups_names(vec![group("g"), group("nobody")]);
            let answer = over_the_wire(&delete_groups::answer(&groups, &request).await, version);
            let codes: Vec<i16> = answer.results.iter().map(|r| r.error_code).collect();
            assert_eq!(codes, [68, 69], "v{version}");
        }
    });
}
