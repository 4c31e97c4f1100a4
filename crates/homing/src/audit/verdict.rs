//! What happened to missing seqs, with the codes of the loss catalogue.

use homing_core::Seq;
use serde::{Deserialize, Serialize};

/// Why seqs are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Acknowledged, and the log ends below: it was cut, or never written.
    Truncated,
    /// Acknowledged, and another record stands in its place: the log was cut and written on.
    Overwritten,
    /// Acknowledged, and the log begins above: retention or deleted records, before it was audited.
    Expired,
    /// Acknowledged, and its place in the log is empty: compaction took it.
    Compacted,
    /// It is there, with a key or payload that is not the one that was sent.
    Corrupted,
    /// It is there: the auditor's reader passed it by, and reads it again.
    Unread,
    /// Its topic was deleted, or deleted and created anew.
    TopicGone,
    /// It was acknowledged by another cluster than the one that is read.
    OtherCluster,
    /// Its batch is pruned: nothing is known of it any more.
    Pruned,
    /// This outbox never gave that number: the database was restored, or another relay numbers the stream.
    NeverGiven,
    /// Kafka did not answer while it was looked for.
    Undetermined,
}

impl Cause {
    /// The codes of the loss catalogue that lead to this.
    #[must_use]
    pub fn codes(self) -> &'static [&'static str] {
        match self {
            Self::Truncated => &["B10", "B11", "B04", "B05", "B07", "B08", "B15"],
            Self::Overwritten => &["B11", "B10", "B04", "B05", "B08", "N02"],
            Self::Expired => &["B17", "A05", "B18"],
            Self::Compacted => &["B20"],
            Self::Corrupted => &["P14", "N07", "B13"],
            Self::Unread => &["C16", "C22"],
            Self::TopicGone => &["A03", "A04"],
            Self::OtherCluster => &["N02", "A11"],
            Self::Pruned => &["X10"],
            Self::NeverGiven => &["X12", "X07"],
            Self::Undetermined => &[],
        }
    }

    /// Whether the outbox may still have the rows to send them again.
    #[must_use]
    pub fn is_repairable(self) -> bool {
        !matches!(
            self,
            Self::Pruned | Self::NeverGiven | Self::Unread | Self::Undetermined | Self::OtherCluster
        )
    }

    /// What it means and what to do about it, in one sentence each.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Truncated => {
                "acknowledged records are gone from the end of the log; check flush, replication and disks"
            }
            Self::Overwritten => {
                "acknowledged records were replaced by others; check unclean elections and which cluster answers"
            }
            Self::Expired => {
                "records were deleted before they were audited; lengthen retention, and ask who deletes records"
            }
            Self::Compacted => "the topic is compacted; set cleanup.policy=delete",
            Self::Corrupted => "a record was changed on its way or on disk; update clients, check disks",
            Self::Unread => "the record is there; it is read again",
            Self::TopicGone => {
                "the topic was deleted, or created anew; protect it, and see `homing topic reopen`"
            }
            Self::OtherCluster => "this is not the cluster they were sent to; check kafka.bootstrap",
            Self::Pruned => "its row is pruned, it cannot be sent again; restore it from a backup",
            Self::NeverGiven => "the database was restored or copied; begin a new stream or a new epoch",
            Self::Undetermined => "Kafka did not answer; it is asked again",
        }
    }
}

/// What happened to some seqs of a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The first seq.
    #[serde(with = "seq")]
    pub from: Seq,
    /// The last seq.
    #[serde(with = "seq")]
    pub to: Seq,
    /// Why they are missing.
    pub cause: Cause,
    /// Whether the topic is compacted: sent again, an old value would stand over a newer one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compacted: bool,
    /// What was seen, in words.
    pub evidence: String,
}

impl Verdict {
    /// Whether the seqs may be sent again, if the outbox has their rows.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        self.cause.is_repairable() && !self.compacted
    }
}

/// Seqs as plain numbers.
mod seq {
    use homing_core::Seq;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(seq: &Seq, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(seq.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Seq, D::Error> {
        u64::deserialize(from).map(Seq)
    }
}

/// Puts verdicts of one cause that touch into one; the first one's evidence stands.
pub(super) fn merged(verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let mut all: Vec<Verdict> = Vec::new();
    for verdict in verdicts {
        match all.last_mut() {
            Some(last) if last.cause == verdict.cause && last.to.next() == verdict.from => {
                last.to = verdict.to
            }
            _ => all.push(verdict),
        }
    }
    all
}
