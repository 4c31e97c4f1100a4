//! One topic: its phase, its lanes, whether its rows are held, and what it waits for.

use super::{LaneIx, Now, Order, TopicPhase, Trouble};
use crate::TopicName;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Topic {
    pub name: TopicName,
    pub phase: TopicPhase,
    pub lanes: Vec<LaneIx>,
    pub trouble: Option<Trouble>,
    /// Its rows are held, unnumbered, and read apart from the live ones.
    pub held: bool,
    /// Rows of it came in this session: its lanes' tails are looked at.
    pub wanted: bool,
    /// Questions about it in a row that did not help.
    pub attempt: u32,
    /// Since when Kafka says that it is not there.
    pub missing_since: Option<Now>,
    /// When its lanes' silence was asked about last.
    pub reason_asked: Option<Now>,
    /// Whether Kafka may not show the one it is pinned to: nothing of it is settled meanwhile.
    pub doubted: bool,
    pub orders: VecDeque<Order>,
}

impl Topic {
    pub fn new(name: TopicName, phase: TopicPhase) -> Self {
        Self {
            name,
            phase,
            lanes: Vec::new(),
            trouble: None,
            held: false,
            wanted: false,
            attempt: 0,
            missing_since: None,
            reason_asked: None,
            doubted: false,
            orders: VecDeque::new(),
        }
    }

    /// Whether its lanes may send.
    pub fn sends(&self) -> bool {
        matches!(self.phase, TopicPhase::Open | TopicPhase::Ending)
    }

    /// Whether what is delivered may be settled.
    pub fn settles(&self) -> bool {
        !self.doubted && matches!(self.phase, TopicPhase::Open | TopicPhase::Ending | TopicPhase::Forked)
    }

    /// Whether it has an epoch that Kafka's topic is compared with.
    pub fn is_pinned(&self) -> bool {
        !matches!(
            self.phase,
            TopicPhase::Asked { .. }
                | TopicPhase::Missing { .. }
                | TopicPhase::Beginning { .. }
                | TopicPhase::Opening
        )
    }
}
