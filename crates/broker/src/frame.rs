//! One answer on its way to the socket: parts that need not lie together in memory.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::IoSlice;

/// Bytes in parts; reading it takes them away.
#[derive(Debug, Clone, Default)]
pub struct Frame(VecDeque<Bytes>);

impl Frame {
    /// Appends what goes out next.
    pub fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.0.push_back(part);
        }
    }
}

impl From<Bytes> for Frame {
    fn from(whole: Bytes) -> Self {
        let mut frame = Self::default();
        frame.push(whole);
        frame
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |part| part)
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some(part) = self.0.front_mut().filter(|_| bytes > 0) {
            let taken = bytes.min(part.len());
            part.advance(taken);
            bytes -= taken;
            if part.is_empty() {
                self.0.pop_front();
            }
        }
        assert_eq!(bytes, 0, "no more is taken than there was");
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.0).map(|(slice, part)| *slice = IoSlice::new(part));
        filled.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn parts_are_taken_in_order_wherever_a_write_stops(
            parts in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..5), 0..6),
            steps in proptest::collection::vec(1_usize..7, 0..40),
        ) {
            let mut frame = Frame::default();
            parts.iter().for_each(|part| frame.push(Bytes::from(part.clone())));
            let whole = parts.concat();
            let mut taken = Vec::new();
            for step in steps {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = frame.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                proptest::prop_assert!(whole[taken.len()..].starts_with(&seen));
                let step = step.min(frame.remaining());
                taken.extend_from_slice(&whole[taken.len()..taken.len() + step]);
                frame.advance(step);
                proptest::prop_assert_eq!(frame.remaining(), whole.len() - taken.len());
                proptest::prop_assert_eq!(frame.has_remaining(), !frame.chunk().is_empty());
            }
        }
    }
}
