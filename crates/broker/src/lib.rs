//! A durable, single-node broker that speaks Kafka's protocol, inside one process.
//!
//! For a laptop, for tests, and for small installations. It keeps Kafka's
//! storage rules honestly (record batches as they came, checksums, log
//! segments, flush policies, idempotent producers, groups) and refuses with
//! Kafka's own errors what one node without transactions cannot do.
//!
//! ```no_run
//! use homing_broker::{Broker, BrokerOptions};
//! let broker = Broker::start(BrokerOptions { dir: "data".into(), ..BrokerOptions::default() })?;
//! println!("bootstrap.servers={}", broker.addr());
//! broker.stop();
//! # Ok::<(), homing_broker::BrokerError>(())
//! ```

mod api;
mod catalog;
mod config;
mod connection;
mod connections;
mod descriptors;
mod disk;
pub mod embedded;
mod faults;
mod frame;
mod groups;
mod heap;
mod log;
mod options;
mod server;
mod space;
mod state;
mod trouble;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use api::read_request;
pub use faults::{Count, Fault, Faults};
pub use groups::GroupOptions;
pub use heap::keep_heap_small;
pub use kafka_protocol::messages::ApiKey;
pub use log::FlushPolicy;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use log::look_into_batch;
pub use options::{Advertised, BrokerOptions};
pub use server::{Broker, BrokerError, RunningBroker};
pub use trouble::{Trouble, TroubleKind};
