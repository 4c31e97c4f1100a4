//! Finds partitions of our topics that nobody in the group holds, and says when to join anew for them.
//!
//! A member with an instance id that comes back is given what it had, and the group does not share out
//! anew (KIP-345). Partitions that were added while it was away, or that the sharing member had not
//! heard of, then stay nobody's: no member sees the topic change any more. So such a member looks for
//! itself. What nobody holds at two looks while the group is at rest is a reason to leave and join,
//! which makes the group share out.

use crate::kafka::native::NativeError;
use crate::kafka::native_call::SharedClient;
use crate::kafka::partition_list::TopicPartition;
use homing_core::{Partition, TopicName};
use std::collections::HashSet;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// Between an assignment and a look, and between the two looks that decide.
const SOON: Duration = Duration::from_secs(2);
/// Between looks while all is held: a look asks every broker for its groups, and one for the topics.
const LATER: Duration = Duration::from_secs(60);
/// The longest wait after joining anew did not help.
const PATIENCE_MAX: Duration = Duration::from_secs(300);
/// One question to the cluster.
const ASK: Duration = Duration::from_secs(5);

/// What nobody holds; `None` when that cannot be said now.
type Look = Option<Vec<TopicPartition>>;

/// A static member's watch over its group's partitions.
#[derive(Debug)]
pub(crate) struct Coverage {
    next_at: Instant,
    /// What nobody held at the last look.
    suspected: Vec<TopicPartition>,
    /// From a join that did not help to the next look; grows.
    patience: Duration,
    /// A look under way, in a thread of its own: the poll thread waits for no answer.
    looking: Option<Receiver<Look>>,
}

impl Coverage {
    pub fn new(now: Instant) -> Self {
        Self { next_at: now + SOON, suspected: Vec::new(), patience: SOON, looking: None }
    }

    /// The group has shared out: see soon whether everything is somebody's.
    pub fn assigned(&mut self, now: Instant) {
        self.suspected.clear();
        self.next_at = now + self.patience;
        self.looking = None;
    }

    /// Looks when it is time. Returns what nobody holds when that is a reason to join anew.
    pub fn tick(&mut self, client: &SharedClient, group: &str, topics: &[TopicName]) -> Vec<TopicPartition> {
        let now = Instant::now();
        let Some(looking) = &self.looking else {
            if now >= self.next_at {
                self.looking = Some(look(client, group, topics));
            }
            return Vec::new();
        };
        match looking.try_recv() {
            Err(TryRecvError::Empty) => Vec::new(),
            Err(TryRecvError::Disconnected) => self.judge(now, None),
            Ok(look) => self.judge(now, look),
        }
    }

    fn judge(&mut self, now: Instant, look: Look) -> Vec<TopicPartition> {
        self.looking = None;
        let before = std::mem::take(&mut self.suspected);
        let Some(unheld) = look else {
            self.next_at = now + self.patience;
            return Vec::new();
        };
        if unheld.is_empty() {
            (self.patience, self.next_at) = (SOON, now + LATER);
            return Vec::new();
        }
        let still: Vec<TopicPartition> = unheld.iter().filter(|at| before.contains(at)).cloned().collect();
        if still.is_empty() {
            (self.suspected, self.next_at) = (unheld, now + SOON);
        } else {
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
            self.next_at = now + self.patience;
        }
        still
    }
}

/// Has a thread look. Without one there is no answer, and the next look is another chance.
fn look(client: &SharedClient, group: &str, topics: &[TopicName]) -> Receiver<Look> {
    let (answer, looking) = channel();
    let (client, group, topics) = (SharedClient::clone(client), group.to_owned(), topics.to_vec());
    let thread = std::thread::Builder::new().name("homing-coverage".to_owned()).spawn(move || {
        let look = unheld(&client, &group, &topics).unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot tell whether every partition is somebody's");
            None
        });
        // Nobody waits for it any more when the group has shared out meanwhile.
        let _ = answer.send(look);
    });
    if let Err(error) = thread {
        tracing::debug!(%error, "no thread to look after the group's partitions with");
    }
    looking
}

fn unheld(client: &SharedClient, group: &str, topics: &[TopicName]) -> Result<Look, NativeError> {
    let Some(held) = client.held_in_group(group, ASK)? else { return Ok(None) };
    let held: HashSet<TopicPartition> = held.into_iter().collect();
    let counts = client.partition_counts(topics, ASK)?;
    let all = topics.iter().zip(counts).flat_map(|(topic, count)| {
        (0..count).map(|number| TopicPartition { topic: topic.clone(), partition: Partition(number) })
    });
    Ok(Some(all.filter(|at| !held.contains(at)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: TopicName::parse("t").unwrap(), partition: Partition(partition) }
    }

    #[test]
    fn only_what_nobody_holds_at_two_looks_in_a_row_is_a_reason() {
        let now = Instant::now();
        let mut coverage = Coverage::new(now);
        assert!(coverage.judge(now, Some(vec![at(1), at(2)])).is_empty(), "one look may fall into a move");
        assert!(coverage.judge(now, None).is_empty(), "the group was sharing out: begin again");
        assert!(coverage.judge(now, Some(vec![at(1)])).is_empty());
        assert!(coverage.judge(now, Some(vec![at(3)])).is_empty(), "another partition on its way");
        assert_eq!(coverage.judge(now, Some(vec![at(3), at(4)])), vec![at(3)]);
    }

    #[test]
    fn joining_that_does_not_help_is_tried_ever_more_seldom() {
        let now = Instant::now();
        let mut coverage = Coverage::new(now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            coverage.judge(now, Some(vec![at(0)]));
            assert!(!coverage.judge(now, Some(vec![at(0)])).is_empty());
            coverage.assigned(now);
            waits.push(coverage.next_at - now);
        }
        assert!(waits.is_sorted() && waits[0] > SOON, "{waits:?}");
        assert_eq!(waits.last(), Some(&PATIENCE_MAX));
        coverage.judge(now, Some(Vec::new()));
        assert_eq!(coverage.next_at - now, LATER);
        coverage.assigned(now);
        assert_eq!(coverage.next_at - now, SOON, "what is whole again begins afresh");
    }
}
