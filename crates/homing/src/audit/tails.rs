//! What the outbox knows beyond the log: voids, tails, accepted losses, numbers it never gave.

use super::error::AuditError;
use super::gaps;
use super::session::Session;
use super::watched::{Unsaved, Watched};
use crate::outbox::sqlite::{AuditLane, SavedGap, SeqRange};
use homing_core::{Epoch, Partition, Seq, StreamName, TopicName};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// By lane: up to which number forks and strange ones are accepted.
type Strange = HashMap<(TopicName, Epoch, Partition), Seq>;

impl Session<'_> {
    /// Tells the detectors what else the outbox knows, and what is certain by now.
    pub fn consult_outbox(&mut self, now_ms: i64) -> Result<(), AuditError> {
        // Settled seqs first, then the ends: what is settled by now lies below the ends.
        self.lanes = self.store.lanes()?;
        self.acceptances = self.outbox.acceptances()?;
        let lanes = std::mem::take(&mut self.lanes);
        let asked = self.consult(&lanes, now_ms);
        self.lanes = lanes;
        asked
    }

    fn consult(&mut self, lanes: &[AuditLane], now_ms: i64) -> Result<(), AuditError> {
        self.excuse_accepted();
        let strange: Strange =
            self.store.strange_accepted()?.into_iter().map(|(t, e, p, seq)| ((t, e, p), seq)).collect();
        let of_one = |one: &AuditLane, other: &AuditLane| {
            (&one.topic, one.partition) == (&other.topic, other.partition)
        };
        for of_partition in lanes.chunk_by(of_one) {
            if let Some(place) = self.place(&of_partition[0].topic, of_partition[0].partition) {
                self.watched[place].note_doubts(&self.stream, of_partition, &strange, now_ms);
            }
        }
        self.look_at_tails(lanes, now_ms);
        let grace_ms = u64::try_from(self.options.grace.as_millis()).unwrap_or(u64::MAX);
        for lane in lanes {
            let Some(place) = self.judged(lane) else { continue };
            let watched = &mut self.watched[place];
            if lane.superseded {
                watched.excuse(&self.stream, lane.epoch, (Seq::FIRST, Seq(lane.verified)));
            }
            let (topic, epoch, partition) = (&lane.topic, lane.epoch, lane.partition);
            let mut any = false;
            for gap in watched.open_gaps(&self.stream, epoch) {
                any = true;
                let range = SeqRange { topic, epoch, partition, from: gap.from, to: gap.to };
                let voided = self.store.voided(&range)?;
                watched.voided(&self.stream, epoch, &voided);
            }
            // What the relay has numbered and not settled is not missing: it will be sent yet.
            if any && let Some(detector) = watched.lane_mut(&self.stream, epoch) {
                // The list of gaps takes it from the detector's state.
                if !detector.confirm_through(Seq(lane.settled), now_ms, grace_ms).is_empty() {
                    watched.changed(Unsaved::Findings);
                }
            }
        }
        Ok(())
    }

    /// Where in `watched` a lane is, if its partition is judged already.
    fn judged(&self, lane: &AuditLane) -> Option<usize> {
        self.place(&lane.topic, lane.partition).filter(|place| self.watched[*place].judged)
    }

    fn excuse_accepted(&mut self) {
        for accepted in std::mem::take(&mut self.acceptances) {
            if let Some(place) = self.place(&accepted.lane.topic, accepted.lane.partition) {
                let range = (accepted.from, accepted.to);
                self.watched[place].excuse(&self.stream, accepted.lane.epoch, range);
            }
            self.acceptances.push(accepted);
        }
    }

    /// Settled seqs that were not read although the partition was, to its end, are expected.
    fn look_at_tails(&mut self, lanes: &[AuditLane], now_ms: i64) {
        let mut behind: Vec<(usize, &AuditLane)> = Vec::new();
        for lane in lanes {
            let Some(place) = self.judged(lane) else { continue };
            let watched = &self.watched[place];
            let known = if lane.superseded { lane.verified } else { 0 };
            if lane.settled > watched.highest(&self.stream, lane.epoch).max(known) {
                behind.push((place, lane));
            }
        }
        let asked: BTreeSet<usize> =
            behind.iter().map(|(place, _)| *place).filter(|place| self.is_to_be_asked(*place)).collect();
        let asked: Vec<usize> = asked.into_iter().collect();
        let ends: BTreeMap<usize, _> = if asked.is_empty() {
            BTreeMap::new()
        } else {
            self.ends(&asked, self.options.request_timeout).into_iter().collect()
        };
        for (place, lane) in behind {
            let at_end = !self.watched[place].is_present()
                || ends.get(&place).is_some_and(|end| self.has_read(place, *end));
            let watched = &mut self.watched[place];
            let (settled, next_offset) = (Seq(lane.settled), watched.next_offset);
            if at_end
                && let Some(stream) = watched.detector.expect(&self.stream)
                && let Some(detector) = stream.expect(lane.epoch, next_offset)
            {
                detector.expected_through(settled, now_ms);
                watched.changed(Unsaved::Progress);
            }
        }
    }

    /// One that did not answer is asked again when topics are looked for, so that it does not hold
    /// every check for its time-out.
    fn is_to_be_asked(&self, place: usize) -> bool {
        let watched = &self.watched[place];
        watched.is_present() && !self.unreachable.contains_key(&watched.at)
    }

    /// Brings the list of gaps into step with the detectors; returns the places that changed.
    pub fn bring_up_gaps(&mut self, now_ms: i64) -> BTreeSet<usize> {
        let mut changed = BTreeSet::new();
        let mut with_gaps: HashMap<(&str, Partition), Vec<usize>> = HashMap::new();
        for (place, gap) in self.gaps.iter().enumerate() {
            with_gaps.entry((gap.topic.as_str(), gap.partition)).or_default().push(place);
        }
        let of_watched: Vec<Vec<usize>> = self
            .watched
            .iter()
            .map(|watched| {
                let key = (watched.at.topic.as_str(), watched.at.partition);
                with_gaps.get(&key).cloned().unwrap_or_default()
            })
            .collect();
        for (watched, known) in self.watched.iter_mut().zip(of_watched).filter(|(watched, _)| watched.judged)
        {
            let found =
                gaps::bring_up((&mut self.gaps, known), watched, (&self.stream, &self.acceptances), now_ms);
            if !found.is_empty() {
                watched.changed(Unsaved::Findings);
            }
            changed.extend(found);
        }
        changed
    }

    /// The open gaps by lane are few; the lane of one.
    pub fn lane_of(&self, gap: &SavedGap) -> Option<&AuditLane> {
        let key = |lane: &AuditLane| (lane.topic.clone(), lane.partition, lane.epoch);
        let wanted = (gap.topic.clone(), gap.partition, gap.epoch);
        let at = self.lanes.binary_search_by_key(&wanted, key).ok()?;
        Some(&self.lanes[at])
    }
}

impl Watched {
    /// Notes numbers that were read and that the outbox, asked afterwards, has not given; and lets
    /// doubts go that somebody accepted.
    fn note_doubts(&mut self, stream: &StreamName, lanes: &[AuditLane], accepted: &Strange, now_ms: i64) {
        let mut strange = 0;
        for epoch in self.epochs(stream) {
            let lane = lanes.iter().find(|lane| lane.epoch == epoch);
            let given = lane.map_or(0, |lane| lane.next_seq.0 - 1);
            let highest = self.highest(stream, epoch);
            strange += highest.saturating_sub(given);
            let key = (self.at.topic.clone(), epoch, self.at.partition);
            let known = accepted.get(&key).map_or(given, |through| through.0.max(given));
            let mut doubt = self.doubts.get(&epoch.0).copied().unwrap_or_default();
            if highest > known && highest > doubt.strange {
                if doubt.strange == 0 {
                    tracing::error!(at = %self.at, epoch = epoch.0, given, highest,
                        "records bear numbers this outbox never gave (X12: database restored or copied)");
                }
                doubt.note(now_ms);
                doubt.strange = highest;
            } else if highest <= known {
                doubt.strange = 0;
            }
            if accepted.get(&key).is_some_and(|through| through.0 >= doubt.fork_to) {
                doubt.forks = 0;
            }
            let before = self.doubts.remove(&epoch.0);
            let after = (doubt.forks + doubt.strange > 0).then_some(doubt);
            self.doubts.extend(after.map(|doubt| (epoch.0, doubt)));
            if before != after {
                self.changed(Unsaved::Findings);
            }
        }
        if strange != self.counts.never_given {
            self.counts.never_given = strange;
            self.changed(Unsaved::Findings);
        }
    }
}
