//! What a start makes of failed rolls, torn segments, missing files and seals that lie.

use super::batch::tests::{batch, batch_of};
use super::tests::{NOBODY, Opening, SMALL, fill, readable};
use super::{LogError, OnDamage, PartitionLog};
use kafka_protocol::ResponseError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Six records in three segments.
fn three_segments(opening: Opening<'_>) -> Vec<PathBuf> {
    fill(&opening.open(), 6);
    let files = opening.segments();
    assert_eq!(files.len(), 3, "{files:?}");
    files
}

fn unseal(segment: &Path) {
    for beside in ["sealed", "producers"] {
        // The last segment and older ones have none.
        let _ = std::fs::remove_file(segment.with_extension(beside));
    }
}

fn lengths(files: &[PathBuf]) -> Vec<u64> {
    files.iter().map(|file| std::fs::metadata(file).unwrap().len()).collect()
}

/// Cuts the last `bytes` off.
fn cut(file: &Path, bytes: usize) {
    let whole = std::fs::read(file).unwrap();
    std::fs::write(file, &whole[..whole.len() - bytes]).unwrap();
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn an_empty_segment_that_a_failed_roll_left_hides_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::of(&dir);
    fill(&opening.open(), 6);
    // The roll at offset 4 failed behind its file; two more records went on before it.
    for left in [4, 6] {
        let empty = super::segment::path_of(&dir.path().join("0"), left);
        std::fs::write(&empty, "").unwrap();
        let log = opening.open();
        assert_eq!(log.offsets(), (0, 6, 6), "left at {left}");
        assert_eq!(readable(&log, 0), [0, 1, 2, 3, 4, 5]);
        assert!(!empty.exists());
    }
}

#[test]
fn a_roll_that_fails_costs_neither_the_append_nor_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    let log = opening.open();
    fill(&log, 2);
    crate::disk::fail_dir_syncs(3);
    fill(&log, 3);
    assert_eq!(opening.segments().len(), 1, "the old segment went on growing, and nothing is left");
    fill(&log, 1);
    assert_eq!(opening.segments().len(), 2, "the next append rolls");
    assert_eq!(readable(&log, 0), [0, 1, 2, 3, 4, 5]);
    drop(log);
    assert_eq!(readable(&opening.open(), 0), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_torn_segment_with_nothing_sound_behind_it_is_cut_wherever_it_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    let files = three_segments(opening);
    let whole: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let one = whole[1].len() / 2;
    for torn in 0..one {
        for behind in [&whole[2][..0], &whole[2][..one - 1]] {
            for (file, bytes) in files.iter().zip([&whole[0][..], &whole[1][..one + torn], behind]) {
                std::fs::write(file, bytes).unwrap();
                unseal(file);
            }
            let log = opening.open();
            assert_eq!(log.offsets(), (0, 3, 3), "torn at {torn}, {} bytes behind", behind.len());
            fill(&log, 2);
            assert_eq!(readable(&log, 0), [0, 1, 2, 3, 4]);
        }
    }
}

#[test]
fn a_torn_segment_with_sound_records_behind_it_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    let files = three_segments(opening);
    unseal(&files[1]);
    cut(&files[1], 3);
    let before = lengths(&files);
    match opening.try_open() {
        Err(LogError::Damaged { file, offset, .. }) => assert_eq!((file, offset), (files[1].clone(), 3)),
        other => panic!("served although torn: {other:?}"),
    }
    assert_eq!(lengths(&files), before);
    let log = Opening { on_damage: OnDamage::Truncate, ..opening }.open();
    assert_eq!(readable(&log, 0), [0, 1, 2, 4, 5]);
    drop(log);
    assert_eq!(readable(&opening.open(), 0), [0, 1, 2, 4, 5], "once cut as told, it is served");
}

#[test]
fn a_missing_segment_is_refused_and_named() {
    for (missing, named) in [(0, 0), (1, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
        let files = three_segments(opening);
        std::fs::remove_file(&files[missing]).unwrap();
        let error = opening.try_open().unwrap_err();
        assert!(error.to_string().contains(&*files[named].to_string_lossy()), "{error}");
    }
}

#[test]
fn a_missing_directory_is_never_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::of(&dir);
    fill(&opening.open(), 2);
    std::fs::remove_dir_all(dir.path().join("0")).unwrap();
    let log = |make: bool| {
        let open = if make { PartitionLog::create } else { PartitionLog::open };
        open(&dir.path().join("0"), Opening::config(&[]), opening.context())
    };
    assert!(matches!(log(false), Err(LogError::Missing { .. })));
    assert!(!dir.path().join("0").exists());
    std::fs::create_dir(dir.path().join("0")).unwrap();
    assert!(matches!(log(false), Err(LogError::Missing { .. })), "a directory without segments");
    assert!(log(true).is_ok());
}

#[test]
fn two_segments_that_hold_the_same_offsets_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::of(&dir);
    fill(&opening.open(), 4);
    // An earlier version went on at 2 after a restart, because of an empty segment.
    let second = tempfile::tempdir().unwrap();
    fill(&Opening::of(&second).open(), 4);
    let bytes = std::fs::read(&Opening::of(&second).segments()[0]).unwrap();
    std::fs::write(dir.path().join("0").join(format!("{:020}.log", 2)), &bytes[bytes.len() / 2..]).unwrap();
    assert!(matches!(opening.try_open(), Err(LogError::Damaged { offset: 2, .. })));
    let log = Opening { on_damage: OnDamage::Truncate, ..opening }.open();
    assert_eq!(readable(&log, 0), [0, 1, 2, 3]);
    drop(log);
    assert_eq!(readable(&opening.open(), 0), [0, 1, 2, 3]);
}

#[test]
fn rolled_segments_are_sealed_by_the_start_and_not_read_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    let files = three_segments(opening);
    files.iter().for_each(|file| unseal(file));
    assert_eq!(readable(&opening.open(), 0), [0, 1, 2, 3, 4, 5]);
    let sealed: Vec<bool> = files.iter().map(|file| file.with_extension("sealed").exists()).collect();
    assert_eq!(sealed, [true, true, false]);
    // A flipped bit in a sealed segment is not met at start, but when it is read.
    flip(&files[0], 70);
    let log = opening.open();
    assert_eq!(log.read(0, 1000, true).unwrap_err(), ResponseError::CorruptMessage);
    assert_eq!(readable(&log, 1), [1, 2, 3, 4, 5]);
}

#[test]
fn a_seal_that_does_not_fit_its_segment_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    let files = three_segments(opening);
    let seal = files[0].with_extension("sealed");
    let sound = std::fs::read(&seal).unwrap();
    for at in 0..sound.len() {
        let mut lying = sound.clone();
        lying[at] ^= 0x20;
        std::fs::write(&seal, lying).unwrap();
        assert_eq!(readable(&opening.open(), 0), [0, 1, 2, 3, 4, 5], "byte {at}");
        std::fs::write(&seal, &sound[..at]).unwrap();
        assert_eq!(readable(&opening.open(), 0), [0, 1, 2, 3, 4, 5], "cut at {at}");
    }
    std::fs::write(&seal, &sound).unwrap();
    cut(&files[0], 1);
    assert!(matches!(opening.try_open(), Err(LogError::Damaged { offset: 1, .. })));
}

#[test]
fn producers_and_epochs_are_remembered_across_sealed_segments() {
    let dir = tempfile::tempdir().unwrap();
    let opening = |epoch| Opening { settings: SMALL, epoch, ..Opening::of(&dir) };
    let sent = |sequence| batch(1, (7, 0, sequence), b"0123456789");
    for (epoch, sequences) in [(1, 0..5), (4, 5..9)] {
        let log = opening(epoch).open();
        for sequence in sequences {
            log.append(&sent(sequence), 1_000).unwrap();
            log.sync_now();
        }
    }
    let with_seals = opening(6).open();
    let all = |log: &Arc<PartitionLog>| {
        let epochs: Vec<_> = (0..7).map(|epoch| log.end_of_epoch(epoch)).collect();
        (epochs, log.append(&sent(8), 1_000).unwrap().base_offset, log.append(&sent(5), 1_000))
    };
    let seen = all(&with_seals);
    assert_eq!(seen.1, 8, "the last batch, known though its segment may be sealed");
    drop(with_seals);
    for beside in ["sealed", "producers"] {
        for file in opening(6).segments() {
            let _ = std::fs::remove_file(file.with_extension(beside));
        }
        assert_eq!(all(&opening(6).open()), seen, "the same when all is read, without .{beside}");
    }
}

#[test]
fn a_damaged_header_is_an_error_and_never_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::of(&dir);
    let log = opening.open();
    fill(&log, 3);
    let file = opening.segments().remove(0);
    let whole = std::fs::read(&file).unwrap();
    let one = whole.len() / 3;
    // Every byte of the header of the second batch, while the log is open.
    // The leader epoch (12..16) lies outside the checksum and decides nothing here.
    for at in (one..one + 12).chain(one + 16..one + 61) {
        flip(&file, at);
        let first = log.read(0, 1 << 20, true).map(|read| read.records.len());
        assert_eq!(first, Ok(one), "what stands before byte {at} is handed out");
        assert_eq!(log.read(1, 1 << 20, true).unwrap_err(), ResponseError::CorruptMessage, "byte {at}");
        std::fs::write(&file, &whole).unwrap();
    }
}

#[test]
fn a_batch_that_lies_and_stands_in_the_log_already_is_lived_with() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::of(&dir);
    fill(&opening.open(), 1);
    let file = opening.segments().remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let mut lie = batch_of(i32::MAX, NOBODY, b"");
    super::batch::patch(&mut lie, 1, 0);
    bytes.extend_from_slice(&lie);
    std::fs::write(&file, bytes).unwrap();
    let log = opening.open();
    let end = 1 + i64::from(i32::MAX);
    assert_eq!(log.offsets(), (0, end, end));
    assert_eq!(log.offset_for_time(2_000), Ok(Some((2_000, 0))));
    log.delete_before(1).unwrap();
    assert_eq!(log.offset_for_time(2_000), Ok(Some((2_000, 1))), "where the batch begins");
    assert_eq!(log.highest_time(), Ok(Some((2_000, 1))));
    fill(&log, 1);
    assert_eq!(log.offset_for_time(2_000), Ok(Some((2_000, 1))));
}

#[test]
fn a_segment_is_rolled_by_its_age_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let settings: &[(&str, &str)] = &[("segment.ms", "60000")];
    let opening = Opening { settings, ..Opening::of(&dir) };
    let now = crate::state::now_ms();
    let log = opening.open();
    log.append(&batch(1, NOBODY, b"first"), now).unwrap();
    log.sync_now();
    drop(log);
    let log = opening.open();
    log.append(&batch(1, NOBODY, b"young"), now + 50_000).unwrap();
    assert_eq!(opening.segments().len(), 1);
    log.append(&batch(1, NOBODY, b"old"), now + 62_000).unwrap();
    assert_eq!(opening.segments().len(), 2, "counted from the first record, not from the start");
}

#[test]
fn only_the_segment_written_to_keeps_its_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { settings: SMALL, ..Opening::of(&dir) };
    let open = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = all.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        targets.filter(|target| target.starts_with(dir.path())).count()
    };
    let log = opening.open();
    fill(&log, 600);
    assert_eq!(opening.segments().len(), 300);
    assert_eq!(open(), 1);
    assert_eq!(readable(&log, 0).len(), 600);
    assert!(open() <= 129, "{} of 300 segments are open", open());
    let before = open();
    let again = opening.open();
    assert_eq!(open(), before + 1, "after a start as well");
    assert_eq!(readable(&again, 300).len(), 300);
}
