//! Puts reports together, and shows the last one to whoever asks.

use super::check::verdicts;
use super::diagnosis::NO_TOPIC;
use super::error::AuditError;
use super::options::AuditOptions;
use super::report::{
    AcceptedReport, AuditReport, BlockedReport, Counts, DoubtReport, GapReport, LaneReport, PartitionReport,
    RepairStanding, UnreachableReport,
};
use super::session::{Session, now_ms};
use super::verdict::{Cause, Verdict};
use super::watched::{Doubt, Watched};
use crate::SqliteOutbox;
use crate::kafka::partition_list::TopicPartition;
use crate::outbox::sqlite::{AuditLane, AuditStore, GapStanding, SavedGap, SeqRange};
use crate::outbox::store::{Acceptance, RepairState};
use homing_core::StreamName;
use std::collections::HashMap;
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
    pub(super) fn trouble(&self, now: Option<String>) {
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
        let unread = |watched: &&Watched| !watched.judged && !self.unreachable.contains_key(&watched.at);
        let unread: Vec<_> = self.watched.iter().filter(unread).collect();
        let mut unreachable: Vec<_> = self
            .unreachable
            .iter()
            .map(|(at, why)| unreachable(at, why))
            .chain(unread.iter().map(|of| unreachable(&of.at, "it could not be read to its end in time")))
            .collect();
        unreachable.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        let known = Known {
            stream: &self.stream,
            outbox: self.outbox,
            store: &self.store,
            watched: &self.watched,
            lanes: &self.lanes,
            gaps: &self.gaps,
            cluster: Some(&self.cluster_id),
            pinned: self.pinned.as_ref(),
        };
        Ok(AuditReport { unreachable, ..known.report()? })
    }

    pub fn records_read(&self) -> u64 {
        self.watched.iter().map(|watched| watched.counts.records).sum()
    }

    pub fn has_suspects(&self) -> bool {
        self.gaps.iter().any(|gap| gap.standing == GapStanding::Suspect)
    }

    /// What keeps partitions from being audited, in a line; `None` when nothing does.
    pub fn trouble(&self) -> Option<String> {
        let (at, why) = self.unreachable.first_key_value()?;
        let more = self.unreachable.len() - 1;
        let others = if more > 0 { format!(", and {more} more") } else { String::new() };
        Some(format!("{at} cannot be audited: {why}{others}; all other partitions are"))
    }
}

/// The report of what is saved.
pub(super) fn recall(outbox: &SqliteOutbox, options: &AuditOptions) -> Result<AuditReport, AuditError> {
    let store = outbox.audit_store()?;
    let saved = store.load()?;
    let (pinned, cluster) = store.clusters()?;
    let mut watched: Vec<Watched> = Vec::new();
    for saved in store.partitions(cluster.as_deref().unwrap_or_default())? {
        let Some(restored) = Watched::restore(saved, options.limits) else { continue };
        // Of the topics that had one name the last one counts.
        watched.pop_if(|last| last.at == restored.at);
        watched.push(restored);
    }
    let known = Known {
        stream: outbox.stream(),
        outbox,
        store: &store,
        watched: &watched,
        lanes: &store.lanes()?,
        gaps: &saved.open,
        cluster: cluster.as_ref(),
        pinned: pinned.as_ref(),
    };
    known.report()
}

/// What a report is made of.
struct Known<'a> {
    stream: &'a StreamName,
    outbox: &'a SqliteOutbox,
    store: &'a AuditStore,
    watched: &'a [Watched],
    lanes: &'a [AuditLane],
    gaps: &'a [SavedGap],
    cluster: Option<&'a String>,
    pinned: Option<&'a String>,
}

impl Known<'_> {
    fn report(&self) -> Result<AuditReport, AuditError> {
        let mut totals = Counts::default();
        let mut partitions: Vec<_> = self
            .watched
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
        let reports = |gaps: &[SavedGap]| {
            gaps.iter().map(|gap| gap_report(self.store, gap)).collect::<Result<Vec<_>, _>>()
        };
        let gaps = reports(self.gaps)?;
        let doubts = self.doubts();
        let by_place: HashMap<_, _> =
            self.watched.iter().map(|of| ((of.at.topic.as_str(), of.at.partition), of)).collect();
        let lane = |lane: &AuditLane| {
            lane_report(self.stream, lane, by_place.get(&(lane.topic.as_str(), lane.partition)).copied())
        };
        Ok(AuditReport {
            stream: self.stream.as_str().to_owned(),
            at_ms: now_ms(),
            cluster: self.cluster.cloned(),
            sent_to_cluster: self
                .pinned
                .filter(|pinned| self.cluster.is_some_and(|of| of != *pinned))
                .cloned(),
            lanes: self.lanes.iter().map(lane).collect(),
            partitions,
            blocked: self.blocked(&gaps, &doubts),
            gaps,
            closed: reports(&self.store.closed_gaps(CLOSED_MAX)?)?,
            doubts,
            accepted: self.outbox.acceptances()?.iter().map(accepted_report).collect(),
            set_aside: self.store.set_aside()?,
            unreachable: Vec::new(),
            totals,
        })
    }

    fn doubts(&self) -> Vec<DoubtReport> {
        let of_partition = |watched: &Watched| {
            let (topic, partition) = (watched.at.topic.as_str().to_owned(), watched.at.partition.0);
            let report = move |(epoch, doubt): (&u32, &Doubt)| DoubtReport {
                topic: topic.clone(),
                partition,
                epoch: *epoch,
                forks: doubt.forks,
                fork_to: if doubt.forks > 0 { doubt.fork_to } else { 0 },
                strange: doubt.strange,
                since_ms: doubt.since_ms,
            };
            watched.doubts.iter().map(report).collect::<Vec<_>>()
        };
        self.watched.iter().flat_map(of_partition).collect()
    }

    /// The lanes whose rows stay because nothing will ever verify them by itself.
    fn blocked(&self, gaps: &[GapReport], doubts: &[DoubtReport]) -> Vec<BlockedReport> {
        let mut by_lane: HashMap<(&str, i32, u32), (i64, String)> = HashMap::new();
        for gap in gaps {
            let why = match gap.repair {
                RepairStanding::Irreparable => "rows that are gone and cannot be sent again",
                RepairStanding::GivenUp => "records that were sent again in vain",
                RepairStanding::Compacted => {
                    "records missing in a compacted topic, which are never sent again"
                }
                RepairStanding::Nowhere => "records of a topic that is not there, or of another cluster",
                RepairStanding::None | RepairStanding::Ordered | RepairStanding::Replayed => continue,
            };
            let at = (gap.topic.as_str(), gap.partition, gap.epoch);
            let why = format!("{why} (numbers {} to {})", gap.from, gap.to);
            by_lane.entry(at).or_insert((gap.opened_at_ms, why));
        }
        for doubt in doubts {
            let at = (doubt.topic.as_str(), doubt.partition, doubt.epoch);
            let why = match doubt.forks {
                0 => format!("numbers up to {} that this outbox never gave", doubt.strange),
                forks => format!("{forks} numbers that stand for two messages"),
            };
            by_lane.entry(at).or_insert((doubt.since_ms, why));
        }
        let blocked = |lane: &AuditLane| {
            let at = (lane.topic.as_str(), lane.partition.0, lane.epoch.0);
            let (since_ms, why) = by_lane.get(&at).filter(|_| lane.verified < lane.settled)?;
            Some(BlockedReport {
                topic: lane.topic.as_str().to_owned(),
                partition: lane.partition.0,
                epoch: lane.epoch.0,
                verified: lane.verified,
                rows: lane.settled - lane.verified,
                since_ms: *since_ms,
                why: why.clone(),
            })
        };
        self.lanes.iter().filter_map(blocked).collect()
    }
}

fn unreachable(at: &TopicPartition, why: &str) -> UnreachableReport {
    let (topic, partition) = (at.topic.as_str().to_owned(), at.partition.0);
    UnreachableReport { topic, partition, why: why.to_owned() }
}

fn accepted_report(accepted: &Acceptance) -> AcceptedReport {
    AcceptedReport {
        topic: accepted.lane.topic.as_str().to_owned(),
        partition: accepted.lane.partition.0,
        epoch: accepted.lane.epoch.0,
        from: accepted.from.0,
        to: accepted.to.0,
        by: accepted.by.clone(),
        why: accepted.why.clone(),
        at_ms: accepted.at_ms,
    }
}

fn lane_report(stream: &StreamName, lane: &AuditLane, watched: Option<&Watched>) -> LaneReport {
    let detector = watched.and_then(|watched| watched.lane(stream, lane.epoch));
    let earlier = watched.and_then(|watched| watched.earlier.get(&lane.epoch.0)).copied().unwrap_or(0);
    let read = detector.map_or(0, homing_core::LaneDetector::read_count) + earlier;
    LaneReport {
        topic: lane.topic.as_str().to_owned(),
        partition: lane.partition.0,
        epoch: lane.epoch.0,
        settled: lane.settled,
        watermark: watched.map_or(0, |watched| watched.watermark(stream, lane.epoch)),
        read: read.min(lane.settled),
        earlier,
        highest: watched.map_or(0, |watched| watched.highest(stream, lane.epoch)),
    }
}

fn gap_report(store: &AuditStore, gap: &SavedGap) -> Result<GapReport, AuditError> {
    let verdicts = verdicts(gap);
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
    let none = orders.is_empty();
    let by = |cause: fn(&Verdict) -> bool| none && verdicts.iter().any(cause);
    let gone = by(|of| of.cause == Cause::OtherCluster)
        || by(|of| of.cause == Cause::TopicGone && of.evidence.ends_with(NO_TOPIC));
    let hopeless = by(|of| !of.is_repairable() && !matches!(of.cause, Cause::Undetermined | Cause::Unread));
    Ok(match () {
        () if any(RepairState::GivenUp) => RepairStanding::GivenUp,
        () if by(|verdict| verdict.compacted) => RepairStanding::Compacted,
        () if gone => RepairStanding::Nowhere,
        () if any(RepairState::Irreparable) || hopeless => RepairStanding::Irreparable,
        () if any(RepairState::Wanted) => RepairStanding::Ordered,
        () if any(RepairState::Replayed) => RepairStanding::Replayed,
        () => RepairStanding::None,
    })
}
