//! Entering a group: JoinGroup for new, known, static and returning members.

use std::time::Instant;

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::group::{Group, Phase, refuse_parked};
use super::member::{Member, Protocol};
use super::messages::{Answer, Effects, Identity, Join, JoinRefused, Ticket};

impl Group {
    /// Takes a JoinGroup; it may be answered now, or by a later step.
    pub fn join(&mut self, now: Instant, join: Join, ticket: Ticket) -> Effects {
        let mut effects = Effects::default();
        if let Err(refused) = self.try_join(now, join, ticket, &mut effects) {
            effects.answers.push(Answer::Join(ticket, Err(refused)));
        }
        effects
    }

    fn try_join(
        &mut self,
        now: Instant,
        join: Join,
        ticket: Ticket,
        effects: &mut Effects,
    ) -> Result<(), JoinRefused> {
        let refuse =
            |error, join: &Join| Err(JoinRefused { error, member_id: join.identity.member_id.clone() });
        let session = join.session_timeout;
        if session < self.options.session_timeout_min || session > self.options.session_timeout_max {
            return refuse(ResponseError::InvalidSessionTimeout, &join);
        }
        if !self.could_agree(&join.protocol_type, &join.protocols) {
            return refuse(ResponseError::InconsistentGroupProtocol, &join);
        }
        if join.identity.member_id.is_empty() {
            self.join_unknown(now, join, ticket, effects)
        } else if self.pending.contains_key(&join.identity.member_id) {
            let id = join.identity.member_id.clone();
            self.admit(now, id, join, ticket, effects)
        } else {
            match self.check_identity(&join.identity) {
                Ok(()) => self.rejoin(now, join, ticket, effects),
                Err(error) => return refuse(error, &join),
            }
            Ok(())
        }
    }

    /// A member without an id.
    fn join_unknown(
        &mut self,
        now: Instant,
        join: Join,
        ticket: Ticket,
        effects: &mut Effects,
    ) -> Result<(), JoinRefused> {
        let id = join.fresh_member_id.clone();
        if let Some(instance) = join.identity.instance_id.clone() {
            if let Some(old_id) = self.instances.get(&instance).cloned() {
                self.replace_static(now, &old_id, join, ticket, effects);
                return Ok(());
            }
            return self.admit(now, id, join, ticket, effects);
        }
        if join.needs_known_id {
            if self.is_full() {
                return Err(too_many());
            }
            self.pending.insert(id.clone(), now + join.session_timeout);
            return Err(JoinRefused { error: ResponseError::MemberIdRequired, member_id: id });
        }
        self.admit(now, id, join, ticket, effects)
    }

    /// Adds a member nobody knew and has the group rebalance.
    fn admit(
        &mut self,
        now: Instant,
        id: String,
        join: Join,
        ticket: Ticket,
        effects: &mut Effects,
    ) -> Result<(), JoinRefused> {
        let was_pending = self.pending.remove(&id).is_some();
        if !was_pending && self.is_full() {
            return Err(too_many());
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        let member = Member {
            expires: now + self.options.new_member_join_timeout,
            is_new: true,
            awaiting_join: Some(ticket),
            awaiting_sync: None,
            assignment: Bytes::new(),
            id,
            instance_id: join.identity.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout: join.session_timeout,
            rebalance_timeout: join.rebalance_timeout,
            protocols: join.protocols,
        };
        self.add_member(member);
        self.prepare_rebalance(now, effects);
        Ok(())
    }

    /// A member of the group joins again.
    fn rejoin(&mut self, now: Instant, join: Join, ticket: Ticket, effects: &mut Effects) {
        let id = join.identity.member_id.clone();
        let unchanged = self.members.get(&id).is_some_and(|m| m.protocols == join.protocols);
        let answer_current = match self.phase {
            Phase::CompletingRebalance => unchanged,
            // The leader joins again to have the assignment computed anew.
            Phase::Stable => unchanged && !self.is_leader(&id),
            Phase::Empty | Phase::PreparingRebalance { .. } => false,
        };
        self.update_member(now, &id, &join);
        if answer_current {
            effects.answers.push(Answer::Join(ticket, Ok(self.joined(&id))));
            return;
        }
        self.park_join(&id, ticket, effects);
        self.prepare_rebalance(now, effects);
    }

    /// A static member came back without its id: it takes its former self's place, which is
    /// fenced. The assignment stays as it is unless another protocol has to be chosen.
    fn replace_static(
        &mut self,
        now: Instant,
        old_id: &str,
        join: Join,
        ticket: Ticket,
        effects: &mut Effects,
    ) {
        let old_leader = self.leader.clone();
        let new_id = join.fresh_member_id.clone();
        let Some(mut member) = self.members.remove(old_id) else { return };
        refuse_parked(&member, ResponseError::FencedInstanceId, effects);
        member.awaiting_join = None;
        member.awaiting_sync = None;
        member.id = new_id.clone();
        if let Some(instance) = &member.instance_id {
            self.instances.insert(instance.clone(), new_id.clone());
        }
        if self.unsynced.remove(old_id) {
            self.unsynced.insert(new_id.clone());
        }
        let was_leader = self.is_leader(old_id);
        if was_leader {
            self.leader = Some(new_id.clone());
        }
        self.members.insert(new_id.clone(), member);
        self.update_member(now, &new_id, &join);
        if self.phase == Phase::Stable && self.select_protocol() == self.protocol {
            let mut joined = self.joined(&new_id);
            if join.can_skip_assignment {
                joined.skip_assignment = was_leader;
            } else if was_leader {
                // Told to lead, an old client would compute an assignment nobody asked for.
                joined.leader = old_leader.unwrap_or_default();
                joined.members = Vec::new();
            }
            effects.store = true;
            effects.answers.push(Answer::Join(ticket, Ok(joined)));
            return;
        }
        self.park_join(&new_id, ticket, effects);
        self.prepare_rebalance(now, effects);
    }

    fn update_member(&mut self, now: Instant, id: &str, join: &Join) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.protocols = join.protocols.iter().map(Protocol::clone).collect();
        member.session_timeout = join.session_timeout;
        member.rebalance_timeout = join.rebalance_timeout;
        member.client_id.clone_from(&join.client_id);
        member.client_host.clone_from(&join.client_host);
        member.heard(now);
    }

    /// Parks the join; one parked before it (its connection was given up) is answered.
    fn park_join(&mut self, id: &str, ticket: Ticket, effects: &mut Effects) {
        let Some(member) = self.members.get_mut(id) else { return };
        if let Some(earlier) = member.awaiting_join.replace(ticket) {
            let refused = JoinRefused { error: ResponseError::RebalanceInProgress, member_id: id.to_owned() };
            effects.answers.push(Answer::Join(earlier, Err(refused)));
        }
    }

    /// Whether this is a member, and not one whose static instance was taken over.
    pub(super) fn check_identity(&self, identity: &Identity) -> Result<(), ResponseError> {
        if let Some(instance) = &identity.instance_id {
            return match self.instances.get(instance) {
                None => Err(ResponseError::UnknownMemberId),
                Some(current) if *current != identity.member_id => Err(ResponseError::FencedInstanceId),
                Some(_) => Ok(()),
            };
        }
        if self.members.contains_key(&identity.member_id) {
            Ok(())
        } else {
            Err(ResponseError::UnknownMemberId)
        }
    }

    fn is_full(&self) -> bool {
        self.members.len() + self.pending.len() >= self.options.group_size_max
    }
}

fn too_many() -> JoinRefused {
    JoinRefused { error: ResponseError::GroupMaxSizeReached, member_id: String::new() }
}
