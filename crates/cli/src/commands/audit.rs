//! `homing audit`: reads everything back and tells which messages are missing.

use crate::cli::Global;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::exit::{Ending, Failure, Outcome};
use crate::{signals, stdout};
use clap::Args;
use homing::audit::{GapReport, GapStanding, Outcome as Found, RepairStanding};
use homing::{AuditReport, Auditor, KafkaConfig};
use std::fmt::Write as _;

/// Flags of `homing audit`.
#[derive(Debug, Args)]
pub struct Flags {
    /// Tells what earlier audits found, without asking Kafka
    #[arg(long)]
    recall: bool,
    /// Shows every lane's numbers too
    #[arg(long)]
    lanes: bool,
}

/// Audits all there is by now; exit 1 when something is missing, 2 when not everything could be read.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let settings = Settings::load(&global.sources())?;
    let (outbox, options) = (settings.outbox()?, settings.audit()?);
    let report = if flags.recall {
        let report = Auditor::new(outbox, KafkaConfig::default(), options)?.recall()?;
        if report.partitions.is_empty() && report.lanes.iter().any(|lane| lane.settled > 0) {
            return Err(Failure::new("nothing was audited yet").help("run `homing audit`, or `homing run`"));
        }
        report
    } else {
        let shutdown = signals::shutdown_on_signals()?;
        let endpoint = Endpoint::open(&settings)?;
        let report =
            Auditor::new(outbox, endpoint.kafka.clone(), options)?.run_once(&shutdown).map_err(|error| {
                Failure::new(error.to_string())
                    .help("is the broker up? what could not be read cannot be judged")
            })?;
        if shutdown.is_triggered() {
            return Err(Failure::new("interrupted before everything was audited"));
        }
        report
    };
    if global.json {
        stdout::json(&report)?;
    } else {
        stdout::text(&describe(&report, flags.lanes))?;
    }
    Ok(Outcome::of_findings(report.outcome() == Found::Findings))
}

/// The report for people.
fn describe(report: &AuditReport, lanes: bool) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<14}{text}"); // writing to a String cannot fail
    };
    let totals = &report.totals;
    let settled: u64 = report.lanes.iter().map(|lane| lane.settled).sum();
    let read: u64 = report.lanes.iter().map(|lane| lane.watermark.min(lane.settled)).sum();
    line("stream", report.stream.clone());
    line("sent", settled.to_string());
    line("read back", format!("{read} without a gap, in {} records", totals.records));
    let counted = [
        (totals.duplicates, "duplicates", "the same message under the same number again; the inbox skips it"),
        (totals.reordered, "out of order", "behind a higher number of their lane"),
        (
            totals.forks,
            "forks",
            "another message under a number given before: two databases number one stream",
        ),
        (totals.never_given, "never given", "numbers this outbox never gave: it was restored or copied"),
        (totals.zombies, "zombies", "of an epoch that had ended"),
        (totals.corrupted, "corrupted", "changed on the way or on disk"),
        (totals.misplaced, "misplaced", "numbered for another partition"),
        (totals.malformed, "malformed", "with a stamp that cannot be read"),
        (totals.foreign, "foreign", "without a stamp: not sent by Homing"),
        (totals.repaired, "repaired", "were missing and were sent again"),
        (totals.late, "late", "were missing and came by themselves"),
        (totals.voided, "voided", "numbers of dead letters"),
    ];
    for (count, name, meaning) in counted.into_iter().filter(|(count, ..)| *count > 0) {
        line(name, format!("{count} ({meaning})"));
    }
    for gap in &report.gaps {
        line("missing", describe_gap(gap));
        for verdict in &gap.verdicts {
            let codes = verdict.cause.codes().join(", ");
            let seqs = seqs(verdict.from.0, verdict.to.0);
            line("", format!("{seqs}: {}. {} [{codes}]", verdict.evidence, verdict.cause.meaning()));
        }
    }
    for lane in report.lanes.iter().filter(|_| lanes) {
        let place = format!("{}[{}] epoch {}", lane.topic, lane.partition, lane.epoch);
        let before = lane.unverified_before.map(|seq| format!(", nothing known before {seq}"));
        let numbers = format!("sent {}, read back {}", lane.settled, lane.watermark);
        line("lane", format!("{place}: {numbers}{}", before.unwrap_or_default()));
    }
    if report.gaps.is_empty() {
        line("missing", "nothing".into());
    }
    out
}

fn describe_gap(gap: &GapReport) -> String {
    let place = format!("{}[{}] epoch {}", gap.topic, gap.partition, gap.epoch);
    let standing = if gap.state == GapStanding::Suspect { "may still come" } else { "confirmed" };
    let repair = match gap.repair {
        RepairStanding::None => "",
        RepairStanding::Ordered => "; the relay is told to send it again: `homing run`",
        RepairStanding::Replayed => "; sent again, not yet read back",
        RepairStanding::Irreparable => "; its rows are gone, it cannot be sent again",
        RepairStanding::GivenUp => "; sent again as often as allowed, in vain",
    };
    format!("{place}: {}, {standing}{repair}", seqs(gap.from, gap.to))
}

fn seqs(from: u64, to: u64) -> String {
    if from == to { format!("number {from}") } else { format!("numbers {from} to {to}") }
}
