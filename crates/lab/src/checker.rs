//! Compares committed orders, records on the wire and effects, and names every difference.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// An order as the application committed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The order's number; rises in commit order.
    pub order_no: i64,
    /// The message's key.
    pub key: Vec<u8>,
    /// The message's payload.
    pub payload: Vec<u8>,
}

/// A record as it stands on the wire, with what its stamp says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireRecord {
    /// The partition it was read from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its key.
    pub key: Vec<u8>,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The `homing-stamp` header as text; empty when there is none.
    pub stamp: String,
    /// The `homing-id` header as text; empty when there is none.
    pub id: String,
}

/// What a consumer's handler wrote, in the order in which it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The order's number.
    pub order_no: i64,
    /// The record's key.
    pub key: Vec<u8>,
    /// The record's payload.
    pub payload: Vec<u8>,
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Committed, and not on the wire.
    NotSent {
        /// The order.
        order_no: i64,
    },
    /// Committed, and without an effect.
    Lost {
        /// The order.
        order_no: i64,
    },
    /// Took effect more than once.
    Twice {
        /// The order.
        order_no: i64,
        /// How often it took effect.
        times: usize,
    },
    /// Took effect, and was never committed or with other content.
    Altered {
        /// The order.
        order_no: i64,
    },
    /// Two orders of one key took effect in the wrong order.
    EffectsOutOfOrder {
        /// The order that came too late.
        order_no: i64,
        /// The later one of the same key that came before it.
        after: i64,
    },
    /// One seq of a lane carries two different messages.
    SeqReused {
        /// Lane and seq as text.
        stamp: String,
    },
    /// One message has two seqs.
    Renumbered {
        /// The message's id.
        id: String,
    },
    /// A lane's seqs have a hole.
    Hole {
        /// `stream/epoch/partition`.
        lane: String,
        /// The first missing seq.
        seq: u64,
    },
    /// A lane's seqs first appear in the wrong order.
    WireOutOfOrder {
        /// `stream/epoch/partition`.
        lane: String,
        /// The seq that came late.
        seq: u64,
    },
    /// A stamp that does not decode, names another partition, or whose checksum is wrong.
    BadStamp {
        /// Where the record stands.
        at: String,
    },
}

/// What [`check`] counted and found.
#[derive(Debug, Default)]
pub struct Report {
    /// Orders committed.
    pub committed: usize,
    /// Records with a stamp on the wire.
    pub sent: usize,
    /// Records whose lane and seq stood on the wire before.
    pub duplicates: usize,
    /// Effects found.
    pub effects: usize,
    /// Everything that breaks a promise.
    pub violations: Vec<Violation>,
}

impl Report {
    /// How many orders were lost.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.violations.iter().filter(|v| matches!(v, Violation::Lost { .. })).count()
    }

    /// How many orders took effect more than once.
    #[must_use]
    pub fn twice(&self) -> usize {
        self.violations.iter().filter(|v| matches!(v, Violation::Twice { .. })).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "committed {} sent {} duplicates {} effects {} violations {}",
            self.committed,
            self.sent,
            self.duplicates,
            self.effects,
            self.violations.len()
        )?;
        for violation in self.violations.iter().take(20) {
            write!(f, "\n  {violation:?}")?;
        }
        Ok(())
    }
}

/// Compares the three histories; an empty list of violations means every promise held.
///
/// `wire` is in offset order within each partition, `effects` in the order of
/// their application, `committed` in commit order.
#[must_use]
pub fn check(committed: &[Committed], wire: &[WireRecord], effects: &[Effect]) -> Report {
    let mut report = Report { committed: committed.len(), effects: effects.len(), ..Report::default() };
    check_wire(committed, wire, &mut report);
    check_effects(committed, effects, &mut report);
    report
}

/// Only the effects' half of [`check`], for code that sends without stamps.
#[must_use]
pub fn check_unstamped(committed: &[Committed], effects: &[Effect]) -> Report {
    let mut report = Report { committed: committed.len(), effects: effects.len(), ..Report::default() };
    check_effects(committed, effects, &mut report);
    report
}

#[derive(Default)]
struct LaneHistory<'a> {
    by_seq: BTreeMap<u64, (&'a str, &'a [u8])>,
    highest_seq: u64,
}

fn check_wire(committed: &[Committed], wire: &[WireRecord], report: &mut Report) {
    let mut lanes: BTreeMap<String, LaneHistory> = BTreeMap::new();
    let mut seq_of_id: HashMap<&str, (String, u64)> = HashMap::new();
    let mut payloads: HashMap<&[u8], ()> = HashMap::new();
    for record in wire.iter().filter(|record| !record.stamp.is_empty()) {
        report.sent += 1;
        let Some((lane, seq)) = lane_and_seq(record) else {
            report
                .violations
                .push(Violation::BadStamp { at: format!("{}@{}", record.partition, record.offset) });
            continue;
        };
        payloads.insert(&record.payload, ());
        let history = lanes.entry(lane.clone()).or_default();
        match history.by_seq.get(&seq) {
            Some(first) if *first == (record.id.as_str(), record.payload.as_slice()) => {
                report.duplicates += 1
            }
            Some(_) => report.violations.push(Violation::SeqReused { stamp: record.stamp.clone() }),
            None => {
                if seq < history.highest_seq {
                    report.violations.push(Violation::WireOutOfOrder { lane: lane.clone(), seq });
                }
                history.by_seq.insert(seq, (&record.id, &record.payload));
                history.highest_seq = history.highest_seq.max(seq);
            }
        }
        let numbered = seq_of_id.entry(&record.id).or_insert_with(|| (lane.clone(), seq));
        if *numbered != (lane, seq) {
            report.violations.push(Violation::Renumbered { id: record.id.clone() });
        }
    }
    for (lane, history) in &lanes {
        let hole = (1..).zip(history.by_seq.keys()).find(|(expected, seq)| expected != *seq);
        if let Some((expected, _)) = hole {
            report.violations.push(Violation::Hole { lane: lane.clone(), seq: expected });
        }
    }
    let not_sent = committed.iter().filter(|order| !payloads.contains_key(order.payload.as_slice()));
    report.violations.extend(not_sent.map(|order| Violation::NotSent { order_no: order.order_no }));
}

/// Reads a stamp without the code under test: five fields between slashes, checksum recomputed.
fn lane_and_seq(record: &WireRecord) -> Option<(String, u64)> {
    let fields: Vec<&str> = record.stamp.split('/').collect();
    let [stream, epoch, partition, seq, crc] = fields.as_slice() else { return None };
    let expected = crc32c::crc32c_append(crc32c::crc32c(&record.key), &record.payload);
    let sound = partition.parse::<i32>().ok()? == record.partition
        && crc.len() == 8
        && u32::from_str_radix(crc, 16).ok()? == expected;
    sound.then_some((format!("{stream}/{epoch}/{partition}"), seq.parse().ok()?))
}

fn check_effects(committed: &[Committed], effects: &[Effect], report: &mut Report) {
    let mut times: HashMap<i64, usize> = HashMap::new();
    let content: HashMap<i64, &Committed> = committed.iter().map(|order| (order.order_no, order)).collect();
    let mut last_of_key: HashMap<&[u8], i64> = HashMap::new();
    for effect in effects {
        let count = times.entry(effect.order_no).or_default();
        *count += 1;
        let first = *count == 1;
        if content.get(&effect.order_no).is_none_or(|o| o.payload != effect.payload || o.key != effect.key) {
            report.violations.push(Violation::Altered { order_no: effect.order_no });
        }
        let last = last_of_key.entry(&effect.key).or_default();
        if first && effect.order_no < *last {
            report.violations.push(Violation::EffectsOutOfOrder { order_no: effect.order_no, after: *last });
        }
        *last = effect.order_no.max(*last);
    }
    for order in committed {
        match times.get(&order.order_no) {
            None => report.violations.push(Violation::Lost { order_no: order.order_no }),
            Some(1) => {}
            Some(&times) => report.violations.push(Violation::Twice { order_no: order.order_no, times }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(order_no: i64) -> Committed {
        Committed { order_no, key: b"k".to_vec(), payload: format!("order {order_no}").into_bytes() }
    }

    fn record(offset: i64, seq: u64, order_no: i64) -> WireRecord {
        let Committed { key, payload, .. } = order(order_no);
        let crc = crc32c::crc32c(&[key.as_slice(), payload.as_slice()].concat());
        let (stamp, id) = (format!("s/1/0/{seq}/{crc:08x}"), format!("id-{order_no}"));
        WireRecord { partition: 0, offset, key, payload, stamp, id }
    }

    fn effect(order_no: i64) -> Effect {
        let Committed { key, payload, .. } = order(order_no);
        Effect { order_no, key, payload }
    }

    fn violations(committed: &[i64], wire: &[(u64, i64)], effects: &[i64]) -> Vec<Violation> {
        let committed: Vec<_> = committed.iter().copied().map(order).collect();
        let wire: Vec<_> =
            (0..).zip(wire).map(|(offset, &(seq, order_no))| record(offset, seq, order_no)).collect();
        let effects: Vec<_> = effects.iter().copied().map(effect).collect();
        check(&committed, &wire, &effects).violations
    }

    #[test]
    fn a_sound_history_has_no_violation() {
        assert_eq!(violations(&[1, 2, 3], &[(1, 1), (2, 2), (1, 1), (2, 2), (3, 3)], &[1, 2, 3]), []);
    }

    #[test]
    fn every_broken_promise_is_named() {
        use Violation as V;
        assert_eq!(
            violations(&[1, 2], &[(1, 1)], &[1]),
            [V::NotSent { order_no: 2 }, V::Lost { order_no: 2 }]
        );
        assert_eq!(violations(&[1], &[(1, 1)], &[1, 1]), [V::Twice { order_no: 1, times: 2 }]);
        assert_eq!(violations(&[], &[], &[7]), [V::Altered { order_no: 7 }]);
        let out_of_order = V::EffectsOutOfOrder { order_no: 1, after: 2 };
        assert_eq!(violations(&[1, 2], &[(1, 1), (2, 2)], &[2, 1]), [out_of_order]);
        assert!(
            violations(&[1, 2], &[(1, 1), (1, 2)], &[1, 2])
                .contains(&V::SeqReused { stamp: record(1, 1, 2).stamp })
        );
        assert_eq!(violations(&[1], &[(1, 1), (2, 1)], &[1]), [V::Renumbered { id: "id-1".into() }]);
        assert_eq!(violations(&[1], &[(2, 1)], &[1]), [V::Hole { lane: "s/1/0".into(), seq: 1 }]);
        let late = V::WireOutOfOrder { lane: "s/1/0".into(), seq: 1 };
        assert_eq!(violations(&[1, 2], &[(2, 2), (1, 1)], &[1, 2]), [late]);
    }

    #[test]
    fn a_wrong_checksum_or_partition_is_a_bad_stamp() {
        let mut altered = record(0, 1, 1);
        altered.payload.push(b'!');
        let mut misplaced = record(0, 1, 1);
        misplaced.partition = 3;
        for bad in [altered, misplaced] {
            let at = format!("{}@0", bad.partition);
            assert!(check(&[], &[bad], &[]).violations.contains(&Violation::BadStamp { at }));
        }
    }
}
