//! An audit's report for people.

use homing::AuditReport;
use homing::audit::{Counts, GapReport, GapStanding, RepairStanding};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The report for people.
pub(super) fn describe(report: &AuditReport, lanes: bool) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<14}{text}"); // writing to a String cannot fail
    };
    let settled: u64 = report.lanes.iter().map(|lane| lane.settled).sum();
    let read: u64 = report.lanes.iter().map(|lane| lane.read).sum();
    let earlier: u64 = report.lanes.iter().map(|lane| lane.earlier).sum();
    line("stream", report.stream.clone());
    line("sent", settled.to_string());
    let before = if earlier > 0 {
        format!("; {earlier} of them by earlier audits, deleted from the log since")
    } else {
        String::new()
    };
    line("read back", format!("{read} of them, in {} records{before}", report.totals.records));
    if let Some(pinned) = &report.sent_to_cluster {
        let here = report.cluster.as_deref().unwrap_or("none");
        line("cluster", format!("{here}, but they were sent to {pinned} (N02); check kafka.bootstrap"));
    }
    for (name, text) in counted(&report.totals) {
        line(name, text);
    }
    for gap in &report.gaps {
        line("missing", describe_gap(gap));
        for verdict in &gap.verdicts {
            let codes = verdict.cause.codes().join(", ");
            let seqs = seqs(verdict.from.0, verdict.to.0);
            line("", format!("{seqs}: {}. {} [{codes}]", verdict.evidence, verdict.cause.meaning()));
        }
    }
    if report.set_aside > 0 {
        line("set aside", format!("{} rows that Kafka cannot take; see `homing dlq list`", report.set_aside));
    }
    for lane in &report.blocked {
        let place = format!("{}[{}] epoch {}", lane.topic, lane.partition, lane.epoch);
        let since = age(lane.since_ms);
        line(
            "not pruned",
            format!(
                "{place}: {} rows behind number {}, {since}: {} (X10)",
                lane.rows, lane.verified, lane.why
            ),
        );
        line("", format!("mend it, or accept the loss: `homing audit accept --topic {} --all`", lane.topic));
    }
    for accepted in &report.accepted {
        let place = format!("{}[{}] epoch {}", accepted.topic, accepted.partition, accepted.epoch);
        let (by, why, since) = (&accepted.by, &accepted.why, age(accepted.at_ms));
        line("accepted", format!("{place}: {}, by {by}, {since}: {why}", seqs(accepted.from, accepted.to)));
    }
    for lane in report.lanes.iter().filter(|_| lanes) {
        let place = format!("{}[{}] epoch {}", lane.topic, lane.partition, lane.epoch);
        line(
            "lane",
            format!(
                "{place}: sent {}, read back {}, nothing missing up to {}",
                lane.settled, lane.read, lane.watermark
            ),
        );
    }
    for partition in &report.unreachable {
        line("not read", format!("{}[{}]: {}", partition.topic, partition.partition, partition.why));
    }
    if report.gaps.is_empty() {
        let but = if report.unreachable.is_empty() { "" } else { " in what could be read" };
        line("missing", format!("nothing{but}"));
    }
    out
}

fn counted(totals: &Counts) -> impl Iterator<Item = (&'static str, String)> {
    [
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
    ]
    .into_iter()
    .filter(|(count, ..)| *count > 0)
    .map(|(count, name, meaning)| (name, format!("{count} ({meaning})")))
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
        RepairStanding::Compacted => {
            "; never sent again: the topic is compacted, an old value would stand over a newer one"
        }
        RepairStanding::Nowhere => "; it cannot be sent while its topic is not there",
    };
    format!("{place}: {}, {standing}{repair}", seqs(gap.from, gap.to))
}

fn seqs(from: u64, to: u64) -> String {
    match to.checked_sub(from) {
        None => "no number".to_owned(),
        Some(0) => format!("number {from}"),
        Some(_) => format!("numbers {from} to {to}"),
    }
}

/// How long ago, in the unit that fits.
fn age(at_ms: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = now.saturating_sub(Duration::from_millis(u64::try_from(at_ms).unwrap_or(0)));
    match since.as_secs() {
        seconds @ 0..120 => format!("for {seconds} s"),
        seconds @ 120..7_200 => format!("for {} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("for {} h", seconds / 3_600),
        seconds => format!("for {} days", seconds / 86_400),
    }
}
