//! Requests that Kafka knows and this broker does not offer, refused in words instead of by a closed connection.
//!
//! A client that looks at ApiVersions never sends them. One that does not would connect again
//! and again; so it is told once, as Kafka tells it where the feature is switched off.

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    AddOffsetsToTxnResponse, ApiKey, ConsumerGroupHeartbeatResponse, DescribeAclsResponse, EndTxnResponse,
    ShareAcknowledgeResponse, ShareFetchResponse, ShareGroupHeartbeatResponse,
};
use kafka_protocol::protocol::VersionRange;

use super::{Refused, Request};

const ONLY: VersionRange = VersionRange { min: 0, max: 0 };

/// What is refused so, in the versions whose answers can be written.
const REFUSED: &[(ApiKey, VersionRange)] = &[
    (ApiKey::ConsumerGroupHeartbeat, VersionRange { max: 1, ..ONLY }),
    (ApiKey::ShareGroupHeartbeat, VersionRange { min: 1, max: 1 }),
    (ApiKey::ShareFetch, VersionRange { min: 1, max: 1 }),
    (ApiKey::ShareAcknowledge, VersionRange { min: 1, max: 1 }),
    (ApiKey::AddOffsetsToTxn, VersionRange { max: 4, ..ONLY }),
    (ApiKey::EndTxn, VersionRange { max: 5, ..ONLY }),
    (ApiKey::DescribeAcls, VersionRange { min: 1, max: 3 }),
];

/// Whether a request is refused in words.
pub(super) fn is_refused(api: ApiKey, version: i16) -> bool {
    let range = REFUSED.iter().find(|(refused, _)| *refused == api).map(|(_, range)| range);
    range.is_some_and(|range| (range.min..=range.max).contains(&version))
}

/// The refusal.
///
/// # Errors
/// [`Refused`] for what has no such answer.
pub(super) fn answer(request: &Request) -> Result<Bytes, Refused> {
    let unsupported = ResponseError::UnsupportedVersion.code();
    let no_transactions = ResponseError::TransactionalIdAuthorizationFailed.code();
    match request.api {
        ApiKey::ConsumerGroupHeartbeat => request.encode(
            &ConsumerGroupHeartbeatResponse::default().with_error_code(unsupported).with_error_message(None),
        ),
        ApiKey::ShareGroupHeartbeat => request.encode(
            &ShareGroupHeartbeatResponse::default().with_error_code(unsupported).with_error_message(None),
        ),
        ApiKey::ShareFetch => request
            .encode(&ShareFetchResponse::default().with_error_code(unsupported).with_error_message(None)),
        ApiKey::ShareAcknowledge => request.encode(
            &ShareAcknowledgeResponse::default().with_error_code(unsupported).with_error_message(None),
        ),
        ApiKey::AddOffsetsToTxn => {
            request.encode(&AddOffsetsToTxnResponse::default().with_error_code(no_transactions))
        }
        ApiKey::EndTxn => request.encode(&EndTxnResponse::default().with_error_code(no_transactions)),
        // What Kafka says where nobody asks who somebody is.
        ApiKey::DescribeAcls => {
            let why = "this broker has no authorizer".to_owned();
            request.encode(
                &DescribeAclsResponse::default()
                    .with_error_code(ResponseError::SecurityDisabled.code())
                    .with_error_message(Some(why.into())),
            )
        }
        api => Err(Refused(format!("{api:?} v{} is not offered", request.version))),
    }
}
