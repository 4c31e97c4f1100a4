//! What became of a lane's seqs: runs of records at offsets and of voids, in seq order.

use crate::{Offset, Seq};
use std::collections::VecDeque;

/// Consecutive seqs with one kind of fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first seq.
    pub first: Seq,
    /// How many.
    pub rows: u64,
    /// Where the first is; the others follow. `None`: all are void.
    pub at: Option<Offset>,
}

impl Run {
    /// The seq after its last.
    #[must_use]
    pub fn end(&self) -> Seq {
        Seq(self.first.0 + self.rows)
    }

    fn clipped(&self, from: Seq, to: Seq) -> Option<Self> {
        let (first, end) = (self.first.max(from), self.end().min(to));
        (first < end).then(|| Self {
            first,
            rows: end.0 - first.0,
            at: self.at.map(|at| Offset(at.0 + (first.0 - self.first.0).cast_signed())),
        })
    }
}

/// The decided seqs of one lane; the first word on a seq counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fates {
    runs: VecDeque<Run>,
}

impl Fates {
    /// Takes in a run; returns how many of its seqs were undecided.
    pub fn add(&mut self, run: Run) -> u64 {
        let mut from = run.first;
        let mut fresh = 0;
        while from < run.end() {
            let undecided = self.first_undecided(from);
            let Some(part) = run.clipped(undecided, self.decided_after(undecided)) else { break };
            fresh += part.rows;
            from = part.end();
            self.insert(part);
        }
        fresh
    }

    fn insert(&mut self, run: Run) {
        let at = self.runs.partition_point(|known| known.first < run.first);
        if at > 0 {
            let last = &mut self.runs[at - 1];
            let follows = match (last.at, run.at) {
                (Some(last_at), Some(at)) => at.0 == last_at.0 + last.rows.cast_signed(),
                (None, None) => true,
                _ => false,
            };
            if last.end() == run.first && follows {
                last.rows += run.rows;
                return;
            }
        }
        self.runs.insert(at, run);
    }

    /// The first seq from `from` on that is undecided.
    #[must_use]
    pub fn first_undecided(&self, from: Seq) -> Seq {
        let mut seq = from;
        let at = self.runs.partition_point(|run| run.end() <= from);
        for run in self.runs.range(at..) {
            if run.first > seq {
                break;
            }
            seq = run.end();
        }
        seq
    }

    /// The first decided seq after `from`, or a seq beyond all.
    #[must_use]
    pub fn decided_after(&self, from: Seq) -> Seq {
        let at = self.runs.partition_point(|run| run.first <= from);
        self.runs.get(at).map_or(Seq(u64::MAX), |run| run.first)
    }

    /// Whether all from `from` to before `to` is decided.
    #[must_use]
    pub fn cover(&self, from: Seq, to: Seq) -> bool {
        self.first_undecided(from) >= to
    }

    /// The runs within `from` to before `to`.
    pub fn within(&self, from: Seq, to: Seq) -> impl Iterator<Item = Run> + '_ {
        let at = self.runs.partition_point(|run| run.end() <= from);
        self.runs
            .range(at..)
            .take_while(move |run| run.first < to)
            .filter_map(move |run| run.clipped(from, to))
    }

    /// Forgets all before `seq`.
    pub fn forget_before(&mut self, seq: Seq) {
        while let Some(first) = self.runs.front().copied() {
            if first.end() <= seq {
                self.runs.pop_front();
                continue;
            }
            if let Some(rest) = first.clipped(seq, Seq(u64::MAX)) {
                self.runs[0] = rest;
            }
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn runs_say_what_a_map_says(
            runs in proptest::collection::vec((1u64..60, 1u64..12, proptest::option::of(0i64..90)), 0..30),
            from in 1u64..70, rows in 0u64..20, forget in 0u64..40,
        ) {
            let mut fates = Fates::default();
            let mut map = BTreeMap::new();
            for (first, rows, at) in runs {
                let mut fresh = 0;
                for i in 0..rows {
                    map.entry(first + i).or_insert_with(|| { fresh += 1; at.map(|at| at + i as i64) });
                }
                prop_assert_eq!(fates.add(Run { first: Seq(first), rows, at: at.map(Offset) }), fresh);
            }
            fates.forget_before(Seq(forget));
            map.retain(|seq, _| *seq >= forget);
            let undecided = (from..).find(|seq| !map.contains_key(seq)).unwrap();
            prop_assert_eq!(fates.first_undecided(Seq(from)).0, undecided);
            prop_assert_eq!(fates.cover(Seq(from), Seq(from + rows)), (from..from + rows).all(|s| map.contains_key(&s)));
            let listed: Vec<_> = fates.within(Seq(from), Seq(from + rows))
                .flat_map(|run| (0..run.rows).map(move |i| (run.first.0 + i, run.at.map(|at| at.0 + i as i64))))
                .collect();
            let want: Vec<_> = map.range(from..from + rows).map(|(seq, at)| (*seq, *at)).collect();
            prop_assert_eq!(listed, want);
        }
    }
}
