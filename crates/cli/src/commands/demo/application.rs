//! Our application: order and message in one transaction, and nothing else.

use super::orders;
use crate::exit::{Ending, Outcome};
use homing::{Message, Outbox, Shutdown, SqliteOutbox, StreamName};
use std::path::Path;

/// The demo's stream.
pub const STREAM: &str = "demo";

/// Commits orders until told to stop.
pub fn run(dir: &Path, rate: u64, shutdown: &Shutdown) -> Ending {
    let outbox = SqliteOutbox::open(dir.join(orders::DATABASE), &StreamName::parse(STREAM)?)?;
    let mut connection = outbox.connect()?;
    orders::at_rate(rate, shutdown, || {
        let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let order = orders::insert_next(&tx)?;
        Outbox::enqueue(&tx, Message::new(orders::TOPIC)?.key(order.customer).payload(order.payload))?;
        Ok(tx.commit()?)
    })?;
    Ok(Outcome::Fine)
}
