//! What Kafka clients need from a broker: one suite, run against ours and against Apache Kafka.
//!
//! `HOMING_TEST_BOOTSTRAP=host:9092 cargo test -p homing-broker --test client` runs it against
//! that cluster; without the variable each test starts a broker of its own in a temporary
//! directory. Only names that begin with `embedded_` need ours (they restart it or start
//! several); against another cluster they say so and start ours all the same.
//!
//! The clients are librdkafka (through rdkafka), kcat (Debian's, with its own older
//! librdkafka), and for what those hide a few requests written by hand (`wire`).

// All of this runs in tests; clippy sees that only in the test functions themselves.
#![allow(clippy::unwrap_used)]

mod admin;
mod batches;
mod consume;
mod descriptors;
mod disk;
mod embedded;
mod faults;
mod group_offsets;
mod group_tools;
mod hostile;
mod kcat;
mod kill;
mod one_node;
mod produce;
mod rebalance;
mod support;
mod wire;
