//! One effect a message: remembers, in the handler's own transaction, what was applied.
//!
//! Kafka delivers at least once, and a consumer that crashes between effect and
//! commit gets its records again. A handler that asks the inbox inside the
//! transaction that holds its effect applies each message once: both are
//! committed, or neither.
//!
//! A message is known by its number (lane and seq), for ever, and by its id, for
//! as long as ids are kept. The number alone would not do: a restored outbox
//! sends what it had sent before under new numbers, and what a number means is
//! only as sure as the database that gave it.

mod entry;
mod sqlite;
mod sqlite_ids;
mod sqlite_numbers;

pub use entry::InboxEntry;
pub use sqlite::{Applied, Inbox, InboxError};
