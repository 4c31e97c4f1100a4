//! DescribeCluster: the cluster's id and its one node.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use crate::connection::Client;
use crate::state::State;

/// Brokers, as opposed to controllers.
const BROKERS: i8 = 1;
/// From here on the request says which endpoints it wants.
const ENDPOINT_TYPES: i16 = 1;
/// Every operation on a cluster as bits (CREATE 5, ALTER 7, DESCRIBE 8, CLUSTER_ACTION 9,
/// DESCRIBE_CONFIGS 10, ALTER_CONFIGS 11, IDEMPOTENT_WRITE 12): without an authorizer
/// everybody may.
const ALL_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;

pub(crate) fn answer(
    state: &State,
    client: &Client,
    request: &DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse {
    if version >= ENDPOINT_TYPES && request.endpoint_type != BROKERS {
        return DescribeClusterResponse::default()
            .with_error_code(ResponseError::UnsupportedEndpointType.code())
            .with_error_message(Some(StrBytes::from_static_str("this broker describes brokers only")));
    }
    let (host, port) = state.found_at(client);
    let node = DescribeClusterBroker::default()
        .with_broker_id(state.node_id().into())
        .with_host(StrBytes::from_string(host))
        .with_port(port.into())
        .with_rack(None);
    let operations = if request.include_cluster_authorized_operations { ALL_OPERATIONS } else { i32::MIN };
    DescribeClusterResponse::default()
        .with_error_message(None)
        .with_endpoint_type(BROKERS)
        .with_cluster_id(StrBytes::from_string(state.catalog.cluster_id().to_owned()))
        .with_controller_id(state.node_id().into())
        .with_brokers(vec![node])
        .with_cluster_authorized_operations(operations)
}
