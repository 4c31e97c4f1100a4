//! Fault tests and benchmarks: real processes, real brokers, and a checker that trusts neither.
//!
//! A scenario is a workload (orders committed with their outbox rows), worker
//! processes that are killed, and a [`checker`] that compares what was
//! committed with what is on the wire and with what took effect, row by row.

pub mod acked;
pub mod backtrace;
pub mod bench;
pub mod checker;
pub mod cluster;
pub mod differential;
pub mod effects;
pub mod faults;
pub mod job;
pub mod process;
pub mod scene;
pub mod unsafe_arms;
pub mod wire;
pub mod workload;
