//! What comes back with a delivery report: the record's lane and seq in 64 bits, for ever unambiguous.
//!
//! 24 bits name the lane, 39 the seq's lower end; the seq is the one nearest to
//! what the lane has under way, which is never 2^38 seqs wide. So a lane may
//! count as far as it likes.

use super::LaneIx;
use crate::Seq;

const SEQ_BITS: u32 = 39;
const SEQ_MASK: u64 = (1 << SEQ_BITS) - 1;
/// The most lanes one relay may have had in one session.
pub const LANES_MAX: usize = 1 << 24;

/// A record's tag; the highest bit is free for whoever sends something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

impl Tag {
    /// Of one record.
    #[must_use]
    pub fn new(lane: LaneIx, seq: Seq) -> Self {
        Self(u64::from(lane.0) << SEQ_BITS | (seq.0 & SEQ_MASK))
    }

    /// The lane.
    #[must_use]
    pub fn lane(self) -> LaneIx {
        LaneIx((self.0 >> SEQ_BITS) as u32 & (LANES_MAX as u32 - 1))
    }

    /// The seq, given one that is under way in the lane.
    #[must_use]
    pub fn seq(self, near: Seq) -> Seq {
        let ahead = self.0.wrapping_sub(near.0) & SEQ_MASK;
        if ahead > SEQ_MASK / 2 {
            Seq(near.0.wrapping_sub(SEQ_MASK + 1 - ahead))
        } else {
            Seq(near.0 + ahead)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_its_record_past_every_power_of_two() {
        for lane in [0, 1, 77, (1 << 24) - 1] {
            for at in [1u64, 1 << 31, 1 << 32, 1 << 38, 1 << 39, 1 << 40, (1 << 62) + 5] {
                for (near, seq) in
                    [(at, at), (at, at + 100_000), (at + 100_000, at), (at - 1, at), (at, at - 1)]
                {
                    let tag = Tag::new(LaneIx(lane), Seq(seq));
                    assert_eq!(tag.0 >> 63, 0);
                    assert_eq!((tag.lane(), tag.seq(Seq(near))), (LaneIx(lane), Seq(seq)), "near {near}");
                }
            }
        }
    }
}
