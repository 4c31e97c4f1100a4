//! DeleteTopics: by name or by id, with what groups committed for them.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::refusal::Refusal;
use crate::state::State;

/// From here on topics may be named by their id.
const BY_ID: i16 = 6;

pub(crate) async fn answer(
    state: &State,
    request: &DeleteTopicsRequest,
    version: i16,
) -> DeleteTopicsResponse {
    let mut responses = Vec::new();
    if version < BY_ID {
        for name in &request.topic_names {
            let (id, deleted) = by_name(state, name).await;
            responses.push(result(Some(name.clone()), id, deleted, version));
        }
    } else {
        for topic in &request.topics {
            let (name, (id, deleted)) = match (&topic.name, topic.topic_id) {
                (Some(name), _) => (Some(name.clone()), by_name(state, name).await),
                (None, id) => by_id(state, id).await,
            };
            responses.push(result(name, id, deleted, version));
        }
    }
    DeleteTopicsResponse::default().with_responses(responses)
}

/// The id it had, and whether it is gone.
type Deleted = (Uuid, Result<(), ResponseError>);

async fn by_id(state: &State, id: Uuid) -> (Option<TopicName>, Deleted) {
    let Some(topic) = state.catalog.by_id(id) else {
        return (None, (id, Err(ResponseError::UnknownTopicId)));
    };
    let name = TopicName(StrBytes::from_string(topic.name.clone()));
    let deleted = delete(state, &name, id).await;
    (
        Some(name),
        (
            id,
            deleted.map_err(|error| match error {
                // Deleted by another meanwhile; one of the same name may be there, and is not meant.
                ResponseError::UnknownTopicOrPartition => ResponseError::UnknownTopicId,
                error => error,
            }),
        ),
    )
}

async fn by_name(state: &State, name: &TopicName) -> Deleted {
    let Some(topic) = state.catalog.by_name(name) else {
        return (Uuid::nil(), Err(ResponseError::UnknownTopicOrPartition));
    };
    (topic.id, delete(state, name, topic.id).await)
}

async fn delete(state: &State, name: &TopicName, id: Uuid) -> Result<(), ResponseError> {
    state.catalog.delete(name, id)?;
    if let Err(error) = state.groups.topic_deleted(name).await {
        // The topic is gone; its id keeps a later topic of this name from these offsets.
        tracing::warn!(topic = name.as_str(), %error, "offsets committed for a deleted topic stay until they expire");
    }
    Ok(())
}

fn result(
    name: Option<TopicName>,
    id: Uuid,
    deleted: Result<(), ResponseError>,
    version: i16,
) -> DeletableTopicResult {
    let refusal = deleted.err().map(Refusal::from);
    DeletableTopicResult::default()
        .with_name(name)
        .with_topic_id(if version >= BY_ID { id } else { Uuid::nil() })
        .with_error_code(refusal.as_ref().map_or(0, |refusal| refusal.error.code()))
        .with_error_message(
            refusal.filter(|_| version >= 5).map(|refusal| StrBytes::from_string(refusal.why)),
        )
}
