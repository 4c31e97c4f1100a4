//! The only door to the Kafka client crate: configuration, admin, producer, reads.

pub mod config;
