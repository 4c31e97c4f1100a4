//! Partitions come and go: assign, revoke, lose, drain, stop.
//!
//! | event | what is done |
//! |---|---|
//! | assigned | answered at once; committed offsets and maps are asked for in a thread ([`begin`](super::begin)); each partition begins where [`start`](super::start) says as soon as that is known, under a new assignment epoch |
//! | revoked | nothing more of it is handed out; running handlers may finish until the drain deadline; what is finished is committed; then it is given up |
//! | lost | given up at once, without a commit: it may be another's already |
//! | overslept | as lost, then the group is joined anew |

use super::begin::Known;
use super::dispatch::SlotIndex;
use super::error::ConsumerError;
use super::intake::Intake;
use super::options::StartPolicy;
use super::slots::Slot;
use super::start::{Begin, Resume, judge};
use super::status::{ConsumerStatus, ConsumerSummary};
use crate::kafka::TopicId;
use crate::kafka::native::{Client, GroupEvent, NativeError};
use crate::kafka::native_call::SharedClient;
use crate::kafka::partition_list::{Entry, TopicPartition};
use homing_core::{OffsetSet, Tracker};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The wait for the client to take a seek: no broker is asked for that.
const SEEK: Duration = Duration::from_secs(1);
/// What is left for the last commit and for leaving, when the drain has used its time up.
const FAREWELL: Duration = Duration::from_secs(5);

/// How one assigned partition begins.
pub(crate) struct Start {
    at: TopicPartition,
    topic_id: Option<TopicId>,
    resume: Resume,
    /// The start policy chose it, nothing was committed.
    fresh: bool,
}

impl Intake {
    pub fn follow(&mut self, event: GroupEvent) -> Result<(), ConsumerError> {
        // A rebalance moves the client's positions to what it takes for the last record handed out.
        self.slots.iter_mut().for_each(|slot| slot.holes.unsettle());
        match event {
            GroupEvent::Assign(entries) => self.assigned(entries),
            GroupEvent::Revoke { entries, lost } => {
                let lost = lost || self.client.assignment_lost();
                self.revoked(&entries, lost)
            }
        }
    }

    /// Takes partitions on, paused, and asks where each begins.
    fn assigned(&mut self, entries: Vec<Entry>) -> Result<(), ConsumerError> {
        let at: Vec<TopicPartition> = entries.into_iter().map(|entry| entry.at).collect();
        tracing::info!(partitions = at.len(), "partitions assigned");
        if self.client.is_cooperative() {
            // Answered at once; each is taken on when it begins.
            self.client.incremental_assign(&[])?;
        } else {
            self.take_on_paused(&at)?;
        }
        let old: Vec<SlotIndex> = at.iter().filter_map(|at| self.slots.named(at)).collect();
        self.give_up(&old);
        self.ask_beginnings(at)?;
        self.topics.assigned(Instant::now());
        self.served_at = Instant::now();
        Ok(())
    }

    /// The eager protocol knows no partition that is taken on later: all are at once, paused.
    fn take_on_paused(&self, at: &[TopicPartition]) -> Result<(), NativeError> {
        at.iter().for_each(|at| self.client.route_to_data(at));
        if !at.is_empty() {
            self.client.pause(at)?;
        }
        // Offset 0 until the beginning is known: should reading begin there all the same, what comes
        // lies below the beginning or is a hole, and is not taken.
        let entries: Vec<Entry> = at.iter().map(|at| Entry { offset: 0, ..Entry::of(at.clone()) }).collect();
        self.client.assign(&entries)
    }

    fn ask_beginnings(&mut self, at: Vec<TopicPartition>) -> Result<(), ConsumerError> {
        let asked = self.beginnings.ask(at, (&self.client, &self.bell, &self.status));
        self.tell_partitions();
        asked.map_err(|error| ConsumerError::Workers(error.to_string()))
    }

    /// Begins in the partitions of which it has become known where.
    pub fn begin(&mut self) -> Result<(), ConsumerError> {
        for known in self.beginnings.take()? {
            let start = self.decide(known)?;
            self.starts.push(start);
        }
        if self.starts.is_empty() {
            return Ok(());
        }
        let starts = std::mem::take(&mut self.starts);
        let mut skips = Vec::new();
        for start in starts {
            let (is_choice, at) =
                (start.fresh && self.options.start == StartPolicy::Latest, start.at.clone());
            self.open(start);
            skips.extend(self.slots.named(&at).filter(|_| is_choice));
            self.unread.push(at);
        }
        self.tell_partitions();
        if !skips.is_empty() {
            // A crash before the first commit would choose a later "latest" and skip what lies between.
            let until = Instant::now() + self.options.request_timeout;
            self.commits.flush(&mut self.slots, &skips, until);
        }
        Ok(())
    }

    /// Has the client read partitions that have begun, or whose pause is over.
    pub fn start_reading(&mut self) -> Result<(), ConsumerError> {
        if self.unread.is_empty() {
            return Ok(());
        }
        let unread = std::mem::take(&mut self.unread);
        let slots = unread.iter().filter_map(|at| self.slots.get(self.slots.named(at)?));
        let (mut assigned, mut new) = (Vec::new(), Vec::new());
        for slot in slots.filter(|slot| !slot.paused) {
            if slot.taken_on { &mut assigned } else { &mut new }.push(slot.read_on());
        }
        self.take_on(new)?;
        if assigned.is_empty() {
            return Ok(());
        }
        let begun = self.read_from(&assigned).unwrap_or_else(|error| {
            tracing::warn!(%error, "not yet reading, trying again");
            Vec::new()
        });
        // The others are still stopping what they read under the last assignment.
        self.unread.extend(assigned.into_iter().map(|entry| entry.at).filter(|at| !begun.contains(at)));
        Ok(())
    }

    /// Takes on partitions of the cooperative protocol, where they begin.
    fn take_on(&mut self, entries: Vec<Entry>) -> Result<(), ConsumerError> {
        // Lost ones are given up when that is told; taking one on would say that none is lost.
        if entries.is_empty() || self.client.assignment_lost() {
            return Ok(());
        }
        let at: Vec<TopicPartition> = entries.iter().map(|entry| entry.at.clone()).collect();
        at.iter().for_each(|at| self.client.route_to_data(at));
        // One that was paused when it was last ours still is: only we can resume it (librdkafka #1849).
        self.client.resume(&at)?;
        self.client.add_to_assignment(&entries)?;
        for at in &at {
            if let Some(slot) = self.slots.named(at).and_then(|index| self.slots.get_mut(index)) {
                slot.taken_on = true;
            }
        }
        Ok(())
    }

    /// Has the client read paused partitions from these offsets; says which it does.
    fn read_from(&self, entries: &[Entry]) -> Result<Vec<TopicPartition>, NativeError> {
        let sought = self.client.seek_each(entries, SEEK)?;
        let begun: Vec<TopicPartition> =
            sought.into_iter().filter(|entry| entry.error == 0).map(|entry| entry.at).collect();
        if begun.is_empty() {
            return Ok(begun);
        }
        self.client.resume(&begun)?;
        // A seek above 0 wakes the thread that fetches, a resume does not: it may sleep for a second.
        let again: Vec<Entry> = entries.iter().filter(|entry| begun.contains(&entry.at)).cloned().collect();
        self.client.seek(&again, Duration::ZERO)?;
        Ok(begun)
    }

    /// Where to begin.
    fn decide(&self, Known { committed, topic_id, ends }: Known) -> Result<Start, ConsumerError> {
        let at = committed.at.clone();
        let former = match judge(&committed, topic_id.as_ref()) {
            Begin::Resume(resume) => {
                if let Some(why) = &resume.dropped {
                    ConsumerStatus::add(&self.status.maps_dropped, 1);
                    tracing::warn!(%at, why, "commit map not used: finished records beyond the offset are handled again");
                }
                return Ok(Start { at, topic_id, resume, fresh: false });
            }
            Begin::Fresh => None,
            Begin::Recreated { former } => Some(former),
        };
        let policy = match (self.options.start, former) {
            (StartPolicy::Error, None) => {
                let group = self.options.group.clone();
                return Err(ConsumerError::NoCommittedOffset { at, group });
            }
            (StartPolicy::Error, Some(offset)) => return Err(ConsumerError::TopicRecreated { at, offset }),
            (_, Some(offset)) => {
                // The group was reading the former topic: all of the new one is unread.
                tracing::warn!(%at, offset = offset.0, "topic was made anew (A04): starting at its beginning");
                StartPolicy::Earliest
            }
            (policy, None) => policy,
        };
        let (low, high) = ends.expect("the ends are asked for where no commit says where to begin");
        let base = if policy == StartPolicy::Latest { high } else { low };
        let resume =
            Resume { base, leader_epoch: None, done: OffsetSet::new(), map_epoch: -1, dropped: None };
        Ok(Start { at, topic_id, resume, fresh: true })
    }

    fn open(&mut self, Start { at, topic_id, resume, fresh }: Start) {
        if let Some(old) = self.slots.named(&at) {
            self.give_up(&[old]);
        }
        let (index, assignment) = (self.slots.free(), self.slots.next_assignment());
        tracing::info!(%at, offset = resume.base.0, done_beyond = resume.done.len(), "begins");
        let tracker = Tracker::restore(assignment, resume.base, &resume.done);
        let mut slot = Slot::new((at, index), topic_id, tracker, (resume.leader_epoch, resume.map_epoch));
        slot.taken_on = !self.client.is_cooperative();
        // The chosen start is committed, so that it holds from now on.
        slot.touched = fresh;
        self.slots.insert(slot);
        self.dispatch.open(index, assignment);
    }

    /// Gives partitions up. The group waits for that whatever happens here: trouble is told after it.
    fn revoked(&mut self, entries: &[Entry], lost: bool) -> Result<(), ConsumerError> {
        let at: Vec<TopicPartition> = entries.iter().map(|entry| entry.at.clone()).collect();
        let held: Vec<SlotIndex> = at.iter().filter_map(|at| self.slots.named(at)).collect();
        tracing::info!(partitions = held.len(), lost, "partitions taken away");
        let mut drained = Ok(());
        if lost {
            ConsumerStatus::add(&self.status.lost, held.len() as u64);
        } else {
            self.options.steps.reached("consumer.revoking");
            let until = Instant::now() + self.options.drain_timeout;
            drained = self.drain(&held, until);
            // Asked again: the group may have moved on while handlers finished.
            if !self.client.assignment_lost() {
                self.commits.flush(&mut self.slots, &held, until.max(Instant::now() + FAREWELL));
            }
            ConsumerStatus::add(&self.status.revoked, held.len() as u64);
        }
        // Those that have not begun are not assigned, and one of them would make the client refuse all.
        let is_assigned = |at: &TopicPartition| {
            let has_begun = !self.beginnings.contains(at) && self.starts.iter().all(|start| start.at != *at);
            let slot = self.slots.named(at).and_then(|index| self.slots.get(index));
            has_begun && slot.is_none_or(|slot| slot.taken_on)
        };
        let entries: Vec<Entry> = entries.iter().filter(|entry| is_assigned(&entry.at)).cloned().collect();
        self.give_up(&held);
        let again = self.beginnings.forget(&at);
        self.starts.retain(|start| !at.contains(&start.at));
        self.unread.retain(|unread| !at.contains(unread));
        let answered = self.unassign(&entries);
        let asked = self.ask_beginnings(again);
        self.served_at = Instant::now();
        drained.and(answered).and(asked)
    }

    fn unassign(&self, entries: &[Entry]) -> Result<(), ConsumerError> {
        if !self.client.is_cooperative() {
            return Ok(self.client.unassign()?);
        }
        let Err(error) = self.client.incremental_unassign(entries) else { return Ok(()) };
        // One that is not assigned makes it refuse them all.
        tracing::warn!(%error, "giving up what is assigned of these partitions");
        let assigned = self.client.assignment()?;
        let entries: Vec<Entry> =
            entries.iter().filter(|entry| assigned.contains(&entry.at)).cloned().collect();
        Ok(self.client.incremental_unassign(&entries)?)
    }

    /// Hands nothing more of these slots out, and lets what runs finish until the deadline.
    fn drain(&mut self, held: &[SlotIndex], until: Instant) -> Result<(), ConsumerError> {
        self.dispatch.close(held);
        loop {
            self.collect()?;
            let running: usize = held.iter().filter_map(|at| self.slots.get(*at)).map(Slot::running).sum();
            let left = until.saturating_duration_since(Instant::now());
            if running == 0 || left.is_zero() {
                return Ok(());
            }
            if self.dispatch.want(1) == 0 {
                self.bell.wait(left.min(Duration::from_millis(5)));
            }
        }
    }

    /// Forgets slots; completions that still come for them are stale.
    pub fn give_up(&mut self, held: &[SlotIndex]) {
        self.dispatch.close(held);
        self.dispatch.claims.end(held);
        for index in held {
            self.judge.parked.forget(*index);
            self.slots.remove(*index);
        }
        self.tell_partitions();
    }

    fn tell_partitions(&self) {
        ConsumerStatus::set(&self.status.partitions, self.slots.iter().count() as u64);
        let pending = self.beginnings.len() + self.starts.len();
        ConsumerStatus::set(&self.status.partitions_pending, pending as u64);
    }

    /// The thread did not come round within the poll interval: the group has, or may have, given
    /// our partitions away. librdkafka's own flag for that can get lost (its issue #5604).
    pub fn overslept(&mut self) -> Result<(), ConsumerError> {
        let held = self.slots.indices();
        tracing::warn!(partitions = held.len(), "poll interval exceeded: partitions are taken for lost");
        ConsumerStatus::add(&self.status.lost, held.len() as u64);
        self.give_up(&held);
        self.join_anew()
    }

    /// Leaving and joining makes sure of a revocation and a new assignment.
    pub fn join_anew(&mut self) -> Result<(), ConsumerError> {
        self.client.unsubscribe()?;
        Ok(self.client.subscribe(&self.options.topics)?)
    }

    /// Gives everything up in good order and goes on with a new client: the one there was reads no
    /// more of a partition that has more.
    pub fn reopen(&mut self) -> Result<(), ConsumerError> {
        let fresh = Client::open(&self.settings, Some(Arc::clone(&self.bell)))?;
        let held = self.slots.indices();
        let until = Instant::now() + self.options.drain_timeout;
        let drained = self.drain(&held, until);
        if !self.client.assignment_lost() {
            self.commits.flush(&mut self.slots, &held, until.max(Instant::now() + FAREWELL));
        }
        self.give_up(&held);
        self.beginnings.clear();
        self.starts.clear();
        self.unread.clear();
        self.questions_over();
        self.commits.reopen(Arc::clone(&fresh));
        let old = std::mem::replace(&mut self.client, fresh);
        // A static member must be gone before it comes again, or it fences itself.
        leave(old, Instant::now() + FAREWELL);
        // From now on records keep their client open one by one: the dispatch keeps the first alone.
        self.keeps_records = true;
        ConsumerStatus::add(&self.status.reopened, 1);
        self.client.subscribe(&self.options.topics)?;
        self.served_at = Instant::now();
        drained
    }

    /// Drains, commits and leaves the group. Says what was left behind.
    pub fn stop(&mut self, commit: bool) -> ConsumerSummary {
        let until = Instant::now() + self.options.drain_timeout;
        self.dispatch.halt();
        let held = self.slots.indices();
        // A record that cannot be set aside any more stays unfinished; the others still count.
        while let Err(error) = self.drain(&held, until) {
            tracing::warn!(%error, "while draining");
        }
        let abandoned: usize = self.slots.iter().map(Slot::running).sum();
        let until = until.max(Instant::now() + FAREWELL);
        if commit && !self.client.assignment_lost() && !self.commits.flush(&mut self.slots, &held, until) {
            tracing::warn!("the last commit was not acknowledged: its records are handled again");
        }
        self.dispatch.stop();
        self.give_up(&held);
        if !self.client.close(until) {
            tracing::warn!("the group was not left in time: it waits for the session to time out");
        }
        self.publish();
        ConsumerSummary { counts: self.status.counts(), abandoned: abandoned as u64 }
    }

    /// Pauses partitions whose oldest unfinished record holds too long a window, and raises the
    /// alarm before that.
    pub fn watch_windows(&mut self) {
        let (window, percent) = (self.options.window_max, u64::from(self.options.window_alarm_percent));
        let now = Instant::now();
        for slot in self.slots.iter_mut() {
            let span = slot.tracker.span();
            if span < window / 100 * percent && !slot.paused && !slot.over_share {
                continue;
            }
            if let Some(oldest) = slot.tracker.oldest_unfinished()
                && span >= window * percent / 100
            {
                let raised = slot.alarm.raise(oldest, now);
                ConsumerStatus::add(&self.status.head_of_line, u64::from(raised.is_new));
                if let Some(others) = raised.say {
                    tracing::warn!(at = %slot.at, offset = oldest.0, span, window, others, "one record holds its partition up; other partitions go on");
                }
            }
            let at = std::slice::from_ref(&slot.at);
            if (span >= window || slot.over_share) && !slot.paused {
                slot.paused = self.client.pause(at).inspect_err(|e| tracing::warn!(%e, "pause")).is_ok();
            } else if slot.paused && span <= window / 2 && !slot.over_share {
                // Pausing dropped what was fetched ahead: go on exactly where the tracker stands.
                slot.paused = false;
                slot.holes.unsettle();
                slot.hearing.begin(now);
                self.unread.push(slot.at.clone());
            }
        }
    }
}

/// Has a client leave its group and end, in a thread of its own: that may take for ever, and it is
/// known to be stuck. Waits for it until then.
fn leave(client: SharedClient, until: Instant) {
    let (left, has_left) = channel();
    let ending = move || {
        // Nobody listens any more when it took too long.
        let _ = left.send(client.close(until));
        drop(client);
    };
    if let Err(error) = std::thread::Builder::new().name("homing-leave".to_owned()).spawn(ending) {
        tracing::warn!(%error, "no thread to leave the group in");
    }
    if has_left.recv_timeout(until.saturating_duration_since(Instant::now())) != Ok(true) {
        tracing::warn!("the group was not left in time: it waits for the session to time out");
    }
}
