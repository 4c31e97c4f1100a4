//! Consumer groups: membership, generations, assignments and committed offsets.
//!
//! The classic group protocol of Apache Kafka, one file per concern:
//!
//! | file | what |
//! |---|---|
//! | `group` | one group's states and how a generation ends and begins |
//! | `join`, `session` | what members may ask of it, and the fence for commits |
//! | `offsets` | what a group has committed and when that expires |
//! | `snapshot`, `record` | how both look to tools and on disk |
//! | `journal` | the file they survive a crash in |
//! | `coordinator`, `commits`, `forgetting` | all groups of a broker, the clock, the waiting |
//!
//! `group`, `join`, `session` and `offsets` do no I/O and take the time as an argument, so a
//! test can run them through any interleaving.

mod commits;
mod coordinator;
mod forgetting;
mod group;
mod join;
mod journal;
mod member;
mod messages;
mod offsets;
mod options;
mod record;
mod session;
mod snapshot;

pub use options::GroupOptions;

pub(crate) use commits::{Commit, NewOffset};
pub(crate) use coordinator::Coordinator;
pub(crate) use journal::JournalOptions;
pub(crate) use member::Protocol;
pub(crate) use messages::{Identity, Join, JoinRefused, Joined, Sync};
pub(crate) use offsets::{Committed, Place};
pub(crate) use snapshot::{Description, MemberDescription};

#[cfg(test)]
mod tests;
