//! Deleting what is no longer needed, what holds that back, and losses a person accepted.

use super::manifest::LaneKey;
use homing_core::Seq;
use std::time::Duration;

/// How long records about rows that are gone stay at least: closed repairs and gaps, redriven letters.
const RECORDS_KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most rows that go in one transaction, which keeps other writers out meanwhile.
const ROWS_MAX: u32 = 20_000;
/// The most bytes of rows that go in one transaction.
const BYTES_MAX: u64 = 32 << 20;

/// What may be deleted, and how much of it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneLimits {
    /// Parts that were settled before this may go once they are verified or accepted.
    pub settled_before_ms: i64,
    /// A batch that some other lane still holds is taken apart when its part was settled before
    /// this: it costs reading the batch's keys again.
    pub split_before_ms: i64,
    /// Records about rows that are gone go when they were closed before this.
    pub records_before_ms: i64,
    /// The most rows at once, though at least one batch.
    pub rows_max: u32,
    /// The most bytes of rows at once, though at least one batch.
    pub bytes_max: u64,
}

impl PruneLimits {
    /// The limits at `now_ms` when settled rows are kept for `keep`.
    #[must_use]
    pub fn new(now_ms: i64, keep: Duration) -> Self {
        let before =
            |age: Duration| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        Self {
            settled_before_ms: before(keep),
            split_before_ms: before(keep.saturating_mul(2)),
            records_before_ms: before(RECORDS_KEEP.max(keep)),
            rows_max: ROWS_MAX,
            bytes_max: BYTES_MAX,
        }
    }
}

/// What one step of pruning did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Rows that were deleted.
    pub rows: u64,
    /// There may be more; the same call again goes on.
    pub more: bool,
}

/// A lane whose settled rows stay because nobody has read their records back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneBlocker {
    /// The lane.
    pub lane: LaneKey,
    /// The first seq that is neither verified nor accepted.
    pub from: Seq,
    /// The last seq that is settled.
    pub through: Seq,
    /// When the first of them was settled, in milliseconds since 1970.
    pub oldest_settled_ms: i64,
    /// How many settled rows of the lane wait.
    pub rows: u64,
    /// What it waits for, for people.
    pub why: String,
}

/// A person's word that seqs which can never be verified are let go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    /// The lane.
    pub lane: LaneKey,
    /// The first seq.
    pub from: Seq,
    /// The last seq.
    pub to: Seq,
    /// Who accepted it.
    pub by: String,
    /// Why.
    pub why: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}
