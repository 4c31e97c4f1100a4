//! The state of one group and the transitions between generations.
//!
//! The classic protocol of Apache Kafka (`ClassicGroup`, `GroupMetadataManager`), free of I/O:
//! time, member ids and tickets for parked requests are passed in, answers are handed back.
//!
//! ```text
//!            first join                  all joined, or time is up
//!   Empty ───────────────▶ PreparingRebalance ───────────────▶ CompletingRebalance
//!     ▲                      ▲   ▲        │ nobody left              │ leader syncs
//!     │                      │   │        ▼                          ▼
//!     └──────────────────────┼───┼─────(Empty)                    Stable
//!        last member gone    │   └─ join / leave / session over ─────┘
//!                            └───── the same, or no sync in time, while completing
//! ```
//! A group that does not exist is what Kafka calls `Dead`; here it is simply not in the map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::member::{Member, Protocol};
use super::messages::{Answer, Effects, Identity, JoinRefused, Joined, JoinedMember};
use super::options::GroupOptions;

/// Where a group stands between two generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Empty,
    PreparingRebalance {
        /// When those who did not join are left behind.
        deadline: Instant,
        /// Set while an empty group waits for further members before its first generation.
        initial: Option<InitialDelay>,
    },
    CompletingRebalance,
    Stable,
}

/// What is left of the waiting time before a group's first generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialDelay {
    pub remaining: Duration,
    pub member_added: bool,
}

/// One consumer group.
#[derive(Debug)]
pub struct Group {
    pub(super) options: Arc<GroupOptions>,
    pub(super) phase: Phase,
    pub(super) generation: i32,
    /// `consumer` for consumers; none for a group which only ever held offsets.
    pub(super) protocol_type: Option<String>,
    /// The assignor chosen for this generation.
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    /// Ids given out by `MEMBER_ID_REQUIRED`, until used or forgotten at the time noted.
    pub(super) pending: BTreeMap<String, Instant>,
    /// Static members: instance id to member id.
    pub(super) instances: BTreeMap<String, String>,
    /// Members which have not sent SyncGroup in this generation.
    pub(super) unsynced: BTreeSet<String>,
    /// When the unsynced are removed.
    pub(super) sync_deadline: Option<Instant>,
}

impl Group {
    /// An empty group without a past.
    pub fn new(options: Arc<GroupOptions>) -> Self {
        Self {
            options,
            phase: Phase::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            pending: BTreeMap::new(),
            instances: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            sync_deadline: None,
        }
    }

    /// Nobody in it and nobody about to join.
    pub fn is_empty(&self) -> bool {
        self.phase == Phase::Empty && self.pending.is_empty()
    }

    /// Somebody is in it; one who was only given an id is not.
    pub fn has_members(&self) -> bool {
        self.phase != Phase::Empty
    }

    /// Nobody ever was in it.
    pub fn is_untouched(&self) -> bool {
        self.is_empty() && self.generation == 0
    }

    /// The state's name on the wire.
    pub fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Empty => "Empty",
            Phase::PreparingRebalance { .. } => "PreparingRebalance",
            Phase::CompletingRebalance => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }

    /// When [`Self::tick`] has something to do next, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::PreparingRebalance { deadline, .. } => Some(deadline),
            _ => None,
        };
        let members = self.members.values().filter_map(Member::deadline).min();
        let pending = self.pending.values().min().copied();
        [phase, members, pending, self.sync_deadline].into_iter().flatten().min()
    }

    /// Does what is due at `now`: forgets silent members and ends overdue rebalances.
    pub fn tick(&mut self, now: Instant) -> Effects {
        let mut effects = Effects::default();
        self.pending.retain(|_, until| *until > now);
        let dead: Vec<String> =
            self.members.values().filter(|m| m.is_dead_at(now)).map(|m| m.id.clone()).collect();
        for id in dead {
            self.remove_member(now, &id, &mut effects);
        }
        if self.sync_deadline.is_some_and(|at| now >= at) {
            self.remove_unsynced(now, &mut effects);
        }
        if let Phase::PreparingRebalance { deadline, initial } = self.phase
            && now >= deadline
        {
            match initial {
                Some(delay) if delay.member_added && !delay.remaining.is_zero() => {
                    self.extend_initial_delay(now, delay);
                }
                _ => self.complete_join(now, &mut effects),
            }
        }
        self.complete_join_if_all_are_here(now, &mut effects);
        effects
    }

    /// Whether a member with these protocols and those present could agree on one; as in Kafka, a
    /// member that joins again must agree with what it said before, too.
    pub(super) fn could_agree(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if protocol_type.is_empty() || protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|p| self.members.values().all(|m| m.supports(&p.name)))
    }

    /// The protocol all support which most members prefer; the leader's order breaks ties.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id))?;
        let candidates: Vec<&str> = leader
            .protocols
            .iter()
            .map(|p| p.name.as_str())
            .filter(|name| self.members.values().all(|m| m.supports(name)))
            .collect();
        let votes = |name: &str| self.members.values().filter(|m| m.vote(&candidates) == Some(name)).count();
        let mut best: Option<(&str, usize)> = None;
        for candidate in &candidates {
            let count = votes(candidate);
            if best.is_none_or(|(_, most)| count > most) {
                best = Some((candidate, count));
            }
        }
        best.map(|(name, _)| name.to_owned())
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub(super) fn add_member(&mut self, member: Member) {
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        if let Some(instance) = &member.instance_id {
            self.instances.insert(instance.clone(), member.id.clone());
        }
        self.pending.remove(&member.id);
        if let Phase::PreparingRebalance { initial: Some(delay), .. } = &mut self.phase {
            delay.member_added = true;
        }
        self.members.insert(member.id.clone(), member);
    }

    /// Takes a member out and lets the rest rebalance.
    pub(super) fn remove_member(&mut self, now: Instant, id: &str, effects: &mut Effects) {
        self.forget_member(id, effects);
        match self.phase {
            Phase::Empty => {}
            Phase::PreparingRebalance { .. } => self.complete_join_if_all_are_here(now, effects),
            Phase::CompletingRebalance | Phase::Stable => self.prepare_rebalance(now, effects),
        }
    }

    fn forget_member(&mut self, id: &str, effects: &mut Effects) {
        let Some(member) = self.members.remove(id) else { return };
        refuse_parked(&member, ResponseError::UnknownMemberId, effects);
        self.unsynced.remove(id);
        if let Some(instance) = &member.instance_id
            && self.instances.get(instance).is_some_and(|current| current == id)
        {
            self.instances.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Starts a rebalance unless one is being prepared already.
    pub(super) fn prepare_rebalance(&mut self, now: Instant, effects: &mut Effects) {
        let was_empty = match self.phase {
            Phase::PreparingRebalance { .. } => {
                return self.complete_join_if_all_are_here(now, effects);
            }
            Phase::Empty => true,
            Phase::CompletingRebalance | Phase::Stable => false,
        };
        for member in self.members.values_mut() {
            if let Some(ticket) = member.awaiting_sync.take() {
                member.heard(now);
                effects.answers.push(Answer::Sync(ticket, Err(ResponseError::RebalanceInProgress)));
            }
            if self.phase == Phase::CompletingRebalance {
                member.assignment = Bytes::new();
            }
        }
        self.unsynced.clear();
        self.sync_deadline = None;
        let timeout = self.rebalance_timeout();
        let delay = self.options.initial_rebalance_delay.min(timeout);
        if was_empty {
            let initial = InitialDelay { remaining: timeout.saturating_sub(delay), member_added: false };
            self.phase = Phase::PreparingRebalance { deadline: now + delay, initial: Some(initial) };
            if delay.is_zero() {
                self.complete_join(now, effects);
            }
        } else {
            self.phase = Phase::PreparingRebalance { deadline: now + timeout, initial: None };
            self.complete_join_if_all_are_here(now, effects);
        }
    }

    fn extend_initial_delay(&mut self, now: Instant, delay: InitialDelay) {
        let next = self.options.initial_rebalance_delay.min(delay.remaining);
        self.phase = Phase::PreparingRebalance {
            deadline: now + next,
            initial: Some(InitialDelay {
                remaining: delay.remaining.saturating_sub(next),
                member_added: false,
            }),
        };
    }

    pub(super) fn complete_join_if_all_are_here(&mut self, now: Instant, effects: &mut Effects) {
        let Phase::PreparingRebalance { initial: None, .. } = self.phase else { return };
        if self.pending.is_empty() && self.members.values().all(|m| m.awaiting_join.is_some()) {
            self.complete_join(now, effects);
        }
    }

    /// Ends PreparingRebalance: the dynamic members which did not join are out, the rest is a
    /// new generation.
    fn complete_join(&mut self, now: Instant, effects: &mut Effects) {
        let absent: Vec<String> = self
            .members
            .values()
            .filter(|m| m.awaiting_join.is_none() && m.instance_id.is_none())
            .map(|m| m.id.clone())
            .collect();
        for id in absent {
            self.forget_member(&id, effects);
        }
        let leader_joined = self
            .leader
            .as_ref()
            .is_some_and(|id| self.members.get(id).is_some_and(|m| m.awaiting_join.is_some()));
        if !leader_joined {
            let joined = self.members.values().find(|m| m.awaiting_join.is_some()).map(|m| m.id.clone());
            if joined.is_none() && !self.members.is_empty() {
                // Only static members, none of them back yet: wait on until their sessions end.
                let deadline = now + self.rebalance_timeout();
                self.phase = Phase::PreparingRebalance { deadline, initial: None };
                return;
            }
            self.leader = joined;
        }
        self.generation += 1;
        if self.members.is_empty() {
            self.phase = Phase::Empty;
            self.protocol = None;
            self.leader = None;
            effects.store = true;
            return;
        }
        self.protocol = self.select_protocol();
        self.phase = Phase::CompletingRebalance;
        self.unsynced = self.members.keys().cloned().collect();
        self.sync_deadline = Some(now + self.rebalance_timeout());
        self.answer_joins(now, effects);
    }

    fn answer_joins(&mut self, now: Instant, effects: &mut Effects) {
        let tickets: Vec<_> = self
            .members
            .values_mut()
            .filter_map(|member| {
                member.heard(now);
                let ticket = member.awaiting_join.take()?;
                member.is_new = false;
                Some((ticket, member.id.clone()))
            })
            .collect();
        for (ticket, id) in tickets {
            effects.answers.push(Answer::Join(ticket, Ok(self.joined(&id))));
        }
    }

    /// What a member of the current generation learns from its join.
    pub(super) fn joined(&self, member_id: &str) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = if self.is_leader(member_id) {
            self.members.values().map(|m| joined_member(m, &protocol)).collect()
        } else {
            Vec::new()
        };
        Joined {
            member_id: member_id.to_owned(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol,
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            members,
        }
    }

    fn remove_unsynced(&mut self, now: Instant, effects: &mut Effects) {
        self.sync_deadline = None;
        let unsynced = std::mem::take(&mut self.unsynced);
        for id in &unsynced {
            self.forget_member(id, effects);
        }
        if !unsynced.is_empty() {
            self.prepare_rebalance(now, effects);
        }
    }

    fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|m| m.rebalance_timeout).max().unwrap_or_default()
    }
}

fn joined_member(member: &Member, protocol: &str) -> JoinedMember {
    JoinedMember {
        identity: Identity { member_id: member.id.clone(), instance_id: member.instance_id.clone() },
        metadata: member.metadata_for(protocol),
    }
}

/// Answers whatever `member` has parked with `error`.
pub(super) fn refuse_parked(member: &Member, error: ResponseError, effects: &mut Effects) {
    if let Some(ticket) = member.awaiting_join {
        let member_id = member.id.clone();
        effects.answers.push(Answer::Join(ticket, Err(JoinRefused { error, member_id })));
    }
    if let Some(ticket) = member.awaiting_sync {
        effects.answers.push(Answer::Sync(ticket, Err(error)));
    }
}
