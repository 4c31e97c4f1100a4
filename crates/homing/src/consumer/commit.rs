//! The one place that commits offsets, and only what a tracker says is committable.
//!
//! One commit is under way at a time, so that commits of an assignment arrive
//! in the order they were made. Offset and map come from one snapshot.

use super::dispatch::SlotIndex;
use super::slots::{Slot, Slots};
use super::status::ConsumerStatus;
use crate::kafka::native;
use crate::kafka::native_call::{CommitReply, SharedClient};
use crate::kafka::partition_list::Entry;
use crate::testing::Steps;
use homing_core::{AssignmentEpoch, CommitMap, Offset, Progress};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One partition of a commit that is under way.
struct Sent {
    index: SlotIndex,
    assignment: AssignmentEpoch,
    entry: Entry,
}

/// Commits on behalf of the slots.
pub(crate) struct Commits {
    client: SharedClient,
    status: Arc<ConsumerStatus>,
    steps: Steps,
    interval: Duration,
    next_at: Instant,
    under_way: Vec<Sent>,
}

impl Commits {
    pub fn new(client: SharedClient, status: Arc<ConsumerStatus>, steps: Steps, interval: Duration) -> Self {
        Self { client, status, steps, interval, next_at: Instant::now() + interval, under_way: Vec::new() }
    }

    /// Goes on with another client; what was under way with the last one is answered by nobody.
    pub fn reopen(&mut self, client: SharedClient) {
        self.client = client;
        self.under_way.clear();
    }

    /// When to come again.
    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Takes answers, and starts the next commit when it is time; never waits.
    pub fn tick(&mut self, slots: &mut Slots) {
        if !self.under_way.is_empty() {
            let Some(reply) = self.client.commit_reply(Duration::ZERO) else { return };
            self.answered(slots, &reply);
        }
        let now = Instant::now();
        if now >= self.next_at {
            self.next_at = now + self.interval;
            let indices = slots.indices();
            self.send(slots, &indices);
        }
    }

    /// Commits what these slots can, and waits for the answer until `until`. Says whether all of
    /// it is acknowledged.
    pub fn flush(&mut self, slots: &mut Slots, indices: &[SlotIndex], until: Instant) -> bool {
        while !self.under_way.is_empty() {
            if !self.await_reply(slots, until) {
                return false;
            }
        }
        self.send(slots, indices);
        let answered = self.under_way.is_empty() || self.await_reply(slots, until);
        answered && !self.has_changes(slots, indices)
    }

    fn await_reply(&mut self, slots: &mut Slots, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let Some(reply) = self.client.commit_reply(left) else {
            ConsumerStatus::add(&self.status.commit_failures, 1);
            self.status.failed("a commit was not answered in time".to_owned());
            return false;
        };
        self.answered(slots, &reply);
        true
    }

    fn has_changes(&self, slots: &mut Slots, indices: &[SlotIndex]) -> bool {
        indices.iter().any(|index| slots.get_mut(*index).is_some_and(|slot| slot.touched))
    }

    fn send(&mut self, slots: &mut Slots, indices: &[SlotIndex]) {
        for index in indices {
            let Some(slot) = slots.get_mut(*index).filter(|slot| slot.touched) else { continue };
            slot.touched = false;
            slot.prune_epochs();
            let entry = entry_of(slot, slot.tracker.snapshot());
            let same = |(offset, text): &(Offset, String)| {
                offset.0 == entry.offset && text.as_bytes() == entry.metadata.as_slice()
            };
            if !slot.committed.as_ref().is_some_and(same) {
                self.under_way.push(Sent { index: *index, assignment: slot.tracker.assignment(), entry });
            }
        }
        if self.under_way.is_empty() {
            return;
        }
        let entries: Vec<Entry> = self.under_way.iter().map(|sent| sent.entry.clone()).collect();
        if let Err(error) = self.client.commit(&entries) {
            self.failed(slots, error.to_string());
        }
    }

    fn answered(&mut self, slots: &mut Slots, reply: &CommitReply) {
        if let Err(error) = &reply.result {
            // The client gives the answer as a whole the error of partitions that all failed.
            if error.code == native::METADATA_TOO_LARGE {
                for sent in &self.under_way {
                    if let Some(slot) = slots.get_mut(sent.index)
                        && slot.tracker.assignment() == sent.assignment
                    {
                        shrink_map(slot);
                    }
                }
            }
            return self.failed(slots, error.to_string());
        }
        self.steps.reached("consumer.committed");
        ConsumerStatus::add(&self.status.commits, 1);
        for sent in self.under_way.drain(..) {
            let Some(slot) = slots.get_mut(sent.index) else { continue };
            if slot.tracker.assignment() != sent.assignment {
                continue;
            }
            let code =
                reply.entries.iter().find(|entry| entry.at == sent.entry.at).map_or(0, |entry| entry.error);
            if code == 0 {
                let text = String::from_utf8(sent.entry.metadata).unwrap_or_default();
                slot.committed = Some((Offset(sent.entry.offset), text));
            } else {
                slot.touched = true;
                if code == native::METADATA_TOO_LARGE {
                    shrink_map(slot);
                }
                ConsumerStatus::add(&self.status.commit_failures, 1);
                self.status.failed(format!("commit {}: {}", slot.at, native::describe(code)));
            }
        }
    }

    /// Nothing is lost by a commit that fails: the next one says the same and more.
    fn failed(&mut self, slots: &mut Slots, error: String) {
        tracing::warn!(error, "commit failed, it will be made again");
        ConsumerStatus::add(&self.status.commit_failures, 1);
        self.status.failed(error);
        for sent in self.under_way.drain(..) {
            if let Some(slot) = slots.get_mut(sent.index) {
                slot.touched |= slot.tracker.assignment() == sent.assignment;
            }
        }
    }
}

/// The broker allows less metadata than we wrote: the same map would be refused for ever.
fn shrink_map(slot: &mut Slot) {
    slot.map_chars_max /= 2;
    tracing::warn!(at = %slot.at, chars = slot.map_chars_max,
        "the broker allows less commit metadata (offset.metadata.max.bytes): what the map leaves out is handled again after a crash");
}

/// What to commit for a slot: the committable offset, its leader epoch, and the map.
fn entry_of(slot: &Slot, Progress { committable, done }: Progress) -> Entry {
    let metadata = slot.topic_id.map(|topic_id| {
        CommitMap { topic_id, leader_epoch: slot.newest_epoch(), base: committable, done }
            .encode(slot.map_chars_max)
    });
    Entry {
        offset: committable.0,
        leader_epoch: slot.epoch_below(committable),
        metadata: metadata.unwrap_or_default().into_bytes(),
        ..Entry::of(slot.at.clone())
    }
}
