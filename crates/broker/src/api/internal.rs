//! Kafka's own topics: `__consumer_offsets` is there for tools to see, and empty.
//!
//! What groups commit is kept in their journal. The topic appears, as in Kafka, when somebody first
//! looks for a group's coordinator; clients read nothing from it and may write nothing to it.

use crate::catalog::NewTopic;
use crate::state::State;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::FindCoordinatorRequest;
use std::collections::BTreeMap;

const OFFSETS: &str = "__consumer_offsets";

/// Key type of groups in FindCoordinator.
const GROUP: i8 = 0;

/// Whether a topic is Kafka's own: clients must not write to it.
pub(crate) fn is_internal(name: &str) -> bool {
    matches!(name, OFFSETS | "__transaction_state" | "__share_group_state")
}

/// Creates the offsets' topic when a group's coordinator is asked for. Groups do not need it, so
/// that it cannot be created now is no fault of the request.
pub(super) async fn create_offsets_topic(state: &State, asked: &FindCoordinatorRequest) {
    if asked.key_type != GROUP || state.catalog.by_name(OFFSETS).is_some() {
        return;
    }
    let new = NewTopic { name: OFFSETS.to_owned(), partitions: 1, settings: BTreeMap::new() };
    let created = state.on_disk(|| state.catalog.create(new)).await;
    let Err(refusal) = created else { return };
    // Somebody else may have been faster.
    if refusal.error != ResponseError::TopicAlreadyExists {
        tracing::warn!(why = refusal.why, "cannot create {OFFSETS}; groups work without it");
    }
}
