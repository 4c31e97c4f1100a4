//! InitProducerId: an id no producer had before; no transactions.

use super::injected_code;
use crate::faults::Fault;
use crate::state::State;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

pub(super) fn answer(
    state: &State,
    request: &InitProducerIdRequest,
    fault: Option<Fault>,
) -> InitProducerIdResponse {
    let refuse = |code| {
        InitProducerIdResponse::default()
            .with_error_code(code)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if let Some(code) = injected_code(fault) {
        return refuse(code);
    }
    if request.transactional_id.is_some() {
        return refuse(ResponseError::TransactionalIdAuthorizationFailed.code());
    }
    // A producer that comes back with its old id gets the next epoch of it (KIP-360).
    let next_epoch = request
        .producer_epoch
        .checked_add(1)
        .filter(|_| request.producer_id.0 >= 0 && request.producer_epoch >= 0);
    if let Some(epoch) = next_epoch {
        return InitProducerIdResponse::default()
            .with_producer_id(request.producer_id)
            .with_producer_epoch(epoch);
    }
    match state.catalog.next_producer_id() {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        Err(error) => refuse(error.code()),
    }
}
