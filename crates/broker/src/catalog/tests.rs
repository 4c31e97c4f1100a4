//! Many changes at once, names of any length, files that are missing, renames that cannot be made durable.

use super::*;
use crate::disk::fail_dir_syncs;
use crate::log::flusher::Flusher;
use crate::log::{Buffers, FlushPolicy, OpenSegments};

fn context() -> LogContext {
    LogContext {
        flusher: Flusher::default(),
        flush: FlushPolicy::Always,
        leader_epoch: 0,
        on_damage: OnDamage::Refuse,
        buffers: Buffers::default(),
        open_segments: OpenSegments::default(),
        troubles: Troubles::default(),
    }
}

fn open(dir: &tempfile::TempDir) -> Catalog {
    Catalog::open(dir.path(), context()).unwrap()
}

fn topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, settings: BTreeMap::new() }
}

fn append(catalog: &Catalog, name: &str, partition: i32) -> i64 {
    let topic = catalog.by_name(name).unwrap();
    let batch = crate::log::batch::tests::batch(1, (-1, -1, -1), b"kept");
    topic.log(partition).unwrap().append(&batch, 1_000).unwrap().base_offset
}

#[test]
fn changes_of_one_topic_at_once_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(&dir);
    catalog.create(topic("t", 1)).unwrap();
    let threads = 4;
    let rounds = 12;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let catalog = &catalog;
            scope.spawn(move || {
                for round in 0..rounds {
                    let key = format!("key-{thread}-{round}");
                    catalog
                        .configure_from("t", |before| {
                            let mut after = before.clone();
                            after.insert(key, String::new());
                            Ok(after)
                        })
                        .unwrap();
                }
            });
        }
        let catalog = &catalog;
        scope.spawn(move || {
            for count in 2..2 + rounds {
                catalog.raise_partitions("t", count).unwrap();
                // What is acknowledged for a partition must stay with it.
                assert_eq!(append(catalog, "t", count - 1), 0);
            }
        });
    });
    let check = |catalog: &Catalog| {
        let topic = catalog.by_name("t").unwrap();
        assert_eq!(topic.settings.len(), (threads * rounds) as usize, "no change of a setting is lost");
        assert_eq!(topic.partitions.len(), 1 + rounds as usize, "no new partition is lost");
        let ends: Vec<i64> = topic.partitions.iter().map(|p| p.log().unwrap().offsets().2).collect();
        assert_eq!(ends[1..], vec![1; rounds as usize]);
    };
    check(&catalog);
    drop(catalog);
    check(&open(&dir));
}

#[test]
fn two_that_raise_a_topic_at_once_do_not_share_a_partition_s_file() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(&dir);
        catalog.create(topic("t", 1)).unwrap();
        std::thread::scope(|scope| {
            for count in [3, 2, 3] {
                let catalog = &catalog;
                scope.spawn(move || {
                    if catalog.raise_partitions("t", count).is_ok() {
                        append(catalog, "t", count - 1);
                    }
                });
            }
        });
        let before = catalog.by_name("t").unwrap();
        let ends = |topic: &Topic| -> Vec<i64> {
            topic.partitions.iter().map(|p| p.log().unwrap().offsets().2).collect()
        };
        let ends_before = ends(&before);
        assert_eq!(ends_before.len(), 3);
        before.partitions.iter().for_each(|p| p.log().unwrap().close());
        drop((before, catalog));
        assert_eq!(ends(&open(&dir).by_name("t").unwrap()), ends_before);
    }
}

#[test]
fn a_deleted_topic_never_comes_back_by_a_change_that_was_under_way() {
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(&dir);
        let id = catalog.create(topic("t", 1)).unwrap().id;
        std::thread::scope(|scope| {
            scope.spawn(|| catalog.delete("t", id).unwrap());
            scope.spawn(|| catalog.raise_partitions("t", 3).is_ok());
            scope.spawn(|| catalog.configure_from("t", |before| Ok(before.clone())).is_ok());
        });
        assert!(catalog.by_name("t").is_none() && catalog.by_id(id).is_none(), "round {round}");
        drop(catalog);
        assert!(open(&dir).by_name("t").is_none(), "round {round}");
    }
}

#[test]
fn a_deletion_means_the_topic_that_was_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(&dir);
    let first = catalog.create(topic("t", 1)).unwrap().id;
    catalog.delete("t", first).unwrap();
    let second = catalog.create(topic("t", 1)).unwrap().id;
    assert_eq!(catalog.delete("t", first), Err(ResponseError::UnknownTopicOrPartition));
    assert_eq!(catalog.by_name("t").unwrap().id, second);
}

#[test]
fn a_topic_s_name_may_be_as_long_as_kafka_allows() {
    let dir = tempfile::tempdir().unwrap();
    let names = [222, 223, 248, 249].map(|length| "n".repeat(length));
    let catalog = open(&dir);
    for name in &names {
        catalog.create(topic(name, 1)).unwrap();
        append(&catalog, name, 0);
    }
    catalog.logs().iter().for_each(|log| log.close());
    drop(catalog);
    let catalog = open(&dir);
    for name in &names {
        assert_eq!(catalog.by_name(name).unwrap().log(0).unwrap().offsets().2, 1);
        catalog.delete(name, catalog.by_name(name).unwrap().id).unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path().join("topics")).unwrap().count(), 0);
}

#[test]
fn a_missing_partition_is_refused_and_named_and_the_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(&dir);
    let id = catalog.create(topic("t", 3)).unwrap().id;
    append(&catalog, "t", 1);
    let gone = catalog.topic_dir("t", id).join("1");
    drop(catalog);
    std::fs::remove_dir_all(&gone).unwrap();
    let catalog = open(&dir);
    let found = catalog.by_name("t").unwrap();
    assert_eq!(found.log(1).err(), Some(ResponseError::KafkaStorageError));
    assert!(found.log(0).is_ok() && found.log(2).is_ok());
    assert!(!gone.exists(), "it is not made anew");
    let trouble = catalog.troubles().at(&gone).unwrap();
    assert!(trouble.what.contains("is missing"), "{trouble}");
    drop(catalog);
    let told = LogContext { on_damage: OnDamage::Truncate, ..context() };
    let catalog = Catalog::open(dir.path(), told).unwrap();
    assert_eq!(append(&catalog, "t", 1), 0, "as told, it begins anew");
}

#[test]
fn a_change_whose_rename_cannot_be_made_durable_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(&dir);
    let id = catalog.create(topic("t", 1)).unwrap().id;
    fail_dir_syncs(1);
    assert_eq!(catalog.delete("t", id), Err(ResponseError::KafkaStorageError));
    assert_eq!(catalog.troubles().all()[0].place, dir.path().join("catalog.json"));
    // It said that nothing changed: what is acknowledged from now on must outlive a restart.
    append(&catalog, "t", 0);
    catalog.logs()[0].close();
    drop(catalog);
    let catalog = open(&dir);
    assert_eq!(catalog.by_name("t").unwrap().log(0).unwrap().offsets().2, 1);
    catalog.create(topic("u", 1)).unwrap();
    assert_eq!(catalog.troubles().all(), []);
}

#[test]
fn nothing_is_acknowledged_for_a_topic_that_may_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(&dir);
    let id = catalog.create(topic("t", 1)).unwrap().id;
    catalog.create(topic("u", 1)).unwrap();
    fail_dir_syncs(2);
    assert_eq!(catalog.delete("t", id), Err(ResponseError::KafkaStorageError));
    assert!(catalog.by_name("t").is_none(), "whether it still is there, only a restart tells");
    let refused = catalog.create(topic("v", 1)).unwrap_err();
    assert_eq!(refused.error, ResponseError::KafkaStorageError, "no change is built on a doubtful catalog");
    append(&catalog, "u", 0);
    catalog.logs()[0].close();
    drop(catalog);
    let catalog = open(&dir);
    assert_eq!(catalog.by_name("u").unwrap().log(0).unwrap().offsets().2, 1);
    assert!(catalog.by_name("v").is_none());
    catalog.create(topic("v", 1)).unwrap();
}
