//! What a relay has done and what keeps it waiting, readable from any thread.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

/// A relay's counters since its start, in rows unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelaySummary {
    /// Numbered in a manifest.
    pub claimed: u64,
    /// Handed to the producer, resends included.
    pub sent: u64,
    /// Acknowledged by the broker.
    pub acked: u64,
    /// Settled, voided ones included.
    pub settled: u64,
    /// Handed to the producer after a takeover or a failed producer.
    pub resent: u64,
    /// Found in Kafka by a tail read, so not sent again.
    pub skipped_by_tail_read: u64,
    /// Set aside before numbering.
    pub rejected: u64,
    /// Set aside after numbering.
    pub voided: u64,
    /// Sent again for a repair.
    pub replayed: u64,
    /// Deleted after verification.
    pub pruned: u64,
    /// Batches settled.
    pub batches: u64,
    /// Times another relay took over.
    pub fenced: u64,
    /// Times a new producer had to go through the tail read.
    pub recoveries: u64,
}

/// Why a relay waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In words.
    pub what: String,
    /// Since when.
    pub since: SystemTime,
}

impl Trouble {
    /// The finding's code, when there is one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        super::code_of(&self.what)
    }
}

/// What keeps one lane, one topic or everything waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneTrouble {
    /// The topic, or `topic[partition]`; `None`: every lane.
    pub place: Option<String>,
    /// The finding's code, if it is a sign of one.
    pub code: Option<&'static str>,
    /// In words.
    pub what: String,
    /// Since when.
    pub since: SystemTime,
    /// Whom it holds back; all others go on.
    pub holds_back: &'static str,
}

/// A live view of a relay; share it behind an `Arc`.
#[derive(Default)]
pub struct RelayStatus {
    counters: [AtomicU64; 13],
    /// Guards only the text.
    trouble: Mutex<Option<Trouble>>,
    /// Guards only the list.
    troubles: Mutex<Vec<LaneTrouble>>,
    /// Guards only the instant: when the oldest unsettled batch was claimed.
    oldest: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    Claimed,
    Sent,
    Acked,
    Settled,
    Resent,
    Skipped,
    Rejected,
    Voided,
    Replayed,
    Pruned,
    Batches,
    Fenced,
    Recoveries,
}

impl RelayStatus {
    pub(super) fn add(&self, count: Count, n: u64) {
        self.counters[count as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn summary(&self) -> RelaySummary {
        let n = |count: Count| self.counters[count as usize].load(Ordering::Relaxed);
        RelaySummary {
            claimed: n(Count::Claimed),
            sent: n(Count::Sent),
            acked: n(Count::Acked),
            settled: n(Count::Settled),
            resent: n(Count::Resent),
            skipped_by_tail_read: n(Count::Skipped),
            rejected: n(Count::Rejected),
            voided: n(Count::Voided),
            replayed: n(Count::Replayed),
            pruned: n(Count::Pruned),
            batches: n(Count::Batches),
            fenced: n(Count::Fenced),
            recoveries: n(Count::Recoveries),
        }
    }

    /// Why the relay waits; `None` when it does not.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything that waits, the widest first; what is not in it goes on.
    #[must_use]
    pub fn troubles(&self) -> Vec<LaneTrouble> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_troubles(&self, troubles: Vec<LaneTrouble>) {
        *self.troubles.lock().unwrap_or_else(PoisonError::into_inner) = troubles;
    }

    /// How long the oldest unsettled batch has been under way; `None` when none is.
    #[must_use]
    pub fn oldest_unsettled(&self) -> Option<std::time::Duration> {
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner).map(|claimed| claimed.elapsed())
    }

    pub(super) fn set_trouble(&self, what: Option<&str>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = what.map(|what| Trouble {
            what: what.to_owned(),
            since: trouble.as_ref().map_or_else(SystemTime::now, |trouble| trouble.since),
        });
    }

    pub(super) fn set_oldest(&self, claimed: Option<Instant>) {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = claimed;
    }
}

impl fmt::Debug for RelayStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayStatus")
            .field("summary", &self.summary())
            .field("trouble", &self.trouble())
            .finish()
    }
}
