//! Partitions come and go: assign, revoke, lose, drain, stop.
//!
//! | event | what is done |
//! |---|---|
//! | assigned | committed offsets and maps are fetched, each partition begins where [`start`](super::start) says, under a new assignment epoch |
//! | revoked | nothing more of it is handed out; running handlers may finish until the drain deadline; what is finished is committed; then it is given up |
//! | lost | given up at once, without a commit: it may be another's already |
//! | overslept | as lost, then the group is joined anew |

use super::dispatch::SlotIndex;
use super::error::ConsumerError;
use super::intake::Intake;
use super::options::StartPolicy;
use super::slots::Slot;
use super::start::{Begin, Resume, judge};
use super::status::{ConsumerStatus, ConsumerSummary};
use crate::kafka::TopicId;
use crate::kafka::native::{GroupEvent, NativeError};
use crate::kafka::partition_list::{Entry, TopicPartition};
use homing_core::{OffsetSet, TopicName, Tracker};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One attempt at a question; between two of them a shutdown is noticed.
const ASK: Duration = Duration::from_secs(2);
/// What is left for the last commit and for leaving, when the drain has used its time up.
const FAREWELL: Duration = Duration::from_secs(5);

/// How one assigned partition begins.
struct Start {
    entry: Entry,
    topic_id: Option<TopicId>,
    resume: Resume,
    /// The start policy chose it, nothing was committed.
    fresh: bool,
}

impl Intake {
    pub fn follow(&mut self, event: GroupEvent) -> Result<(), ConsumerError> {
        match event {
            GroupEvent::Assign(entries) => self.assigned(entries),
            GroupEvent::Revoke(entries) => {
                let lost = self.client.assignment_lost();
                self.revoked(entries, lost)
            }
        }
    }

    fn assigned(&mut self, entries: Vec<Entry>) -> Result<(), ConsumerError> {
        let at: Vec<TopicPartition> = entries.into_iter().map(|entry| entry.at).collect();
        tracing::info!(partitions = at.len(), "partitions assigned");
        let starts = match self.prepare(&at) {
            Ok(Some(starts)) => starts,
            Ok(None) => return self.take_on(&[]),
            Err(error) => {
                self.take_on(&[])?;
                return Err(error);
            }
        };
        starts.iter().for_each(|start| self.client.route_to_data(&start.entry.at));
        let entries: Vec<Entry> = starts.iter().map(|start| start.entry.clone()).collect();
        self.take_on(&entries)?;
        let skips = self.options.start == StartPolicy::Latest && starts.iter().any(|start| start.fresh);
        starts.into_iter().for_each(|start| self.open(start));
        ConsumerStatus::set(&self.status.partitions, self.slots.iter().count() as u64);
        if skips {
            // A crash before the first commit would choose a later "latest" and skip what lies between.
            let (indices, until) = (self.slots.indices(), Instant::now() + self.options.request_timeout);
            self.commits.flush(&mut self.slots, &indices, until);
        }
        self.served_at = Instant::now();
        Ok(())
    }

    /// Finds out where each partition begins. `None` when told to stop meanwhile.
    fn prepare(&mut self, at: &[TopicPartition]) -> Result<Option<Vec<Start>>, ConsumerError> {
        let bare: Vec<Entry> = at.iter().cloned().map(Entry::of).collect();
        let Some(committed) = self.ask(|intake| intake.client.committed(&bare, ASK))? else {
            return Ok(None);
        };
        let ids = self.topic_ids(at);
        let mut starts = Vec::with_capacity(committed.len());
        for entry in &committed {
            let topic_id = ids.get(&entry.at.topic).copied().flatten();
            let Some((resume, fresh)) = self.begin(entry, topic_id)? else { return Ok(None) };
            let bare = Entry::of(entry.at.clone());
            let entry = Entry { offset: resume.base.0, leader_epoch: resume.leader_epoch, ..bare };
            starts.push(Start { entry, topic_id, resume, fresh });
        }
        Ok(Some(starts))
    }

    /// Answers an assignment; the group waits for that even when we take nothing.
    fn take_on(&self, starts: &[Entry]) -> Result<(), ConsumerError> {
        let taken = match self.client.is_cooperative() {
            true => self.client.incremental_assign(starts),
            false => self.client.assign(starts),
        };
        Ok(taken?)
    }

    /// Asks until it is answered. `None` when told to stop meanwhile.
    fn ask<T>(
        &mut self,
        question: impl Fn(&Self) -> Result<T, NativeError>,
    ) -> Result<Option<T>, ConsumerError> {
        loop {
            match question(self) {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) if error.fatal => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "no answer from Kafka, asking again");
                    self.status.failed(error.to_string());
                }
            }
            self.served_at = Instant::now();
            if self.shutdown.wait(Duration::from_millis(100)) {
                return Ok(None);
            }
        }
    }

    fn topic_ids(&self, at: &[TopicPartition]) -> HashMap<TopicName, Option<TopicId>> {
        let mut topics: Vec<TopicName> = at.iter().map(|at| at.topic.clone()).collect();
        topics.sort_unstable();
        topics.dedup();
        let ids = self.client.topic_ids(&topics, self.options.request_timeout).unwrap_or_else(|error| {
            tracing::warn!(%error, "topic ids unknown: finished records beyond the committed offset are handled again");
            vec![None; topics.len()]
        });
        // A broker without topic ids says zero, which would fit any topic.
        topics.into_iter().zip(ids.into_iter().map(|id| id.filter(|id| *id != TopicId::default()))).collect()
    }

    /// Where to begin, and whether that was the start policy's choice. `None` when told to stop.
    fn begin(
        &mut self,
        committed: &Entry,
        topic_id: Option<TopicId>,
    ) -> Result<Option<(Resume, bool)>, ConsumerError> {
        let at = committed.at.clone();
        let former = match judge(committed, topic_id.as_ref()) {
            Begin::Resume(resume) => {
                if let Some(why) = &resume.dropped {
                    ConsumerStatus::add(&self.status.maps_dropped, 1);
                    tracing::warn!(%at, why, "commit map not used: finished records beyond the offset are handled again");
                }
                return Ok(Some((resume, false)));
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
                tracing::warn!(%at, offset = offset.0, "topic was made anew: starting at its beginning");
                StartPolicy::Earliest
            }
            (policy, None) => policy,
        };
        let Some((low, high)) = self.ask(|intake| intake.client.watermarks(&at, ASK))? else {
            return Ok(None);
        };
        let base = if policy == StartPolicy::Latest { high } else { low };
        let resume =
            Resume { base, leader_epoch: None, done: OffsetSet::new(), map_epoch: -1, dropped: None };
        Ok(Some((resume, true)))
    }

    fn open(&mut self, Start { entry: Entry { at, .. }, topic_id, resume, fresh }: Start) {
        if let Some(old) = self.slots.named(&at) {
            self.give_up(&[old]);
        }
        let (index, assignment) = (self.slots.free(), self.slots.next_assignment());
        tracing::info!(%at, offset = resume.base.0, done_beyond = resume.done.len(), "begins");
        let tracker = Tracker::restore(assignment, resume.base, &resume.done);
        let mut slot = Slot::new((at, index), topic_id, tracker, (resume.leader_epoch, resume.map_epoch));
        // The chosen start is committed, so that it holds from now on.
        slot.touched = fresh;
        self.slots.insert(slot);
        self.dispatch.open(index, assignment);
    }

    fn revoked(&mut self, entries: Vec<Entry>, lost: bool) -> Result<(), ConsumerError> {
        let held: Vec<SlotIndex> = entries.iter().filter_map(|entry| self.slots.named(&entry.at)).collect();
        tracing::info!(partitions = held.len(), lost, "partitions taken away");
        if lost {
            ConsumerStatus::add(&self.status.lost, held.len() as u64);
        } else {
            self.options.steps.reached("consumer.revoking");
            let until = Instant::now() + self.options.drain_timeout;
            self.drain(&held, until)?;
            // Asked again: the group may have moved on while handlers finished.
            if !self.client.assignment_lost() {
                self.commits.flush(&mut self.slots, &held, until.max(Instant::now() + FAREWELL));
            }
            ConsumerStatus::add(&self.status.revoked, held.len() as u64);
        }
        self.give_up(&held);
        if self.client.is_cooperative() {
            self.client.incremental_unassign(&entries)?;
        } else {
            self.client.unassign()?;
        }
        self.served_at = Instant::now();
        Ok(())
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
    fn give_up(&mut self, held: &[SlotIndex]) {
        self.dispatch.close(held);
        self.dispatch.claims.end(held);
        for index in held {
            self.judge.parked.forget(*index);
            self.slots.remove(*index);
        }
        ConsumerStatus::set(&self.status.partitions, self.slots.iter().count() as u64);
    }

    /// The thread did not come round within the poll interval: the group has, or may have, given
    /// our partitions away. librdkafka's own flag for that can get lost (its issue #5604).
    pub fn overslept(&mut self) -> Result<(), ConsumerError> {
        let held = self.slots.indices();
        tracing::warn!(partitions = held.len(), "poll interval exceeded: partitions are taken for lost");
        ConsumerStatus::add(&self.status.lost, held.len() as u64);
        self.give_up(&held);
        // Leaving and joining makes sure of a revocation and a new assignment.
        self.client.unsubscribe()?;
        Ok(self.client.subscribe(&self.options.topics)?)
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
        for slot in self.slots.iter_mut() {
            let span = slot.tracker.span();
            if span < window / 100 * percent && !slot.paused && !slot.over_share {
                continue;
            }
            if let Some(oldest) = slot.tracker.oldest_unfinished()
                && span >= window * percent / 100
                && slot.alarmed_for != Some(oldest)
            {
                slot.alarmed_for = Some(oldest);
                ConsumerStatus::add(&self.status.head_of_line, 1);
                tracing::warn!(at = %slot.at, offset = oldest.0, span, window, "one record holds its partition up");
            }
            let at = std::slice::from_ref(&slot.at);
            if (span >= window || slot.over_share) && !slot.paused {
                slot.paused = self.client.pause(at).inspect_err(|e| tracing::warn!(%e, "pause")).is_ok();
            } else if slot.paused && span <= window / 2 && !slot.over_share {
                // Pausing dropped what was fetched ahead: go on exactly where the tracker stands.
                let position = Entry { offset: slot.tracker.position().0, ..Entry::of(slot.at.clone()) };
                let resumed = self.client.seek(&[position], ASK).and_then(|()| self.client.resume(at));
                slot.paused = resumed.inspect_err(|e| tracing::warn!(%e, "resume")).is_err();
            }
        }
    }
}
