//! The coordinator over a real journal: waiting, durability, restart, expiry, deletion.

use std::path::Path;

use kafka_protocol::ResponseError::{
    self, GroupIdNotFound, IllegalGeneration, NonEmptyGroup, UnknownMemberId,
};
use uuid::Uuid;

use crate::log::FlushPolicy;

use super::super::commits::{Commit, NewOffset};
use super::super::coordinator::{Coordinator, wall_ms};
use super::super::journal::JournalOptions;
use super::super::offsets::Place;
use super::*;

fn open(dir: &Path) -> Coordinator {
    let journal = JournalOptions::new(dir.join("groups.journal"), FlushPolicy::Always);
    Coordinator::open(GroupOptions::default(), journal).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs") })
}

fn place(topic: &str, partition: i32) -> Place {
    Place { topic: topic.to_owned(), partition }
}

fn commit(identity: Identity, generation: i32, offset: i64) -> Commit {
    let new = NewOffset {
        place: place("t", 0),
        topic_id: Uuid::from_u128(7),
        offset,
        leader_epoch: 3,
        metadata: "map".to_owned(),
    };
    Commit { identity, generation, retention_ms: None, offsets: vec![new] }
}

fn outside(offset: i64) -> Commit {
    commit(Identity::default(), -1, offset)
}

async fn lead(coordinator: &Coordinator, group: &str, id: &str) -> i32 {
    let joined = coordinator.join(group, Join { fresh_member_id: id.to_owned(), ..join("") }).await.unwrap();
    let assigned = sync(id, joined.generation, &[(id, "part")]);
    coordinator.sync(group, assigned).await.unwrap();
    joined.generation
}

#[test]
fn a_commit_is_read_back_with_epoch_and_metadata_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let check = |coordinator: &Coordinator| {
        let committed = coordinator.committed("g", &place("t", 0)).unwrap();
        assert_eq!((committed.offset, committed.leader_epoch), (43, 3));
        assert_eq!((committed.metadata.as_str(), committed.topic_id), ("map", Uuid::from_u128(7)));
        assert_eq!(coordinator.all_committed("g").len(), 1);
    };
    let coordinator = open(dir.path());
    run(coordinator.commit("g", outside(42))).unwrap();
    run(coordinator.commit("g", outside(43))).unwrap();
    check(&coordinator);
    drop(coordinator);
    check(&open(dir.path()));
}

#[test]
fn members_go_on_after_a_restart_and_strangers_stay_out() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = open(dir.path());
    let generation = run(lead(&coordinator, "g", "a"));
    drop(coordinator);
    let coordinator = open(dir.path());
    assert_eq!(coordinator.heartbeat("g", &dynamic("a"), generation), Ok(()));
    assert_eq!(run(coordinator.commit("g", commit(dynamic("a"), generation, 1))), Ok(()));
    let refused = |id, generation| run(coordinator.commit("g", commit(dynamic(id), generation, 2)));
    assert_eq!(refused("b", generation), Err(UnknownMemberId));
    assert_eq!(refused("a", generation - 1), Err(IllegalGeneration));
    assert_eq!(coordinator.committed("g", &place("t", 0)).unwrap().offset, 1);
}

#[test]
fn a_parked_join_is_answered_when_the_clock_ends_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let journal = JournalOptions::new(dir.path().join("j"), FlushPolicy::Never);
    let session = Duration::from_millis(60);
    let options = GroupOptions { session_timeout_min: session, ..GroupOptions::default() };
    let coordinator = Coordinator::open(options, journal).unwrap();
    let short = |id: &str| Join { fresh_member_id: id.to_owned(), session_timeout: session, ..join("") };
    run(async {
        let first = coordinator.join("g", short("a")).await.unwrap();
        coordinator.sync("g", sync("a", first.generation, &[])).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let clock = coordinator.run_clock(async { drop(stopped.await) });
        let second = async {
            let joined = coordinator.join("g", short("b")).await.unwrap();
            drop(stop);
            joined
        };
        let ((), joined) = tokio::join!(clock, second);
        assert_eq!((joined.generation, joined.leader.as_str()), (2, "b"));
    });
}

#[test]
fn a_group_is_deleted_only_when_empty_and_takes_its_offsets_along() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = open(dir.path());
    assert_eq!(run(coordinator.delete("g")), Err(GroupIdNotFound));
    let generation = run(lead(&coordinator, "g", "a"));
    run(coordinator.commit("g", commit(dynamic("a"), generation, 5))).unwrap();
    assert_eq!(run(coordinator.delete("g")), Err(NonEmptyGroup));
    coordinator.leave("g", &dynamic("a")).unwrap();
    assert_eq!(run(coordinator.delete("g")), Ok(()));
    assert_eq!(coordinator.describe("g"), None);
    drop(coordinator);
    let coordinator = open(dir.path());
    assert!(coordinator.list().is_empty());
    assert!(coordinator.all_committed("g").is_empty());
}

#[test]
fn offsets_of_a_deleted_topic_go_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = open(dir.path());
    let mut two = outside(5);
    two.offsets.push(NewOffset { place: place("other", 1), ..two.offsets[0].clone() });
    run(coordinator.commit("g", two)).unwrap();
    run(coordinator.topic_deleted("t")).unwrap();
    drop(coordinator);
    let left: Vec<Place> = open(dir.path()).all_committed("g").into_iter().map(|(at, _)| at).collect();
    assert_eq!(left, [place("other", 1)]);
}

#[test]
fn expired_offsets_go_first_and_then_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = open(dir.path());
    run(coordinator.commit("g", outside(5))).unwrap();
    let week_ms = 7 * 24 * 3_600_000;
    coordinator.forget_expired(wall_ms() + week_ms - 60_000);
    assert_eq!(coordinator.all_committed("g").len(), 1);
    coordinator.forget_expired(wall_ms() + week_ms);
    run(coordinator.commit("h", outside(1))).unwrap();
    assert!(coordinator.all_committed("g").is_empty());
    coordinator.forget_expired(wall_ms());
    let names = |c: &Coordinator| c.list().into_iter().map(|g| g.0).collect::<Vec<_>>();
    assert_eq!(names(&coordinator), ["h"]);
    drop(coordinator);
    assert_eq!(names(&open(dir.path())), ["h"]);
}

#[test]
fn a_refused_first_join_leaves_no_group_behind() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = open(dir.path());
    let impatient = Join { session_timeout: Duration::from_millis(1), ..join("") };
    assert!(run(coordinator.join("g", impatient)).is_err());
    assert!(run(coordinator.join("g", join("unheard-of"))).is_err());
    let refused: Result<(), ResponseError> = run(coordinator.commit("g", commit(dynamic("a"), 1, 1)));
    assert_eq!(refused, Err(GroupIdNotFound));
    assert!(coordinator.list().is_empty());
}

#[test]
fn metadata_is_measured_in_utf16_units_as_kafka_does() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = open(dir.path());
    assert!(coordinator.metadata_fits(&"x".repeat(4096)));
    assert!(!coordinator.metadata_fits(&"x".repeat(4097)));
    assert!(coordinator.metadata_fits(&"ä".repeat(4096)));
    assert!(!coordinator.metadata_fits(&"😀".repeat(2049)));
}
