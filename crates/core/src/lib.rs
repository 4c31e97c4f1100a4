//! Homing's pure decisions: no I/O, no clock, no randomness.
//!
//! Everything here is a function of its arguments, so every rule that decides
//! whether a message may be lost can be tested against a naive model.

pub mod ids;
pub mod message;

pub use ids::{Epoch, InvalidName, Lane, Offset, Partition, Seq, StreamName, TopicName};
pub use message::{Header, Message};
