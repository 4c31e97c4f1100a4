//! What keeps a lane, a topic or the whole relay waiting, in words and since when.

use super::verdict::Verdict;
use super::{LaneIx, Now, TopicIx};

/// Why something waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The finding's code, if it is a sign of one.
    pub code: Option<&'static str>,
    /// In words, without the code.
    pub what: String,
    /// Since when.
    pub since: Now,
}

impl Trouble {
    /// Trouble that began now.
    #[must_use]
    pub fn new(code: Option<&'static str>, what: impl Into<String>, since: Now) -> Self {
        Self { code, what: what.into(), since }
    }

    pub(super) fn of(verdict: &Verdict, since: Now) -> Self {
        Self::new(verdict.finding, format!("{}: {}", verdict.name, verdict.reason), since)
    }

    /// Takes the place of what was there, since the time it was there.
    pub(super) fn replace(slot: &mut Option<Self>, mut new: Self) {
        if let Some(old) = slot {
            new.since = old.since;
            // A reason with a finding's code says more than one without.
            if old.code.is_some() && new.code.is_none() {
                return;
            }
        }
        *slot = Some(new);
    }
}

/// Whom a trouble holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A whole topic.
    Topic(TopicIx),
    /// One lane.
    Lane(LaneIx),
    /// Every lane: the main producer or the cluster.
    All,
}
