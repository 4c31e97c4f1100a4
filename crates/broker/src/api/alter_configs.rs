//! AlterConfigs: a topic's settings are replaced as a whole; what is not named goes back to its default.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::describe_configs::{BROKER, TOPIC};
use super::refusal::{Refusal, refusal};
use crate::config;
use crate::state::State;

pub(crate) fn answer(state: &State, request: &AlterConfigsRequest) -> AlterConfigsResponse {
    let mut seen = HashSet::new();
    let mut twice = HashSet::new();
    for resource in &request.resources {
        let named = (resource.resource_type, resource.resource_name.as_str());
        if !seen.insert(named) {
            twice.insert(named);
        }
    }
    // Who is named twice is answered once, and not changed.
    let once = request.resources.iter().filter(|r| seen.remove(&(r.resource_type, r.resource_name.as_str())));
    let responses = once.map(|resource| {
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        let is_twice = twice.contains(&(resource.resource_type, resource.resource_name.as_str()));
        let altered = if is_twice {
            Err(refusal(ResponseError::InvalidRequest, "each resource may be named once"))
        } else {
            alter(state, resource, request.validate_only)
        };
        match altered {
            Ok(()) => response.with_error_message(None),
            Err(refusal) => response
                .with_error_code(refusal.error.code())
                .with_error_message(Some(StrBytes::from_string(refusal.why))),
        }
    });
    AlterConfigsResponse::default().with_responses(responses.collect())
}

fn alter(state: &State, resource: &AlterConfigsResource, validate_only: bool) -> Result<(), Refusal> {
    match resource.resource_type {
        TOPIC => {}
        BROKER => {
            let why = "this broker's settings are given when it starts";
            return Err(refusal(ResponseError::InvalidRequest, why));
        }
        _ => return Err(refusal(ResponseError::InvalidRequest, "this broker has settings of topics only")),
    }
    let mut settings = BTreeMap::new();
    for setting in &resource.configs {
        let name = setting.name.as_str();
        let Some(value) = setting.value.as_deref() else {
            return Err(refusal(ResponseError::InvalidRequest, format!("{name} has no value")));
        };
        if settings.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(refusal(ResponseError::InvalidRequest, format!("{name} is named twice")));
        }
    }
    let topic = state.topic(&resource.resource_name, uuid::Uuid::nil())?;
    for (name, value) in &settings {
        config::check(name, value).map_err(|why| refusal(ResponseError::InvalidConfig, why))?;
    }
    if validate_only {
        return Ok(());
    }
    Ok(state.catalog.configure(&topic.name, settings)?)
}
