//! One effect a message: remembers, in the handler's own transaction, what was applied.
//!
//! Kafka delivers at least once, and a consumer that crashes between effect and
//! commit gets its records again. A handler that asks the inbox inside the
//! transaction that holds its effect applies each message once: both are
//! committed, or neither.

mod entry;
mod sqlite;

pub use entry::InboxEntry;
pub use sqlite::{Applied, Inbox, InboxError};
