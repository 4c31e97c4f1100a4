//! Continuity of a partition: streams, epochs and zombies against separate lanes (design.md §7).

#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_core::gap::Limits;
use homing_core::{
    Epoch, Flags, LaneDetector, Observation, Offset, Partition, PartitionDetector, PayloadCrc, Seen, Seq,
    StampRef, StartPolicy, StateError, StreamName,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A record in the log; its place is its offset.
#[derive(Debug, Clone, Copy)]
struct Logged {
    stream: &'static str,
    epoch: u32,
    seq: u64,
    partition: i32,
    replay: bool,
}

const HERE: Partition = Partition(3);

fn logged() -> impl Strategy<Value = Logged> {
    let partition = prop_oneof![20 => Just(3), 1 => Just(4)];
    (prop_oneof![Just("a"), Just("b")], 1u32..5, 1u64..12, partition, proptest::bool::weighted(0.1))
        .prop_map(|(stream, epoch, seq, partition, replay)| Logged { stream, epoch, seq, partition, replay })
}

fn show(detector: &mut PartitionDetector, record: &Logged, offset: usize) -> (Seen, Vec<Observation>) {
    let crc = PayloadCrc(record.seq as u32);
    let Logged { stream, epoch, seq, partition, replay } = *record;
    let stamp = StampRef { stream, epoch: Epoch(epoch), partition: Partition(partition), seq: Seq(seq), crc };
    let mut seen = Seen::of(&stamp, crc, Offset(offset as i64), offset as i64);
    seen.flags = Flags { replay, redrive: false };
    let mut said = Vec::new();
    detector.observe(&stamp, &seen, &mut said);
    (seen, said)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn each_epoch_is_judged_by_itself(log in proptest::collection::vec(logged(), 1..120), mid_lane: bool) {
        let start = if mid_lane { StartPolicy::MidLane } else { StartPolicy::FromFirst };
        let mut detector = PartitionDetector::new(HERE, start, Limits::default());
        let mut lanes: BTreeMap<(&str, u32), LaneDetector> = BTreeMap::new();
        for (offset, record) in log.iter().enumerate() {
            let (seen, said) = show(&mut detector, record, offset);
            if record.partition != HERE.0 {
                prop_assert_eq!(said, [Observation::Misplaced { numbered_for: Partition(record.partition) }]);
                continue;
            }
            let newest = lanes.keys().filter(|(of, _)| *of == record.stream).map(|(_, epoch)| *epoch).max();
            let mut expected = Vec::new();
            if newest.is_none_or(|newest| newest < record.epoch) {
                expected.push(Observation::EpochBegan(Epoch(record.epoch)));
                let start = if newest.is_none() { start } else { StartPolicy::FromFirst };
                lanes.insert((record.stream, record.epoch), LaneDetector::new(start, Limits::default()));
            } else if newest > Some(record.epoch) && !record.replay {
                expected.push(Observation::Zombie { newest: Epoch(newest.unwrap()) });
            }
            if let Some(lane) = lanes.get_mut(&(record.stream, record.epoch)) {
                lane.observe(&seen, &mut expected);
            }
            prop_assert_eq!(said, expected);
        }
        for ((stream, epoch), lane) in &lanes {
            let stream = detector.stream(&StreamName::parse(stream).unwrap()).unwrap();
            prop_assert_eq!(stream.lane(Epoch(*epoch)), Some(lane));
        }
        let read = PartitionDetector::decode(&detector.encode(), Limits::default());
        prop_assert_eq!(read.as_ref(), Ok(&detector));
    }

    /// A reader that starts again further back in the log raises no alarm by that.
    #[test]
    fn reading_again_says_nothing_new(log in proptest::collection::vec(logged(), 1..80), from: prop::sample::Index) {
        let mut detector = PartitionDetector::new(HERE, StartPolicy::FromFirst, Limits::default());
        let mut zombies = Vec::new();
        for (offset, record) in log.iter().enumerate() {
            let (_, said) = show(&mut detector, record, offset);
            zombies.extend(said.iter().any(|said| matches!(said, Observation::Zombie { .. })).then_some(offset));
        }
        let before = detector.clone();
        for (offset, record) in log.iter().enumerate().skip(from.index(log.len())) {
            for said in show(&mut detector, record, offset).1 {
                match said {
                    Observation::Zombie { .. } => prop_assert!(zombies.contains(&offset)),
                    Observation::Reread | Observation::Misplaced { .. } => {}
                    other => prop_assert!(false, "{:?} at {}", other, offset),
                }
            }
        }
        prop_assert_eq!(detector, before);
    }

    #[test]
    fn damaged_partition_state_is_refused(
        log in proptest::collection::vec(logged(), 0..40), at: prop::sample::Index, flip in 1u8..=255,
        body in proptest::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..60),
    ) {
        let mut detector = PartitionDetector::new(HERE, StartPolicy::FromFirst, Limits::default());
        log.iter().enumerate().for_each(|(offset, record)| drop(show(&mut detector, record, offset)));
        let state = detector.encode();
        let at = at.index(state.len());
        let mut flipped = state.clone();
        flipped[at] ^= flip;
        prop_assert!(PartitionDetector::decode(&flipped, Limits::default()).is_err());
        prop_assert!(PartitionDetector::decode(&state[..at], Limits::default()).is_err());
        let mut made = [b"HGAP\x01P", &body[..]].concat();
        made.extend(crc32c::crc32c(&made).to_be_bytes());
        if let Ok(made) = PartitionDetector::decode(&made, Limits::default()) {
            prop_assert_eq!(PartitionDetector::decode(&made.encode(), Limits::default()), Ok(made));
        }
    }
}

#[test]
fn what_is_beyond_the_limits_is_said() {
    let limits = Limits { epochs_max: 2, streams_max: 1, ..Limits::default() };
    let mut detector = PartitionDetector::new(HERE, StartPolicy::FromFirst, limits);
    let at = |stream, epoch| Logged { stream, epoch, seq: 1, partition: HERE.0, replay: false };
    show(&mut detector, &at("a", 1), 0);
    show(&mut detector, &at("a", 2), 1);
    let (_, said) = show(&mut detector, &at("a", 3), 2);
    assert_eq!(said.last(), Some(&Observation::EpochForgotten(Epoch(1))));
    let (_, said) = show(&mut detector, &at("b", 1), 3);
    assert_eq!(said, [Observation::StreamUntracked]);
    let (_, said) = show(&mut detector, &at("a", 1), 4);
    assert_eq!(said, [Observation::Zombie { newest: Epoch(3) }]);
}

#[test]
fn state_of_another_kind_or_version_is_told_apart() {
    let lane = LaneDetector::new(StartPolicy::FromFirst, Limits::default()).encode();
    assert_eq!(PartitionDetector::decode(&lane, Limits::default()), Err(StateError::Foreign));
    assert_eq!(LaneDetector::decode(b"", Limits::default()), Err(StateError::Foreign));
    assert_eq!(LaneDetector::decode(b"HGAP\x01", Limits::default()), Err(StateError::Version(1)));
    assert_eq!(LaneDetector::decode(b"HGAP\x02L", Limits::default()), Err(StateError::Checksum));
}

#[test]
fn a_voided_number_behind_a_gap_never_lowers_the_highest() {
    let mut lane = LaneDetector::new(StartPolicy::FromFirst, Limits::default());
    let mut said = Vec::new();
    lane.voided(Seq(5), &mut said);
    lane.voided(Seq(6), &mut said);
    let (crc, flags) = (PayloadCrc(0), Flags::default());
    // Number 5 is read although it was given up; 6 stays given up.
    lane.observe(
        &Seen { seq: Seq(5), id: None, crc, data_crc: crc, offset: Offset(0), flags, at_ms: 0 },
        &mut said,
    );
    assert_eq!(lane.highest(), Some(Seq(6)));
    assert_eq!(said, [Observation::GapOpened { from: Seq(1), to: Seq(4) }]);
}

#[test]
fn a_reader_that_starts_mid_lane_says_what_it_cannot_judge() {
    let start = |seq| {
        let mut lane = LaneDetector::new(StartPolicy::MidLane, Limits::default());
        let (crc, flags, mut said) = (PayloadCrc(0), Flags::default(), Vec::new());
        let seen = Seen { seq: Seq(seq), id: None, crc, data_crc: crc, offset: Offset(9), flags, at_ms: 0 };
        lane.observe(&seen, &mut said);
        said
    };
    assert_eq!(start(7), [Observation::UnverifiedBefore(Seq(7)), Observation::Advanced]);
    assert_eq!(start(1), [Observation::Advanced]);
}

#[test]
fn an_epoch_of_which_nothing_was_read_is_missed_from_its_first_number_on() {
    let mut detector = PartitionDetector::new(Partition(0), StartPolicy::FromFirst, Limits::default());
    let name = StreamName::parse("shop").unwrap();
    let stream = detector.expect(&name).unwrap();
    stream.expect(Epoch(2), Offset(7)).unwrap().expected_through(Seq(3), 0);
    let lane = stream.lane_mut(Epoch(2)).unwrap();
    assert_eq!(lane.confirm(10, 10).len(), 1);
    let gaps: Vec<_> = lane.open_gaps().map(|gap| (gap.from.0, gap.to.0)).collect();
    assert_eq!(gaps, [(1, 3)]);
    let again = PartitionDetector::decode(&detector.encode(), Limits::default()).unwrap();
    assert_eq!(again, detector);
}
