//! ApiVersions: what a client may ask; answered even for versions from the future.

use super::{OFFERED, PRODUCE_ADVERTISED_FROM, Refused, encode};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse};

pub(super) fn answer() -> ApiVersionsResponse {
    let offered = OFFERED.iter().map(|(api, versions)| {
        ApiVersion::default()
            .with_api_key(*api as i16)
            .with_min_version(if *api == ApiKey::Produce { PRODUCE_ADVERTISED_FROM } else { versions.min })
            .with_max_version(versions.max)
    });
    ApiVersionsResponse::default().with_api_keys(offered.collect())
}

/// KIP-511: a client that is too new learns in version 0 what there is.
pub(super) fn unsupported(correlation_id: i32) -> Result<Bytes, Refused> {
    let answer = answer().with_error_code(ResponseError::UnsupportedVersion.code());
    encode(ApiKey::ApiVersions, 0, correlation_id, &answer)
}
