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
/// How much of the time between two of the auditor's reports counts: one that asks about thousands of
/// topics is busy, not at a standstill.
const BETWEEN_REPORTS_MAX: Duration = Duration::from_secs(1);
/// How long one may be busy without a report.
const BUSY_MAX: Duration = Duration::from_secs(600);
/// Pause between two lines that say what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(30);

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
    standstill: Option<Standstill>,
}

/// No more is read back than before.
#[derive(Debug)]
struct Standstill {
    verified: u64,
    since: Instant,
    /// The auditor's time that went by without progress.
    counted: Duration,
    looked: Instant,
    /// When the auditor's last report was made.
    report_at_ms: Option<i64>,
    say_at: Instant,
}

impl Standstill {
    fn begin(verified: u64, now: Instant) -> Self {
        let say_at = now + SAY_EVERY;
        Self { verified, since: now, counted: Duration::ZERO, looked: now, report_at_ms: None, say_at }
    }

    /// Takes in the time since the last look at which the auditor had something to say.
    fn look(&mut self, now: Instant, report_at_ms: Option<i64>, has_trouble: bool) {
        if has_trouble || self.report_at_ms != report_at_ms {
            self.counted += now.saturating_duration_since(self.looked).min(BETWEEN_REPORTS_MAX);
            (self.looked, self.report_at_ms) = (now, report_at_ms);
        }
    }

    fn is_over(&self, now: Instant, patience: Duration) -> bool {
        self.counted >= patience || now.saturating_duration_since(self.since) >= BUSY_MAX
    }
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
            self.standstill = None;
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
            self.standstill = None;
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
        let standstill = match &mut self.standstill {
            Some(standstill) if standstill.verified == verified => standstill,
            other => other.insert(Standstill::begin(verified, now)),
        };
        standstill.look(now, report.as_ref().map(|report| report.at_ms), audit.status.waits_for().is_some());
        let missing: u64 = left.iter().map(|lane| lane.settled - lane.verified).sum();
        if !audit.done.is_triggered() && !standstill.is_over(now, audit.patience) {
            if now >= standstill.say_at {
                standstill.say_at = now + SAY_EVERY;
                tracing::info!(lanes = left.len(), "all is sent; {missing} messages are not read back yet");
            }
            return None;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_auditor_that_is_busy_is_waited_for_and_one_that_reports_no_progress_is_not() {
        let (begun, patience) = (Instant::now(), Duration::from_secs(20));
        let at = |s: u64| begun + Duration::from_secs(s);
        let mut busy = Standstill::begin(7, begun);
        busy.look(at(1), Some(1), false);
        for s in 2..=120 {
            busy.look(at(s), Some(1), false);
        }
        busy.look(at(121), Some(2), false);
        assert!(!busy.is_over(at(121), patience), "{busy:?}");
        assert!(busy.is_over(at(600), patience), "but not for ever");
        let mut still = Standstill::begin(7, begun);
        for s in 1..=20 {
            assert!(!still.is_over(at(s), patience), "{still:?}");
            still.look(at(s), Some(s as i64), false);
        }
        assert!(still.is_over(at(20), patience), "{still:?}");
        let mut in_trouble = Standstill::begin(7, begun);
        (1..=20).for_each(|s| in_trouble.look(at(s), None, true));
        assert!(in_trouble.is_over(at(20), patience), "{in_trouble:?}");
    }
}
