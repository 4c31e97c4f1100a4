//! A set of offsets, kept as sorted, disjoint ranges.

use crate::ids::Offset;
use std::ops::Range;

/// A set of offsets; cheap when they lie in few runs.
///
/// ```
/// use homing_core::{Offset, OffsetSet};
/// let mut set = OffsetSet::new();
/// set.insert(Offset(5));
/// set.insert(Offset(7));
/// set.insert(Offset(6));
/// assert_eq!(set.ranges().collect::<Vec<_>>(), [Offset(5)..Offset(8)]);
/// assert!(set.contains(Offset(7)) && !set.contains(Offset(8)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct OffsetSet {
    /// (first, end): sorted, none empty, none touching the next.
    runs: Vec<(i64, i64)>,
}

impl OffsetSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one offset.
    ///
    /// # Panics
    /// When the offset is `i64::MAX`, which no Kafka record has.
    pub fn insert(&mut self, offset: Offset) {
        assert!(offset.0 < i64::MAX, "no record has the offset i64::MAX");
        self.insert_range(offset..offset.next());
    }

    /// Adds all offsets from `range.start` up to and without `range.end`; nothing when it is empty.
    pub fn insert_range(&mut self, range: Range<Offset>) {
        let (start, end) = (range.start.0, range.end.0);
        if start >= end {
            return;
        }
        match self.runs.last_mut() {
            None => return self.runs.push((start, end)),
            Some(last) if last.1 < start => return self.runs.push((start, end)),
            Some(last) if last.0 <= start => return last.1 = last.1.max(end),
            Some(_) => {}
        }
        // The runs that overlap or touch the new one become one with it.
        let first = self.runs.partition_point(|run| run.1 < start);
        let after = self.runs.partition_point(|run| run.0 <= end);
        let merged = self.runs[first..after]
            .iter()
            .fold((start, end), |merged, run| (merged.0.min(run.0), merged.1.max(run.1)));
        self.runs.splice(first..after, [merged]);
    }

    /// Says whether the offset is in the set.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        let at = self.runs.partition_point(|run| run.1 <= offset.0);
        self.runs.get(at).is_some_and(|run| run.0 <= offset.0)
    }

    /// The runs of offsets, lowest first, with a hole between any two.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = Range<Offset>> + ExactSizeIterator + '_ {
        self.runs.iter().map(|run| Offset(run.0)..Offset(run.1))
    }

    /// How many runs there are.
    #[must_use]
    pub fn range_count(&self) -> usize {
        self.runs.len()
    }

    /// How many offsets are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| run.1.abs_diff(run.0)).sum()
    }

    /// Says whether no offset is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The lowest offset.
    #[must_use]
    pub fn first(&self) -> Option<Offset> {
        self.runs.first().map(|run| Offset(run.0))
    }

    /// The highest offset.
    #[must_use]
    pub fn last(&self) -> Option<Offset> {
        self.runs.last().map(|run| Offset(run.1 - 1))
    }

    /// Says whether every offset of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.runs.iter().all(|run| {
            let at = other.runs.partition_point(|theirs| theirs.1 <= run.0);
            other.runs.get(at).is_some_and(|theirs| theirs.0 <= run.0 && run.1 <= theirs.1)
        })
    }
}

impl FromIterator<Offset> for OffsetSet {
    fn from_iter<I: IntoIterator<Item = Offset>>(offsets: I) -> Self {
        let mut set = Self::new();
        offsets.into_iter().for_each(|offset| set.insert(offset));
        set
    }
}

impl FromIterator<Range<Offset>> for OffsetSet {
    fn from_iter<I: IntoIterator<Item = Range<Offset>>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert_range(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_set_holds(
            ranges in proptest::collection::vec((0i64..120, 0i64..9), 0..40),
            others in proptest::collection::vec((0i64..120, 0i64..9), 0..40),
        ) {
            let set: OffsetSet = ranges.iter().map(|(at, len)| Offset(*at)..Offset(at + len)).collect();
            let model: BTreeSet<i64> = ranges.iter().flat_map(|(at, len)| *at..at + len).collect();
            for offset in -1..140 {
                prop_assert_eq!(set.contains(Offset(offset)), model.contains(&offset));
            }
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert_eq!(set.first().map(|o| o.0), model.first().copied());
            prop_assert_eq!(set.last().map(|o| o.0), model.last().copied());
            let runs: Vec<_> = set.ranges().collect();
            prop_assert_eq!(runs.len(), set.range_count());
            prop_assert!(runs.iter().all(|run| run.start < run.end));
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            let again: OffsetSet = model.iter().map(|offset| Offset(*offset)).collect();
            prop_assert_eq!(&again, &set);
            let other: OffsetSet = others.iter().map(|(at, len)| Offset(*at)..Offset(at + len)).collect();
            let other_model: BTreeSet<i64> = others.iter().flat_map(|(at, len)| *at..at + len).collect();
            prop_assert_eq!(set.is_subset(&other), model.is_subset(&other_model));
        }
    }
}
