//! Static members (group.instance.id): taking over, being fenced, being removed by a tool.

use kafka_protocol::ResponseError::{FencedInstanceId, InconsistentGroupProtocol, UnknownMemberId};

use super::*;

fn static_join(fresh: &str, instance: &str) -> Join {
    Join {
        identity: fixed("", instance),
        fresh_member_id: fresh.to_owned(),
        needs_known_id: true,
        ..join("")
    }
}

fn static_sync(id: &str, instance: &str, generation: i32, parts: &[(&str, &str)]) -> Sync {
    Sync { identity: fixed(id, instance), ..sync(id, generation, parts) }
}

/// A stable group of a leading static member `a1` (instance a) and a follower `b1` (instance b).
fn two_statics() -> (Bench, i32) {
    let mut bench = Bench::new();
    let a = bench.join(static_join("a1", "a"));
    assert_eq!(bench.joined(a).member_id, "a1", "static members need no second round");
    bench.join(static_join("b1", "b"));
    bench.join(Join { identity: fixed("a1", "a"), ..join("") });
    let generation = bench.group.generation;
    bench.sync(static_sync("a1", "a", generation, &[("a1", "A"), ("b1", "B")]));
    bench.sync(static_sync("b1", "b", generation, &[]));
    (bench, generation)
}

#[test]
fn a_static_follower_that_comes_back_keeps_its_part_without_a_rebalance() {
    let (mut bench, generation) = two_statics();
    let back = bench.join(static_join("b2", "b"));
    assert_eq!(bench.joined(back).generation, generation);
    assert_eq!(bench.joined(back).leader, "a1");
    let synced = bench.sync(static_sync("b2", "b", generation, &[]));
    assert_eq!(bench.assignment(synced), b"B");
    assert_eq!(bench.group.heartbeat(bench.now, &fixed("a1", "a"), generation), Ok(()));
}

#[test]
fn the_former_self_of_a_static_member_is_fenced() {
    let (mut bench, generation) = two_statics();
    bench.join(static_join("b2", "b"));
    let old = fixed("b1", "b");
    assert_eq!(bench.group.heartbeat(bench.now, &old, generation), Err(FencedInstanceId));
    assert_eq!(bench.group.check_commit(bench.now, &old, generation), Err(FencedInstanceId));
    let join_again = bench.join(Join { identity: old.clone(), ..join("") });
    assert_eq!(bench.join_error(join_again), FencedInstanceId);
    let synced = bench.sync(static_sync("b1", "b", generation, &[]));
    assert_eq!(bench.sync_error(synced), FencedInstanceId);
    assert_eq!(bench.leave(&old), Err(FencedInstanceId));
    let stranger = fixed("x", "nobody");
    assert_eq!(bench.group.heartbeat(bench.now, &stranger, generation), Err(UnknownMemberId));
}

#[test]
fn a_parked_request_of_the_former_self_is_answered_as_fenced() {
    let (mut bench, _) = two_statics();
    bench.enter("c");
    let parked = bench.join(Join { identity: fixed("b1", "b"), ..join("") });
    assert!(bench.is_parked(parked));
    bench.join(static_join("b2", "b"));
    assert_eq!(bench.join_error(parked), FencedInstanceId);
}

#[test]
fn a_returning_static_leader_does_not_assign_anew() {
    let (mut bench, generation) = two_statics();
    let old_client = bench.join(static_join("a2", "a"));
    assert_ne!(bench.joined(old_client).leader, "a2", "it must not believe it leads");
    assert!(bench.joined(old_client).members.is_empty());
    let new_client = bench.join(Join { can_skip_assignment: true, ..static_join("a3", "a") });
    let joined = bench.joined(new_client);
    assert!(joined.skip_assignment && joined.leader == "a3" && joined.members.len() == 2);
    let synced = bench.sync(static_sync("a3", "a", generation, &[]));
    assert_eq!(bench.assignment(synced), b"A");
}

#[test]
fn a_tool_removes_a_static_member_by_its_instance() {
    let (mut bench, generation) = two_statics();
    assert_eq!(bench.leave(&fixed("", "b")), Ok(()));
    assert_eq!(bench.leave(&fixed("", "b")), Err(UnknownMemberId));
    assert_eq!(bench.group.heartbeat(bench.now, &fixed("b1", "b"), generation), Err(UnknownMemberId));
}

#[test]
fn static_members_that_miss_a_rebalance_stay_until_their_session_ends() {
    let (mut bench, generation) = two_statics();
    bench.enter("c");
    let leader = bench.join(Join { identity: fixed("a1", "a"), ..join("") });
    assert!(bench.is_parked(leader));
    for _ in 0..11 {
        let _ = bench.group.heartbeat(bench.now, &fixed("b1", "b"), generation);
        bench.pass(REBALANCE / 10);
    }
    assert_eq!(bench.joined(leader).generation, generation + 1);
    assert_eq!(bench.joined(leader).members.len(), 3, "b is still counted in");
}

#[test]
fn a_static_member_returning_with_another_protocol_starts_a_rebalance() {
    let mut bench = Bench::new();
    bench.join(Join { protocols: protocols(&["range", "roundrobin"]), ..static_join("a1", "a") });
    bench.sync(static_sync("a1", "a", 1, &[("a1", "A")]));
    let stranger = bench.join(Join { protocols: protocols(&["sticky"]), ..static_join("a2", "a") });
    assert_eq!(bench.join_error(stranger), InconsistentGroupProtocol, "as in Kafka");
    let back = bench.join(Join { protocols: protocols(&["roundrobin"]), ..static_join("a2", "a") });
    assert_eq!(bench.joined(back).generation, 2);
    assert_eq!(bench.joined(back).protocol, "roundrobin");
}
