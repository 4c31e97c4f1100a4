//! FindCoordinator: this node coordinates every group; transactions are refused.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// From here on a request names several keys.
const BATCHED: i16 = 4;

/// Kafka has no code for "this broker does no transactions". Of those that make every client
/// give up at once instead of asking again until its timeout, this one says most: no
/// transactional id is allowed here.
const NO_TRANSACTIONS: ResponseError = ResponseError::TransactionalIdAuthorizationFailed;

/// Where the broker says it is.
pub(crate) struct Node<'a> {
    pub id: i32,
    pub host: &'a str,
    pub port: u16,
}

pub(crate) fn answer(
    request: &FindCoordinatorRequest,
    version: i16,
    node: &Node<'_>,
) -> FindCoordinatorResponse {
    if version >= BATCHED {
        let found = request.coordinator_keys.iter().map(|key| find(key.clone(), request.key_type, node));
        return FindCoordinatorResponse::default().with_coordinators(found.collect());
    }
    let key_type = if version == 0 { GROUP } else { request.key_type };
    let found = find(request.key.clone(), key_type, node);
    FindCoordinatorResponse::default()
        .with_error_code(found.error_code)
        .with_error_message(found.error_message)
        .with_node_id(found.node_id)
        .with_host(found.host)
        .with_port(found.port)
}

fn find(key: StrBytes, key_type: i8, node: &Node<'_>) -> Coordinator {
    let coordinator = Coordinator::default().with_key(key);
    let refused = |error: ResponseError, why: &'static str| {
        let message = Some(StrBytes::from_static_str(why));
        (error.code(), message)
    };
    let (error_code, error_message) = match key_type {
        GROUP => {
            return coordinator
                .with_node_id(node.id.into())
                .with_host(StrBytes::from_string(node.host.to_owned()))
                .with_port(node.port.into())
                .with_error_message(None);
        }
        TRANSACTION => refused(NO_TRANSACTIONS, "this broker does not support transactions"),
        _ => refused(ResponseError::InvalidRequest, "this broker coordinates consumer groups only"),
    };
    coordinator
        .with_node_id((-1).into())
        .with_port(-1)
        .with_error_code(error_code)
        .with_error_message(error_message)
}
