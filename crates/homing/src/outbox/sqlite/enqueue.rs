//! Inserting messages in a business transaction, and the application's connection kinds.

use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::RowId;
use crate::outbox::{Transaction, identity};
use homing_core::Message;
use rusqlite::{Connection, params};
use uuid::Uuid;

const INSERT: &str = "\
INSERT INTO homing_outbox (topic, message_key, payload, headers, message_id) VALUES (?1, ?2, ?3, ?4, ?5)";

impl Transaction for rusqlite::Transaction<'_> {
    fn insert(&self, message: &Message, headers: Option<&str>, id: Uuid) -> Result<RowId, OutboxError> {
        insert(self, message, headers, id)
    }
}

impl Transaction for rusqlite::Savepoint<'_> {
    fn insert(&self, message: &Message, headers: Option<&str>, id: Uuid) -> Result<RowId, OutboxError> {
        insert(self, message, headers, id)
    }
}

fn insert(
    connection: &Connection,
    message: &Message,
    headers: Option<&str>,
    id: Uuid,
) -> Result<RowId, OutboxError> {
    let enqueue = "enqueue a message";
    let mut statement = connection.prepare_cached(INSERT).during(enqueue)?;
    let bytes = id.as_bytes();
    let row = statement
        .insert(params![message.topic.as_str(), message.key, message.payload, headers, &bytes[..]])
        .during(enqueue)?;
    debug_assert_eq!(identity::parse(bytes).ok().as_ref(), Some(bytes));
    Ok(RowId(row))
}
