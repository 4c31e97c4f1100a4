//! ListConfigResources: what has settings: topics and the broker.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use kafka_protocol::protocol::StrBytes;

use super::describe_configs::{BROKER, TOPIC};
use crate::state::State;

const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;
/// All kinds there are; this broker has nothing of the last two.
const KINDS: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
/// Before this version only client metrics could be asked for.
const EVERY_KIND: i16 = 1;

pub(crate) fn answer(
    state: &State,
    request: &ListConfigResourcesRequest,
    version: i16,
) -> ListConfigResourcesResponse {
    if version < EVERY_KIND {
        return ListConfigResourcesResponse::default();
    }
    if request.resource_types.iter().any(|kind| !KINDS.contains(kind)) {
        return ListConfigResourcesResponse::default()
            .with_error_code(ResponseError::UnsupportedVersion.code());
    }
    let is_wanted = |kind| request.resource_types.is_empty() || request.resource_types.contains(&kind);
    let resource = |kind, name: String| {
        ConfigResource::default().with_resource_type(kind).with_resource_name(StrBytes::from_string(name))
    };
    let mut found = Vec::new();
    if is_wanted(TOPIC) {
        found.extend(state.catalog.all().iter().map(|topic| resource(TOPIC, topic.name.clone())));
    }
    if is_wanted(BROKER) {
        found.push(resource(BROKER, state.node_id().to_string()));
    }
    ListConfigResourcesResponse::default().with_config_resources(found)
}
