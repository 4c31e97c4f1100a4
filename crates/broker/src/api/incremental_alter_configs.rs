//! IncrementalAlterConfigs: changes single settings of topics; the others stay.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::describe_configs::{BROKER, TOPIC};
use super::refusal::{Refusal, refusal};
use crate::config::{self, Kind};
use crate::state::State;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(crate) fn answer(
    state: &State,
    request: &IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let responses = request.resources.iter().map(|resource| {
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match alter(state, resource, request.validate_only) {
            Ok(()) => response.with_error_message(None),
            Err(refusal) => response
                .with_error_code(refusal.error.code())
                .with_error_message(Some(StrBytes::from_string(refusal.why))),
        }
    });
    IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}

/// All changes of a resource or none.
fn alter(state: &State, resource: &AlterConfigsResource, validate_only: bool) -> Result<(), Refusal> {
    match resource.resource_type {
        TOPIC => {}
        BROKER => {
            let why = "this broker's settings are given when it starts";
            return Err(refusal(ResponseError::InvalidRequest, why));
        }
        _ => return Err(refusal(ResponseError::InvalidRequest, "this broker has settings of topics only")),
    }
    // What makes no sense for any topic is said before the topic is looked for, as Kafka does.
    let has_value = |change: &AlterableConfig| change.config_operation == DELETE || change.value.is_some();
    if let Some(odd) = resource.configs.iter().find(|change| !has_value(change)) {
        return Err(refusal(ResponseError::InvalidRequest, format!("{} has no value", odd.name.as_str())));
    }
    if let Some(odd) =
        resource.configs.iter().find(|change| !(SET..=SUBTRACT).contains(&change.config_operation))
    {
        let (what, name) = (odd.config_operation, odd.name.as_str());
        return Err(refusal(ResponseError::InvalidRequest, format!("unknown operation {what} for {name}")));
    }
    let topic = state.topic(&resource.resource_name, uuid::Uuid::nil())?;
    if validate_only {
        return changed(&topic.settings, &resource.configs).map(drop);
    }
    let change = |before: &BTreeMap<String, String>| changed(before, &resource.configs);
    state.catalog.configure_from(&topic.name, change)
}

fn changed(
    before: &BTreeMap<String, String>,
    changes: &[AlterableConfig],
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut settings = before.clone();
    let mut seen = BTreeSet::new();
    for change in changes {
        let name = change.name.as_str();
        if !seen.insert(name) {
            return Err(refusal(ResponseError::InvalidRequest, format!("{name} is named twice")));
        }
        // Also a name that there is no setting of: Kafka finds nothing to take away.
        if change.config_operation == DELETE {
            settings.remove(name);
            continue;
        }
        let Some(setting) = config::setting(name) else {
            let why = format!("Unknown topic config name: {name}");
            return Err(refusal(ResponseError::InvalidConfig, why));
        };
        let Some(given) = change.value.as_deref() else {
            return Err(refusal(ResponseError::InvalidRequest, format!("{name} has no value")));
        };
        let value = match (change.config_operation, setting.kind) {
            (SET, _) => given.to_owned(),
            (APPEND, Kind::ListOf(_)) => {
                let now = settings.get(name).map_or(setting.default, String::as_str);
                with_words(now, given)
            }
            (SUBTRACT, Kind::ListOf(_)) => {
                let now = settings.get(name).map_or(setting.default, String::as_str);
                without_words(now, given)
            }
            (APPEND | SUBTRACT, _) => {
                let why = format!("{name} is no list; it can be set or deleted");
                return Err(refusal(ResponseError::InvalidConfig, why));
            }
            (other, _) => {
                let why = format!("unknown operation {other} for {name}");
                return Err(refusal(ResponseError::InvalidRequest, why));
            }
        };
        config::check(name, &value).map_err(|why| refusal(ResponseError::InvalidConfig, why))?;
        settings.insert(name.to_owned(), value);
    }
    Ok(settings)
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn with_words(now: &str, more: &str) -> String {
    let mut all: Vec<&str> = words(now).collect();
    for word in words(more) {
        if !all.contains(&word) {
            all.push(word);
        }
    }
    all.join(",")
}

fn without_words(now: &str, less: &str) -> String {
    let left: Vec<&str> = words(now).filter(|word| words(less).all(|gone| gone != *word)).collect();
    left.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, operation: i8, value: Option<&str>) -> AlterableConfig {
        AlterableConfig::default()
            .with_name(StrBytes::from_string(name.to_owned()))
            .with_config_operation(operation)
            .with_value(value.map(|v| StrBytes::from_string(v.to_owned())))
    }

    fn error(changes: &[AlterableConfig]) -> ResponseError {
        changed(&BTreeMap::new(), changes).unwrap_err().error
    }

    #[test]
    fn settings_are_set_and_deleted_one_by_one() {
        let before = BTreeMap::from([("segment.ms".to_owned(), "5".to_owned())]);
        let after = changed(&before, &[change("retention.ms", SET, Some("7"))]).unwrap();
        assert_eq!(after.len(), 2);
        let after = changed(&after, &[change("segment.ms", DELETE, None)]).unwrap();
        let after = changed(&after, &[change("no.such", DELETE, None)]).unwrap();
        assert_eq!(after, BTreeMap::from([("retention.ms".to_owned(), "7".to_owned())]));
    }

    #[test]
    fn what_is_no_change_is_refused_with_its_reason() {
        assert_eq!(error(&[change("no.such", SET, Some("1"))]), ResponseError::InvalidConfig);
        assert_eq!(error(&[change("retention.ms", SET, Some("x"))]), ResponseError::InvalidConfig);
        assert_eq!(error(&[change("retention.ms", APPEND, Some("1"))]), ResponseError::InvalidConfig);
        assert_eq!(error(&[change("retention.ms", SET, None)]), ResponseError::InvalidRequest);
        assert_eq!(error(&[change("retention.ms", 9, Some("1"))]), ResponseError::InvalidRequest);
        let twice = [change("retention.ms", DELETE, None), change("retention.ms", SET, Some("1"))];
        assert_eq!(error(&twice), ResponseError::InvalidRequest);
    }

    #[test]
    fn lists_grow_and_shrink_by_words() {
        assert_eq!(with_words("delete", "compact, delete"), "delete,compact");
        assert_eq!(without_words("delete,compact", "compact"), "delete");
        assert_eq!(
            error(&[change("cleanup.policy", SUBTRACT, Some("delete"))]),
            ResponseError::InvalidConfig
        );
    }
}
