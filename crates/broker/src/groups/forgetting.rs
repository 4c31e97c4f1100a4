//! Single committed offsets are forgotten at an administrator's wish.

use kafka_protocol::ResponseError;

use super::commits::removals;
use super::coordinator::Coordinator;
use super::journal::Position;
use super::offsets::{Place, Retention};

impl Coordinator {
    /// OffsetDelete: forgets what `group` has committed for `places`, but not for topics that its
    /// members are subscribed to; those places are handed back.
    ///
    /// # Errors
    /// `GROUP_ID_NOT_FOUND`; `NON_EMPTY_GROUP` when it has members of whom nobody knows what they
    /// read; `COORDINATOR_NOT_AVAILABLE` when the disk refuses (it may then have taken effect).
    ///
    /// # Cancel safety
    /// A dropped future leaves the offsets on their way out.
    pub async fn delete_offsets(&self, group: &str, places: Vec<Place>) -> Result<Vec<Place>, ResponseError> {
        let (stored, subscribed) = {
            let mut state = self.lock();
            let entity = state.groups.get(group).ok_or(ResponseError::GroupIdNotFound)?;
            let in_use = match entity.group.retention(entity.empty_since_ms) {
                Retention::Subscribed(None) => return Err(ResponseError::NonEmptyGroup),
                Retention::Subscribed(Some(topics)) => topics,
                Retention::EmptySince(_) | Retention::Simple => Vec::new(),
            };
            let (subscribed, removed): (Vec<_>, Vec<_>) =
                places.into_iter().partition(|place| in_use.contains(&place.topic));
            if removed.is_empty() {
                return Ok(subscribed);
            }
            let mut stored = Position::default();
            for change in removals(group, removed) {
                let changed = state.change(&self.journal, change);
                stored = changed.map_err(|_| ResponseError::CoordinatorNotAvailable)?;
            }
            (stored, subscribed)
        };
        let durable = tokio::time::timeout(self.options.commit_timeout, self.journal.durable(stored)).await;
        match durable {
            Ok(Ok(())) => Ok(subscribed),
            Ok(Err(_)) | Err(_) => Err(ResponseError::CoordinatorNotAvailable),
        }
    }
}
