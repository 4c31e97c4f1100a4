//! The outbox: where a message is committed together with the business row it speaks of.
//!
//! ## Crash at each step
//! Rows are inserted once and never changed. What a relay does to them are two
//! commits per batch, and a crash between any two steps leaves one of these:
//!
//! | found by the next owner | means | it does |
//! |---|---|---|
//! | rows after `claimed_through` | nobody has sent them | claims them |
//! | a manifest that is not settled | any part of it may be in Kafka | reads the partitions' tails, sends the rest with the same seqs |
//! | a settled manifest | all of it is in Kafka or void | nothing, until it may be pruned |
//!
//! ## Parts
//! [`store`] is what the relay asks of a database; [`sqlite`] is the embedded
//! one and the only place with its SQL. [`Outbox`] is the application's way in.

pub mod error;
pub mod headers;
mod holds;
mod identity;
mod manifest;
pub mod numbering;
pub mod offset_runs;
pub mod report;
pub mod rows;
mod settlement;
pub mod signals;
pub mod sqlite;
pub mod store;
mod upkeep;

pub use error::{MessageError, OutboxError};
pub use identity::Instance;
pub use report::{DeadLetter, Fate, HeldStats, LaneStats, OutboxStats, Receipt, RelayStats, TopicWarning};
pub use sqlite::SqliteOutbox;
pub use store::{BatchId, LaneKey, RejectCode, RowId, Store};

use homing_core::Message;
use std::borrow::Borrow;
use uuid::Uuid;

/// What a message became in the outbox; it counts only once the transaction is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued {
    /// Its row.
    pub row_id: RowId,
    /// Its identity: the message's own, or the one given now.
    pub id: Uuid,
}

/// A business transaction that messages can be added to.
pub trait Transaction {
    /// Inserts one message that was checked already.
    ///
    /// # Errors
    /// [`OutboxError`]; nothing was inserted then.
    fn insert(&self, message: &Message, headers: Option<&str>, id: Uuid) -> Result<RowId, OutboxError>;
}

/// The application's way in: messages join the business transaction.
///
/// ```
/// use homing::{Message, StreamName};
/// use homing::outbox::{Outbox, SqliteOutbox};
/// let dir = tempfile::tempdir()?;
/// let outbox = SqliteOutbox::create(dir.path().join("shop.db"), &StreamName::parse("shop")?)?;
/// let mut db = outbox.connect()?;
/// db.execute_batch("CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT)")?;
///
/// let tx = db.transaction()?;
/// tx.execute("INSERT INTO user (id, name) VALUES (42, 'ada')", [])?;
/// let queued = Outbox::enqueue(&tx, Message::new("users")?.key("42").payload(r#"{"name":"ada"}"#))?;
/// tx.commit()?;
///
/// assert_eq!(queued.row_id.0, 1);
/// assert_eq!(outbox.stats()?.unclaimed, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Outbox;

impl Outbox {
    /// Adds `message` to the transaction `tx`.
    ///
    /// Messages of one key come out in commit order when writers serialise on
    /// the key (lock the business row, then enqueue); SQLite serialises all
    /// writers.
    ///
    /// # Errors
    /// [`OutboxError::Message`] when the message cannot be taken; others when
    /// the database refuses. Nothing was inserted; the transaction is as before.
    pub fn enqueue(tx: &impl Transaction, message: impl Borrow<Message>) -> Result<Enqueued, OutboxError> {
        let message = message.borrow();
        let headers = check(message)?;
        let id = message.id.unwrap_or_else(Uuid::now_v7);
        let row_id = tx.insert(message, headers.as_deref(), id)?;
        Ok(Enqueued { row_id, id })
    }

    /// Adds each of `messages` in order.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), for the first message that fails; those
    /// before it are inserted, so the caller rolls back or goes on knowingly.
    pub fn enqueue_all<M: Borrow<Message>>(
        tx: &impl Transaction,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Vec<Enqueued>, OutboxError> {
        messages.into_iter().map(|message| Self::enqueue(tx, message)).collect()
    }
}

/// Checks a message and returns its headers as the column has them.
pub(crate) fn check(message: &Message) -> Result<Option<String>, MessageError> {
    headers::check_names(message.headers.iter().map(|(name, _)| name.as_str()))?;
    let json = headers::to_json(&message.headers);
    let bytes = message.key.as_ref().map_or(0, Vec::len)
        + message.payload.as_ref().map_or(0, Vec::len)
        + json.as_ref().map_or(0, String::len);
    if bytes > rows::ROW_BYTES_MAX {
        return Err(MessageError::TooLarge { bytes, max: rows::ROW_BYTES_MAX });
    }
    Ok(json)
}
