//! Accepting losses: what would be given up, shown before it is, then written down by name.

use super::Auditor;
use super::error::AuditError;
use super::reporting;
use super::session::now_ms;
use crate::outbox::sqlite::{Acceptor, AuditLane};
use homing_core::{Epoch, Partition, Seq, TopicName};
use serde::Serialize;

/// Up to where a loss is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// Up to this seq.
    Seq(Seq),
    /// All that is settled by now.
    All,
}

/// What accepting means for one lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LossOutlook {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The epoch.
    pub epoch: u32,
    /// The first seq that is accepted as it is.
    pub from: u64,
    /// The last one; less than `from` when all of them are verified and only a doubt ends.
    pub to: u64,
    /// How many of these seqs are known to be missing in Kafka.
    pub missing: u64,
    /// How often numbers stand for two messages.
    pub forks: u64,
    /// Numbers of two messages, and numbers that this outbox never gave, count as known from now
    /// on up to this one; 0 when there is none.
    pub strange: u64,
}

impl Auditor {
    /// What would be accepted of a topic: each lane with something unverified or doubtful up to
    /// there, as the last audit found it. Changes nothing and asks Kafka nothing.
    ///
    /// # Errors
    /// [`AuditError::Outbox`] when the database cannot be read.
    pub fn loss_outlook(
        &self,
        topic: &TopicName,
        (partition, epoch): (Option<Partition>, Option<Epoch>),
        through: Through,
    ) -> Result<Vec<LossOutlook>, AuditError> {
        let lanes = self.lanes_to_accept(topic, (partition, epoch), through)?;
        Ok(lanes.into_iter().map(|(_, outlook)| outlook).collect())
    }

    /// Accepts what [`loss_outlook`](Self::loss_outlook) shows; kept for ever, with who and why.
    ///
    /// # Errors
    /// [`AuditError::Outbox`] when the database cannot be written; lanes before the one that
    /// failed are accepted then.
    pub fn accept_loss(
        &self,
        topic: &TopicName,
        lanes: (Option<Partition>, Option<Epoch>),
        through: Through,
        (by, why): (&str, &str),
    ) -> Result<Vec<LossOutlook>, AuditError> {
        let lanes = self.lanes_to_accept(topic, lanes, through)?;
        let mut store = self.outbox.audit_store()?;
        for (lane, outlook) in &lanes {
            let strange = (outlook.strange > 0).then_some(Seq(outlook.strange));
            store.accept(lane, Seq(outlook.to), strange, Acceptor { by, why, now_ms: now_ms() })?;
            tracing::warn!(
                topic = outlook.topic,
                partition = outlook.partition,
                epoch = outlook.epoch,
                from = outlook.from,
                to = outlook.to,
                by,
                why,
                "loss accepted"
            );
        }
        Ok(lanes.into_iter().map(|(_, outlook)| outlook).collect())
    }

    fn lanes_to_accept(
        &self,
        topic: &TopicName,
        (partition, epoch): (Option<Partition>, Option<Epoch>),
        through: Through,
    ) -> Result<Vec<(AuditLane, LossOutlook)>, AuditError> {
        let report = reporting::recall(&self.outbox, &self.options)?;
        let mut lanes = self.outbox.audit_store()?.lanes()?;
        // Epochs that only another database knows have no lane here.
        for doubt in report.doubts.iter().filter(|doubt| doubt.topic == topic.as_str()) {
            let key = (Partition(doubt.partition), Epoch(doubt.epoch));
            let is_it = |lane: &AuditLane| lane.topic == *topic && (lane.partition, lane.epoch) == key;
            if !lanes.iter().any(is_it) {
                lanes.push(AuditLane {
                    topic: topic.clone(),
                    epoch: key.1,
                    partition: key.0,
                    topic_id: [0; 16],
                    next_seq: Seq::FIRST,
                    settled: 0,
                    verified: 0,
                    superseded: false,
                });
            }
        }
        let wanted = |lane: &AuditLane| {
            lane.topic == *topic
                && partition.is_none_or(|partition| lane.partition == partition)
                && epoch.is_none_or(|epoch| lane.epoch == epoch)
        };
        let outlook = |lane: AuditLane| {
            let to = match through {
                Through::Seq(seq) => seq.0.min(lane.settled),
                Through::All => lane.settled,
            };
            let key = (lane.partition.0, lane.epoch.0);
            let doubt = report
                .doubts
                .iter()
                .find(|of| of.topic == topic.as_str() && (of.partition, of.epoch) == key)
                .filter(|_| through == Through::All);
            let gaps = report
                .gaps
                .iter()
                .filter(|gap| gap.topic == topic.as_str() && (gap.partition, gap.epoch) == key);
            let outlook = LossOutlook {
                topic: topic.as_str().to_owned(),
                partition: key.0,
                epoch: key.1,
                from: lane.verified + 1,
                to,
                missing: gaps.map(|gap| (gap.to.min(to) + 1).saturating_sub(gap.from)).sum(),
                forks: doubt.map_or(0, |doubt| doubt.forks),
                strange: doubt.map_or(0, |doubt| doubt.strange.max(doubt.fork_to)),
            };
            (outlook.from <= to || doubt.is_some()).then_some((lane, outlook))
        };
        Ok(lanes.into_iter().filter(wanted).filter_map(outlook).collect())
    }
}
