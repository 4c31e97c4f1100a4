//! Where to begin in an assigned partition: from the commit, its map, or the start policy. Pure.

use crate::kafka::TopicId;
use crate::kafka::partition_list::Entry;
use homing_core::{CommitMap, MapError, Offset, OffsetSet};

/// Where to begin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Begin {
    /// At the committed offset.
    Resume(Resume),
    /// Nowhere in particular: the group has committed nothing here.
    Fresh,
    /// The commit speaks of a former topic of this name, so its offset means nothing.
    Recreated { former: Offset },
}

/// A committed offset, and what of its map can be trusted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resume {
    pub base: Offset,
    /// Committed along with the offset, for the broker to see truncation by.
    pub leader_epoch: Option<i32>,
    /// Finished records at and above `base`.
    pub done: OffsetSet,
    /// The newest leader epoch whose records `done` speaks of.
    pub map_epoch: i32,
    /// There was a map and it cannot be used: its records are handled again.
    pub dropped: Option<String>,
}

/// Judges what the group has committed for one partition.
pub(crate) fn judge(committed: &Entry, topic_id: Option<&TopicId>) -> Begin {
    let Some(base) = committed.real_offset() else { return Begin::Fresh };
    let leader_epoch = committed.leader_epoch;
    let bare = |dropped: Option<String>| {
        Begin::Resume(Resume { base, leader_epoch, done: OffsetSet::new(), map_epoch: -1, dropped })
    };
    if committed.metadata.is_empty() {
        return bare(None);
    }
    let Some(topic_id) = topic_id else {
        return bare(Some("the topic's id is unknown".to_owned()));
    };
    let Ok(text) = std::str::from_utf8(&committed.metadata) else {
        return bare(Some("commit metadata is no text".to_owned()));
    };
    match CommitMap::decode_for(text, topic_id, base) {
        Err(MapError::OtherTopic) => Begin::Recreated { former: base },
        Err(error) => bare(Some(error.to_string())),
        // The offset's epoch is never newer than the map's: somebody else wrote one of them.
        Ok(map) if leader_epoch.is_some_and(|epoch| epoch > map.leader_epoch) => {
            bare(Some("commit map is of an older leader epoch than its offset".to_owned()))
        }
        Ok(map) => Begin::Resume(Resume {
            base,
            leader_epoch,
            done: map.done,
            map_epoch: map.leader_epoch,
            dropped: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::partition_list::TopicPartition;
    use homing_core::{Partition, TopicName};

    const ID: TopicId = [7; 16];

    fn committed(offset: i64, metadata: &str) -> Entry {
        let at = TopicPartition { topic: TopicName::parse("t").unwrap(), partition: Partition(0) };
        Entry { offset, leader_epoch: Some(3), metadata: metadata.as_bytes().to_vec(), ..Entry::of(at) }
    }

    fn map(leader_epoch: i32, base: i64) -> String {
        let done = [Offset(base + 2)].into_iter().collect();
        CommitMap { topic_id: ID, leader_epoch, base: Offset(base), done }.encode(CommitMap::CHARS_MAX)
    }

    #[test]
    fn a_good_map_is_taken() {
        let Begin::Resume(resume) = judge(&committed(10, &map(3, 10)), Some(&ID)) else { panic!() };
        assert!(resume.done.contains(Offset(12)) && resume.dropped.is_none());
        assert_eq!((resume.base, resume.map_epoch), (Offset(10), 3));
    }

    #[test]
    fn whatever_is_off_with_the_map_means_handling_its_records_again() {
        let good = map(3, 10);
        let mut flipped = good.clone().into_bytes();
        flipped[20] ^= 1;
        let flipped = String::from_utf8(flipped).unwrap();
        for (text, id) in [
            (flipped.as_str(), Some(&ID)),
            (&good[..good.len() - 1], Some(&ID)),
            ("somebody else's words", Some(&ID)),
            (map(3, 11).as_str(), Some(&ID)),
            (map(2, 10).as_str(), Some(&ID)),
            (good.as_str(), None),
        ] {
            let Begin::Resume(resume) = judge(&committed(10, text), id) else { panic!("{text}") };
            assert!(resume.done.is_empty() && resume.dropped.is_some(), "{text}");
            assert_eq!(resume.base, Offset(10));
        }
    }

    #[test]
    fn a_commit_of_a_former_topic_is_no_position_in_this_one() {
        assert_eq!(
            judge(&committed(10, &map(3, 10)), Some(&[8; 16])),
            Begin::Recreated { former: Offset(10) }
        );
        assert_eq!(judge(&committed(-1001, ""), Some(&ID)), Begin::Fresh);
    }
}
