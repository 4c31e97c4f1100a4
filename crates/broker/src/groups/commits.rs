//! Committing, fetching and forgetting offsets, and deleting groups.

use std::time::Instant;

use kafka_protocol::ResponseError;
use uuid::Uuid;

use super::coordinator::{Change, Coordinator, Entity, wall_ms};
use super::journal::{Entry, Position};
use super::messages::Identity;
use super::offsets::{Committed, Place};
use super::record::Key;

/// One offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOffset {
    pub place: Place,
    pub topic_id: Uuid,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
}

/// OffsetCommit of what has passed the checks that are per partition.
#[derive(Debug, Clone)]
pub struct Commit {
    pub identity: Identity,
    /// −1 for tools and consumers outside the group protocol.
    pub generation: i32,
    /// Only from clients before v5.
    pub retention_ms: Option<i64>,
    pub offsets: Vec<NewOffset>,
}

/// Kafka's strings are no longer, in any version of its protocol.
const GROUP_ID_BYTES_MAX: usize = i16::MAX as usize;
/// What one commit may take in the journal, where the group's name stands with every partition: as
/// much as a batch of Apache Kafka's offsets topic (`max.message.bytes`).
const COMMIT_BYTES_MAX: usize = 1_048_588;
/// An offset's key and value without group, topic and metadata.
const OFFSET_BYTES: usize = 70;

/// What a commit takes in the journal, before any of it is made.
fn commit_bytes(group: &str, offsets: &[NewOffset]) -> usize {
    let each = |new: &NewOffset| OFFSET_BYTES + group.len() + new.place.topic.len() + new.metadata.len();
    offsets.iter().map(each).sum()
}

/// Parts of `places` that fit the journal each.
fn in_parts(group: &str, places: Vec<Place>) -> Vec<Vec<Place>> {
    let mut parts: Vec<Vec<Place>> = Vec::new();
    let mut bytes = usize::MAX;
    for place in places {
        let each = OFFSET_BYTES + group.len() + place.topic.len();
        bytes = bytes.saturating_add(each);
        if bytes > COMMIT_BYTES_MAX {
            parts.push(Vec::new());
            bytes = each;
        }
        parts.last_mut().expect("one was just pushed").push(place);
    }
    parts
}

/// The changes that take `places` of a group out.
pub(super) fn removals(group: &str, places: Vec<Place>) -> Vec<Change> {
    let change = |removed| Change { group: group.to_owned(), set: Vec::new(), removed };
    in_parts(group, places).into_iter().map(change).collect()
}

impl Coordinator {
    /// Commits all of `commit.offsets` or none, and returns when they are durable.
    ///
    /// # Errors
    /// Kafka's own codes. After `COORDINATOR_NOT_AVAILABLE` the commit may still have taken
    /// effect (the disk was too slow or failed).
    ///
    /// # Cancel safety
    /// A dropped future leaves the commit on its way.
    pub async fn commit(&self, group: &str, commit: Commit) -> Result<(), ResponseError> {
        let position = self.queue_commit(group, commit)?;
        self.until_durable(position).await
    }

    fn queue_commit(&self, id: &str, commit: Commit) -> Result<Position, ResponseError> {
        if id.len() > GROUP_ID_BYTES_MAX {
            return Err(ResponseError::InvalidGroupId);
        }
        let mut state = self.lock();
        if !state.groups.contains_key(id) {
            if commit.generation >= 0 {
                return Err(ResponseError::GroupIdNotFound);
            }
            if state.groups.len() >= self.options.groups_max {
                return Err(ResponseError::CoordinatorNotAvailable);
            }
        }
        let is_too_large = commit_bytes(id, &commit.offsets) > COMMIT_BYTES_MAX;
        let entity = state.entity(&self.options, id);
        entity.group.check_commit(Instant::now(), &commit.identity, commit.generation)?;
        if commit.offsets.is_empty() {
            return Ok(Position::default());
        }
        if is_too_large {
            state.drop_if_untouched(id);
            return Err(ResponseError::InvalidCommitOffsetSize);
        }
        let committed_ms = wall_ms();
        let expires_ms = commit.retention_ms.map(|keep| committed_ms.saturating_add(keep));
        let set = commit.offsets.into_iter().map(|new| {
            let committed = Committed {
                offset: new.offset,
                leader_epoch: new.leader_epoch,
                metadata: new.metadata,
                topic_id: new.topic_id,
                committed_ms,
                expires_ms,
            };
            (new.place, committed)
        });
        let change = Change { group: id.to_owned(), set: set.collect(), removed: Vec::new() };
        state.change(&self.journal, change).map_err(|_| ResponseError::CoordinatorNotAvailable)
    }

    /// Whether `metadata` may be committed.
    pub fn metadata_fits(&self, metadata: &str) -> bool {
        let limit = self.options.offset_metadata_chars_max;
        // Kafka counts the chars of a Java string: UTF-16 units.
        metadata.len() <= limit || metadata.encode_utf16().count() <= limit
    }

    /// The durable offset of one place.
    pub fn committed(&self, group: &str, place: &Place) -> Option<Committed> {
        self.lock().groups.get(group)?.offsets.get(&place.topic, place.partition).cloned()
    }

    /// All durable offsets of a group.
    pub fn all_committed(&self, group: &str) -> Vec<(Place, Committed)> {
        let state = self.lock();
        let Some(entity) = state.groups.get(group) else { return Vec::new() };
        let owned = |(topic, partition, committed): (&str, i32, &Committed)| {
            (Place { topic: topic.to_owned(), partition }, committed.clone())
        };
        entity.offsets.iter().map(owned).collect()
    }

    /// DeleteGroups for one group.
    ///
    /// # Errors
    /// `GROUP_ID_NOT_FOUND`, `NON_EMPTY_GROUP`, or `COORDINATOR_NOT_AVAILABLE` when the disk
    /// refuses (it may then have taken effect).
    ///
    /// # Cancel safety
    /// A dropped future leaves the group deleted.
    pub async fn delete(&self, id: &str) -> Result<(), ResponseError> {
        let position = {
            let mut state = self.lock();
            let entity = state.groups.get(id).ok_or(ResponseError::GroupIdNotFound)?;
            if entity.group.has_members() || state.has_undurable(id) {
                return Err(ResponseError::NonEmptyGroup);
            }
            let places = entity
                .offsets
                .iter()
                .map(|(topic, partition, _)| Place { topic: topic.to_owned(), partition });
            // Parts of it may survive a crash; whoever asked has no answer then, and asks again.
            for part in in_parts(id, places.collect()) {
                let key = |Place { topic, partition }| Key::Offset { group: id.to_owned(), topic, partition };
                let gone = part.into_iter().map(|place| Entry { key: key(place).encode(), value: None });
                self.journal.append(gone.collect()).map_err(|_| ResponseError::CoordinatorNotAvailable)?;
            }
            let gone = Entry { key: Key::Group { group: id.to_owned() }.encode(), value: None };
            let position =
                self.journal.append(vec![gone]).map_err(|_| ResponseError::CoordinatorNotAvailable)?;
            state.groups.remove(id);
            position
        };
        self.until_durable(position).await
    }

    /// Forgets every group's offsets of a deleted topic. Should the broker die before that is
    /// durable, the topic's id in each offset still tells them from the next topic's.
    ///
    /// # Errors
    /// When the disk refuses; the offsets stay until they expire and are never handed out for
    /// a topic with another id.
    ///
    /// # Cancel safety
    /// A dropped future leaves the offsets on their way out.
    pub async fn topic_deleted(&self, topic: &str) -> Result<(), ResponseError> {
        let mut last = Position::default();
        {
            let mut state = self.lock();
            let of_topic = |(id, entity): (&String, &Entity)| removals(id, entity.offsets.places_of(topic));
            let affected: Vec<Change> = state.groups.iter().flat_map(of_topic).collect();
            for change in affected {
                last = state
                    .change(&self.journal, change)
                    .map_err(|_| ResponseError::CoordinatorNotAvailable)?;
            }
        }
        self.until_durable(last).await
    }

    /// Forgets offsets past their retention and groups with nothing left.
    pub(super) fn forget_expired(&self, now_ms: i64) {
        let mut state = self.lock();
        let keep = self.options.offsets_retention;
        let mut changes = Vec::new();
        let mut forgotten = Vec::new();
        for (id, entity) in &state.groups {
            let retention = entity.group.retention(entity.empty_since_ms);
            let removed = entity.offsets.expired(now_ms, keep, &retention);
            if !removed.is_empty() {
                tracing::info!(group = %id, offsets = removed.len(), "committed offsets expired");
                changes.extend(removals(id, removed));
            } else if entity.group.is_empty() && entity.offsets.is_empty() && !state.has_undurable(id) {
                forgotten.push(id.clone());
            }
        }
        // A refusing journal is in the log already; the next round tries again.
        for change in changes {
            if state.change(&self.journal, change).is_err() {
                return;
            }
        }
        for id in forgotten {
            let key = Key::Group { group: id.clone() }.encode();
            if self.journal.append(vec![Entry { key, value: None }]).is_err() {
                return;
            }
            state.groups.remove(&id);
        }
    }

    async fn until_durable(&self, position: Position) -> Result<(), ResponseError> {
        let durable = tokio::time::timeout(self.options.commit_timeout, self.journal.durable(position)).await;
        match durable {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ResponseError::CoordinatorNotAvailable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_at_once_fits_the_journal_in_parts() {
        let group = "g".repeat(GROUP_ID_BYTES_MAX);
        let places: Vec<Place> =
            (0..1_000).map(|partition| Place { topic: "t".to_owned(), partition }).collect();
        let parts = in_parts(&group, places.clone());
        assert!(parts.iter().all(|part| part.len() * (group.len() + OFFSET_BYTES) <= COMMIT_BYTES_MAX));
        assert_eq!(parts.concat(), places, "each is there once, in order");
        assert!(in_parts(&group, Vec::new()).is_empty());
    }
}
