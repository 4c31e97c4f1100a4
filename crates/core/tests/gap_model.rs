//! Continuity of a lane against a list of single numbers (design.md §7).

#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_core::gap::{Fingerprint, Limits};
use homing_core::{
    ConfirmedGap, FilledBy, Flags, GapState, LaneDetector, Observation, Offset, OpenGap, PayloadCrc,
    Precision, Seen, Seq, StartPolicy,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    /// A record is read; its number is this far from the highest.
    Read {
        ahead: i64,
        other_id: bool,
        no_id: bool,
        corrupted: bool,
        replay: bool,
        back: i64,
    },
    Void {
        ahead: i64,
    },
    /// Numbers from this far from the highest on are not asked for any more.
    Excuse {
        ahead: i64,
        more: u64,
    },
    Expect {
        ahead: i64,
    },
    Close {
        ahead: i64,
    },
    Confirm {
        grace_ms: u64,
    },
    Pass {
        ms: i64,
    },
    /// The state is written and read back.
    Restart,
}

fn ahead() -> impl Strategy<Value = i64> {
    prop_oneof![10 => Just(1i64), 4 => 2i64..6, 6 => -12i64..=0]
}

fn step() -> impl Strategy<Value = Step> {
    let rarely = || proptest::bool::weighted(0.06);
    let read =
        (ahead(), rarely(), rarely(), rarely(), any::<bool>(), prop_oneof![9 => Just(0i64), 1 => 1i64..9]);
    prop_oneof![
        24 => read.prop_map(|(ahead, other_id, no_id, corrupted, replay, back)| {
            Step::Read { ahead, other_id, no_id, corrupted, replay, back }
        }),
        3 => (-8i64..8).prop_map(|ahead| Step::Void { ahead }),
        1 => (-8i64..5, 0u64..6).prop_map(|(ahead, more)| Step::Excuse { ahead, more }),
        2 => (0i64..6).prop_map(|ahead| Step::Expect { ahead }),
        1 => (-3i64..6).prop_map(|ahead| Step::Close { ahead }),
        4 => (0u64..30).prop_map(|grace_ms| Step::Confirm { grace_ms }),
        4 => (0i64..30).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Restart),
    ]
}

/// A number that is missing; those noticed together share an `opening`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Missing {
    opening: u32,
    since_ms: i64,
    state: GapState,
}

#[derive(Default)]
struct Model {
    start: Option<u64>,
    high: u64,
    missing: BTreeMap<u64, Missing>,
    voided: BTreeSet<u64>,
    read: BTreeMap<u64, Seen>,
    expected: Vec<(u64, i64)>,
    last: Option<u64>,
    offset_high: i64,
    openings: u32,
    read_count: u64,
}

impl Model {
    fn new(start: StartPolicy) -> Self {
        Self { start: (start == StartPolicy::FromFirst).then_some(1), offset_high: -1, ..Self::default() }
    }

    fn settle(&mut self) {
        while self.start.is_some() && self.voided.contains(&(self.high + 1)) {
            self.high += 1;
        }
        let high = self.high;
        self.expected.retain(|(to, _)| *to > high);
    }

    fn open_through(&mut self, to: u64, since_ms: i64, out: &mut Vec<Observation>) {
        let before = self.missing.clone();
        for seq in self.high + 1..=to {
            if !self.voided.contains(&seq) {
                let opening = self.openings;
                self.missing.insert(seq, Missing { opening, since_ms, state: GapState::Suspect });
            }
        }
        self.openings += 1;
        self.high = to;
        let opened = self.gaps().into_iter().filter(|gap| !before.contains_key(&gap.from.0));
        out.extend(opened.map(|gap| Observation::GapOpened { from: gap.from, to: gap.to }));
    }

    fn observe(&mut self, seen: &Seen) -> Vec<Observation> {
        let (mut out, seq) = (Vec::new(), seen.seq.0);
        let went_back = seen.offset.0 <= self.offset_high;
        self.offset_high = self.offset_high.max(seen.offset.0);
        if let Some(last) = self.last.filter(|last| seq > *last) {
            return vec![Observation::BeyondEnd { last: Seq(last) }];
        }
        if self.start.is_none() {
            (self.start, self.high) = (Some(seq), seq - 1);
            if seq > 1 {
                out.push(Observation::UnverifiedBefore(Seq(seq)));
            }
        }
        let was = self.read.get(&seq).map(Fingerprint::of);
        let is = Fingerprint::of(seen);
        if seen.crc != seen.data_crc {
            out.push(Observation::Corrupted);
            if seq > self.high {
                self.open_through(seq, seen.at_ms, &mut out);
            }
        } else if Some(seq) < self.start {
            out.push(Observation::BeforeStart);
        } else if let Some(was) = was.filter(|was| !was.agrees(&is)) {
            out.push(Observation::Fork { was, is });
        } else {
            self.read.insert(seq, *seen);
            self.read_count += u64::from(seq > self.high || self.missing.contains_key(&seq));
            if seq == self.high + 1 {
                self.high = seq;
                out.push(Observation::Advanced);
            } else if seq > self.high {
                self.open_through(seq - 1, seen.at_ms, &mut out);
                self.high = seq;
            } else if self.missing.remove(&seq).is_some() {
                let by = if seen.flags.replay { FilledBy::Repaired } else { FilledBy::Late };
                out.push(Observation::Filled { by });
                if !seen.flags.replay && !went_back {
                    out.push(Observation::Reordered { after: Seq(self.high) });
                }
            } else if went_back {
                out.push(Observation::Reread);
            } else {
                out.push(Observation::Duplicate { compared: was.is_some() });
            }
        }
        self.settle();
        out
    }

    fn voided(&mut self, seq: u64) -> Vec<Observation> {
        if seq < self.start.unwrap_or(1) {
            return Vec::new();
        }
        self.voided.insert(seq);
        let filled = self.missing.remove(&seq).is_some();
        self.settle();
        if filled { vec![Observation::Filled { by: FilledBy::Voided }] } else { Vec::new() }
    }

    fn expected_through(&mut self, seq: u64, at_ms: i64) {
        let known = self.expected.last().map_or(self.high, |(to, _)| *to);
        if self.start.is_some() && seq > known {
            if self.expected.len() == 16 {
                self.expected[15].0 = seq;
            } else {
                self.expected.push((seq, at_ms));
            }
        }
    }

    fn confirm(&mut self, now_ms: i64, grace_ms: u64) -> Vec<ConfirmedGap> {
        let over = |since_ms: i64| now_ms - since_ms >= grace_ms as i64;
        for (to, since_ms) in self.expected.clone() {
            if !over(since_ms) {
                break;
            }
            if to > self.high {
                self.open_through(to, since_ms, &mut Vec::new());
            }
            self.settle();
        }
        let ripe = self.gaps().into_iter().filter(|gap| gap.state == GapState::Suspect && over(gap.since_ms));
        let ripe: Vec<OpenGap> = ripe.collect();
        for gap in &ripe {
            for seq in gap.from.0..=gap.to.0 {
                self.missing.get_mut(&seq).unwrap().state = GapState::Confirmed;
            }
        }
        let confirmed = |gap: OpenGap| {
            let OpenGap { from, to, since_ms, precision, .. } = gap;
            ConfirmedGap { from, to, since_ms, precision }
        };
        ripe.into_iter().map(confirmed).collect()
    }

    /// Runs of missing numbers that were noticed together.
    fn gaps(&self) -> Vec<OpenGap> {
        let mut gaps: Vec<(u32, OpenGap)> = Vec::new();
        for (seq, missing) in &self.missing {
            match gaps.last_mut() {
                Some((opening, gap)) if gap.to.0 + 1 == *seq && *opening == missing.opening => {
                    gap.to = Seq(*seq)
                }
                _ => gaps.push((
                    missing.opening,
                    OpenGap {
                        from: Seq(*seq),
                        to: Seq(*seq),
                        since_ms: missing.since_ms,
                        state: missing.state,
                        precision: Precision::Exact,
                    },
                )),
            }
        }
        gaps.into_iter().map(|(_, gap)| gap).collect()
    }

    fn watermark(&self) -> Option<u64> {
        let start = self.start?;
        let present = |seq: &u64| self.read.contains_key(seq) || self.voided.contains(seq);
        (start..).take_while(present).last()
    }

    fn tail(&self) -> Option<OpenGap> {
        let (to, _) = self.expected.last()?;
        let voided_ahead = self.voided.range(self.high + 1..).next().is_some();
        Some(OpenGap {
            from: Seq(self.high + 1),
            to: Seq(*to),
            since_ms: self.expected[0].1,
            state: GapState::Suspect,
            precision: if voided_ahead { Precision::Coarse } else { Precision::Exact },
        })
    }
}

/// The detector, the model, and what both are fed from.
struct Pair {
    lane: LaneDetector,
    limits: Limits,
    model: Model,
    now_ms: i64,
    next_offset: i64,
}

impl Pair {
    fn new(start: StartPolicy, limits: Limits) -> Self {
        let (lane, model) = (LaneDetector::new(start, limits), Model::new(start));
        Self { lane, limits, model, now_ms: 0, next_offset: 0 }
    }

    fn seq(&self, ahead: i64) -> u64 {
        // A reader that starts mid-lane first meets number 20.
        let from = if self.model.start.is_some() { self.model.high } else { 20 };
        from.saturating_add_signed(ahead).max(1)
    }

    /// Takes a step; returns what detector and model say of it.
    fn take(&mut self, step: &Step) -> (Vec<Observation>, Vec<Observation>) {
        let mut out = Vec::new();
        match *step {
            Step::Read { ahead, other_id, no_id, corrupted, replay, back } => {
                let seen = self.seen(ahead, other_id, no_id, corrupted, replay, back);
                self.lane.observe(&seen, &mut out);
                return (out, self.model.observe(&seen));
            }
            Step::Void { ahead } => {
                let seq = self.seq(ahead);
                self.lane.voided(Seq(seq), &mut out);
                return (out, self.model.voided(seq));
            }
            Step::Excuse { ahead, more } => {
                let from = self.seq(ahead);
                self.lane.excuse(Seq(from), Seq(from + more));
                (from..=from + more).for_each(|seq| drop(self.model.voided(seq)));
            }
            Step::Expect { ahead } => {
                let seq = self.seq(ahead);
                self.lane.expected_through(Seq(seq), self.now_ms);
                self.model.expected_through(seq, self.now_ms);
            }
            Step::Close { ahead } => {
                let seq = self.seq(ahead);
                self.lane.close(Seq(seq), self.now_ms);
                self.model.expected_through(seq, self.now_ms);
                self.model.last = Some(seq);
            }
            Step::Confirm { grace_ms } => {
                let confirmed = self.lane.confirm(self.now_ms, grace_ms);
                let expected = self.model.confirm(self.now_ms, grace_ms);
                if self.limits == Limits::default() {
                    assert_eq!(confirmed, expected);
                }
            }
            Step::Pass { ms } => self.now_ms += ms,
            Step::Restart => {
                let read = LaneDetector::decode(&self.lane.encode(), self.limits).unwrap();
                assert_eq!(read, self.lane);
            }
        }
        (Vec::new(), Vec::new())
    }

    fn seen(
        &mut self,
        ahead: i64,
        other_id: bool,
        no_id: bool,
        corrupted: bool,
        replay: bool,
        back: i64,
    ) -> Seen {
        let seq = self.seq(ahead);
        let crc = PayloadCrc(seq as u32);
        self.next_offset += 1;
        Seen {
            seq: Seq(seq),
            id: (!no_id).then_some([if other_id { 9 } else { 1 }; 16]),
            crc,
            data_crc: if corrupted { PayloadCrc(!crc.0) } else { crc },
            offset: Offset((self.next_offset - back).max(0)),
            flags: Flags { replay, redrive: false },
            at_ms: self.now_ms,
        }
    }
}

/// Numbers 20 and 21 are void when a reader that starts mid-lane meets 21 first, damaged.
#[test]
fn a_number_that_was_voided_ahead_of_where_a_reader_starts_is_not_missed() {
    let mut pair = Pair::new(StartPolicy::MidLane, Limits::default());
    let read =
        |corrupted| Step::Read { ahead: 1, other_id: false, no_id: false, corrupted, replay: false, back: 0 };
    let steps = [Step::Void { ahead: 1 }, Step::Void { ahead: 0 }, read(true), read(false)];
    for step in steps.iter().chain([&Step::Pass { ms: 13 }, &Step::Confirm { grace_ms: 0 }]) {
        let (said, expected) = pair.take(step);
        assert_eq!(said, expected, "at {step:?}");
    }
    assert_eq!(pair.lane.open_gaps().count(), 0);
    assert_eq!(pair.lane.watermark(), Some(Seq(22)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn it_says_what_a_list_of_numbers_says(mid_lane: bool, steps in proptest::collection::vec(step(), 1..150)) {
        let start = if mid_lane { StartPolicy::MidLane } else { StartPolicy::FromFirst };
        let mut pair = Pair::new(start, Limits::default());
        for step in &steps {
            let (said, expected) = pair.take(step);
            prop_assert_eq!(said, expected, "at {:?}", step);
            let gaps: Vec<OpenGap> = pair.lane.open_gaps().collect();
            let expected: Vec<OpenGap> = pair.model.gaps().into_iter().chain(pair.model.tail()).collect();
            prop_assert_eq!(gaps, expected);
            prop_assert_eq!(pair.lane.watermark().map(|seq| seq.0), pair.model.watermark());
            prop_assert_eq!(pair.lane.verified_from().map(|seq| seq.0), pair.model.start);
            prop_assert_eq!(pair.lane.read_count(), pair.model.read_count, "at {:?}", step);
        }
    }

    #[test]
    fn under_tight_limits_it_claims_less_and_says_so(
        gaps_max in 1usize..4, memory in 0usize..5,
        steps in proptest::collection::vec(step().prop_filter("an open epoch", |step| {
            !matches!(step, Step::Close { .. })
        }), 1..150),
    ) {
        let limits = Limits { gaps_max, memory, ..Limits::default() };
        let mut pair = Pair::new(StartPolicy::FromFirst, limits);
        let mut said_coarse = false;
        for step in &steps {
            let (said, _) = pair.take(step);
            said_coarse |= said.iter().any(|said| {
                matches!(said, Observation::Coarsened { .. } | Observation::VoidForgotten { .. })
            });
            said_coarse |= matches!(step, Step::Confirm { .. } | Step::Excuse { .. });
            let gaps: Vec<OpenGap> = pair.lane.open_gaps().collect();
            prop_assert!(gaps.len() <= gaps_max + 1, "the tail is one more");
            prop_assert!(gaps.windows(2).all(|pair| pair[0].to < pair[1].from));
            // A fork that is no longer recognised counts as read, as a plain reader would take it.
            let is_missing = |seq: &u64| pair.model.missing.contains_key(seq);
            for seq in pair.model.missing.keys() {
                prop_assert!(gaps.iter().any(|gap| gap.from.0 <= *seq && *seq <= gap.to.0), "{} is forgotten", seq);
            }
            for gap in gaps.iter().filter(|gap| gap.precision == Precision::Exact && gap.to <= Seq(pair.model.high)) {
                prop_assert!((gap.from.0..=gap.to.0).all(|seq| is_missing(&seq)), "{:?} is not exact", gap);
            }
            prop_assert!(said_coarse || gaps.iter().all(|gap| gap.precision == Precision::Exact)
                || pair.model.tail().is_some());
            prop_assert!(pair.lane.watermark().map(|seq| seq.0) <= pair.model.watermark());
        }
        // A repair that sends whatever is said to be missing ends every gap.
        pair.lane.confirm(i64::MAX, 0);
        for round in 0.. {
            prop_assert!(round < 3, "repairs do not come to an end");
            let gaps: Vec<OpenGap> = pair.lane.open_gaps().collect();
            if gaps.is_empty() {
                break;
            }
            for seq in gaps.iter().flat_map(|gap| gap.from.0..=gap.to.0) {
                let ahead = seq as i64 - pair.model.high as i64;
                pair.take(&Step::Read { ahead, other_id: false, no_id: true, corrupted: false, replay: true, back: 0 });
            }
        }
        prop_assert_eq!(pair.lane.watermark(), pair.lane.highest());
    }

    #[test]
    fn damaged_state_is_refused(
        steps in proptest::collection::vec(step(), 1..60), at: prop::sample::Index, flip in 1u8..=255, more: Vec<u8>,
    ) {
        let mut pair = Pair::new(StartPolicy::MidLane, Limits::default());
        steps.iter().for_each(|step| drop(pair.take(step)));
        let state = pair.lane.encode();
        let read = LaneDetector::decode(&state, Limits::default());
        prop_assert_eq!(read.as_ref(), Ok(&pair.lane));
        let at = at.index(state.len());
        let mut flipped = state.clone();
        flipped[at] ^= flip;
        prop_assert!(LaneDetector::decode(&flipped, Limits::default()).is_err());
        prop_assert!(LaneDetector::decode(&state[..at], Limits::default()).is_err());
        if !more.is_empty() {
            prop_assert!(LaneDetector::decode(&[state, more].concat(), Limits::default()).is_err());
        }
    }

    /// Bytes with a right checksum, as a faulty writer would leave them.
    #[test]
    fn no_state_makes_it_panic(body: Vec<u8>, small in proptest::collection::vec(0u8..4, 0..40), seqs: Vec<u64>) {
        for body in [body, small] {
            let mut bytes = [b"HGAP\x02L", &body[..]].concat();
            prop_assert!(LaneDetector::decode(&bytes, Limits::default()).is_err());
            bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
            let Ok(mut lane) = LaneDetector::decode(&bytes, Limits::default()) else { continue };
            prop_assert_eq!(LaneDetector::decode(&lane.encode(), Limits::default()), Ok(lane.clone()));
            use_any_way(&mut lane, &seqs);
        }
    }

    #[test]
    fn no_numbers_make_it_panic(seqs in proptest::collection::vec(
        prop_oneof![any::<u64>(), Just(u64::MAX), Just(0), 0u64..9, (u64::MAX - 9)..=u64::MAX], 0..40,
    ), mid_lane: bool) {
        let start = if mid_lane { StartPolicy::MidLane } else { StartPolicy::FromFirst };
        use_any_way(&mut LaneDetector::new(start, Limits::default()), &seqs);
    }
}

fn use_any_way(lane: &mut LaneDetector, seqs: &[u64]) {
    let mut out = Vec::new();
    for (i, seq) in seqs.iter().enumerate() {
        match i % 5 {
            0 | 1 => {
                let (offset, flags) = (Offset(i as i64), Flags::default());
                let (crc, data_crc) = (PayloadCrc(0), PayloadCrc((i % 3 == 1).into()));
                lane.observe(
                    &Seen { seq: Seq(*seq), id: None, crc, data_crc, offset, flags, at_ms: i64::MIN },
                    &mut out,
                );
            }
            2 => lane.voided(Seq(*seq), &mut out),
            3 => lane.expected_through(Seq(*seq), i64::MAX),
            _ => drop(lane.confirm(i64::MAX, u64::MAX)),
        }
        assert!(lane.open_gaps().all(|gap| gap.from <= gap.to));
        assert_eq!(LaneDetector::decode(&lane.encode(), Limits::default()).as_ref(), Ok(&*lane));
    }
}
