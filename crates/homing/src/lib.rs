//! Homing: a transactional outbox, relay, consumer and auditor for Kafka.
//!
//! Every message an application commits reaches its Kafka consumers, or Homing
//! says exactly which one did not and puts it back. The promise is: at least
//! once on the wire, every duplicate recognisable, effects once through the
//! inbox.

pub mod audit;
pub mod consumer;
pub mod error;
pub mod inbox;
pub mod kafka;
mod liveness;
pub mod outbox;
pub mod relay;
pub mod sender;
pub mod shutdown;
pub mod testing;

pub use audit::{AuditError, AuditOptions, AuditReport, Auditor};
pub use consumer::{Consumer, ConsumerError, ConsumerOptions, ConsumerSummary, Outcome, Record};
pub use error::Retry;
pub use homing_core as core;
pub use homing_core::{Epoch, Header, Lane, Message, Offset, Partition, Seq, StreamName, TopicName};
pub use kafka::config::{ConfigError, KafkaConfig};
pub use outbox::{Outbox, OutboxError, OutboxStats, Receipt, SqliteOutbox};
pub use relay::{Relay, RelayError, RelayOptions, RelayStatus, RelaySummary};
/// The SQLite driver whose transactions [`Outbox::enqueue`] and the inbox take: use this one, so that
/// its version is the same.
pub use rusqlite;
pub use sender::{SendError, Sender, SenderOptions};
pub use shutdown::Shutdown;
