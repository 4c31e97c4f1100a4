//! One partition's log through restarts, torn tails, damage, retention and deletions.

use super::batch::BatchHeader;
use super::batch::tests::batch;
use super::buffers::Buffers;
use super::flusher::Flusher;
use super::{FlushPolicy, LogContext, LogError, OnDamage, OpenSegments, PartitionLog};
use crate::config::TopicConfig;
use crate::trouble::Troubles;
use kafka_protocol::ResponseError;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const NOBODY: (i64, i16, i32) = (-1, -1, -1);
/// Two batches of one record with ten bytes of payload fit a segment.
pub(super) const SMALL: &[(&str, &str)] = &[("segment.bytes", "170")];

/// How a log is opened.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub dir: &'a Path,
    pub settings: &'a [(&'a str, &'a str)],
    pub epoch: i32,
    pub on_damage: OnDamage,
}

impl<'a> Opening<'a> {
    pub fn of(dir: &'a tempfile::TempDir) -> Self {
        Self { dir: dir.path(), settings: &[], epoch: 0, on_damage: OnDamage::Refuse }
    }

    pub fn context(self) -> LogContext {
        LogContext {
            // Its threads are not started: these tests sync by hand.
            flusher: Flusher::default(),
            flush: FlushPolicy::Always,
            leader_epoch: self.epoch,
            on_damage: self.on_damage,
            buffers: Buffers::default(),
            open_segments: OpenSegments::default(),
            troubles: Troubles::default(),
        }
    }

    pub fn config(settings: &[(&str, &str)]) -> Arc<TopicConfig> {
        let settings: BTreeMap<String, String> =
            settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Arc::new(TopicConfig::from_set(&settings))
    }

    pub fn try_open(self) -> Result<Arc<PartitionLog>, LogError> {
        let dir = self.dir.join("0");
        let open = if dir.exists() { PartitionLog::open } else { PartitionLog::create };
        open(&dir, Self::config(self.settings), self.context()).map(Arc::new)
    }

    pub fn open(self) -> Arc<PartitionLog> {
        self.try_open().unwrap()
    }

    pub fn segments(self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.dir.join("0"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        files.sort();
        files
    }
}

/// Appends `count` batches of one record each.
pub(super) fn fill(log: &Arc<PartitionLog>, count: usize) {
    for n in 0..count {
        log.append(&batch(1, NOBODY, format!("{n:010}").as_bytes()), 1_000).unwrap();
    }
    log.sync_now();
}

/// The base offsets of everything readable from `offset` on.
pub(super) fn readable(log: &PartitionLog, offset: i64) -> Vec<i64> {
    let mut at = offset;
    let mut bases = Vec::new();
    loop {
        let read = log.read(at, 1 << 20, true).unwrap();
        let mut rest = &read.records[..];
        if rest.is_empty() {
            assert_eq!(at, read.high_watermark, "reading stops before the end");
            return bases;
        }
        while let Some(header) = BatchHeader::parse(rest) {
            bases.push(header.base_offset);
            at = header.last_offset() + 1;
            rest = &rest[header.bytes..];
        }
    }
}

#[test]
fn a_log_cut_at_any_byte_of_its_last_batch_keeps_all_others_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::of(&dir);
    fill(&opening.open(), 3);
    let file = opening.segments().remove(0);
    let whole = std::fs::read(&file).unwrap();
    let one = whole.len() / 3;
    for cut in one * 2..whole.len() {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let log = opening.open();
        assert_eq!(log.offsets(), (0, 2, 2), "cut at {cut}");
        assert_eq!(std::fs::metadata(&file).unwrap().len() as usize, one * 2);
        fill(&log, 1);
        assert_eq!(readable(&log, 0), [0, 1, 2]);
    }
}

#[test]
fn a_last_batch_with_any_byte_flipped_is_cut_like_a_torn_one() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::of(&dir);
    fill(&opening.open(), 2);
    let file = opening.segments().remove(0);
    let whole = std::fs::read(&file).unwrap();
    let one = whole.len() / 2;
    // Base offset (8 bytes) and leader epoch (4) lie outside the checksum; the rest is covered.
    let covered = (one + 16..whole.len()).filter(|at| !(one + 12..one + 16).contains(at));
    for at in covered {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&file, &flipped).unwrap();
        assert_eq!(opening.open().offsets(), (0, 1, 1), "flipped at {at}");
    }
}

#[test]
fn damage_with_sound_batches_behind_it_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::of(&dir);
    fill(&opening.open(), 3);
    let file = opening.segments().remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let one = bytes.len() / 3;
    bytes[one + 65] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    match opening.try_open() {
        Err(LogError::Damaged { file: named, position, offset }) => {
            assert_eq!((named, position as usize, offset), (file.clone(), one, 1));
        }
        other => panic!("served although damaged: {other:?}"),
    }
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing was touched");
    let log = Opening { on_damage: OnDamage::Truncate, ..opening }.open();
    assert_eq!(log.offsets(), (0, 1, 1));
    let aside = file.with_extension(format!("damaged-at-{one}"));
    assert_eq!(std::fs::read(aside).unwrap(), bytes[one..], "what was cut is kept beside");
}

#[test]
fn a_flipped_bit_outside_the_checksum_is_noticed_too() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::of(&dir);
    fill(&opening.open(), 3);
    let file = opening.segments().remove(0);
    let whole = std::fs::read(&file).unwrap();
    let one = whole.len() / 3;
    for bit in 0..64 {
        let mut bytes = whole.clone();
        bytes[one + bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&file, &bytes).unwrap();
        assert!(matches!(opening.try_open(), Err(LogError::Damaged { offset: 1, .. })), "offset bit {bit}");
    }
    for bit in 0..32 {
        let mut bytes = whole.clone();
        bytes[one + 12 + bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&file, &bytes).unwrap();
        let log = opening.open();
        assert_eq!((log.offsets(), log.end_of_epoch(0)), ((0, 3, 3), (0, 3)), "epoch bit {bit}");
    }
}

#[test]
fn readers_go_on_behind_a_hole_that_a_cut_left() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    fill(&opening.open(), 6);
    let files = opening.segments();
    assert!(files.len() >= 3, "{files:?}");
    let seal = files[0].with_extension("sealed");
    std::fs::remove_file(seal).unwrap();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let second = bytes.len() / 2;
    bytes[second + 65] ^= 1;
    std::fs::write(&files[0], &bytes).unwrap();
    assert!(opening.try_open().is_err());
    let log = Opening { on_damage: OnDamage::Truncate, ..opening }.open();
    assert_eq!(readable(&log, 0), [0, 2, 3, 4, 5]);
    assert_eq!(readable(&log, 1), [2, 3, 4, 5], "offset 1 is gone; the reader is not stuck on it");
}

#[test]
fn a_damaged_batch_in_a_sealed_segment_is_never_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    fill(&opening.open(), 4);
    let file = opening.segments().remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let log = opening.open();
    let sound = log.read(0, 1 << 20, true).unwrap().records;
    assert_eq!(BatchHeader::parse(&sound).map(|header| header.bytes), Some(sound.len()), "the first alone");
    let error = log.read(1, 1 << 20, true).unwrap_err();
    assert_eq!(error, ResponseError::CorruptMessage);
    assert_eq!(readable(&log, 2), [2, 3], "what is sound is served");
}

#[test]
fn a_resent_batch_is_recognised_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let sent = |sequence| batch(2, (7, 0, sequence), b"x");
    let log = Opening::of(&dir).open();
    for sequence in [0, 2, 4] {
        log.append(&sent(sequence), 1_000).unwrap();
    }
    log.sync_now();
    drop(log);
    let log = Opening { epoch: 1, ..Opening::of(&dir) }.open();
    assert_eq!(log.append(&sent(2), 1_000).unwrap().base_offset, 2, "known, with its old offset");
    assert_eq!(log.append(&sent(8), 1_000), Err(ResponseError::OutOfOrderSequenceNumber));
    assert_eq!(log.append(&sent(6), 1_000).unwrap().base_offset, 6);
    assert_eq!(log.offsets().2, 8);
}

#[test]
fn a_busy_producer_is_not_forgotten_for_the_age_of_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let log = Opening::of(&dir).open();
    let today = 1_800_000_000_000;
    // `batch` puts timestamps of 1970 on its records.
    log.append(&batch(1, (7, 0, 0), b"x"), today).unwrap();
    log.apply_retention(today + 3_600_000, 24 * 3_600_000);
    assert_eq!(log.append(&batch(1, (7, 0, 0), b"x"), today).unwrap().base_offset, 0);
    log.apply_retention(today + 25 * 3_600_000, 24 * 3_600_000);
    assert_eq!(log.append(&batch(1, (7, 0, 9), b"x"), today).unwrap().base_offset, 1, "forgotten at last");
}

#[test]
fn records_are_shown_only_when_they_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let log = Opening::of(&dir).open();
    log.append(&batch(3, NOBODY, b"x"), 1_000).unwrap();
    assert_eq!(log.offsets(), (0, 0, 3));
    assert!(log.read(0, 1000, true).unwrap().records.is_empty());
    log.sync_now();
    assert_eq!(log.offsets(), (0, 3, 3));
    assert_eq!(readable(&log, 0), [0]);
}

#[test]
fn retention_forgets_whole_segments_and_remembers_that_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let settings: &[(&str, &str)] = &[("segment.bytes", "170"), ("retention.ms", "5000")];
    let opening = Opening { settings, ..Opening::of(&dir) };
    let log = opening.open();
    fill(&log, 7);
    log.apply_retention(2_000 + 5_000, i64::MAX / 2);
    assert_eq!(log.offsets().0, 0, "not older than that yet");
    log.apply_retention(2_000 + 5_001, i64::MAX / 2);
    assert_eq!(log.offsets(), (7, 7, 7), "the segment written to as well");
    assert_eq!(opening.segments().len(), 1);
    assert_eq!(log.read(6, 100, true).unwrap_err(), ResponseError::OffsetOutOfRange);
    drop(log);
    let log = opening.open();
    assert_eq!(log.offsets(), (7, 7, 7));
    fill(&log, 1);
    assert_eq!(readable(&log, 7), [7]);
}

#[test]
fn retention_by_size_keeps_at_least_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let settings: &[(&str, &str)] =
        &[("segment.bytes", "170"), ("retention.ms", "-1"), ("retention.bytes", "300")];
    let opening = Opening { settings, ..Opening::of(&dir) };
    let log = opening.open();
    fill(&log, 9);
    log.apply_retention(i64::MAX / 2, i64::MAX / 4);
    let bytes: u64 = opening.segments().iter().map(|file| std::fs::metadata(file).unwrap().len()).sum();
    assert!((300..450).contains(&bytes), "{bytes}");
    assert_eq!(readable(&log, log.offsets().0).last(), Some(&8));
}

#[test]
fn deleted_records_stay_deleted_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    let log = opening.open();
    fill(&log, 6);
    assert_eq!(log.delete_before(3), Ok(3));
    assert_eq!(log.delete_before(1), Ok(3), "never back");
    assert_eq!(log.delete_before(7), Err(ResponseError::OffsetOutOfRange));
    drop(log);
    let log = opening.open();
    assert_eq!(log.offsets(), (3, 6, 6));
    assert_eq!(readable(&log, 3), [3, 4, 5]);
    assert_eq!(log.delete_before(-1), Ok(6));
    drop(log);
    assert_eq!(opening.open().offsets(), (6, 6, 6));
}

#[test]
fn epochs_end_where_the_next_one_began() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    for epoch in [2, 3, 5] {
        // Nothing is written in epoch 3.
        let log = Opening { epoch, ..opening }.open();
        fill(&log, if epoch == 3 { 0 } else { 4 });
    }
    let log = Opening { epoch: 6, ..opening }.open();
    let asked: Vec<_> = (1..=7).map(|epoch| log.end_of_epoch(epoch)).collect();
    assert_eq!(asked, [(1, 0), (2, 4), (2, 4), (2, 4), (5, 8), (6, 8), (-1, -1)]);
    assert_eq!((log.epoch_at(3), log.epoch_at(4), log.epoch_at(8)), (2, 5, 6));
    // Where a consumer has read everything of an epoch that is then forgotten, its position is
    // the start of the log: no truncation.
    log.delete_before(4).unwrap();
    assert_eq!(log.end_of_epoch(2), (2, 4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_offset_reads_the_batch_that_holds_it(
        sizes in proptest::collection::vec((1i32..5, 0usize..400), 1..60),
        segment_bytes in 100u32..3000,
        bytes_max in 1usize..2000,
        restart_at in 0usize..60,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let segment_bytes = segment_bytes.to_string();
        let settings: &[(&str, &str)] = &[("segment.bytes", &segment_bytes)];
        let opening = Opening { settings, ..Opening::of(&dir) };
        let mut log = opening.open();
        let mut holder = Vec::new();
        for (n, (records, payload)) in sizes.iter().enumerate() {
            if n == restart_at {
                log.sync_now();
                drop(log);
                log = opening.open();
            }
            let base = log.append(&batch(*records, NOBODY, &vec![n as u8; *payload]), 1_000).unwrap().base_offset;
            holder.extend((0..*records).map(|_| base));
        }
        log.sync_now();
        prop_assert_eq!(log.offsets(), (0, holder.len() as i64, holder.len() as i64));
        for (offset, base) in holder.iter().enumerate() {
            let read = log.read(offset as i64, bytes_max, true).unwrap();
            let first = BatchHeader::parse(&read.records).expect("one batch at least");
            prop_assert_eq!(first.base_offset, *base);
            prop_assert!(read.records.len() <= bytes_max.max(first.bytes));
        }
    }
}
