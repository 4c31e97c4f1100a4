//! One check: gaps opened, confirmed, looked into, ordered and closed, all in one commit.

use super::diagnosis::{Case, Doctor};
use super::error::AuditError;
use super::gaps::missing;
use super::options::Repairing;
use super::session::{Session, now_ms};
use super::verdict::{Cause, Verdict};
use super::watched::Watched;
use crate::outbox::sqlite::{AuditLane, AuditOrder, Changes, GapStanding, SavedGap, SeqRange, Written};
use crate::outbox::store::RepairState;
use homing_core::gap::OpenGap;
use homing_core::{Offset, Seq};
use std::collections::BTreeSet;

/// What is to be written about repairs.
#[derive(Default)]
struct Repairs {
    /// By place in the list of gaps.
    orders: Vec<(usize, Seq, Seq)>,
    states: Vec<(i64, RepairState)>,
}

impl Session<'_> {
    /// Compares what was read with the outbox and writes down what follows.
    pub fn check(&mut self) -> Result<(), AuditError> {
        let now_ms = now_ms();
        self.consult_outbox(now_ms)?;
        let mut changed = self.bring_up_gaps(now_ms);
        let rewound = self.look_into(&mut changed)?;
        let repairs = self.plan_repairs(now_ms)?;
        self.say(&changed);
        self.options.steps.reached("audit.checked");
        self.write(&changed, &repairs, now_ms)?;
        self.options.steps.reached("audit.committed");
        if rewound { self.assign() } else { Ok(()) }
    }

    /// Finds out what happened to confirmed gaps; returns whether a partition is to be read again.
    fn look_into(&mut self, changed: &mut BTreeSet<usize>) -> Result<bool, AuditError> {
        let mut rewound = false;
        for at in 0..self.gaps.len() {
            let gap = &self.gaps[at];
            if gap.standing != GapStanding::Confirmed || !gap.verdicts.is_empty() {
                continue;
            }
            let Some(place) = self.place(&gap.topic, gap.partition) else { continue };
            let open = self.watched[place].open_gaps(&self.stream, gap.epoch);
            let (watched, lane) = (&self.watched[place], self.lane_of(gap));
            let doctor = Doctor {
                store: &self.store,
                kafka: self.kafka,
                stream: &self.stream,
                wait: self.options.request_timeout,
                probes_max: self.options.probes_max,
            };
            let case = Case { watched, epoch: gap.epoch, lane, missing: &missing(gap, &open) };
            let verdicts = doctor.examine(&case)?;
            if verdicts.is_empty() {
                continue;
            }
            if let Some(offset) = self.unread(gap, &verdicts)? {
                let watched: &mut Watched = &mut self.watched[place];
                watched.next_offset = watched.next_offset.min(offset);
                (watched.dirty, rewound) = (true, true);
            }
            self.gaps[at].verdicts = serde_json::to_string(&verdicts).expect("a verdict is JSON");
            changed.insert(at);
        }
        Ok(rewound)
    }

    /// The lowest offset at which a missing record stands although it was not read.
    fn unread(&self, gap: &SavedGap, verdicts: &[Verdict]) -> Result<Option<Offset>, AuditError> {
        let Some(verdict) = verdicts.iter().find(|verdict| verdict.cause == Cause::Unread) else {
            return Ok(None);
        };
        let range = SeqRange { from: verdict.from, to: verdict.to, ..range_of(gap) };
        let acked = self.store.acked(&range, 1)?;
        Ok(acked.first().and_then(|part| part.first).map(|(_, offset)| offset))
    }

    fn lane_of(&self, gap: &SavedGap) -> Option<&AuditLane> {
        self.lanes
            .iter()
            .find(|lane| (&lane.topic, lane.partition, lane.epoch) == (&gap.topic, gap.partition, gap.epoch))
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
            let open = self.watched[place].open_gaps(&self.stream, gap.epoch);
            for order in &orders {
                repairs.states.extend(self.follow_up(order, &open, now_ms).map(|state| (order.id, state)));
            }
            if self.options.repair == Repairing::Order {
                let wanted = wanted(gap, &open, &orders);
                repairs.orders.extend(wanted.into_iter().map(|(from, to)| (at, from, to)));
            }
        }
        Ok(repairs)
    }

    /// How an order stands now that its records should be here; `None` when it stands as before.
    fn follow_up(&self, order: &AuditOrder, open: &[OpenGap], now_ms: i64) -> Option<RepairState> {
        let patience = i64::try_from(self.options.repair_patience.as_millis()).unwrap_or(i64::MAX);
        let lacking = open.iter().any(|gap| gap.from <= order.to && gap.to >= order.from);
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
                GapStanding::Repaired | GapStanding::Late | GapStanding::Voided => {
                    tracing::info!(lane, from, to, how = gap.standing.as_str(), "gap closed");
                }
            }
        }
    }

    /// Writes everything in one transaction; when another auditor wrote meanwhile, begins again.
    fn write(&mut self, changed: &BTreeSet<usize>, repairs: &Repairs, now_ms: i64) -> Result<(), AuditError> {
        let verified: Vec<(AuditLane, Seq)> = self.verified();
        let partitions: Vec<_> =
            self.watched.iter().filter(|watched| watched.dirty).map(Watched::saved).collect();
        let nothing = partitions.is_empty() && changed.is_empty() && verified.is_empty();
        if nothing && repairs.orders.is_empty() && repairs.states.is_empty() {
            return Ok(());
        }
        let of: Vec<SavedGap> = repairs.orders.iter().map(|(at, ..)| self.gaps[*at].clone()).collect();
        let orders = of.iter().zip(&repairs.orders);
        let changes = Changes {
            version: self.version,
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
                self.watched.iter_mut().for_each(|watched| watched.dirty = false);
                Ok(())
            }
            Written::Superseded => {
                tracing::debug!("another auditor wrote meanwhile; beginning again from there");
                self.load()
            }
        }
    }

    /// The lanes that were read back further than the outbox has it.
    fn verified(&self) -> Vec<(AuditLane, Seq)> {
        let further = self.lanes.iter().filter_map(|lane| {
            let watched = &self.watched[self.place(&lane.topic, lane.partition)?];
            let detector = watched.lane(&self.stream, lane.epoch)?;
            let doubtful = watched.counts.forks > 0 || watched.counts.never_given > 0;
            let from_first = detector.verified_from() == Some(Seq::FIRST);
            let read = detector.watermark()?.0.min(lane.settled);
            (from_first && !doubtful && read > lane.verified).then(|| (lane.clone(), Seq(read)))
        });
        further.collect()
    }
}

fn range_of(gap: &SavedGap) -> SeqRange<'_> {
    SeqRange { topic: &gap.topic, epoch: gap.epoch, partition: gap.partition, from: gap.from, to: gap.to }
}

fn is_under_way(state: RepairState) -> bool {
    matches!(state, RepairState::Wanted | RepairState::Replayed)
}

/// The missing seqs of a gap that can be sent again and are in no order yet.
fn wanted(gap: &SavedGap, open: &[OpenGap], orders: &[AuditOrder]) -> Vec<(Seq, Seq)> {
    let verdicts: Vec<Verdict> = serde_json::from_str(&gap.verdicts).unwrap_or_default();
    let mut wanted = Vec::new();
    for verdict in verdicts.iter().filter(|verdict| verdict.cause.is_repairable()) {
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
