//! What the driver knows of each topic: its pinned epoch, limits, settings. Phases are the machine's.

use crate::kafka::admin::TopicFacts;
use crate::outbox::store::{LaneKey, Standing, TopicEpoch, Weakness};
use homing_core::relay::TopicIx;
use homing_core::{Epoch, Partition, PartitionCount, TopicName};
use std::collections::HashMap;

/// `max.message.bytes` of a topic nobody changed (Apache Kafka's default).
pub(super) const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;

/// One topic.
#[derive(Debug, Default)]
pub(super) struct Topic {
    /// The open epoch.
    pub epoch: Option<TopicEpoch>,
    /// The topic's `max.message.bytes` as it was last known; `None`: it never was.
    pub message_bytes_max: Option<usize>,
    /// Whether its `cleanup.policy` contains `compact`, as it was last known.
    pub compacted: Option<bool>,
    /// What was noted of its settings; `None` before the first look.
    pub weakness: Option<Option<Weakness>>,
    /// How many partitions it was seen to have when that ended its epoch.
    pub grown_to: Option<PartitionCount>,
}

/// All topics, by their places in the machine.
#[derive(Debug, Default)]
pub(super) struct Topics {
    list: Vec<Topic>,
    closed: HashMap<(TopicName, Epoch), PartitionCount>,
}

impl Topics {
    pub fn new(standing: &Standing) -> Self {
        let closed = standing.closed.iter();
        let closed = closed.map(|known| ((known.topic.clone(), known.epoch), known.partitions)).collect();
        Self { list: Vec::new(), closed }
    }

    pub fn get(&mut self, ix: TopicIx) -> &mut Topic {
        let at = ix.0 as usize;
        if self.list.len() <= at {
            self.list.resize_with(at + 1, Topic::default);
        }
        &mut self.list[at]
    }

    pub fn epoch(&self, ix: TopicIx) -> Option<&TopicEpoch> {
        self.list.get(ix.0 as usize)?.epoch.as_ref()
    }

    /// Pins a topic's new epoch in place of the one it had.
    pub fn open(&mut self, ix: TopicIx, epoch: TopicEpoch) {
        self.close(ix);
        let topic = self.get(ix);
        topic.epoch = Some(epoch);
        topic.grown_to = None;
    }

    /// Forgets a topic's open epoch.
    pub fn close(&mut self, ix: TopicIx) {
        if let Some(old) = self.get(ix).epoch.take() {
            self.closed.insert((old.topic, old.epoch), old.partitions);
        }
    }

    /// The partition count pinned for an epoch, open or closed.
    pub fn partitions(&self, ix: Option<TopicIx>, topic: &TopicName, epoch: Epoch) -> Option<PartitionCount> {
        match ix.and_then(|ix| self.epoch(ix)) {
            Some(open) if open.epoch == epoch => Some(open.partitions),
            _ => self.closed.get(&(topic.clone(), epoch)).copied(),
        }
    }

    /// The key of a lane of the open epoch.
    pub fn lane(&self, ix: TopicIx, partition: Partition) -> Option<LaneKey> {
        let open = self.epoch(ix)?;
        Some(LaneKey { topic: open.topic.clone(), epoch: open.epoch, partition })
    }

    /// The smallest `max.message.bytes` of all topics, as far as they are known.
    pub fn smallest_message_limit(&self) -> usize {
        let open = self.list.iter().filter(|topic| topic.epoch.is_some());
        open.filter_map(|topic| topic.message_bytes_max).min().unwrap_or(MESSAGE_BYTES_DEFAULT)
    }
}

/// A topic's partition count beside the one its open epoch has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Partitions {
    Same,
    Changed(PartitionCount),
    /// Fewer, which a topic never has while it is the same: the broker that says so is behind.
    Stale,
}

pub(super) fn partitions_now(pinned: &TopicEpoch, facts: &TopicFacts) -> Partitions {
    match PartitionCount::new(facts.partitions) {
        None => Partitions::Stale,
        Some(count) if count == pinned.partitions => Partitions::Same,
        Some(count) if count < pinned.partitions && ids_known(pinned, facts) => Partitions::Stale,
        Some(count) => Partitions::Changed(count),
    }
}

/// Whether both sides have a topic id. All zeros: a broker that knows none.
pub(super) fn ids_known(pinned: &TopicEpoch, facts: &TopicFacts) -> bool {
    facts.id != [0; 16] && pinned.topic_id != [0; 16]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: u8, pinned: i32, found: i32) -> Partitions {
        let partitions = PartitionCount::new(pinned).unwrap();
        let topic = TopicName::parse("orders").unwrap();
        let epoch = TopicEpoch { topic, epoch: Epoch(1), topic_id: [7; 16], partitions };
        partitions_now(&epoch, &TopicFacts { id: [id; 16], partitions: found, parts: Vec::new() })
    }

    #[test]
    fn a_broker_that_is_behind_a_topics_growth_ends_no_epoch() {
        assert_eq!(seen(7, 3, 3), Partitions::Same);
        assert_eq!(seen(7, 3, 5), Partitions::Changed(PartitionCount::new(5).unwrap()));
        assert_eq!(seen(7, 5, 3), Partitions::Stale);
        assert_eq!(seen(7, 5, 0), Partitions::Stale);
        // Without ids fewer partitions may as well be another topic of the name: its own epoch.
        assert_eq!(seen(0, 5, 3), Partitions::Changed(PartitionCount::new(3).unwrap()));
    }
}
