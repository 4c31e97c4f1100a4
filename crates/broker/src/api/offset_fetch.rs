//! OffsetFetch: the committed positions of one group or of several.
//!
//! Nothing here is ever unstable (there are no transactions), so `require_stable` asks for
//! what is answered anyway. An offset committed for a topic's predecessor of the same name is
//! none.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse, TopicName};
use uuid::Uuid;

use super::group_member::text;
use crate::groups::{Committed, Coordinator, Place};

/// From here on one request names several groups.
const SEVERAL_GROUPS: i16 = 8;

/// Offsets by topic and partition; none where nothing is committed.
type Found = Vec<(TopicName, Vec<(i32, Option<Committed>)>)>;

/// `topic_id` gives the id of a topic that has the partition.
pub(crate) fn answer(
    groups: &Coordinator,
    request: &OffsetFetchRequest,
    version: i16,
    topic_id: impl Fn(&str, i32) -> Option<Uuid>,
) -> OffsetFetchResponse {
    let lookup = Lookup { groups, topic_id };
    if version < SEVERAL_GROUPS {
        let asked =
            request.topics.as_ref().map(|topics| topics.iter().map(|t| (&t.name, &t.partition_indexes)));
        let topics = lookup.find(&request.group_id, asked).into_iter().map(old_topic);
        return OffsetFetchResponse::default().with_topics(topics.collect());
    }
    // All of a group is answered once: a small request must not ask for gigabytes.
    let mut whole = HashSet::new();
    let once = request.groups.iter().filter(|g| g.topics.is_some() || whole.insert(g.group_id.as_str()));
    let answers = once.map(|group| {
        let asked =
            group.topics.as_ref().map(|topics| topics.iter().map(|t| (&t.name, &t.partition_indexes)));
        let topics = lookup.find(&group.group_id, asked).into_iter().map(topic);
        OffsetFetchResponseGroup::default()
            .with_group_id(group.group_id.clone())
            .with_topics(topics.collect())
    });
    OffsetFetchResponse::default().with_groups(answers.collect())
}

struct Lookup<'a, F> {
    groups: &'a Coordinator,
    topic_id: F,
}

impl<F: Fn(&str, i32) -> Option<Uuid>> Lookup<'_, F> {
    /// What is asked for; everything there is when nothing is named.
    fn find<'r>(
        &self,
        group: &str,
        asked: Option<impl Iterator<Item = (&'r TopicName, &'r Vec<i32>)>>,
    ) -> Found {
        let Some(asked) = asked else { return self.everything(group) };
        // So is a partition: what was committed for it may be long.
        let mut seen = HashSet::new();
        asked
            .map(|(name, partitions)| {
                let one = |partition: i32| {
                    let place = Place { topic: name.to_string(), partition };
                    let committed = self.groups.committed(group, &place);
                    (partition, committed.filter(|c| self.is_current(&place, c)))
                };
                let once = partitions.iter().filter(|p| seen.insert((name, **p)));
                (name.clone(), once.map(|p| one(*p)).collect())
            })
            .collect()
    }

    fn everything(&self, group: &str) -> Found {
        let mut topics: BTreeMap<String, Vec<(i32, Option<Committed>)>> = BTreeMap::new();
        for (place, committed) in self.groups.all_committed(group) {
            if self.is_current(&place, &committed) {
                topics.entry(place.topic).or_default().push((place.partition, Some(committed)));
            }
        }
        topics.into_iter().map(|(name, partitions)| (TopicName(text(name)), partitions)).collect()
    }

    fn is_current(&self, place: &Place, committed: &Committed) -> bool {
        (self.topic_id)(&place.topic, place.partition) == Some(committed.topic_id)
    }
}

/// Offset, leader epoch and metadata as Kafka words "nothing" and something.
fn parts(committed: Option<Committed>) -> (i64, i32, String) {
    committed.map_or((-1, -1, String::new()), |c| (c.offset, c.leader_epoch, c.metadata))
}

fn old_topic((name, partitions): (TopicName, Vec<(i32, Option<Committed>)>)) -> OffsetFetchResponseTopic {
    let partitions = partitions.into_iter().map(|(index, committed)| {
        let (offset, leader_epoch, metadata) = parts(committed);
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(leader_epoch)
            .with_metadata(Some(text(metadata)))
    });
    OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
}

fn topic((name, partitions): (TopicName, Vec<(i32, Option<Committed>)>)) -> OffsetFetchResponseTopics {
    let partitions = partitions.into_iter().map(|(index, committed)| {
        let (offset, leader_epoch, metadata) = parts(committed);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(leader_epoch)
            .with_metadata(Some(text(metadata)))
    });
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.collect())
}
