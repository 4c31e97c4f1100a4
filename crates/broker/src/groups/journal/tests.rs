//! The journal against restarts, torn ends, damage, a full disk and its own compaction.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::disk::Directory;
use crate::log::FlushPolicy;

use super::{Entry, Journal, JournalError, JournalOptions, LiveEntries, Position};

fn put(key: &str, value: &str) -> Entry {
    Entry {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn delete(key: &str) -> Entry {
    Entry { key: Bytes::copy_from_slice(key.as_bytes()), value: None }
}

fn options(dir: &Path) -> JournalOptions {
    JournalOptions::new(dir.join("groups.journal"), FlushPolicy::Always)
}

fn wait(journal: &Journal, position: Position) -> Result<(), JournalError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(10), journal.durable(position))
            .await
            .expect("not durable in time")
    })
}

fn contents(dir: &Path) -> Vec<(String, String)> {
    let (_journal, live) = Journal::open(options(dir)).unwrap();
    let text = |b: &Bytes| String::from_utf8(b.to_vec()).unwrap();
    let mut all: Vec<_> = live.iter().map(|(k, v)| (text(k), text(v))).collect();
    all.sort();
    all
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn the_last_value_of_each_key_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, live) = Journal::open(options(dir.path())).unwrap();
    assert!(live.is_empty());
    journal.append(vec![put("a", "1"), put("b", "1")]).unwrap();
    journal.append(vec![put("a", "2")]).unwrap();
    let last = journal.append(vec![delete("b"), put("c", "")]).unwrap();
    wait(&journal, last).unwrap();
    drop(journal);
    assert_eq!(contents(dir.path()), pairs(&[("a", "2"), ("c", "")]));
}

#[test]
fn a_file_cut_anywhere_holds_exactly_the_appends_that_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = options(dir.path()).path;
    let mut ends = vec![0];
    {
        let (journal, _) = Journal::open(options(dir.path())).unwrap();
        for n in 0..4 {
            let at = journal.append(vec![put("n", &n.to_string()), put(&format!("k{n}"), "x")]).unwrap();
            wait(&journal, at).unwrap();
            ends.push(std::fs::metadata(&path).unwrap().len());
        }
    }
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let appends = ends.iter().filter(|end| **end <= cut as u64).count() - 1;
        let mut expected: Vec<_> = (0..appends).map(|n| (format!("k{n}"), "x".to_owned())).collect();
        if appends > 0 {
            expected.push(("n".to_owned(), (appends - 1).to_string()));
        }
        assert_eq!(contents(dir.path()), expected, "cut at {cut}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), ends[appends], "the torn end is gone");
    }
}

#[test]
fn appends_after_a_torn_end_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = options(dir.path()).path;
    std::fs::write(&path, b"HJ01\0\0\0").unwrap();
    let (journal, _) = Journal::open(options(dir.path())).unwrap();
    let at = journal.append(vec![put("a", "1")]).unwrap();
    wait(&journal, at).unwrap();
    drop(journal);
    assert_eq!(contents(dir.path()), pairs(&[("a", "1")]));
}

#[test]
fn damage_in_the_middle_costs_only_the_damaged_append_and_keeps_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = options(dir.path()).path;
    let middle = {
        let (journal, _) = Journal::open(options(dir.path())).unwrap();
        let at = journal.append(vec![put("a", "1")]).unwrap();
        wait(&journal, at).unwrap();
        let middle = std::fs::metadata(&path).unwrap().len();
        journal.append(vec![put("b", "1")]).unwrap();
        let at = journal.append(vec![put("c", "1")]).unwrap();
        wait(&journal, at).unwrap();
        middle
    };
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[middle as usize + 14] ^= 0x40;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(contents(dir.path()), pairs(&[("a", "1"), ("c", "1")]));
    assert_eq!(std::fs::read(dir.path().join("groups.journal.damaged")).unwrap(), bytes);
    assert_eq!(contents(dir.path()), pairs(&[("a", "1"), ("c", "1")]), "the repaired file is clean");
}

#[test]
fn a_journal_written_over_and_over_stays_small_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = options(dir.path());
    small.compact_bytes_min = 2000;
    small.flush = FlushPolicy::Never;
    let (journal, _) = Journal::open(small).unwrap();
    let mut last = Position::default();
    for n in 0..2000 {
        last = journal.append(vec![put(&format!("k{}", n % 7), &n.to_string())]).unwrap();
        if n % 50 == 0 {
            wait(&journal, last).unwrap();
        }
    }
    wait(&journal, last).unwrap();
    drop(journal);
    let length = std::fs::metadata(options(dir.path()).path).unwrap().len();
    assert!(length < 2000 * 20, "compaction did not keep up: {length} bytes");
    let expected: Vec<_> = (0..7)
        .map(|k| (format!("k{k}"), ((0..2000).rev().find(|n| n % 7 == k).unwrap()).to_string()))
        .collect();
    assert_eq!(contents(dir.path()), expected);
}

#[test]
fn a_crash_while_compacting_leaves_the_old_file_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let path = options(dir.path()).path;
    {
        let (journal, _) = Journal::open(options(dir.path())).unwrap();
        journal.append(vec![put("a", "1")]).unwrap();
    }
    let half_written = path.with_extension("journal.new");
    std::fs::write(&half_written, b"HJ01 half").unwrap();
    assert_eq!(contents(dir.path()), pairs(&[("a", "1")]));
    assert!(!half_written.exists());
}

#[test]
fn a_full_disk_holds_commits_up_and_refuses_more_until_the_broker_stops() {
    // Every write to /dev/full fails with ENOSPC.
    let dir = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().append(true).open("/dev/full").unwrap();
    let mut options = options(dir.path());
    options.retry = Duration::from_millis(5);
    let at = Directory::open(dir.path()).unwrap();
    let journal = Journal::over(options, at, (full, 0, LiveEntries::new())).unwrap();
    let position = journal.append(vec![put("a", "1")]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match journal.append(vec![put("b", "1")]) {
            Err(JournalError::Refusing) => break,
            Err(JournalError::Broken) => panic!("a full disk must not break the journal"),
            Ok(_) => assert!(Instant::now() < deadline, "appends go on although the disk is full"),
        }
        std::thread::yield_now();
    }
    assert!(journal.durable_position() < position);
}

#[test]
fn what_is_written_behind_a_rename_in_doubt_is_found_again() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let path = options(dir.path()).path;
    let at = Directory::open(dir.path()).unwrap();
    let (old, _, mut live) = super::file::recover(&path, &at).unwrap();
    super::file::apply(&mut live, put("a", "1"));
    crate::disk::fail_dir_syncs(1);
    // The file that is gone on in has the journal's name, though that may not be durable yet.
    let mut rewritten = super::file::rewrite(&path, &at, &live).unwrap();
    assert!(rewritten.in_doubt.is_some());
    let mut frame = Vec::new();
    super::file::encode_frame(&[put("b", "2")], &mut frame);
    rewritten.file.write_all(&frame).unwrap();
    drop((old, rewritten));
    assert_eq!(contents(dir.path()), pairs(&[("a", "1"), ("b", "2")]));
}
