//! How an auditor works: times and limits, each with its default and what goes wrong beside it.

use crate::testing::Steps;
use homing_core::gap::Limits;
use std::time::Duration;

/// What is done about confirmed gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Repairing {
    /// The relay is told to send the missing seqs again.
    #[default]
    Order,
    /// They are reported only.
    Off,
}

/// Settings of an [`Auditor`](super::Auditor).
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// How long settled seqs may stay away before their gap is confirmed; default 10 s. Too
    /// short: what is merely late is called lost and sent again (safe, but an alarm for
    /// nothing). Too long: a loss is known and repaired that much later.
    pub grace: Duration,
    /// Pause between two looks at the outbox for gaps, tails and repairs; default 500 ms.
    /// It bounds how much is read again after a crash. Too short: more commits beside the
    /// relay's. Must be more than 0.
    pub check_every: Duration,
    /// Pause between two looks for new topics and for topics that were deleted or recreated;
    /// default 5 s.
    pub topics_every: Duration,
    /// Records taken from the client at once; default 10 000. More memory, fewer calls.
    pub read_max: usize,
    /// How long one question to Kafka waits for its answer; default 5 s.
    pub request_timeout: Duration,
    /// What is done about confirmed gaps; default: ordered from the relay.
    pub repair: Repairing,
    /// How long an order that the relay carried out may stay without effect before it is given
    /// again; default 30 s. Too short: a slow reader has records sent twice.
    pub repair_patience: Duration,
    /// How often one gap's order is carried out before it is given up; default 5.
    pub repair_attempts_max: u32,
    /// Reads of single records that the diagnosis of one gap may cost; default 8. Beyond it the
    /// last answer stands for the rest of the gap.
    pub probes_max: usize,
    /// How much each partition's detector remembers.
    pub limits: Limits,
    /// Observer of crash-relevant steps; default none.
    pub steps: Steps,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            check_every: Duration::from_millis(500),
            topics_every: Duration::from_secs(5),
            read_max: 10_000,
            request_timeout: Duration::from_secs(5),
            repair: Repairing::Order,
            repair_patience: Duration::from_secs(30),
            repair_attempts_max: 5,
            probes_max: 8,
            limits: Limits::default(),
            steps: Steps::default(),
        }
    }
}

/// Settings that contradict each other or could never work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("audit options: {0}")]
pub struct InvalidAuditOptions(&'static str);

impl AuditOptions {
    /// Checks the settings and their relations.
    ///
    /// # Errors
    /// [`InvalidAuditOptions`] naming the fields.
    pub fn validate(&self) -> Result<(), InvalidAuditOptions> {
        let rules = [
            (!self.check_every.is_zero(), "check_every must be more than 0"),
            (!self.topics_every.is_zero(), "topics_every must be more than 0"),
            ((1..=1_000_000).contains(&self.read_max), "read_max must be 1 to 1 000 000"),
            (self.request_timeout >= Duration::from_millis(10), "request_timeout must be at least 10 ms"),
            (self.repair_attempts_max >= 1, "repair_attempts_max must be at least 1"),
            (self.probes_max >= 1, "probes_max must be at least 1"),
        ];
        rules.iter().find(|(well, _)| !well).map_or(Ok(()), |(_, rule)| Err(InvalidAuditOptions(rule)))
    }
}
