//! The relay's decisions: which rows are numbered, sent, waited for and settled, and when. Pure.
//!
//! [`Machine::step`] takes what happened and says what to do next; one driver
//! executes it. Nothing here knows SQL, Kafka or a clock.
//!
//! A **topic** is asked about, waits while it is not there (its rows are held,
//! unnumbered), has an epoch begun, is open, and may stop ([`TopicPhase`]). A
//! **lane** sends and settles on its own ([`LanePhase`]): whatever befalls it,
//! its numbered rows keep their place in the manifests, are not kept in memory,
//! and are read again from there when it heals. The **main producer**
//! ([`MainPhase`]) carries all lanes that are well; a lane that was refused is
//! tried by another producer, one record at a time.
//!
//! | crash | what the next owner's machine does |
//! |---|---|
//! | before a manifest's commit | it never heard of it; the rows are numbered again |
//! | after it, before or while sending | the lane is [`Unread`](LanePhase::Unread): its tail tells what arrived, the rest is sent |
//! | acknowledged, not settled | found in the tail, settled |

mod deciding;
mod error_codes;
mod event;
pub mod fates;
mod lane;
mod machine;
mod memory;
mod sending;
mod tag;
mod taking;
mod topic;
mod trouble;
pub mod verdict;

pub use event::{
    Ack, Action, BeganTopic, ClaimKind, Committed, Event, Failed, NewPart, Order, OrderKind, PartRef, Polled,
    Rejection, Seen, SendRange, Stopped, TailQuestion, TailRead, TopicSeen,
};
pub use lane::Part;
pub use machine::{Machine, StandingLane, StandingTopic};
pub use tag::{LANES_MAX, Tag};
pub use trouble::{Place, Trouble};

use std::time::Duration;

/// Monotonic time since a beginning of the driver's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Now(pub Duration);

impl Now {
    /// So much later.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// How long ago `earlier` was; zero when it is yet to come.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A topic's place in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicIx(pub u32);

/// A lane's place in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneIx(pub u32);

/// A batch's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchNo(pub i64);

/// Which producer a record goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// The one that carries all lanes that are well.
    Main,
    /// The one that tries lanes in trouble, one record at a time.
    Probe,
}

/// What a lane is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanePhase {
    /// What the log holds of it is not known: nothing is sent before its tail is read.
    Unread {
        /// Whether the question is out.
        asked: bool,
    },
    /// This main producer has had no acknowledgement from it: one record goes alone (P12).
    Cold,
    /// Its records go out as they come.
    Flowing,
    /// Records are out and nothing came back for a while: nothing more is handed over.
    Silent,
    /// It was refused; the next try is due at a time.
    Refused {
        /// When.
        retry_at: Now,
    },
    /// One record at a time goes through the probe producer.
    Probing,
    /// Its epoch is over.
    Closed,
}

/// What a topic is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicPhase {
    /// It has no open epoch, and Kafka is asked about it.
    Asked {
        /// Whether the question is out.
        out: bool,
    },
    /// Kafka does not show it: its rows are held, unnumbered, until it is asked again.
    Missing {
        /// When.
        retry_at: Now,
    },
    /// An epoch begins: the log is asked which were used.
    Beginning {
        /// Whether the question is out.
        out: bool,
    },
    /// The log has answered; the epoch is to be opened in the database.
    Opening,
    /// Its epoch is open in the database, and not yet compared with Kafka.
    Pinned,
    /// Its rows are numbered and sent.
    Open,
    /// Its partition count changed: a new epoch begins once all is settled.
    Ending,
    /// The log holds what this database never gave (X12): what is found is settled, the rest gets new numbers.
    Forked,
    /// Deleted or recreated: it waits for an order.
    Stopped,
}

/// What the main producer is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MainPhase {
    /// There is none; one may be opened from then on.
    Closed {
        /// When.
        retry_at: Now,
    },
    /// At work.
    Open,
    /// It failed or no longer fits: its last reports are waited for until then.
    Retiring {
        /// When.
        until: Now,
    },
}

/// Sizes, times and limits of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the outbox stays ours without a renewal.
    pub lease: Duration,
    /// Newly numbered batches in memory; as many again, at least one, may be read again for lanes that catch up.
    pub batches_max: usize,
    /// Records one lane may have handed over and not acknowledged.
    pub lane_rows_out_max: u32,
    /// How long a lane with records out may hear nothing.
    pub silence: Duration,
    /// How long a batch waits for a topic that is asked about before its rows are held.
    pub patience: Duration,
    /// The first wait before something is tried again; it doubles.
    pub retry_min: Duration,
    /// The longest wait before something is tried again.
    pub retry_max: Duration,
    /// How often Kafka's identity is looked at.
    pub pins_every: Duration,
    /// How long a topic with an open epoch may be missing before it counts as deleted.
    pub missing_grace: Duration,
    /// After which time the held rows of a missing topic are set aside; `None`: never.
    pub missing_topic_after: Option<Duration>,
    /// How long what is delivered waits for its batch's other lanes before it is settled alone.
    pub settle_after: Duration,
    /// How long a producer that ends may still report.
    pub reports_wait: Duration,
    /// How long a stop waits for acknowledgements.
    pub drain_timeout: Duration,
}

impl Limits {
    /// The wait before try number `attempt`, counted from 0.
    #[must_use]
    pub fn backoff(&self, attempt: u32) -> Duration {
        self.retry_min.saturating_mul(1 << attempt.min(16)).min(self.retry_max)
    }
}
