//! The commit map: what is read is what was written, and damage never means less work (I5, I6).

#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_core::{CommitMap, MapError, Offset, OffsetSet};
use proptest::prelude::*;

/// Sets of all shapes: dense, sparse, far apart, reaching to the highest offset.
fn done(base: i64) -> impl Strategy<Value = OffsetSet> {
    let dense = proptest::collection::vec((0i64..4, 1i64..4), 0..200);
    let sparse = proptest::collection::vec((0i64..5_000, 1i64..300), 0..60);
    let far = proptest::collection::vec((0i64..1 << 40, 1i64..1 << 40), 0..10);
    let alternating = (0usize..30_000).prop_map(|n| vec![(1, 1); n]);
    prop_oneof![dense, sparse, far, alternating].prop_map(move |steps| {
        let mut set = OffsetSet::new();
        let mut at = base;
        for (skip, run) in steps {
            let start = at.saturating_add(skip);
            at = start.saturating_add(run);
            set.insert_range(Offset(start)..Offset(at));
        }
        set
    })
}

fn map() -> impl Strategy<Value = CommitMap> {
    let base = prop_oneof![0i64..1_000, 0..=i64::MAX, (i64::MAX - 5_000)..=i64::MAX];
    base.prop_flat_map(|base| (any::<[u8; 16]>(), any::<i32>(), Just(base), done(base))).prop_map(
        |(topic_id, leader_epoch, base, done)| CommitMap { topic_id, leader_epoch, base: Offset(base), done },
    )
}

/// A map as text, made byte by byte.
fn sealed(base: i64, kind: u8, body: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let mut bytes = [&[7; 20][..], &base.to_be_bytes(), &[kind], body].concat();
    let crc = crc32c::crc32c_append(crc32c::crc32c(b"homing1:"), &bytes);
    bytes.extend(crc.to_be_bytes());
    format!("homing1:{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// The offsets of the set are the lowest of `whole`: only from the top is left out.
fn is_lowest_part(part: &OffsetSet, whole: &OffsetSet) -> bool {
    let Some(last) = part.last() else { return true };
    let below: OffsetSet = whole
        .ranges()
        .map(|run| run.start..run.end.min(last.next()))
        .filter(|run| run.start < run.end)
        .collect();
    *part == below
}

proptest! {
    #[test]
    fn a_map_that_fits_is_read_back_as_it_was(map in map()) {
        let text = map.encode(usize::MAX / 4);
        prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
        prop_assert_eq!(&map.encode(text.len()), &text, "the room it takes is room enough");
        let read_for = CommitMap::decode_for(&text, &map.topic_id, map.base);
        prop_assert_eq!(CommitMap::decode(&text), Ok(map.clone()));
        prop_assert_eq!(read_for, Ok(map));
    }

    #[test]
    fn a_map_that_does_not_fit_means_more_work_never_less(map in map(), chars_max in 0usize..6_000) {
        let text = map.encode(chars_max);
        prop_assert!(text.len() <= chars_max);
        match CommitMap::decode(&text) {
            Ok(read) => {
                prop_assert!(is_lowest_part(&read.done, &map.done));
                // Either spelling alone would keep so much.
                let room = ((chars_max - 8) * 3 / 4 - 33) as u64;
                let bits_end = Offset(map.base.0.saturating_add_unsigned(room * 8));
                let as_bits = map.done.ranges().map(|run| run.end.min(bits_end).0 - run.start.min(bits_end).0);
                let as_runs = map.done.ranges().take((room / 20) as usize).map(|run| run.end.0 - run.start.0);
                prop_assert!(read.done.len() as i64 >= as_bits.sum::<i64>().max(as_runs.sum()));
                prop_assert_eq!((read.topic_id, read.leader_epoch, read.base), (map.topic_id, map.leader_epoch, map.base));
            }
            Err(error) => {
                prop_assert_eq!(error, MapError::Foreign);
                prop_assert_eq!(text.as_str(), "");
                prop_assert!(chars_max < 60);
            }
        }
    }

    #[test]
    fn what_is_below_the_base_is_not_written(map in map(), by in 0i64..2_000) {
        let raised = CommitMap { base: Offset(map.base.0.saturating_add(by)), ..map };
        let read = CommitMap::decode(&raised.encode(usize::MAX / 4)).unwrap();
        let above: OffsetSet = raised.done.ranges().map(|run| run.start.max(raised.base)..run.end).collect();
        prop_assert_eq!(read.done, above);
    }

    #[test]
    fn a_changed_character_is_noticed(map in map(), at: prop::sample::Index, to in 0u8..128) {
        let mut text = map.encode(CommitMap::CHARS_MAX).into_bytes();
        let at = at.index(text.len());
        prop_assume!(text[at] != to);
        text[at] = to;
        prop_assert!(CommitMap::decode(std::str::from_utf8(&text).unwrap()).is_err());
    }

    #[test]
    fn a_text_cut_or_lengthened_is_noticed(map in map(), at: prop::sample::Index, more in "[a-zA-Z0-9_=-]{1,8}") {
        let text = map.encode(CommitMap::CHARS_MAX);
        prop_assert!(CommitMap::decode(&text[..at.index(text.len())]).is_err());
        prop_assert!(CommitMap::decode(&(text + &more)).is_err());
    }

    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![".{0,200}", "homing[0-9]{0,3}:[a-zA-Z0-9_-]{0,200}"]) {
        prop_assert!(CommitMap::decode(&text).is_err());
    }

    /// Bytes with a right checksum, as a faulty writer would leave them.
    #[test]
    fn a_malformed_set_is_refused_or_read_alike_again(base in 0i64..=i64::MAX, kind in 0u8..4, body: Vec<u8>) {
        if let Ok(map) = CommitMap::decode(&sealed(base, kind, &body)) {
            prop_assert!(map.done.first().is_none_or(|first| first >= map.base));
            prop_assert_eq!(CommitMap::decode(&map.encode(usize::MAX / 4)), Ok(map));
        }
    }
}

#[test]
fn the_shorter_spelling_is_chosen() {
    let text_of = |done: OffsetSet| {
        let map = CommitMap { topic_id: [0; 16], leader_epoch: -1, base: Offset(1), done };
        assert_eq!(CommitMap::decode(&map.encode(CommitMap::CHARS_MAX)), Ok(map.clone()));
        map.encode(CommitMap::CHARS_MAX)
    };
    let empty = text_of(OffsetSet::new()).len();
    // One long run takes a few bytes; every second of 16,000 offsets a bit each.
    assert!(text_of([Offset(2)..Offset(1_000_000_000)].into_iter().collect()).len() < empty + 12);
    let halves = text_of((1..16_000).map(|i| Offset(i * 2)).take(8_000).collect()).len();
    assert!((empty + 2_600..empty + 2_700).contains(&halves), "{halves} characters");
}

#[test]
fn each_kind_of_useless_text_is_told_apart() {
    let map = CommitMap { topic_id: [1; 16], leader_epoch: 5, base: Offset(9), done: OffsetSet::new() };
    let text = map.encode(CommitMap::CHARS_MAX);
    assert_eq!(CommitMap::decode(""), Err(MapError::Foreign));
    assert_eq!(CommitMap::decode("spring"), Err(MapError::Foreign));
    assert_eq!(CommitMap::decode("homing2:AAAA"), Err(MapError::Version));
    assert_eq!(CommitMap::decode("homing1:AA=="), Err(MapError::Base64));
    assert_eq!(CommitMap::decode("homing1:AAA"), Err(MapError::Truncated));
    assert_eq!(CommitMap::decode("homing1:AAAAAAAA"), Err(MapError::Checksum));
    assert_eq!(CommitMap::decode_for(&text, &[2; 16], Offset(9)), Err(MapError::OtherTopic));
    let other = MapError::OtherOffset { map: Offset(9), committed: Offset(10) };
    assert_eq!(CommitMap::decode_for(&text, &[1; 16], Offset(10)), Err(other));
}

#[test]
fn each_spelling_has_its_rules() {
    let read = |base, kind, body: &[u8]| {
        CommitMap::decode(&sealed(base, kind, body)).map(|map| map.done.ranges().collect::<Vec<_>>())
    };
    let run = |from, end| Offset(from)..Offset(end);
    assert_eq!(read(0, 0, &[]), Ok(vec![]));
    assert_eq!(read(5, 1, &[0b0000_0110]), Ok(vec![run(6, 8)]));
    assert_eq!(read(5, 1, &[0b1000_0001, 0b1111_1111]), Ok(vec![run(5, 6), run(12, 21)]));
    assert_eq!(read(5, 2, &[0, 2, 1, 3]), Ok(vec![run(5, 7), run(8, 11)]));
    assert_eq!(
        read(i64::MAX - 3, 1, &[0b0000_0101]),
        Ok(vec![run(i64::MAX - 3, i64::MAX - 2), run(i64::MAX - 1, i64::MAX)])
    );
    for (base, kind, body) in [
        (-1, 0, &[][..]),
        (5, 0, &[0]),
        (5, 1, &[]),
        (5, 1, &[1, 0]),
        (i64::MAX - 3, 1, &[0b0000_1000]),
        (i64::MAX - 3, 1, &[0, 1]),
        (5, 2, &[]),
        (5, 2, &[1]),
        (5, 2, &[1, 0]),
        (5, 2, &[1, 1, 0, 1]),
        (i64::MAX - 3, 2, &[1, 3]),
        (i64::MAX - 3, 2, &[4, 1]),
        (5, 2, &[0x80]),
        (5, 3, &[1]),
    ] {
        assert_eq!(read(base, kind, body), Err(MapError::Malformed), "{base} {kind} {body:?}");
    }
}
