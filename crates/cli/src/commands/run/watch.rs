//! The loop beside the relay: says what happens to it, prints status lines, and ends the run when all is done.

use super::Flags;
use super::clock::ClockWatch;
use super::drained::{Drained, WatchedAudit};
use super::outbox_file::OutboxFile;
use super::set_aside::SetAside;
use crate::commands::status::StatusJson;
use crate::exit::{Failure, Outcome};
use crate::stdout::StatusLines;
use homing::relay::RelayStatus;
use homing::{AuditReport, RelaySummary, Shutdown, SqliteOutbox};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two looks at relay and outbox.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub struct Watch<'a> {
    flags: &'a Flags,
    lines: Option<StatusLines>,
    outbox: SqliteOutbox,
    status: Arc<RelayStatus>,
    /// The auditor, when one is at work.
    pub audit: Option<WatchedAudit>,
    set_aside: SetAside,
    file: OutboxFile,
    trouble: Option<String>,
}

impl<'a> Watch<'a> {
    /// Begins; call it before the relay does.
    pub fn new(
        flags: &'a Flags,
        lines: Option<StatusLines>,
        outbox: SqliteOutbox,
        status: Arc<RelayStatus>,
    ) -> Result<Self, Failure> {
        let set_aside = SetAside::from_now(&outbox)?;
        let file = OutboxFile::now(outbox.path())?;
        Ok(Self { flags, lines, outbox, status, audit: None, set_aside, file, trouble: None })
    }

    /// Until the relay has ended.
    pub fn run(&mut self, done: &Shutdown, shutdown: &Shutdown) -> Result<Outcome, Failure> {
        let mut line_due = Instant::now();
        let (mut clock, mut drained) = (ClockWatch::default(), Drained::default());
        let mut outcome = None;
        while !done.wait(LOOK_EVERY.min(Duration::from_millis(self.flags.every_ms))) {
            self.tell_trouble();
            if let Some(jump) = clock.look() {
                tracing::warn!("{jump}");
            }
            self.file.look()?;
            self.set_aside.look(&self.outbox, &self.status.summary());
            if self.lines.is_some() && Instant::now() >= line_due {
                line_due = Instant::now() + Duration::from_millis(self.flags.every_ms);
                self.print("status", &self.status.summary())?;
            }
            if self.flags.until_drained && !shutdown.is_triggered() {
                outcome = drained.look(&self.outbox, &self.status, self.audit.as_ref());
                if outcome.is_some() {
                    shutdown.trigger();
                }
            }
        }
        match outcome {
            None if self.flags.until_drained && shutdown.is_triggered() => {
                Err(Failure::new("interrupted before the outbox was drained")
                    .help("what is left stays in the outbox; `homing status` shows it"))
            }
            outcome => Ok(outcome.unwrap_or(Outcome::Fine)),
        }
    }

    /// The relay logs its troubles itself; that it stands by is not one.
    fn tell_trouble(&mut self) {
        let now = self.status.trouble().map(|trouble| trouble.what);
        if now == self.trouble {
            return;
        }
        match &now {
            // What a second relay is for.
            Some(what) if what.starts_with("standing by") => tracing::info!("{what}"),
            Some(what) => tracing::debug!("the relay waits: {what}"),
            None => tracing::debug!("the relay goes on"),
        }
        self.trouble = now;
    }

    /// Says how it ended; findings when rows were set aside in a run that was to empty the outbox.
    pub fn end(mut self, summary: &RelaySummary) -> Outcome {
        self.set_aside.end(&self.outbox, summary);
        let set_aside = summary.rejected + summary.voided;
        if self.lines.is_some()
            && let Err(failure) = self.print("end", summary)
        {
            tracing::warn!("{failure}");
        }
        let waiting = match self.outbox.stats() {
            Ok(left) => (left.unclaimed + left.unsettled).to_string(),
            Err(error) => format!("unknown ({error})"),
        };
        tracing::info!(settled = summary.settled, resent = summary.resent, set_aside, %waiting, "stopped");
        if set_aside > 0 {
            tracing::warn!("rows set aside: {set_aside}; they do not go out, `homing dlq list` shows why");
        }
        if let Some(lines) = self.lines {
            lines.end();
        }
        Outcome::of_findings(self.flags.until_drained && set_aside > 0)
    }

    /// A status line; without the outbox's numbers when they cannot be read now.
    fn print(&mut self, event: &str, summary: &RelaySummary) -> Result<(), Failure> {
        let (outbox, error) = match self.outbox.stats() {
            Ok(stats) => (serde_json::to_value(StatusJson::of(&stats))?, None),
            Err(error) => (Value::Null, Some(error.to_string())),
        };
        let audit = self.audit.as_ref().and_then(WatchedAudit::report).map(|report| audit_json(&report));
        let mut line =
            json!({"event": event, "relay": summary_json(summary), "audit": audit, "outbox": outbox});
        if let Some(error) = error {
            line["outbox_error"] = error.into();
        }
        self.lines.as_mut().map_or(Ok(()), |lines| lines.json(&line))
    }
}

fn audit_json(report: &AuditReport) -> Value {
    let missing: u64 = report.confirmed().map(homing::audit::GapReport::seqs).sum();
    json!({"totals": report.totals, "gaps": report.gaps.len(), "missing": missing})
}

fn summary_json(summary: &RelaySummary) -> Value {
    json!({
        "claimed": summary.claimed,
        "sent": summary.sent,
        "acked": summary.acked,
        "settled": summary.settled,
        "resent": summary.resent,
        "skipped_by_tail_read": summary.skipped_by_tail_read,
        "rejected": summary.rejected,
        "voided": summary.voided,
        "replayed": summary.replayed,
        "pruned": summary.pruned,
        "batches": summary.batches,
        "fenced": summary.fenced,
        "recoveries": summary.recoveries,
    })
}
