//! Dynamic members: joining, agreeing, syncing, leaving, dying, committing.

use std::time::Duration;

use kafka_protocol::ResponseError::{
    self, GroupMaxSizeReached, IllegalGeneration, InconsistentGroupProtocol, InvalidSessionTimeout,
    MemberIdRequired, RebalanceInProgress, UnknownMemberId,
};

use super::*;

#[test]
fn the_first_member_joins_at_once_and_leads() {
    let mut bench = Bench::new();
    let ticket = bench.enter("a");
    let joined = bench.joined(ticket);
    assert_eq!((joined.generation, joined.leader.as_str(), joined.protocol.as_str()), (1, "a", "range"));
    assert_eq!(joined.members.len(), 1);
    assert_eq!(joined.members[0].metadata, "meta range");
    let ticket = bench.sync(sync("a", 1, &[("a", "all")]));
    assert_eq!(bench.assignment(ticket), b"all");
    assert_eq!(bench.stored, 1, "the generation is stored before it is answered");
}

#[test]
fn an_unknown_member_is_given_an_id_to_come_again_with() {
    let mut bench = Bench::new();
    let unknown = || Join { needs_known_id: true, fresh_member_id: "new".to_owned(), ..join("") };
    let ticket = bench.join(unknown());
    assert_eq!(
        bench.joins[&ticket],
        Err(JoinRefused { error: MemberIdRequired, member_id: "new".to_owned() })
    );
    assert_eq!(bench.group.state_name(), "Empty");
    assert!(!bench.group.is_empty(), "somebody is on the way");
    let ticket = bench.join(join("new"));
    assert_eq!(bench.joined(ticket).member_id, "new");
}

#[test]
fn an_id_that_is_not_used_is_forgotten_and_does_not_hold_up_the_others_for_ever() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a"]);
    bench.join(Join { needs_known_id: true, fresh_member_id: "ghost".to_owned(), ..join("") });
    let rejoin = bench.join(join("a"));
    assert!(bench.is_parked(rejoin), "the group waits for the member it gave an id to");
    bench.pass(SESSION);
    assert_eq!(bench.joined(rejoin).generation, generation + 1);
    let late = bench.join(join("ghost"));
    assert_eq!(bench.join_error(late), UnknownMemberId);
}

#[test]
fn a_second_member_waits_until_the_first_has_joined_again() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a"]);
    let b = bench.enter("b");
    assert!(bench.is_parked(b));
    assert_eq!(bench.heartbeat("a", generation), Err(RebalanceInProgress));
    let a = bench.join(join("a"));
    assert_eq!(bench.joined(a).generation, generation + 1);
    assert_eq!(bench.joined(a).members.len(), 2, "the leader learns all members");
    assert_eq!(bench.joined(b).generation, generation + 1);
    assert!(bench.joined(b).members.is_empty(), "a follower learns none");
    assert_eq!(bench.joined(b).leader, "a");
}

#[test]
fn a_follower_gets_its_part_when_the_leader_has_synced() {
    let mut bench = Bench::new();
    bench.stable(&["a"]);
    bench.enter("b");
    bench.join(join("a"));
    let b = bench.sync(sync("b", 2, &[("b", "a follower decides nothing")]));
    assert!(bench.is_parked(b));
    assert_eq!(bench.heartbeat("b", 2), Ok(()), "heartbeats are welcome while the leader thinks");
    let a = bench.sync(sync("a", 2, &[("b", "right")]));
    assert_eq!(bench.assignment(b), b"right");
    assert_eq!(bench.assignment(a), b"", "who is left out gets nothing");
    let again = bench.sync(sync("b", 2, &[]));
    assert_eq!(bench.assignment(again), b"right");
}

#[test]
fn the_protocol_most_members_prefer_wins_among_those_all_support() {
    let mut bench = Bench::new();
    bench.stable(&["x"]);
    let like = |id: &str, names: &[&str]| Join {
        fresh_member_id: id.to_owned(),
        protocols: protocols(names),
        ..join("")
    };
    bench.leave(&dynamic("x")).unwrap();
    bench.join(like("a", &["sticky", "range", "roundrobin"]));
    bench.join(like("b", &["roundrobin", "range"]));
    let c = bench.join(like("c", &["roundrobin", "range"]));
    let again = bench.join(Join { protocols: protocols(&["sticky", "range", "roundrobin"]), ..join("a") });
    assert_eq!(bench.joined(c).protocol, "roundrobin");
    assert_eq!(bench.joined(again).members[1].metadata, "meta roundrobin");
}

#[test]
fn a_member_with_no_protocol_in_common_is_refused_and_disturbs_nobody() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a"]);
    let odd = bench.join(Join { protocols: protocols(&["cooperative-sticky"]), ..join("") });
    assert_eq!(bench.join_error(odd), InconsistentGroupProtocol);
    let other = bench.join(Join { protocol_type: "connect".to_owned(), ..join("") });
    assert_eq!(bench.join_error(other), InconsistentGroupProtocol);
    let none = bench.join(Join { protocols: Vec::new(), ..join("") });
    assert_eq!(bench.join_error(none), InconsistentGroupProtocol);
    assert_eq!(bench.heartbeat("a", generation), Ok(()));
}

#[test]
fn a_silent_member_is_out_after_its_session_and_the_rest_shares_anew() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a", "b"]);
    bench.pass(SESSION / 2);
    assert_eq!(bench.heartbeat("a", generation), Ok(()));
    bench.pass(SESSION / 2);
    assert_eq!(bench.heartbeat("a", generation), Err(RebalanceInProgress));
    assert_eq!(bench.heartbeat("b", generation), Err(UnknownMemberId));
    let a = bench.join(join("a"));
    assert_eq!(bench.joined(a).members.len(), 1);
    assert_eq!(bench.joined(a).generation, generation + 1);
}

#[test]
fn a_member_that_does_not_join_again_in_time_is_left_behind() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a", "b"]);
    let c = bench.enter("c");
    let b = bench.join(join("b"));
    for _ in 0..11 {
        // The leader heartbeats but never joins: alive, yet left behind.
        let _ = bench.heartbeat("a", generation);
        bench.pass(REBALANCE / 11);
    }
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.joined(b).generation, generation + 1);
    assert_eq!(bench.joined(c).leader, bench.joined(b).leader);
    assert_ne!(bench.joined(c).leader, "a");
    assert_eq!(bench.heartbeat("a", generation + 1), Err(UnknownMemberId));
}

#[test]
fn a_waiting_member_needs_no_heartbeat_however_long_the_rebalance() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a", "b"]);
    let c = bench.enter("c");
    let b = bench.join(join("b"));
    bench.pass(SESSION - Duration::from_millis(1));
    let _ = bench.heartbeat("a", generation);
    bench.pass(SESSION - Duration::from_millis(1));
    assert!(bench.is_parked(b) && bench.is_parked(c));
    bench.join(join("a"));
    assert_eq!(bench.joined(b).generation, generation + 1);
    assert_eq!(bench.group.members.len(), 3);
}

#[test]
fn a_new_member_that_hangs_up_before_it_learns_its_id_goes_in_the_end() {
    let options = GroupOptions { new_member_join_timeout: SESSION * 2, ..GroupOptions::default() };
    let mut bench = Bench::with(options);
    let generation = bench.stable(&["a"]);
    let lost = bench.enter("lost");
    for _ in 0..4 {
        let _ = bench.heartbeat("a", generation);
        bench.pass(SESSION / 2);
    }
    assert_eq!(bench.join_error(lost), UnknownMemberId);
    let a = bench.join(join("a"));
    assert_eq!(bench.joined(a).members.len(), 1);
}

#[test]
fn a_member_that_never_syncs_is_removed_and_the_others_go_on() {
    let mut bench = Bench::new();
    bench.stable(&["a"]);
    bench.enter("b");
    bench.join(join("a"));
    bench.sync(sync("a", 2, &[("a", "x"), ("b", "y")]));
    for _ in 0..13 {
        let _ = (bench.heartbeat("a", 2), bench.heartbeat("b", 2));
        bench.pass(REBALANCE / 12);
    }
    assert_eq!(bench.heartbeat("b", 2), Err(UnknownMemberId));
    assert_eq!(bench.heartbeat("a", 2), Err(RebalanceInProgress));
}

#[test]
fn leaving_starts_a_rebalance_and_the_last_one_empties_the_group() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a", "b"]);
    assert_eq!(bench.leave(&dynamic("b")), Ok(()));
    assert_eq!(bench.leave(&dynamic("b")), Err(UnknownMemberId));
    assert_eq!(bench.heartbeat("a", generation), Err(RebalanceInProgress));
    assert_eq!(bench.leave(&dynamic("a")), Ok(()));
    assert!(bench.group.is_empty());
    assert!(bench.group.generation > generation);
}

#[test]
fn a_parked_request_of_a_leaving_member_is_answered() {
    let mut bench = Bench::new();
    bench.stable(&["a"]);
    let b = bench.enter("b");
    bench.leave(&dynamic("b")).unwrap();
    assert_eq!(bench.join_error(b), UnknownMemberId);
    let c = bench.enter("c");
    bench.join(join("a"));
    assert!(!bench.is_parked(c));
    let waiting = bench.sync(sync("c", bench.group.generation, &[]));
    bench.leave(&dynamic("c")).unwrap();
    assert_eq!(bench.sync_error(waiting), UnknownMemberId);
}

#[test]
fn a_sync_parked_when_somebody_joins_is_told_to_join_again() {
    let mut bench = Bench::new();
    bench.stable(&["a"]);
    bench.enter("b");
    bench.join(join("a"));
    let parked = bench.sync(sync("b", 2, &[]));
    bench.enter("c");
    assert_eq!(bench.sync_error(parked), RebalanceInProgress);
    let late = bench.sync(sync("a", 2, &[("b", "old")]));
    assert_eq!(bench.sync_error(late), RebalanceInProgress);
}

#[test]
fn a_follower_repeating_its_join_gets_the_running_generation_but_the_leader_starts_a_new_one() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a", "b"]);
    let leader = bench.group.leader.clone().unwrap();
    let follower = if leader == "a" { "b" } else { "a" };
    let again = bench.join(join(follower));
    assert_eq!(bench.joined(again).generation, generation);
    let changed = bench.join(Join { protocols: protocols(&["range", "roundrobin"]), ..join(follower) });
    assert!(bench.is_parked(changed), "a changed subscription needs a rebalance");
    bench.join(join(&leader));
    assert_eq!(bench.joined(changed).generation, generation + 1);
    bench.sync(sync(&leader, generation + 1, &[]));
    let lead = bench.join(join(&leader));
    assert!(bench.is_parked(lead));
}

#[test]
fn a_stale_sync_or_heartbeat_names_its_error() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a"]);
    let stale = bench.sync(sync("a", generation - 1, &[]));
    assert_eq!(bench.sync_error(stale), IllegalGeneration);
    let stranger = bench.sync(sync("z", generation, &[]));
    assert_eq!(bench.sync_error(stranger), UnknownMemberId);
    assert_eq!(bench.heartbeat("a", generation + 1), Err(IllegalGeneration));
    assert_eq!(bench.heartbeat("z", generation), Err(UnknownMemberId));
    let odd = Sync { protocol: Some("roundrobin".to_owned()), ..sync("a", generation, &[]) };
    let odd = bench.sync(odd);
    assert_eq!(bench.sync_error(odd), InconsistentGroupProtocol);
}

#[test]
fn only_members_of_the_current_generation_commit() {
    let mut bench = Bench::new();
    assert_eq!(bench.commit("", -1), Ok(()), "anyone may while the group is empty");
    assert_eq!(bench.commit("a", 0), Err(UnknownMemberId));
    let generation = bench.stable(&["a"]);
    assert_eq!(bench.commit("a", generation), Ok(()));
    assert_eq!(bench.commit("a", generation - 1), Err(IllegalGeneration));
    assert_eq!(bench.commit("z", generation), Err(UnknownMemberId));
    assert_eq!(bench.commit("", -1), Err(UnknownMemberId), "tools may not while it has members");
    bench.enter("b");
    assert_eq!(bench.commit("a", generation), Ok(()), "the last commit before joining again");
    bench.join(join("a"));
    assert_eq!(bench.commit("a", generation), Err(IllegalGeneration));
    assert_eq!(bench.commit("a", generation + 1), Err(RebalanceInProgress));
    bench.sync(sync("a", generation + 1, &[]));
    assert_eq!(bench.commit("b", generation + 1), Ok(()));
}

#[test]
fn limits_are_kept() {
    let mut bench = Bench::with(GroupOptions { group_size_max: 1, ..GroupOptions::default() });
    let short = bench.join(Join { session_timeout: Duration::from_secs(5), ..join("") });
    assert_eq!(bench.join_error(short), InvalidSessionTimeout);
    let long = bench.join(Join { session_timeout: Duration::from_secs(7200), ..join("") });
    assert_eq!(bench.join_error(long), InvalidSessionTimeout);
    bench.stable(&["a"]);
    let second = bench.enter("b");
    assert_eq!(bench.join_error(second), GroupMaxSizeReached);
    let polite = bench.join(Join { needs_known_id: true, ..join("") });
    assert_eq!(bench.join_error(polite), GroupMaxSizeReached);
}

#[test]
fn with_an_initial_delay_members_that_start_together_share_one_generation() {
    let delay = Duration::from_secs(3);
    let mut bench = Bench::with(GroupOptions { initial_rebalance_delay: delay, ..GroupOptions::default() });
    let a = bench.enter("a");
    bench.pass(Duration::from_secs(2));
    let b = bench.enter("b");
    bench.pass(Duration::from_secs(2));
    assert!(bench.is_parked(a), "a second member prolongs the delay");
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.joined(a).generation, 1);
    assert_eq!(bench.joined(b).generation, 1);
    assert_eq!(bench.joined(a).members.len(), 2);
}

#[test]
fn a_join_repeated_on_another_connection_answers_the_first() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a", "b"]);
    bench.enter("c");
    let first = bench.join(join("b"));
    let second = bench.join(join("b"));
    assert_eq!(bench.join_error(first), RebalanceInProgress);
    bench.join(join("a"));
    assert_eq!(bench.joined(second).generation, generation + 1);
}

#[test]
fn a_restored_group_goes_on_without_a_rebalance() {
    let mut bench = Bench::new();
    let generation = bench.stable(&["a", "b"]);
    let record = bench.group.record(None);
    let stored = super::super::record::GroupRecord::decode(record.encode()).unwrap();
    bench.group = Group::restore(Arc::new(GroupOptions::default()), stored, bench.now);
    assert_eq!(bench.heartbeat("a", generation), Ok(()));
    assert_eq!(bench.commit("b", generation), Ok(()));
    let again = bench.sync(sync("b", generation, &[]));
    assert_eq!(bench.assignment(again), b"for b");
    bench.pass(SESSION);
    let gone: Vec<ResponseError> =
        ["a", "b"].iter().map(|id| bench.heartbeat(id, generation).unwrap_err()).collect();
    assert_eq!(gone, [UnknownMemberId, UnknownMemberId], "silent since the restart");
    bench.pass(REBALANCE);
    assert!(bench.group.is_empty());
}
