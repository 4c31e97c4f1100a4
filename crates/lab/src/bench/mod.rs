//! Benchmarks: each runs the raw client or the peer in the same run and prints the ratio.

pub mod broker;
pub mod consumer;
pub mod kafka;
pub mod produce;
pub mod relay;
pub mod report;
pub mod wire_load;
