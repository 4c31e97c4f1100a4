//! Our consumer: four workers, order by key, the effect and the inbox's row in one transaction.

use super::orders;
use crate::exit::{Ending, Failure, Outcome};
use homing::consumer::Outcome as Handled;
use homing::inbox::{Applied, Inbox};
use homing::{Consumer, ConsumerOptions, KafkaConfig, Record, Shutdown};
use rusqlite::Connection;
use std::cell::RefCell;
use std::path::Path;

/// Our consumer group.
const GROUP: &str = "billing";

thread_local! {
    static CONNECTION: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

/// Applies orders until told to stop.
pub fn run(dir: &Path, bootstrap: &str, shutdown: &Shutdown) -> Ending {
    let path = dir.join(orders::EFFECTS);
    let options = ConsumerOptions {
        workers: 4,
        // The process comes back within moments: it takes its partitions over at once (KIP-345).
        instance_id: Some("billing-1".to_owned()),
        ..ConsumerOptions::new(GROUP, [orders::TOPIC])?
    };
    Consumer::new(KafkaConfig::new(bootstrap), options)?
        .run_blocking(move |record| handle(&path, record), shutdown)?;
    Ok(Outcome::Fine)
}

fn handle(path: &Path, record: &Record) -> Handled {
    match CONNECTION.with_borrow_mut(|connection| apply(path, connection, record)) {
        Ok(()) => Handled::Ok,
        Err(failure) => Handled::Retry { after: None, reason: failure.to_string() },
    }
}

fn apply(path: &Path, connection: &mut Option<Connection>, record: &Record) -> Result<(), Failure> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(orders::open(path)?),
    };
    let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    if Inbox::apply_once(&tx, GROUP, record)? == Applied::First {
        orders::apply(&tx, record.key().unwrap_or_default(), record.payload().unwrap_or_default())?;
    }
    Ok(tx.commit()?)
}
