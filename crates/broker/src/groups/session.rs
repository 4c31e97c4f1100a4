//! Being in a group: SyncGroup, Heartbeat, LeaveGroup and the fence for commits.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::group::{Group, Phase};
use super::messages::{Answer, Effects, Identity, Sync, Synced, Ticket};

impl Group {
    /// Takes a SyncGroup; a follower's is parked until the leader's came.
    pub fn sync(&mut self, now: Instant, sync: Sync, ticket: Ticket) -> Effects {
        let mut effects = Effects::default();
        if let Err(error) = self.try_sync(now, sync, ticket, &mut effects) {
            effects.answers.push(Answer::Sync(ticket, Err(error)));
        }
        effects
    }

    fn try_sync(
        &mut self,
        now: Instant,
        sync: Sync,
        ticket: Ticket,
        effects: &mut Effects,
    ) -> Result<(), ResponseError> {
        self.check_identity(&sync.identity)?;
        if sync.generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        let differs = |given: &Option<String>, ours: &Option<String>| {
            given.is_some() && ours.is_some() && given != ours
        };
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        let id = sync.identity.member_id;
        match self.phase {
            Phase::Empty => Err(ResponseError::UnknownMemberId),
            Phase::PreparingRebalance { .. } => Err(ResponseError::RebalanceInProgress),
            Phase::CompletingRebalance => {
                self.mark_synced(&id);
                if let Some(member) = self.members.get_mut(&id)
                    && let Some(earlier) = member.awaiting_sync.replace(ticket)
                {
                    effects.answers.push(Answer::Sync(earlier, Err(ResponseError::RebalanceInProgress)));
                }
                if self.is_leader(&id) {
                    self.distribute(now, sync.assignments, effects);
                }
                Ok(())
            }
            Phase::Stable => {
                self.mark_synced(&id);
                let synced = self.synced(&id);
                effects.answers.push(Answer::Sync(ticket, Ok(synced)));
                if let Some(member) = self.members.get_mut(&id) {
                    member.heard(now);
                }
                Ok(())
            }
        }
    }

    fn mark_synced(&mut self, id: &str) {
        self.unsynced.remove(id);
        if self.unsynced.is_empty() {
            self.sync_deadline = None;
        }
    }

    /// The leader's assignment becomes the generation's; members it left out get nothing.
    fn distribute(&mut self, now: Instant, assignments: Vec<(String, Bytes)>, effects: &mut Effects) {
        let mut assignments: BTreeMap<String, Bytes> = assignments.into_iter().collect();
        let mut tickets = Vec::new();
        for member in self.members.values_mut() {
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
            if let Some(ticket) = member.awaiting_sync.take() {
                member.heard(now);
                tickets.push((ticket, member.id.clone()));
            }
        }
        self.phase = Phase::Stable;
        effects.store = true;
        for (ticket, id) in tickets {
            effects.answers.push(Answer::Sync(ticket, Ok(self.synced(&id))));
        }
    }

    fn synced(&self, id: &str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: self.protocol.clone().unwrap_or_default(),
            assignment: self.members.get(id).map(|m| m.assignment.clone()).unwrap_or_default(),
        }
    }

    /// Takes a Heartbeat.
    ///
    /// # Errors
    /// `REBALANCE_IN_PROGRESS` tells the member to join again; the others that it is out.
    pub fn heartbeat(
        &mut self,
        now: Instant,
        identity: &Identity,
        generation: i32,
    ) -> Result<(), ResponseError> {
        self.check_identity(identity)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        if let Some(member) = self.members.get_mut(&identity.member_id) {
            member.heard(now);
        }
        match self.phase {
            Phase::Empty => Err(ResponseError::UnknownMemberId),
            Phase::PreparingRebalance { .. } => Err(ResponseError::RebalanceInProgress),
            Phase::CompletingRebalance | Phase::Stable => Ok(()),
        }
    }

    /// Takes one member out at its own (or an administrator's) wish.
    pub fn leave(&mut self, now: Instant, identity: &Identity) -> (Result<(), ResponseError>, Effects) {
        let mut effects = Effects::default();
        if identity.instance_id.is_none() && self.pending.remove(&identity.member_id).is_some() {
            self.complete_join_if_all_are_here(now, &mut effects);
            return (Ok(()), effects);
        }
        let id = match &identity.instance_id {
            // An administrator knows a static member by its instance alone.
            Some(instance) if identity.member_id.is_empty() => match self.instances.get(instance) {
                Some(id) => id.clone(),
                None => return (Err(ResponseError::UnknownMemberId), effects),
            },
            _ => match self.check_identity(identity) {
                Ok(()) => identity.member_id.clone(),
                Err(error) => return (Err(error), effects),
            },
        };
        self.remove_member(now, &id, &mut effects);
        (Ok(()), effects)
    }

    /// The fence: only a member of the current generation commits, or anyone while the group
    /// is empty and the commit names no generation.
    ///
    /// # Errors
    /// Kafka's own, as in `ClassicGroup.validateOffsetCommit`.
    pub fn check_commit(
        &mut self,
        now: Instant,
        identity: &Identity,
        generation: i32,
    ) -> Result<(), ResponseError> {
        let outside = generation < 0 && self.phase == Phase::Empty;
        if outside {
            return Ok(());
        }
        let names_nobody = generation < 0 && identity.member_id.is_empty() && identity.instance_id.is_none();
        if names_nobody {
            return Err(ResponseError::UnknownMemberId);
        }
        self.check_identity(identity)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        match self.phase {
            Phase::Empty => Err(ResponseError::UnknownMemberId),
            Phase::CompletingRebalance => Err(ResponseError::RebalanceInProgress),
            // Still fine while members are asked to come back: it is their last chance.
            Phase::PreparingRebalance { .. } | Phase::Stable => {
                if let Some(member) = self.members.get_mut(&identity.member_id) {
                    member.heard(now);
                }
                Ok(())
            }
        }
    }
}
