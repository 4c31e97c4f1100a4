//! What a consumer is doing, in numbers cheap enough to keep always.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A running consumer's counters; shared, read at any time.
        #[derive(Debug, Default)]
        pub struct ConsumerStatus {
            $(pub(crate) $name: AtomicU64,)*
            /// Guards the last error's text; set rarely.
            last_error: Mutex<Option<String>>,
            /// Guards why intake is stopped; set rarely.
            intake_stopped: Mutex<Option<String>>,
        }

        /// A consumer's counters at one moment.
        #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
        pub struct ConsumerCounts {
            $($(#[$doc])* pub $name: u64,)*
            /// The last thing that went wrong, if anything did.
            pub last_error: Option<String>,
            /// Why no records are taken from Kafka at the moment, if so.
            pub intake_stopped: Option<String>,
        }

        impl ConsumerStatus {
            /// The counters now. Each is exact; together they are of almost one moment.
            #[must_use]
            pub fn counts(&self) -> ConsumerCounts {
                ConsumerCounts {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                    intake_stopped: self.intake_stopped.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                }
            }
        }
    };
}

counters! {
    /// Records taken from Kafka.
    received,
    /// Records whose handler said Ok, that were set aside for good, or that a restored map skipped.
    finished,
    /// Records not handled because the commit map says they are done.
    restored,
    /// Records that came twice within one assignment; dropped.
    repeated,
    /// Attempts that failed and were, or will be, tried again.
    retried,
    /// Handlers that panicked.
    panicked,
    /// Dead letters acknowledged by Kafka.
    dead_lettered,
    /// Of these, records that followed their parked key.
    parked,
    /// Of these, letters without their record's payload, for which their topic had no room.
    dead_letters_cut,
    /// Dead letters that could not be written at once.
    dead_letter_failures,
    /// Commits acknowledged.
    commits,
    /// Commits refused or unanswered.
    commit_failures,
    /// Records taken and not finished.
    in_flight,
    /// Of these, records that wait behind another of their lane or for another attempt.
    waiting,
    /// Bytes of key and payload of records taken and not finished.
    in_flight_bytes,
    /// Partitions held now.
    partitions,
    /// Partitions given to this member whose beginning is not known yet, so that they wait; others go on.
    partitions_pending,
    /// Topics to work through that are not there at the moment.
    topics_missing,
    /// Times a partition with unread records received nothing for long, and was read anew.
    stalled,
    /// Times reading anew did not help, and the client was opened anew.
    reopened,
    /// Records that the client had skipped and that were read after all.
    skips_caught,
    /// Partitions given up in good order.
    revoked,
    /// Partitions lost without being asked.
    lost,
    /// Commit maps that could not be used, so that records are handled again.
    maps_dropped,
    /// Completions that came too late, after their partition was given up.
    stale,
    /// Alarms that a partition is held up: by its oldest unfinished record, or because it has more
    /// than its share of what may wait.
    head_of_line,
    /// Gaps seen in a lane's numbering, each a suspicion until it is filled or confirmed.
    gaps,
    /// Messages that came more than once from Kafka.
    duplicates,
    /// Messages that came late into a gap.
    filled,
    /// Two different messages of one number.
    forks,
    /// Records of an older epoch than their lane's.
    zombies,
    /// Records without a usable stamp.
    foreign,
    /// Records whose key and payload are not those of their stamp, or that lie in another partition.
    corrupted,
}

impl ConsumerStatus {
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(counter: &AtomicU64, value: u64) {
        counter.store(value, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, error: String) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// Says why intake is stopped, or that it goes on; returns whether that is news.
    pub(crate) fn intake(&self, stopped: Option<String>) -> bool {
        let mut now = self.intake_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let news = now.is_some() != stopped.is_some();
        *now = stopped;
        news
    }
}

/// What a consumer did, once it has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ConsumerSummary {
    /// The final counters.
    pub counts: ConsumerCounts,
    /// Records whose handler had not returned when the drain deadline passed. They are not
    /// committed and will be handled again.
    pub abandoned: u64,
}
