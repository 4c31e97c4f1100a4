//! The topics a relay writes to: their pinned epochs, lanes, limits and handles.

use crate::kafka::producer::TopicHandle;
use crate::outbox::store::{LanePart, Manifest, Standing, TopicEpoch, Weakness};
use homing_core::{Epoch, Offset, PartitionCount, TopicName};
use std::collections::HashMap;
use std::time::Instant;

/// `max.message.bytes` of a topic nobody changed (Apache Kafka's default).
pub(super) const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;

/// Where one lane of an open epoch stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    /// The seq its next row gets.
    pub next_seq: u64,
    /// Where its unsettled records begin at the earliest.
    pub next_offset: Offset,
    /// Whether this producer has had an acknowledgement from it.
    pub warm: bool,
}

/// A topic with its open epoch.
#[derive(Debug)]
pub(super) struct OpenTopic {
    pub epoch: TopicEpoch,
    pub lanes: Vec<Lane>,
    /// The topic's `max.message.bytes`.
    pub message_bytes_max: usize,
    /// What was noted of its settings; `None` before the first look.
    pub weakness: Option<Option<Weakness>>,
    /// Its handle in the present producer.
    pub handle: Option<TopicHandle>,
    /// Why its epoch must end once all is settled, with the partition count it has now.
    pub outdated: Option<PartitionCount>,
    /// Since when Kafka says that it is not there.
    pub missing_since: Option<Instant>,
}

/// All topics with an open epoch.
#[derive(Debug, Default)]
pub(super) struct Topics {
    pub list: Vec<OpenTopic>,
    by_name: HashMap<TopicName, usize>,
    closed: HashMap<(TopicName, Epoch), PartitionCount>,
}

impl Topics {
    pub fn new(standing: &Standing) -> Self {
        let mut topics = Self::default();
        for closed in &standing.closed {
            topics.closed.insert((closed.topic.clone(), closed.epoch), closed.partitions);
        }
        for epoch in &standing.topics {
            let lanes = standing
                .lanes
                .iter()
                .filter(|lane| lane.topic == epoch.topic && lane.epoch == epoch.epoch)
                .map(|lane| Lane { next_seq: lane.next_seq.0, next_offset: lane.next_offset, warm: false })
                .collect();
            topics.insert(epoch.clone(), lanes);
        }
        topics
    }

    /// Adds a topic, or replaces its epoch by a new one.
    pub fn insert(&mut self, epoch: TopicEpoch, lanes: Vec<Lane>) -> usize {
        assert_eq!(
            lanes.len(),
            usize::try_from(epoch.partitions.get()).expect("a partition count is positive"),
            "topic {} has a lane for each partition",
            epoch.topic
        );
        let name = epoch.topic.clone();
        let open = OpenTopic {
            epoch,
            lanes,
            message_bytes_max: MESSAGE_BYTES_DEFAULT,
            weakness: None,
            handle: None,
            outdated: None,
            missing_since: None,
        };
        if let Some(at) = self.by_name.get(&name).copied() {
            let old = std::mem::replace(&mut self.list[at], open).epoch;
            self.closed.insert((old.topic, old.epoch), old.partitions);
            at
        } else {
            self.list.push(open);
            self.by_name.insert(name, self.list.len() - 1);
            self.list.len() - 1
        }
    }

    pub fn find(&self, topic: &TopicName) -> Option<usize> {
        self.by_name.get(topic).copied()
    }

    /// The places of a manifest's lanes: topic and partition in this table.
    pub fn places(&self, manifest: &Manifest) -> Option<Vec<(usize, usize)>> {
        let place = |part: &LanePart| {
            let topic = self.find(&part.topic)?;
            let open = &self.list[topic];
            let partition = usize::try_from(part.partition.0).ok()?;
            (open.epoch.epoch == part.epoch && partition < open.lanes.len()).then_some((topic, partition))
        };
        manifest.lanes.iter().map(place).collect()
    }

    /// The partition count pinned for an epoch, open or closed.
    pub fn partitions(&self, topic: &TopicName, epoch: Epoch) -> Option<PartitionCount> {
        match self.find(topic).map(|at| &self.list[at].epoch) {
            Some(open) if open.epoch == epoch => Some(open.partitions),
            _ => self.closed.get(&(topic.clone(), epoch)).copied(),
        }
    }

    /// Forgets what belongs to a producer that is gone.
    pub fn forget_producer(&mut self) {
        for topic in &mut self.list {
            topic.handle = None;
            topic.lanes.iter_mut().for_each(|lane| lane.warm = false);
        }
    }

    /// Whether an epoch must end before anything new is numbered.
    pub fn any_outdated(&self) -> bool {
        self.list.iter().any(|topic| topic.outdated.is_some())
    }

    /// The smallest `max.message.bytes` of all topics.
    pub fn smallest_message_limit(&self) -> usize {
        self.list.iter().map(|topic| topic.message_bytes_max).min().unwrap_or(MESSAGE_BYTES_DEFAULT)
    }
}
