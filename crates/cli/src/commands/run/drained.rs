//! When `--until-drained` is done: everything known is sent and, with an auditor, read back.

use crate::exit::Outcome;
use homing::audit::{AuditOptions, AuditStatus, RepairStanding};
use homing::outbox::LaneStats;
use homing::relay::RelayStatus;
use homing::{AuditReport, OutboxStats, RelaySummary, Shutdown, SqliteOutbox};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause before the next look, as a multiple of what a look at the outbox cost.
const LOOKS_COST_AT_MOST: u32 = 5;
/// How long reading back may stand still besides what the auditor's own pauses explain.
const STANDSTILL: Duration = Duration::from_secs(15);

/// The auditor as the watch sees it.
pub struct WatchedAudit {
    status: Arc<AuditStatus>,
    done: Shutdown,
    /// How long it may make no progress before it is not waited for any more.
    patience: Duration,
}

impl WatchedAudit {
    pub fn new(status: Arc<AuditStatus>, done: Shutdown, options: &AuditOptions) -> Self {
        // A new topic is seen at the next look for topics; a gap is judged after the grace.
        let patience = options.grace + 2 * options.topics_every + STANDSTILL;
        Self { status, done, patience }
    }

    pub fn report(&self) -> Option<AuditReport> {
        self.status.report()
    }
}

/// How far it is, from one look to the next.
#[derive(Default)]
pub struct Drained {
    /// The relay's counters at the last look: nothing is counted again while it is busy.
    seen: Option<RelaySummary>,
    next_look: Option<Instant>,
    /// How much was read back, and since when it is no more.
    read_back: Option<(u64, Instant)>,
}

impl Drained {
    /// How it ended; `None` while it goes on.
    pub fn look(
        &mut self,
        outbox: &SqliteOutbox,
        relay: &RelayStatus,
        audit: Option<&WatchedAudit>,
    ) -> Option<Outcome> {
        let (now, summary) = (Instant::now(), relay.summary());
        if self.seen != Some(summary) {
            self.seen = Some(summary);
            self.read_back = None;
            return None;
        }
        if self.next_look.is_some_and(|at| now < at) {
            return None;
        }
        // A database that is busy now is looked at again.
        let stats = outbox.stats().inspect_err(|error| tracing::debug!(%error, "look at the outbox")).ok();
        let stats = stats.filter(|stats| stats.unclaimed + stats.unsettled + stats.repairs_wanted == 0);
        self.next_look = Some(Instant::now() + now.elapsed() * LOOKS_COST_AT_MOST);
        let Some(stats) = stats else {
            self.read_back = None;
            return None;
        };
        let Some(audit) = audit else { return Some(Outcome::Fine) };
        self.judge(&stats, audit)
    }

    fn judge(&mut self, stats: &OutboxStats, audit: &WatchedAudit) -> Option<Outcome> {
        let left: Vec<_> = stats.lanes.iter().filter(|lane| lane.verified < lane.settled).collect();
        if left.is_empty() {
            return Some(Outcome::Fine);
        }
        let report = audit.report();
        let given_up = |lane: &&LaneStats| report.as_ref().is_some_and(|report| is_given_up(report, lane));
        if left.iter().all(given_up) {
            // The auditor's own end says what is missing, and is a finding.
            return Some(Outcome::Findings);
        }
        let verified: u64 = stats.lanes.iter().map(|lane| lane.verified).sum();
        let now = Instant::now();
        let (_, since) = match self.read_back {
            Some((before, since)) if before == verified => (before, since),
            _ => *self.read_back.insert((verified, now)),
        };
        if !audit.done.is_triggered() && since.elapsed() < audit.patience {
            return None;
        }
        let missing: u64 = left.iter().map(|lane| lane.settled - lane.verified).sum();
        let first = left[0];
        tracing::error!(
            lanes = left.len(),
            "{missing} sent messages were not read back, first of {} partition {}; `homing audit` says more",
            first.topic,
            first.partition.0
        );
        Some(Outcome::CouldNotTell)
    }
}

/// Whether this lane has a gap that nothing will fill.
fn is_given_up(report: &AuditReport, lane: &LaneStats) -> bool {
    report.confirmed().any(|gap| {
        let here = gap.topic == lane.topic.as_str()
            && gap.partition == lane.partition.0
            && gap.epoch == lane.epoch.0;
        here && matches!(gap.repair, RepairStanding::Irreparable | RepairStanding::GivenUp)
    })
}
