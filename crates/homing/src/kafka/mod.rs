//! The only door to the Kafka client crate: configuration, admin, producer, reads.

pub(crate) mod acked_producer;
pub(crate) mod admin;
pub mod bell;
pub(crate) mod certificate;
pub mod client_value;
pub mod config;
pub mod ensure;
pub(crate) mod native;
pub(crate) mod native_call;
pub(crate) mod native_describe;
mod native_ends;
mod native_watermarks;
pub mod partition_list;
pub(crate) mod producer;
pub mod reader;
pub mod record;
mod tuning;

pub use native::NativeError;
pub use native_call::TopicId;
