//! The real `homing` binary from the outbox to a consumer, over the embedded broker or the Apache Kafka
//! that `HOMING_TEST_BOOTSTRAP` names.
#![allow(clippy::unwrap_used)] // everything here is a test

mod audit;
mod consume;
mod pipeline;
mod pipes;
mod run;
#[path = "../cli/support.rs"]
mod support;
mod topic;
