//! One check: gaps opened, confirmed, looked into, ordered and closed, all in one commit.

use super::diagnosis::{Case, Doctor};
use super::error::AuditError;
use super::gaps::missing;
use super::options::Repairing;
use super::session::{Extent, Session, now_ms};
use super::verdict::{Cause, Verdict};
use super::watched::{Unsaved, Watched};
use crate::kafka::partition_list::TopicPartition;
use crate::outbox::sqlite::{AuditLane, AuditOrder, Changes, GapStanding, SavedGap, SeqRange, Written};
use crate::outbox::store::RepairState;
use homing_core::Seq;
use homing_core::gap::OpenGap;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What is to be written about repairs.
#[derive(Default)]
struct Repairs {
    /// By place in the list of gaps.
    orders: Vec<(usize, Seq, Seq)>,
    states: Vec<(i64, RepairState)>,
}

/// Gaps that are looked into in one check: Kafka is asked about each.
const LOOKS_MAX: usize = 50;
/// How long before a gap is looked into again whose cause was not found.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long progress may stay unsaved: so much is read again after a crash.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Partitions whose mere progress is saved in one transaction.
const SAVES_MAX: usize = 500;
/// Lanes whose standing is written in one transaction.
const VERIFIED_MAX: usize = 2_000;

/// How often the end of an audit tries to write beside other auditors.
const FINISHES_MAX: usize = 20;

/// What a check saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Save {
    /// Findings, and progress that was unsaved for a while.
    Due,
    /// All there is.
    All,
}

impl Session<'_> {
    /// Compares what was read with the outbox and writes down what follows.
    pub fn check(&mut self) -> Result<(), AuditError> {
        self.check_and(Save::Due).map(|_| ())
    }

    /// Checks, and writes all there is, whoever else writes meanwhile.
    pub fn finish(&mut self) -> Result<(), AuditError> {
        for _ in 0..FINISHES_MAX {
            if self.topics_at.is_none() {
                self.look_for_topics()?;
            }
            if self.check_and(Save::All)? {
                return Ok(());
            }
        }
        tracing::warn!("other auditors write all the time; what was read last is not saved");
        Ok(())
    }

    /// As [`check`](Self::check); says whether it was written, or another auditor wrote meanwhile.
    pub fn check_and(&mut self, save: Save) -> Result<bool, AuditError> {
        let now_ms = now_ms();
        self.consult_outbox(now_ms)?;
        let mut changed = self.bring_up_gaps(now_ms);
        let unread = self.look_into(&mut changed)?;
        let repairs = self.plan_repairs(now_ms)?;
        self.say(&changed);
        self.options.steps.reached("audit.checked");
        let written = self.write((&changed, &repairs), save, now_ms)?;
        self.options.steps.reached("audit.committed");
        for at in unread {
            tracing::error!(%at, "acknowledged records stand where others were read: the log was cut and \
                written on, or was not read well; it is read anew");
            self.begin_again(&at)?;
        }
        Ok(written)
    }

    /// Finds out what happened to confirmed gaps; returns which partitions are to be read again.
    fn look_into(&mut self, changed: &mut BTreeSet<usize>) -> Result<BTreeSet<TopicPartition>, AuditError> {
        let mut unread = BTreeSet::new();
        let due: Vec<usize> = (0..self.gaps.len()).filter(|at| self.is_due(&self.gaps[*at])).collect();
        for at in due.into_iter().take(LOOKS_MAX) {
            let gap = &self.gaps[at];
            let Some(place) = self.place(&gap.topic, gap.partition) else { continue };
            if !self.watched[place].judged || unread.contains(&self.watched[place].at) {
                continue;
            }
            let verdicts = self.examine(gap, place)?;
            if let Some(id) = gap.id {
                self.looked_into.insert(id, Instant::now());
            }
            if verdicts.is_empty() {
                continue;
            }
            if verdicts.iter().any(|verdict| verdict.cause == Cause::Unread) {
                unread.insert(self.watched[place].at.clone());
            }
            let verdicts = serde_json::to_string(&verdicts).expect("a verdict is JSON");
            if self.gaps[at].verdicts != verdicts {
                self.gaps[at].verdicts = verdicts;
                changed.insert(at);
            }
        }
        Ok(unread)
    }

    /// Whether a gap is to be looked into: it is certain, and nothing is known of why, or not yet.
    fn is_due(&self, gap: &SavedGap) -> bool {
        let unknown =
            gap.verdicts.is_empty() || verdicts(gap).iter().any(|of| of.cause == Cause::Undetermined);
        let looked = gap.id.and_then(|id| self.looked_into.get(&id));
        gap.standing == GapStanding::Confirmed
            && unknown
            && looked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN_AFTER)
    }

    fn examine(&self, gap: &SavedGap, place: usize) -> Result<Vec<Verdict>, AuditError> {
        let watched = &self.watched[place];
        let open = watched.open_gaps(&self.stream, gap.epoch);
        let elsewhere = self.pinned.as_deref().filter(|_| self.is_elsewhere());
        let doctor = Doctor {
            store: &self.store,
            kafka: self.kafka,
            stream: &self.stream,
            wait: self.options.request_timeout,
            probes_max: self.options.probes_max,
            elsewhere: elsewhere.map(|pinned| (self.cluster_id.as_str(), pinned)),
        };
        // A topic that is not there has no settings.
        let compacted = if watched.is_present() { self.is_compacted(&gap.topic) } else { Some(false) };
        let missing = missing(gap, &open);
        let case = Case { watched, epoch: gap.epoch, lane: self.lane_of(gap), missing: &missing, compacted };
        Ok(doctor.examine(&case)?)
    }

    /// What the relay is to send again, and how orders it carried out turned out.
    fn plan_repairs(&self, now_ms: i64) -> Result<Repairs, AuditError> {
        let mut repairs = Repairs::default();
        for (at, gap) in self.gaps.iter().enumerate() {
            if gap.standing == GapStanding::Suspect {
                continue;
            }
            let orders = self.store.orders(&range_of(gap))?;
            if gap.closed_at_ms.is_some() {
                let open = orders.iter().filter(|order| is_under_way(order.state));
                repairs.states.extend(open.map(|order| (order.id, RepairState::Repaired)));
                continue;
            }
            let Some(place) = self.place(&gap.topic, gap.partition) else { continue };
            let watched = &self.watched[place];
            if !watched.judged {
                continue;
            }
            let open = watched.open_gaps(&self.stream, gap.epoch);
            let highest = Seq(watched.highest(&self.stream, gap.epoch));
            for order in &orders {
                // What was not reached again yet is not known to be there.
                let lacking =
                    highest < order.to || open.iter().any(|of| of.from <= order.to && of.to >= order.from);
                repairs.states.extend(self.follow_up(order, lacking, now_ms).map(|state| (order.id, state)));
            }
            // Where there is no topic, or it is another cluster's, the relay cannot send.
            let possible = watched.is_present() && !self.is_elsewhere();
            if possible && self.options.repair == Repairing::Order {
                let wanted = wanted(gap, &open, &orders);
                repairs.orders.extend(wanted.into_iter().map(|(from, to)| (at, from, to)));
            }
        }
        Ok(repairs)
    }

    /// How an order stands now that its records should be here; `None` when it stands as before.
    fn follow_up(&self, order: &AuditOrder, lacking: bool, now_ms: i64) -> Option<RepairState> {
        let patience = i64::try_from(self.options.repair_patience.as_millis()).unwrap_or(i64::MAX);
        match order.state {
            state if !lacking && is_under_way(state) => Some(RepairState::Repaired),
            RepairState::Replayed if now_ms - order.updated_at_ms >= patience => {
                let again = order.attempts < self.options.repair_attempts_max;
                Some(if again { RepairState::Wanted } else { RepairState::GivenUp })
            }
            _ => None,
        }
    }

    /// One line for each gap that was opened, confirmed or closed.
    fn say(&self, changed: &BTreeSet<usize>) {
        for gap in changed.iter().map(|at| &self.gaps[*at]) {
            let lane = format!("{}[{}] epoch {}", gap.topic, gap.partition.0, gap.epoch.0);
            let (from, to, verdicts) = (gap.from.0, gap.to.0, &gap.verdicts);
            match gap.standing {
                GapStanding::Suspect => tracing::warn!(lane, from, to, "gap: seqs are missing, perhaps late"),
                GapStanding::Confirmed => {
                    tracing::error!(lane, from, to, verdicts, "gap confirmed: seqs are lost")
                }
                _ => {
                    tracing::info!(lane, from, to, how = gap.standing.as_str(), "gap closed");
                }
            }
        }
    }

    /// Writes everything in one transaction; when another auditor wrote meanwhile, begins again and
    /// says so.
    fn write(
        &mut self,
        (changed, repairs): (&BTreeSet<usize>, &Repairs),
        save: Save,
        now_ms: i64,
    ) -> Result<bool, AuditError> {
        let verified: Vec<(AuditLane, u64)> = self.verified(save);
        let saving = self.to_save(save);
        let mut partitions = self.retired.clone();
        partitions.extend(saving.iter().map(|place| self.watched[*place].saved()));
        let nothing = partitions.is_empty() && changed.is_empty() && verified.is_empty();
        if nothing && repairs.orders.is_empty() && repairs.states.is_empty() {
            return Ok(true);
        }
        let of: Vec<SavedGap> = repairs.orders.iter().map(|(at, ..)| self.gaps[*at].clone()).collect();
        let orders = of.iter().zip(&repairs.orders);
        let changes = Changes {
            version: self.version,
            cluster_id: &self.cluster_id,
            partitions,
            orders: orders
                .map(|(gap, (_, from, to))| SeqRange { from: *from, to: *to, ..range_of(gap) })
                .collect(),
            order_states: repairs.states.clone(),
            verified: verified.iter().map(|(lane, seq)| (lane, *seq)).collect(),
            gaps: self
                .gaps
                .iter_mut()
                .enumerate()
                .filter(|(at, _)| changed.contains(at))
                .map(|(_, gap)| gap)
                .collect(),
            now_ms,
        };
        match self.store.commit(changes)? {
            Written::Version(version) => {
                self.version = version;
                self.gaps.retain(|gap| gap.closed_at_ms.is_none());
                self.retired.clear();
                for place in saving {
                    let watched = &mut self.watched[place];
                    (watched.unsaved, watched.saved_at) = (Unsaved::Nothing, Some(Instant::now()));
                }
                self.watched.iter_mut().filter(|of| of.judged).for_each(|of| of.fills.clear());
                Ok(true)
            }
            Written::Superseded => {
                tracing::debug!("another auditor wrote meanwhile; beginning again from there");
                self.load()?;
                Ok(false)
            }
        }
    }

    /// The partitions to save: those with findings at once, those merely read on now and then.
    fn to_save(&self, save: Save) -> Vec<usize> {
        let mut progress = 0;
        let is_due = |watched: &Watched| watched.saved_at.is_none_or(|at| at.elapsed() >= SAVE_EVERY);
        let mut places = Vec::new();
        for (place, watched) in self.watched.iter().enumerate().filter(|(_, watched)| watched.judged) {
            let now = match watched.unsaved {
                Unsaved::Nothing => false,
                Unsaved::Findings => true,
                Unsaved::Progress if save == Save::All => true,
                Unsaved::Progress if is_due(watched) && progress < SAVES_MAX => {
                    progress += 1;
                    true
                }
                Unsaved::Progress => false,
            };
            places.extend(now.then_some(place));
        }
        places
    }

    /// The lanes that count as read back further than the outbox has it, or no longer so far:
    /// nothing is verified but in this cluster and this topic.
    fn verified(&mut self, save: Save) -> Vec<(AuditLane, u64)> {
        let most = if save == Save::All { usize::MAX } else { VERIFIED_MAX };
        let (count, mut changed) = (self.lanes.len(), Vec::new());
        for step in 0..count {
            let at = (self.verified_from + step) % count;
            if changed.len() >= most {
                self.verified_from = at;
                break;
            }
            let lane = &self.lanes[at];
            let Some(place) = self.place(&lane.topic, lane.partition) else { continue };
            let watched = &self.watched[place];
            if !watched.judged || watched.doubts.contains_key(&lane.epoch.0) {
                continue;
            }
            // An epoch that is too old to be remembered stays as it is.
            if watched.lane(&self.stream, lane.epoch).is_none() {
                continue;
            }
            let read = watched.watermark(&self.stream, lane.epoch).min(lane.settled);
            if read > lane.verified || (read < lane.verified && self.is_lowered(watched, lane)) {
                changed.push((lane.clone(), read));
            }
        }
        changed
    }
}

impl Session<'_> {
    /// Whether a lane is no longer verified so far. A whole audit may have ended before another
    /// auditor went on, so there only what is missing counts.
    fn is_lowered(&self, watched: &Watched, lane: &AuditLane) -> bool {
        let missing = || {
            let first = watched.open_gaps(&self.stream, lane.epoch).first().map(|gap| gap.from.0);
            first.is_some_and(|first| first <= lane.verified)
        };
        !lane.superseded && (self.extent == Extent::Rest || missing())
    }
}

/// What is known of why a gap's seqs are missing.
pub(super) fn verdicts(gap: &SavedGap) -> Vec<Verdict> {
    serde_json::from_str(&gap.verdicts).unwrap_or_default()
}

fn range_of(gap: &SavedGap) -> SeqRange<'_> {
    SeqRange { topic: &gap.topic, epoch: gap.epoch, partition: gap.partition, from: gap.from, to: gap.to }
}

fn is_under_way(state: RepairState) -> bool {
    matches!(state, RepairState::Wanted | RepairState::Replayed)
}

/// The missing seqs of a gap that can be sent again and are in no order yet.
fn wanted(gap: &SavedGap, open: &[OpenGap], orders: &[AuditOrder]) -> Vec<(Seq, Seq)> {
    let mut wanted = Vec::new();
    for verdict in verdicts(gap).iter().filter(|verdict| verdict.is_repairable()) {
        for (from, to) in missing(gap, open) {
            let (from, to) = (from.max(verdict.from), to.min(verdict.to));
            let ordered = orders.iter().any(|order| order.from <= to && order.to >= from);
            if from <= to && !ordered {
                wanted.push((from, to));
            }
        }
    }
    wanted
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use homing_core::gap::{GapState, Precision};
    use homing_core::{Epoch, Partition, TopicName};

    fn gap(verdicts: &[Verdict]) -> SavedGap {
        SavedGap {
            id: Some(1),
            topic: TopicName::parse("t").unwrap(),
            epoch: Epoch(1),
            partition: Partition(0),
            from: Seq(3),
            to: Seq(4),
            standing: GapStanding::Confirmed,
            opened_at_ms: 0,
            confirmed_at_ms: Some(0),
            closed_at_ms: None,
            verdicts: serde_json::to_string(verdicts).unwrap(),
        }
    }

    fn ordered(cause: Cause, compacted: bool) -> Vec<(Seq, Seq)> {
        let (from, to, evidence) = (Seq(3), Seq(4), String::new());
        let gap = gap(&[Verdict { from, to, cause, compacted, evidence }]);
        let (state, precision) = (GapState::Confirmed, Precision::Exact);
        wanted(&gap, &[OpenGap { from, to, since_ms: 0, state, precision }], &[])
    }

    #[test]
    fn nothing_is_sent_again_on_a_compacted_topic_whatever_the_cause() {
        assert_eq!(ordered(Cause::Truncated, false), [(Seq(3), Seq(4))]);
        for cause in [Cause::Truncated, Cause::Overwritten, Cause::Compacted, Cause::Expired] {
            assert_eq!(ordered(cause, true), [], "{cause:?}");
        }
    }

    #[test]
    fn nothing_is_sent_again_before_its_cause_is_known() {
        for cause in [Cause::Undetermined, Cause::Pruned, Cause::NeverGiven, Cause::OtherCluster] {
            assert_eq!(ordered(cause, false), [], "{cause:?}");
        }
    }
}
