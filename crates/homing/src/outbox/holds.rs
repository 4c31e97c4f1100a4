//! Topics that are held back, and what a person orders to be done with a topic.

use super::manifest::{LaneKey, RowId};
use homing_core::TopicName;

/// A topic whose rows from now on are not numbered: it is not there, hidden, deleted or closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The topic.
    pub topic: TopicName,
    /// The first of its rows that is held.
    pub from: RowId,
    /// The finding's code, as `X11`.
    pub code: &'static str,
    /// Why, for people.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
}

/// A topic that is held back, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The topic.
    pub topic: TopicName,
    /// Its held rows that are not numbered begin here at the earliest.
    pub from: RowId,
    /// The finding's code.
    pub code: String,
    /// Why, for people.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// How many of its rows are held and not numbered.
    pub rows: u64,
}

/// Up to where a commit deals with rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// New rows: all up to here are in the commit's manifest, rejected, or of held topics.
    Live(RowId),
    /// A held topic's rows: all up to here are in the commit's manifest or rejected.
    Held {
        /// The topic.
        topic: TopicName,
        /// The last row dealt with.
        through: RowId,
        /// No row of the topic is held any more: its rows are new rows again from here on.
        done: bool,
    },
}

/// What a person wants to be done with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicAction {
    /// Close its epoch; what is not settled goes to the dead letters.
    Close,
    /// Close its epoch and number again what is not settled.
    Reopen,
    /// Close its epoch and number all rows again that are still kept.
    ReopenKept,
    /// Set its held rows aside.
    Discard,
}

impl TopicAction {
    const ALL: [Self; 4] = [Self::Close, Self::Reopen, Self::ReopenKept, Self::Discard];

    /// The action as the table spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Reopen => "reopen",
            Self::ReopenKept => "reopen_kept",
            Self::Discard => "discard",
        }
    }

    /// Reads the table's word.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }
}

/// An order about a topic, for whichever relay owns the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOrder {
    /// Its number.
    pub id: i64,
    /// The topic.
    pub topic: TopicName,
    /// What is to be done.
    pub action: TopicAction,
    /// Who ordered it.
    pub by: String,
    /// Why.
    pub why: String,
    /// When, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// When it was done; `None` while it waits.
    pub done_at_ms: Option<i64>,
    /// What came of it.
    pub result: Option<String>,
}

/// What becomes of a closed epoch's rows that are not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// They go to the dead letters.
    Void,
    /// They become the first held rows of the topic and are numbered again in its next epoch.
    Replan {
        /// Also the rows that are settled and still kept (the topic was emptied or made anew).
        kept: bool,
    },
}

/// The end of a topic's open epoch, as ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseTopic<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// What becomes of its unsettled rows.
    pub how: Close,
    /// Who ordered it.
    pub by: &'a str,
    /// Why.
    pub why: &'a str,
    /// Under which finding's code the topic is held afterwards.
    pub code: &'static str,
    /// The time now, in milliseconds since 1970.
    pub now_ms: i64,
}

/// What one step of closing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Closed {
    /// Rows that went to the dead letters.
    pub voided: u64,
    /// Rows that will be numbered again.
    pub replanned: u64,
    /// Whether the epoch is closed; if not, the same call goes on where this one stopped.
    pub done: bool,
}

/// What closing a topic would lose or do again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOutlook {
    /// The topic.
    pub topic: TopicName,
    /// The lanes of its open epoch.
    pub lanes: Vec<LaneOutlook>,
    /// Rows that are held unnumbered.
    pub held: u64,
    /// New rows no relay has looked at.
    pub unclaimed: u64,
}

/// What closing its topic would mean for one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneOutlook {
    /// The lane.
    pub lane: LaneKey,
    /// Rows with a number that are not settled.
    pub unsettled: u64,
    /// Settled rows that were not read back and are still kept.
    pub unverified_kept: u64,
    /// Settled rows that were not read back and are pruned.
    pub unverified_pruned: u64,
    /// Settled rows that are still kept, read back or not.
    pub settled_kept: u64,
}
