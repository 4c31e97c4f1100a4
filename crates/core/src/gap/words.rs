//! What a detector saw, in words for people.

use super::memory::Fingerprint;
use super::{FilledBy, Observation};
use std::fmt;

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "checksum {}", self.crc)?;
        match self.id_hash {
            Some(hash) => write!(f, ", id hash {hash:016x}"),
            None => f.write_str(", no id"),
        }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Advanced => f.write_str("has the next number"),
            Self::GapOpened { from, to } if from == to => {
                write!(f, "follows a gap: number {from} is missing")
            }
            Self::GapOpened { from, to } => write!(f, "follows a gap: numbers {from} to {to} are missing"),
            Self::Duplicate { .. } => f.write_str("was sent twice"),
            Self::Reread => f.write_str("was read before"),
            Self::Filled { by: FilledBy::Repaired } => f.write_str("was missing, and was sent again"),
            Self::Filled { by: FilledBy::Late } => f.write_str("was missing, and came late"),
            Self::Filled { by: FilledBy::Voided } => {
                f.write_str("was missing, and no message bears its number")
            }
            Self::Reordered { after } => write!(f, "stands behind the higher number {after}"),
            Self::Fork { was, is } => {
                write!(f, "bears the number of another message ({was}; this one: {is})")
            }
            Self::UnverifiedBefore(seq) => {
                write!(f, "is the first known: nothing is known of numbers before {seq}")
            }
            Self::BeforeStart => f.write_str("has a number below the one reading began with"),
            Self::Corrupted => f.write_str("was changed on the way or on disk"),
            Self::Misplaced { numbered_for } => write!(f, "was numbered for partition {numbered_for}"),
            Self::EpochBegan(epoch) => write!(f, "began epoch {epoch}"),
            Self::Zombie { newest } => write!(f, "is of an epoch that ended; the newest is {newest}"),
            Self::BeyondEnd { last } => write!(f, "is of an epoch that was closed at number {last}"),
            Self::Coarsened { from, to } => {
                write!(f, "follows more gaps than are remembered: {from} to {to} count as one")
            }
            Self::VoidForgotten { from, to } => {
                write!(f, "follows more voided numbers than are remembered: {from} to {to} will seem missing")
            }
            Self::EpochForgotten(epoch) => {
                write!(f, "is of more epochs than are remembered: epoch {epoch} is no longer checked")
            }
            Self::StreamUntracked => f.write_str("is of more streams than are remembered and is not checked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Partition, PayloadCrc, Seq};

    #[test]
    fn people_read_words_and_no_names_of_types() {
        let print = |crc| Fingerprint { crc: PayloadCrc(crc), id_hash: Some(1) };
        for observation in [
            Observation::GapOpened { from: Seq(4), to: Seq(9) },
            Observation::Misplaced { numbered_for: Partition(3) },
            Observation::Fork { was: print(1), is: print(2) },
        ] {
            let words = observation.to_string();
            assert!(
                !words.contains(['{', '}']) && !words.contains("Crc") && !words.contains("Seq"),
                "{words}"
            );
        }
        let gap = Observation::GapOpened { from: Seq(4), to: Seq(4) }.to_string();
        assert_eq!(gap, "follows a gap: number 4 is missing");
    }
}
