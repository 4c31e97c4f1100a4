//! The offsets one group has committed, and when they expire.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    /// −1 when the client did not say.
    pub leader_epoch: i32,
    pub metadata: String,
    /// The topic it was committed for: an offset of a deleted topic says nothing about the
    /// next one with the same name.
    pub topic_id: Uuid,
    pub committed_ms: i64,
    /// Set by clients before OffsetCommit v5, which brought their own retention.
    pub expires_ms: Option<i64>,
}

/// A partition of a topic by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
}

/// When the offsets of a group count as abandoned (KIP-211).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retention {
    /// It has members: offsets of topics none of them subscribes to age from their commit.
    /// None stands for subscriptions the broker cannot read: nothing ages.
    Subscribed(Option<Vec<String>>),
    /// It had members until then: all offsets age from that moment or their commit.
    EmptySince(i64),
    /// It never had members: each offset ages from its commit.
    Simple,
}

/// The committed offsets of one group, by topic and partition.
#[derive(Debug, Default)]
pub struct GroupOffsets {
    topics: BTreeMap<String, BTreeMap<i32, Committed>>,
}

impl GroupOffsets {
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.topics.get(topic)?.get(&partition)
    }

    pub fn set(&mut self, place: Place, committed: Committed) {
        self.topics.entry(place.topic).or_default().insert(place.partition, committed);
    }

    pub fn remove(&mut self, place: &Place) {
        if let Some(partitions) = self.topics.get_mut(&place.topic) {
            partitions.remove(&place.partition);
            if partitions.is_empty() {
                self.topics.remove(&place.topic);
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, i32, &Committed)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, committed)| (topic.as_str(), *partition, committed))
        })
    }

    /// All places of one topic.
    pub fn places_of(&self, topic: &str) -> Vec<Place> {
        let partitions = self.topics.get(topic).into_iter().flat_map(BTreeMap::keys);
        partitions.map(|&partition| Place { topic: topic.to_owned(), partition }).collect()
    }

    /// What has outlived `keep` by `now_ms`.
    pub fn expired(&self, now_ms: i64, keep: Duration, retention: &Retention) -> Vec<Place> {
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let is_over = |topic: &str, committed: &Committed| {
            let in_use = match retention {
                Retention::Subscribed(None) => true,
                Retention::Subscribed(Some(topics)) => topics.iter().any(|t| t == topic),
                Retention::EmptySince(_) | Retention::Simple => false,
            };
            if in_use {
                return false;
            }
            if let Some(expires_ms) = committed.expires_ms {
                return now_ms >= expires_ms;
            }
            let since = match retention {
                Retention::EmptySince(since_ms) => committed.committed_ms.max(*since_ms),
                Retention::Subscribed(_) | Retention::Simple => committed.committed_ms,
            };
            now_ms.saturating_sub(since) >= keep_ms
        };
        self.iter()
            .filter(|(topic, _, committed)| is_over(topic, committed))
            .map(|(topic, partition, _)| Place { topic: topic.to_owned(), partition })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Duration = Duration::from_millis(1000);

    fn committed_at(committed_ms: i64, expires_ms: Option<i64>) -> Committed {
        Committed {
            offset: 1,
            leader_epoch: 0,
            metadata: String::new(),
            topic_id: Uuid::nil(),
            committed_ms,
            expires_ms,
        }
    }

    fn offsets(list: &[(&str, i64, Option<i64>)]) -> GroupOffsets {
        let mut offsets = GroupOffsets::default();
        for (topic, at, expires) in list {
            offsets.set(Place { topic: (*topic).to_owned(), partition: 0 }, committed_at(*at, *expires));
        }
        offsets
    }

    fn expired(offsets: &GroupOffsets, now_ms: i64, retention: &Retention) -> Vec<String> {
        offsets.expired(now_ms, WEEK, retention).into_iter().map(|p| p.topic).collect()
    }

    #[test]
    fn offsets_of_a_group_with_members_live_while_their_topic_is_subscribed() {
        let offsets = offsets(&[("in", 0, None), ("out", 0, None), ("own", 0, Some(5))]);
        let retention = Retention::Subscribed(Some(vec!["in".to_owned()]));
        assert_eq!(expired(&offsets, 999, &retention), ["own"]);
        assert_eq!(expired(&offsets, 1000, &retention), ["out", "own"]);
        assert!(expired(&offsets, i64::MAX, &Retention::Subscribed(None)).is_empty());
    }

    #[test]
    fn offsets_of_an_empty_group_age_from_the_moment_it_became_empty() {
        let offsets = offsets(&[("old", 0, None), ("young", 900, None)]);
        assert!(expired(&offsets, 1499, &Retention::EmptySince(500)).is_empty());
        assert_eq!(expired(&offsets, 1500, &Retention::EmptySince(500)), ["old"]);
        assert_eq!(expired(&offsets, 1900, &Retention::EmptySince(500)), ["old", "young"]);
    }

    #[test]
    fn offsets_of_simple_consumers_age_from_their_commit() {
        let offsets = offsets(&[("a", 0, None), ("b", 10, None)]);
        assert_eq!(expired(&offsets, 1000, &Retention::Simple), ["a"]);
    }
}
