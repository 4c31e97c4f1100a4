//! Puts reports together, and shows the last one to whoever asks.

use super::error::AuditError;
use super::options::AuditOptions;
use super::report::{AuditReport, Counts, GapReport, LaneReport, PartitionReport, RepairStanding};
use super::session::{Session, now_ms};
use super::verdict::Verdict;
use super::watched::Watched;
use crate::SqliteOutbox;
use crate::outbox::sqlite::{AuditLane, AuditStore, GapStanding, SavedGap, SeqRange};
use crate::outbox::store::RepairState;
use homing_core::StreamName;
use std::sync::{Mutex, PoisonError};

/// How many closed gaps a report shows.
const CLOSED_MAX: usize = 100;

/// What an auditor found last, for others to look at.
#[derive(Debug, Default)]
pub struct AuditStatus {
    /// The last report, and what keeps the auditor waiting.
    inner: Mutex<(Option<AuditReport>, Option<String>)>,
}

impl AuditStatus {
    /// The last report; `None` before the first check.
    #[must_use]
    pub fn report(&self) -> Option<AuditReport> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// What keeps the auditor waiting; `None` when nothing does.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    pub(super) fn publish(&self, report: AuditReport) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(report);
    }

    /// Logs trouble when it begins, changes and ends.
    pub(super) fn trouble(&self, error: Option<&AuditError>) {
        let now = error.map(ToString::to_string);
        let trouble = &mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).1;
        if *trouble != now {
            match &now {
                Some(what) => tracing::warn!(what, "the audit waits"),
                None => tracing::info!("the audit goes on"),
            }
            *trouble = now;
        }
    }
}

impl Session<'_> {
    pub fn report(&self) -> Result<AuditReport, AuditError> {
        report(&self.stream, &self.store, &self.watched, (&self.lanes, &self.gaps))
    }

    pub fn records_read(&self) -> u64 {
        self.watched.iter().map(|watched| watched.counts.records).sum()
    }

    pub fn has_suspects(&self) -> bool {
        self.gaps.iter().any(|gap| gap.standing == GapStanding::Suspect)
    }
}

/// The report of what is saved.
pub(super) fn recall(outbox: &SqliteOutbox, options: &AuditOptions) -> Result<AuditReport, AuditError> {
    let store = outbox.audit_store()?;
    let saved = store.load()?;
    let watched: Vec<_> =
        saved.partitions.into_iter().filter_map(|saved| Watched::restore(saved, options.limits)).collect();
    report(outbox.stream(), &store, &watched, (&store.lanes()?, &saved.open))
}

fn report(
    stream: &StreamName,
    store: &AuditStore,
    watched: &[Watched],
    (lanes, gaps): (&[AuditLane], &[SavedGap]),
) -> Result<AuditReport, AuditError> {
    let mut totals = Counts::default();
    let mut partitions: Vec<_> = watched
        .iter()
        .map(|watched| {
            totals += watched.counts;
            PartitionReport {
                topic: watched.at.topic.as_str().to_owned(),
                partition: watched.at.partition.0,
                next_offset: watched.next_offset.0,
                counts: watched.counts,
            }
        })
        .collect();
    partitions.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
    let gaps = gaps.iter().map(|gap| gap_report(store, gap)).collect::<Result<Vec<_>, _>>()?;
    let closed = store.closed_gaps(CLOSED_MAX)?;
    let closed = closed.iter().map(|gap| gap_report(store, gap)).collect::<Result<Vec<_>, _>>()?;
    Ok(AuditReport {
        stream: stream.as_str().to_owned(),
        at_ms: now_ms(),
        lanes: lanes.iter().map(|lane| lane_report(stream, lane, watched)).collect(),
        partitions,
        gaps,
        closed,
        totals,
    })
}

fn lane_report(stream: &StreamName, lane: &AuditLane, watched: &[Watched]) -> LaneReport {
    let of_partition =
        |watched: &&Watched| watched.at.topic == lane.topic && watched.at.partition == lane.partition;
    let detector = watched.iter().find(of_partition).and_then(|watched| watched.lane(stream, lane.epoch));
    let seq = |seq: Option<homing_core::Seq>| seq.map_or(0, |seq| seq.0);
    LaneReport {
        topic: lane.topic.as_str().to_owned(),
        partition: lane.partition.0,
        epoch: lane.epoch.0,
        settled: lane.settled,
        watermark: seq(detector.and_then(|lane| lane.watermark())),
        highest: seq(detector.and_then(|lane| lane.highest())),
        unverified_before: detector
            .and_then(|lane| lane.verified_from())
            .map(|seq| seq.0)
            .filter(|seq| *seq > 1),
    }
}

fn gap_report(store: &AuditStore, gap: &SavedGap) -> Result<GapReport, AuditError> {
    let verdicts: Vec<Verdict> = serde_json::from_str(&gap.verdicts).unwrap_or_default();
    Ok(GapReport {
        topic: gap.topic.as_str().to_owned(),
        partition: gap.partition.0,
        epoch: gap.epoch.0,
        from: gap.from.0,
        to: gap.to.0,
        state: gap.standing,
        opened_at_ms: gap.opened_at_ms,
        repair: repair_standing(store, gap, &verdicts)?,
        verdicts,
    })
}

/// The worst of its orders counts.
fn repair_standing(
    store: &AuditStore,
    gap: &SavedGap,
    verdicts: &[Verdict],
) -> Result<RepairStanding, AuditError> {
    if gap.standing != GapStanding::Confirmed {
        return Ok(RepairStanding::None);
    }
    let (topic, epoch, partition, from, to) = (&gap.topic, gap.epoch, gap.partition, gap.from, gap.to);
    let orders = store.orders(&SeqRange { topic, epoch, partition, from, to })?;
    let any = |state: RepairState| orders.iter().any(|order| order.state == state);
    let hopeless = orders.is_empty() && verdicts.iter().any(|verdict| !verdict.cause.is_repairable());
    Ok(match () {
        () if any(RepairState::GivenUp) => RepairStanding::GivenUp,
        () if any(RepairState::Irreparable) || hopeless => RepairStanding::Irreparable,
        () if any(RepairState::Wanted) => RepairStanding::Ordered,
        () if any(RepairState::Replayed) => RepairStanding::Replayed,
        () => RepairStanding::None,
    })
}
