//! Where the records of one batch's lane are: their offsets in seq order, packed as runs.

use homing_core::Offset;

/// One record's fate in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// The broker acknowledged it at this offset.
    At(Offset),
    /// It was rejected for good; its seq is voided.
    Void,
}

/// The fates of consecutive seqs, as runs: `n` records from offset `o` on, or `n` voids.
///
/// Packed as varint pairs `(n, 0)` for voids and `(n, o + 1)` for records. One
/// run with an offset is what a lane without foreign records looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffsetRuns {
    runs: Vec<(u32, Option<Offset>)>,
}

impl FromIterator<Delivered> for OffsetRuns {
    fn from_iter<I: IntoIterator<Item = Delivered>>(fates: I) -> Self {
        let mut all = Self::default();
        for fate in fates {
            all.push(1, fate);
        }
        all
    }
}

impl OffsetRuns {
    /// Adds `n` records: voids, or records at offsets that rise by one from that of `fate`.
    pub fn push(&mut self, n: u32, fate: Delivered) {
        if n == 0 {
            return;
        }
        match (fate, self.runs.last_mut()) {
            (Delivered::Void, Some((before, None))) => *before += n,
            (Delivered::At(offset), Some((before, Some(first))))
                if offset.0 == first.0 + i64::from(*before) =>
            {
                *before += n;
            }
            (Delivered::Void, _) => self.runs.push((n, None)),
            (Delivered::At(offset), _) => self.runs.push((n, Some(offset))),
        }
    }

    /// The places of the voids, counted from the lane's first seq of the batch, rising.
    pub fn voids(&self) -> impl Iterator<Item = u32> {
        let mut before = 0;
        self.runs.iter().flat_map(move |(n, first)| {
            let start = before;
            before += n;
            if first.is_none() { start..before } else { 0..0 }
        })
    }

    /// All fates in seq order.
    pub fn iter(&self) -> impl Iterator<Item = Delivered> {
        self.runs.iter().flat_map(|(n, first)| {
            (0..*n).map(move |i| match first {
                None => Delivered::Void,
                Some(first) => Delivered::At(Offset(first.0 + i64::from(i))),
            })
        })
    }

    /// The fate of the record at `index`, counted from the lane's first seq of the batch.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Delivered> {
        let mut before = 0;
        for (n, first) in &self.runs {
            if index < before + n {
                return Some(match first {
                    None => Delivered::Void,
                    Some(first) => Delivered::At(Offset(first.0 + i64::from(index - before))),
                });
            }
            before += n;
        }
        None
    }

    /// How many records it speaks of.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.runs.iter().map(|(n, _)| n).sum()
    }

    /// Whether it speaks of none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The first record's offset, if any record is there.
    #[must_use]
    pub fn first(&self) -> Option<Offset> {
        self.runs.iter().find_map(|(_, first)| *first)
    }

    /// The offset after the highest one, if any record is there.
    #[must_use]
    pub fn end(&self) -> Option<Offset> {
        self.runs.iter().filter_map(|(n, first)| first.map(|first| Offset(first.0 + i64::from(*n)))).max()
    }

    /// The packed form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.runs.len() * 6);
        for (n, first) in &self.runs {
            push_varint(&mut out, u64::from(*n));
            push_varint(&mut out, first.map_or(0, |first| first.0 as u64 + 1));
        }
        out
    }

    /// Reads the packed form; `None` when the bytes are none.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut runs = Vec::new();
        while !bytes.is_empty() {
            let n = u32::try_from(take_varint(&mut bytes)?).ok()?;
            let first = take_varint(&mut bytes)?;
            let first = if first == 0 { None } else { Some(Offset(i64::try_from(first - 1).ok()?)) };
            runs.push((n, first));
        }
        Some(Self { runs })
    }
}

fn push_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_say_what_the_list_said(fates in proptest::collection::vec(
            prop_oneof![
                3 => (0i64..40).prop_map(|o| Delivered::At(Offset(o))),
                1 => Just(Delivered::Void),
            ], 0..60)) {
            let runs: OffsetRuns = fates.iter().copied().collect();
            let runs = OffsetRuns::decode(&runs.encode()).unwrap();
            prop_assert_eq!(runs.len() as usize, fates.len());
            for (i, fate) in fates.iter().enumerate() {
                prop_assert_eq!(runs.get(i as u32), Some(*fate));
            }
            prop_assert_eq!(runs.get(fates.len() as u32), None);
            prop_assert_eq!(runs.iter().collect::<Vec<_>>(), fates.clone());
            let voids: Vec<u32> = (0..).zip(&fates).filter(|(_, f)| **f == Delivered::Void).map(|(i, _)| i).collect();
            prop_assert_eq!(runs.voids().collect::<Vec<_>>(), voids);
            let end = fates.iter().filter_map(|f| match f { Delivered::At(o) => Some(o.next()), Delivered::Void => None }).max();
            prop_assert_eq!(runs.end(), end);
        }
    }

    #[test]
    fn a_lane_without_foreign_records_is_one_short_run() {
        let runs: OffsetRuns = (0..20_000).map(|i| Delivered::At(Offset(5_000_000 + i))).collect();
        assert!(runs.encode().len() <= 8);
        assert_eq!(runs.first(), Some(Offset(5_000_000)));
        assert!(OffsetRuns::decode(&[0x80]).is_none());
    }
}
