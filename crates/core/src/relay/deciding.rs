//! What to do next: questions first, as they hold nobody up, then sending, then the database.

use super::event::{Action, ClaimKind, OrderKind, PartRef, TailQuestion};
use super::machine::{Machine, ProbePhase};
use super::memory::Use;
use super::{LaneIx, LanePhase, MainPhase, Now, TopicIx, TopicPhase, Via};
use std::time::Duration;

/// How often doubt about Kafka's identity is looked into.
const DOUBT_EVERY: Duration = Duration::from_millis(500);
/// How often what is due by time is looked for.
const WATCH_EVERY: Duration = Duration::from_millis(20);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Parts settled in one transaction.
const PARTS_MAX: usize = 2000;

impl Machine {
    pub(super) fn decide(&mut self, now: Now) -> Action {
        if self.drain_until.is_some_and(|until| now >= until) {
            return Action::Stop;
        }
        if let Some(void) = self.voids.pop_front() {
            return Action::Void(void);
        }
        if self.database_is_free(now) && now >= self.renew_at {
            return Action::Renew;
        }
        if let Some(question) = self.next_question(now) {
            return question;
        }
        if !self.pinned {
            let nothing_begun = self.drain_until.is_some() && self.is_drained(now);
            return if nothing_begun { Action::Stop } else { self.wait(now) };
        }
        if let Some(action) = self.next_producer(now).or_else(|| self.next_send(now)) {
            return action;
        }
        if let Some(Action::Unload(batch)) = self.finished_flight(now) {
            return self.unload(batch);
        }
        if self.database_is_free(now)
            && let Some(action) = self.next_in_database(now)
        {
            return action;
        }
        if self.drain_until.is_some() && self.is_drained(now) {
            return Action::Stop;
        }
        self.wait(now)
    }

    fn database_is_free(&self, now: Now) -> bool {
        now >= self.database_retry_at
    }

    fn unload(&mut self, batch: super::BatchNo) -> Action {
        self.unloaded(batch);
        Action::Unload(batch)
    }

    fn next_question(&mut self, now: Now) -> Option<Action> {
        let every =
            if self.in_doubt { DOUBT_EVERY.min(self.limits.pins_every) } else { self.limits.pins_every };
        if !self.pins_out && self.pins_at.is_none_or(|at| now.since(at) >= every) {
            (self.pins_out, self.pins_at) = (true, Some(now));
            return Some(Action::AskPins { in_doubt: self.in_doubt });
        }
        if !self.pinned {
            return None;
        }
        if now.since(self.watched_at) >= WATCH_EVERY {
            let reasons = self.watch(now);
            if !reasons.is_empty() {
                return Some(Action::AskReasons(reasons));
            }
        }
        self.ask_tails().or_else(|| self.ask_topics(now)).or_else(|| self.ask_epoch())
    }

    fn ask_tails(&mut self) -> Option<Action> {
        let asks = |ix: &LaneIx| {
            let phase = self.topic_of(*ix).phase;
            matches!(phase, TopicPhase::Open | TopicPhase::Ending)
        };
        let lanes: Vec<LaneIx> = self.unread.iter().copied().filter(asks).collect();
        if lanes.is_empty() {
            return None;
        }
        let questions: Vec<TailQuestion> =
            lanes.iter().map(|ix| self.lanes[ix.0 as usize].tail_question(*ix)).collect();
        for ix in lanes {
            self.unread.remove(&ix);
            self.lane(ix).phase = LanePhase::Unread { asked: true };
        }
        Some(Action::AskTails(questions))
    }

    fn ask_topics(&mut self, now: Now) -> Option<Action> {
        if self.drain_until.is_some() {
            return None;
        }
        let due = |ix: &TopicIx| {
            let topic = &self.topics[ix.0 as usize];
            topic.wanted
                && match topic.phase {
                    TopicPhase::Asked { out: false } => true,
                    TopicPhase::Missing { retry_at } => retry_at <= now,
                    _ => false,
                }
        };
        let topics: Vec<TopicIx> = self.topics_due.iter().copied().filter(due).collect();
        for ix in &topics {
            self.topic(*ix).phase = TopicPhase::Asked { out: true };
        }
        (!topics.is_empty()).then_some(Action::AskTopics(topics))
    }

    fn ask_epoch(&mut self) -> Option<Action> {
        let begins = |ix: &&TopicIx| self.topic_phase(**ix) == (TopicPhase::Beginning { out: false });
        let ix = *self.topics_due.iter().find(begins)?;
        self.topic(ix).phase = TopicPhase::Beginning { out: true };
        Some(Action::AskEpoch(ix))
    }

    fn next_producer(&mut self, now: Now) -> Option<Action> {
        match self.main {
            MainPhase::Closed { retry_at } if retry_at <= now => return Some(Action::Open(Via::Main)),
            MainPhase::Retiring { until } if self.main_out == 0 || until <= now => {
                return Some(Action::Close(Via::Main));
            }
            MainPhase::Open if self.regroup && self.only_silent_out() => {
                self.main_acked = true;
                return Some(Action::Close(Via::Main));
            }
            _ => {}
        }
        let tried = |ix: &&LaneIx| {
            matches!(self.lanes[ix.0 as usize].phase, LanePhase::Refused { .. } | LanePhase::Probing)
        };
        match self.probe {
            ProbePhase::Closed { retry_at } if retry_at <= now => {
                let due = |ix: &&LaneIx| {
                    let lane = &self.lanes[ix.0 as usize];
                    matches!(lane.phase, LanePhase::Refused { retry_at } if retry_at <= now)
                        && lane.has_unsent()
                };
                self.watched.iter().find(due).map(|_| Action::Open(Via::Probe))
            }
            ProbePhase::Failed => Some(Action::Close(Via::Probe)),
            ProbePhase::Open if self.watched.iter().find(tried).is_none() => {
                self.probe_failures = 0;
                Some(Action::Close(Via::Probe))
            }
            _ => None,
        }
    }

    fn only_silent_out(&self) -> bool {
        let silent = |ix: &LaneIx| {
            let lane = &self.lanes[ix.0 as usize];
            lane.out == 0 || matches!(lane.phase, LanePhase::Silent | LanePhase::Probing)
        };
        self.watched.iter().all(silent)
    }

    fn next_in_database(&mut self, now: Now) -> Option<Action> {
        self.topics_turn = !self.topics_turn;
        if self.topics_turn
            && let Some(action) = self.next_of_topics(now)
        {
            return Some(action);
        }
        match self.next_claim(now) {
            Claim::Ready { claim, hold } => {
                let settle = self.settleable(now, true);
                return Some(Action::Commit { settle, claim: Some(claim), hold });
            }
            Claim::Unload(batch) => return Some(self.unload(batch)),
            Claim::None => {}
        }
        let settle = self.settleable(now, false);
        if !settle.is_empty() {
            return Some(Action::Commit { settle, claim: None, hold: Vec::new() });
        }
        self.next_load(now).or_else(|| self.next_of_topics(now))
    }

    /// What topics want of the database: orders, epochs to open or to close.
    fn next_of_topics(&mut self, now: Now) -> Option<Action> {
        for ix in self.topics_due.clone() {
            let after = self.limits.missing_topic_after;
            let topic = &self.topics[ix.0 as usize];
            if let Some(order) = topic.orders.front().copied() {
                return Some(match order.kind {
                    OrderKind::Discard => Action::DiscardHeld(ix, Some(order)),
                    _ => Action::CloseTopic(ix, Some(order)),
                });
            }
            let idle = |ix: &TopicIx| {
                let lanes = &self.topics[ix.0 as usize].lanes;
                lanes.iter().all(|lane| !self.ready.contains(lane))
            };
            match topic.phase {
                TopicPhase::Opening => return Some(Action::OpenEpoch(ix)),
                TopicPhase::Forked if idle(&ix) && !self.is_loading(ix) => {
                    return Some(Action::CloseTopic(ix, None));
                }
                TopicPhase::Ending if !self.has_unsettled(ix) => {
                    self.topic(ix).phase = TopicPhase::Beginning { out: false };
                    return self.ask_epoch();
                }
                TopicPhase::Missing { .. }
                    if topic.held
                        && after.is_some_and(|after| {
                            topic.missing_since.is_some_and(|since| now.since(since) >= after)
                        }) =>
                {
                    return Some(Action::DiscardHeld(ix, None));
                }
                TopicPhase::Asked { .. }
                | TopicPhase::Missing { .. }
                | TopicPhase::Beginning { .. }
                | TopicPhase::Forked
                | TopicPhase::Ending => {}
                TopicPhase::Open if topic.held => {}
                _ => {
                    self.topics_due.remove(&ix);
                }
            }
        }
        None
    }

    fn has_unsettled(&self, ix: TopicIx) -> bool {
        self.topics[ix.0 as usize].lanes.iter().any(|lane| self.lanes[lane.0 as usize].has_unsettled())
    }

    /// Whether what a forked topic's tails held is still being fetched to be settled.
    fn is_loading(&self, ix: TopicIx) -> bool {
        self.topics[ix.0 as usize].lanes.iter().any(|lane| self.hungry.contains(lane))
    }

    fn next_claim(&mut self, now: Now) -> Claim {
        if self.drain_until.is_some() || self.main != MainPhase::Open || self.regroup {
            return Claim::None;
        }
        if let Some(pending) = &self.pending {
            let mut hold = Vec::new();
            let mut known = true;
            for ix in &pending.topics {
                let topic = &self.topics[ix.0 as usize];
                if topic.held || self.takes_rows(*ix, now) {
                    continue;
                }
                let hopeless = matches!(topic.phase, TopicPhase::Missing { .. } | TopicPhase::Stopped);
                known &= hopeless || now.since(pending.since) >= self.limits.patience;
                hold.push(*ix);
            }
            if known {
                match self.room(true, now) {
                    Ok(()) => return Claim::Ready { claim: ClaimKind::Live, hold },
                    Err(Some(Action::Unload(batch))) => return Claim::Unload(batch),
                    Err(_) => {}
                }
            }
        }
        let held = |ix: &&TopicIx| self.topics[ix.0 as usize].held && self.takes_rows(**ix, now);
        if let Some(ix) = self.topics_due.iter().find(held).copied() {
            match self.room(false, now) {
                Ok(()) => return Claim::Ready { claim: ClaimKind::Held(ix), hold: Vec::new() },
                Err(Some(Action::Unload(batch))) => return Claim::Unload(batch),
                Err(_) => {}
            }
        }
        Claim::None
    }

    /// Whether a topic's rows may be numbered: its epoch is open and each tail was read once or is known to be unreadable.
    fn takes_rows(&self, ix: TopicIx, now: Now) -> bool {
        let topic = &self.topics[ix.0 as usize];
        topic.phase == TopicPhase::Open
            && topic.lanes.iter().all(|lane| {
                let lane = &self.lanes[lane.0 as usize];
                lane.looked_at
                    || lane.trouble.as_ref().is_some_and(|why| now.since(why.since) >= self.limits.silence)
            })
    }

    /// Parts to settle now: all that are ready when a commit is made anyway.
    fn settleable(&self, now: Now, anyway: bool) -> Vec<PartRef> {
        let mut settle = Vec::new();
        if self.in_doubt {
            return settle;
        }
        for ix in &self.ready {
            let lane = &self.lanes[ix.0 as usize];
            let due = anyway
                || lane.ready_since.is_some_and(|since| now.since(since) >= self.limits.settle_after)
                || lane.parts.front().is_none_or(|part| !self.others_work_on(part.batch, now));
            if self.topic_of(*ix).settles() && due {
                settle.extend(lane.ready(*ix, PARTS_MAX - settle.len()));
            }
            if settle.len() >= PARTS_MAX {
                break;
            }
        }
        settle
    }

    /// Whether a batch's parts that are not decided are being worked on.
    fn others_work_on(&self, batch: super::BatchNo, now: Now) -> bool {
        let flight = self.flights.iter().find(|flight| flight.batch == batch);
        flight.is_some_and(|flight| flight.parts.iter().any(|part| self.use_of(part, now) == Use::Needed))
    }

    fn next_load(&mut self, now: Now) -> Option<Action> {
        if self.drain_until.is_some() {
            return None;
        }
        let ix = self.hungry.first().copied()?;
        let lane = &self.lanes[ix.0 as usize];
        let from = lane.wants_loading().filter(|_| lane.works(now));
        if from.is_none() || self.attach_from_memory(ix, now) {
            self.hungry.remove(&ix);
            self.attend(ix);
            return self.next_send(now).or_else(|| self.next_load(now));
        }
        match (from, self.room(false, now)) {
            (Some(from), Ok(())) => {
                self.hungry.remove(&ix);
                // It asks again should this fail.
                self.attend(ix);
                Some(Action::Load { lane: ix, from })
            }
            (_, Err(Some(Action::Unload(batch)))) => Some(self.unload(batch)),
            _ => None,
        }
    }

    fn is_drained(&self, now: Now) -> bool {
        let busy = |ix: &LaneIx| self.lanes[ix.0 as usize].out > 0;
        let waits_for_tail = |phase| matches!(phase, LanePhase::Unread { .. });
        !self.watched.iter().any(busy)
            && !matches!(self.main, MainPhase::Retiring { .. })
            && self.flights.iter().all(|flight| {
                flight.parts.iter().all(|part| {
                    let lane = &self.lanes[part.lane.0 as usize];
                    let open = self.use_of(part, now) != Use::Done && lane.queued_to > part.first;
                    let unread = waits_for_tail(lane.phase) && lane.trouble.is_none();
                    !(open && (unread || self.use_of(part, now) == Use::Needed))
                })
            })
            && !self.ready.iter().any(|ix| self.topic_of(*ix).settles())
    }

    fn wait(&self, now: Now) -> Action {
        let mut until = now.plus(WAIT_MAX).min(self.renew_at.max(self.database_retry_at));
        let mut note = |at: Now| {
            if at > now {
                until = until.min(at);
            }
        };
        note(self.database_retry_at);
        note(self.full_until);
        if !self.ready.is_empty() {
            note(now.plus(self.limits.settle_after));
        }
        if let MainPhase::Closed { retry_at } = self.main {
            note(retry_at);
        }
        if let Some(pending) = &self.pending {
            note(pending.since.plus(self.limits.patience));
        }
        for ix in &self.watched {
            if let LanePhase::Refused { retry_at } = self.lanes[ix.0 as usize].phase {
                note(retry_at.max(self.watched_at.plus(WATCH_EVERY)));
            }
        }
        for ix in &self.topics_due {
            if let TopicPhase::Missing { retry_at } = self.topics[ix.0 as usize].phase {
                note(retry_at);
            }
        }
        if let Some(drain_until) = self.drain_until {
            note(drain_until);
        }
        Action::Wait { until: until.max(now.plus(Duration::from_micros(100))) }
    }
}

enum Claim {
    Ready { claim: ClaimKind, hold: Vec<TopicIx> },
    Unload(super::BatchNo),
    None,
}
