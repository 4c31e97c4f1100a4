//! Looks after the topics: one that is gone or was made anew, and partitions nobody in the group holds.
//!
//! A client says nothing of a topic that was deleted under it, and reads on in
//! one that was made anew as if it were the old one. And a member with an
//! instance id that comes back is given what it had, without the group sharing
//! out anew (KIP-345): partitions that were added while it was away, or that the
//! sharing member had not heard of, are nobody's, and no member sees that.
//!
//! Nobody is asked who holds what: such requests go to the group's coordinator,
//! and one that ran out of time can end the process (librdkafka 2.12.1). A
//! partition in which the group has never committed is one that nobody has
//! begun, because each member commits where it begins at once. What is nobody's
//! at two looks in a row is a reason to leave and join, which makes the group
//! share out; where that does not help (another program's member that commits
//! nothing), it is not tried again for the same partitions.

use super::error::ConsumerError;
use super::intake::Intake;
use super::question::{Answer, Question};
use super::status::ConsumerStatus;
use crate::kafka::TopicId;
use crate::kafka::native::NativeError;
use crate::kafka::native_call::SharedClient;
use crate::kafka::native_describe::Described;
use crate::kafka::partition_list::{Entry, TopicPartition};
use homing_core::{Partition, TopicName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between the start or an assignment and a look, and between two looks that decide.
const SOON: Duration = Duration::from_secs(2);
/// Between looks while all is well: one small request, and one more for a static member.
const LATER: Duration = Duration::from_secs(5);
/// The same, for the partitions nobody holds.
const COVERAGE: Duration = Duration::from_secs(60);
/// One question.
const ASK: Duration = Duration::from_secs(5);

/// What a look has found.
#[derive(Debug, Clone)]
struct Look {
    topics: Vec<(TopicName, Described)>,
    /// Partitions without a commit of the group; `None` when that was not asked or not answered.
    uncommitted: Option<BTreeSet<TopicPartition>>,
}

/// The watch over the topics.
#[derive(Debug)]
pub(crate) struct Topics {
    /// Whether partitions can be nobody's: a static member of a classic group.
    covers: bool,
    next_at: Instant,
    /// `None` until the group has shared out for the first time.
    next_coverage_at: Option<Instant>,
    question: Option<Question<Result<Look, NativeError>>>,
    missing: BTreeSet<TopicName>,
    /// Topics whose id was another one at the last look.
    changed: BTreeMap<TopicName, TopicId>,
    /// What was nobody's at the last look that asked.
    unheld: BTreeSet<TopicPartition>,
    /// What the group was joined anew for.
    tried: BTreeSet<TopicPartition>,
}

impl Topics {
    pub fn new(covers: bool, now: Instant) -> Self {
        Self {
            covers,
            next_at: now + SOON,
            next_coverage_at: None,
            question: None,
            missing: BTreeSet::new(),
            changed: BTreeMap::new(),
            unheld: BTreeSet::new(),
            tried: BTreeSet::new(),
        }
    }

    /// The group has shared out: look soon, and begin to count anew.
    pub fn assigned(&mut self, now: Instant) {
        self.unheld.clear();
        (self.next_at, self.next_coverage_at) = (now + SOON, Some(now + SOON));
    }

    /// Takes in what nobody but us could hold; returns what to join anew for. Pure.
    fn cover(&mut self, unheld: BTreeSet<TopicPartition>, now: Instant) -> BTreeSet<TopicPartition> {
        let before = std::mem::replace(&mut self.unheld, unheld);
        let still: BTreeSet<TopicPartition> = self
            .unheld
            .iter()
            .filter(|at| before.contains(at) && !self.tried.contains(at))
            .cloned()
            .collect();
        self.tried.extend(still.iter().cloned());
        let is_news = still.is_empty() && self.unheld.iter().any(|at| !self.tried.contains(at));
        let next_at = now + if is_news { SOON } else { COVERAGE };
        self.next_coverage_at = Some(next_at);
        self.next_at = self.next_at.min(next_at);
        still
    }
}

impl Intake {
    /// Looks after the topics; joins the group anew when that is called for.
    pub fn watch_topics(&mut self) -> Result<(), ConsumerError> {
        let now = Instant::now();
        let Some(question) = &self.topics.question else {
            if now >= self.topics.next_at {
                self.topics.next_at = now + LATER;
                let is_time = self.topics.next_coverage_at.is_some_and(|at| now >= at);
                self.put_look(is_time && self.topics.covers);
            }
            return Ok(());
        };
        match question.take() {
            Answer::NotYet => return Ok(()),
            Answer::Over => {}
            Answer::Here(Err(error)) => {
                tracing::debug!(%error, "the topics cannot be looked after now");
                self.topics.unheld.clear();
            }
            Answer::Here(Ok(look)) => {
                self.topics.question = None;
                return self.take_look(look, now);
            }
        }
        self.topics.question = None;
        Ok(())
    }

    fn put_look(&mut self, covers: bool) {
        let (client, topics) = (Arc::clone(&self.client), self.options.topics.clone());
        match Question::put(&self.bell, move |asking| asking.answer(look(&client, topics, covers))) {
            Ok(question) => self.topics.question = Some(question),
            Err(error) => tracing::warn!(%error, "no thread to look after the topics in"),
        }
    }

    fn take_look(&mut self, Look { topics, uncommitted }: Look, now: Instant) -> Result<(), ConsumerError> {
        self.note_missing(&topics);
        if self.are_others(&topics) {
            return self.join_anew();
        }
        let Some(mut unheld) = uncommitted else { return Ok(()) };
        unheld.retain(|at| self.slots.named(at).is_none() && !self.beginnings.contains(at));
        let unheld = self.topics.cover(unheld, now);
        let Some(first) = unheld.first() else { return Ok(()) };
        tracing::warn!(count = unheld.len(), %first, "partitions nobody in the group holds (C23): joining it anew");
        self.join_anew()
    }

    fn note_missing(&mut self, topics: &[(TopicName, Described)]) {
        for (topic, described) in topics {
            match described {
                Described::Missing => {
                    // Said at each look: the client's own words come between.
                    self.status
                        .failed(format!("{topic}: there is no such topic: never made, or deleted (A03)"));
                    if self.topics.missing.insert(topic.clone()) {
                        let held = self.slots.iter().filter(|slot| slot.at.topic == *topic).count();
                        tracing::warn!(%topic, held, "there is no such topic: never made, or deleted (A03); waiting for it, other topics go on");
                    }
                }
                Described::Here { .. } if self.topics.missing.remove(topic) => {
                    tracing::info!(%topic, "the topic is there");
                }
                Described::Here { .. } | Described::Unclear(_) => {}
            }
        }
        ConsumerStatus::set(&self.status.topics_missing, self.topics.missing.len() as u64);
    }

    /// Gives up what is held of topics that are, at two looks, others than those it was held of.
    fn are_others(&mut self, topics: &[(TopicName, Described)]) -> bool {
        let mut others = BTreeMap::new();
        for (topic, described) in topics {
            let Described::Here { id: Some(id), .. } = described else { continue };
            let is_other = |slot: &super::slots::Slot| {
                slot.at.topic == *topic && slot.topic_id.is_some_and(|of| of != *id)
            };
            if self.slots.iter().any(is_other) {
                others.insert(topic.clone(), *id);
            }
        }
        let before = std::mem::replace(&mut self.topics.changed, others);
        let sure: Vec<TopicName> = self
            .topics
            .changed
            .iter()
            .filter(|(topic, id)| before.get(*topic) == Some(id))
            .map(|(topic, _)| topic.clone())
            .collect();
        if sure.is_empty() {
            if !self.topics.changed.is_empty() {
                self.topics.next_at = Instant::now() + Duration::from_millis(500);
            }
            return false;
        }
        self.topics.changed.clear();
        self.give_up_former(&sure);
        true
    }

    /// Whether this topic is, by its id, another one than it was when it was taken on; what is held of
    /// it is then given up. Waits for the answer, and is for what would end the consumer otherwise.
    pub fn gives_up_former(&mut self, topic: &TopicName, held_of: Option<TopicId>) -> bool {
        let asked = self.client.topic_ids(std::slice::from_ref(topic), self.options.request_timeout);
        let now = asked.ok().and_then(|ids| ids.first().copied().flatten());
        let is_other = now.is_some() && held_of.is_some() && now != held_of;
        if is_other {
            self.give_up_former(std::slice::from_ref(topic));
        }
        is_other
    }

    fn give_up_former(&mut self, topics: &[TopicName]) {
        let names: Vec<&str> = topics.iter().map(TopicName::as_str).collect();
        tracing::warn!(topics = ?names, "deleted and made anew (A04) under this consumer: joining anew, to begin where the start policy says");
        let held: Vec<_> =
            self.slots.iter().filter(|slot| topics.contains(&slot.at.topic)).map(|slot| slot.index).collect();
        ConsumerStatus::add(&self.status.lost, held.len() as u64);
        // Nothing of it is committed: those offsets were the former topic's.
        self.give_up(&held);
    }
}

fn look(client: &SharedClient, topics: Vec<TopicName>, covers: bool) -> Result<Look, NativeError> {
    let described = client.describe_topics(&topics, ASK)?;
    let topics: Vec<(TopicName, Described)> = topics.into_iter().zip(described).collect();
    if !covers {
        return Ok(Look { topics, uncommitted: None });
    }
    let all: Vec<Entry> = topics
        .iter()
        .flat_map(|(topic, described)| {
            let count = if let Described::Here { partitions, .. } = described { *partitions } else { 0 };
            (0..count).map(|number| {
                Entry::of(TopicPartition { topic: topic.clone(), partition: Partition(number) })
            })
        })
        .collect();
    if all.is_empty() {
        return Ok(Look { topics, uncommitted: None });
    }
    let committed = client.committed(&all, ASK)?;
    let without = committed.into_iter().filter(|entry| entry.error == 0 && entry.real_offset().is_none());
    Ok(Look { topics, uncommitted: Some(without.map(|entry| entry.at).collect()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn these(partitions: &[i32]) -> BTreeSet<TopicPartition> {
        let topic = TopicName::parse("t").unwrap();
        let at = |number: &i32| TopicPartition { topic: topic.clone(), partition: Partition(*number) };
        partitions.iter().map(at).collect()
    }

    #[test]
    fn only_what_is_nobodys_at_two_looks_in_a_row_is_a_reason_to_join_anew() {
        let now = Instant::now();
        let mut topics = Topics::new(true, now);
        assert!(topics.cover(these(&[1, 2]), now).is_empty(), "one look may fall into a move");
        assert_eq!(topics.next_coverage_at, Some(now + SOON));
        topics.assigned(now);
        assert!(topics.cover(these(&[1]), now).is_empty(), "the group has shared out meanwhile");
        assert!(topics.cover(these(&[3]), now).is_empty(), "another partition on its way");
        assert_eq!(topics.cover(these(&[3, 4]), now), these(&[3]));
    }

    #[test]
    fn joining_that_does_not_help_is_not_tried_again_for_the_same_partitions() {
        let now = Instant::now();
        let mut topics = Topics::new(true, now);
        topics.cover(these(&[1]), now);
        assert_eq!(topics.cover(these(&[1]), now), these(&[1]));
        for _ in 0..10 {
            topics.assigned(now);
            assert!(topics.cover(these(&[1]), now).is_empty());
            assert_eq!(topics.next_coverage_at, Some(now + COVERAGE));
        }
        assert!(topics.cover(these(&[1, 2]), now).is_empty());
        assert_eq!(topics.cover(these(&[1, 2]), now), these(&[2]), "but for others");
    }
}
