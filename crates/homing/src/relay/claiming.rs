//! Claiming and settling: the relay's one transaction (the one door), and what memory does around it.

use super::error::Halt;
use super::loaded::Loaded;
use super::plan::{Plan, Target, plan};
use super::reading::ReadBatch;
use super::session::{HeldRows, Next, Session, now_ms};
use super::status::Count;
use crate::outbox::OutboxError;
use crate::outbox::numbering::number;
use crate::outbox::offset_runs::{Delivered, OffsetRuns};
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{
    BatchId, Claimed, Commit, Hold, LanePart, LaneSettlement, RejectCode, Rejected, RowId, Voided,
};
use homing_core::Seq;
use homing_core::relay::{
    BatchNo, ClaimKind, Committed, Event, LaneIx, Order, PartRef, Polled, Seen, TopicIx,
};
use std::collections::VecDeque;

/// Rows that one commit claims, and what it says of them.
struct Claim {
    kind: ClaimKind,
    plan: Option<Plan>,
    reject: Vec<Rejected>,
    claimed: Claimed,
    hold: Vec<Hold>,
    held: Vec<TopicIx>,
    done: bool,
}

impl Session<'_> {
    /// Settles and claims in one commit.
    pub fn commit(
        &mut self,
        settle: &[PartRef],
        kind: Option<ClaimKind>,
        hold: &[TopicIx],
    ) -> Result<Event, Halt> {
        let claim = match kind {
            None => None,
            Some(ClaimKind::Live) => Some(self.claim_live(hold)),
            Some(ClaimKind::Held(ix)) => Some(self.claim_held(ix)?),
        };
        let mut settlements: Vec<LaneSettlement> = settle.iter().map(|part| self.settlement(part)).collect();
        // Parts of one batch beside each other; within a lane batches rise as seqs do.
        settlements.sort_by_key(LaneSettlement::batch);
        if !settlements.is_empty() {
            self.ground.options.steps.reached("relay.all_acked");
        }
        let manifest = claim.as_ref().and_then(|claim| Some(&claim.plan.as_ref()?.manifest));
        let commit = Commit {
            settle: &settlements,
            manifest,
            reject: claim.as_ref().map_or(&[], |claim| &claim.reject),
            hold: claim.as_ref().map_or(&[], |claim| &claim.hold),
            claimed: claim.as_ref().map(|claim| claim.claimed.clone()),
            now_ms: now_ms(),
            lease_until_ms: self.lease_until_ms(),
        };
        self.ground.store.commit(self.ground.token, &commit)?;
        self.settled(settle, &settlements);
        let mut committed = Committed { settled: settle.to_vec(), ..Committed::default() };
        if let Some(claim) = claim {
            self.claimed(claim, &mut committed);
        }
        Ok(Event::Committed(committed))
    }

    /// The proof that a part is delivered.
    fn settlement(&self, part: &PartRef) -> LaneSettlement {
        let mut runs = OffsetRuns::default();
        let mut voided: Vec<Voided> = Vec::new();
        for run in self.machine.fates_of(part) {
            let rows = u32::try_from(run.rows).expect("a part's rows are a u32");
            match run.at {
                Some(at) => runs.push(rows, Delivered::At(at)),
                None => {
                    runs.push(rows, Delivered::Void);
                    let seqs = run.first.0..run.end().0;
                    voided.extend(seqs.filter_map(|seq| self.voids.get(&(part.lane, Seq(seq))).cloned()));
                }
            }
        }
        let batch = BatchId(part.batch.0);
        let known = self.memory.get(&batch).and_then(|loaded| loaded.part(part.lane));
        let of_manifest = known.map(|(_, known)| known.clone());
        LaneSettlement::new(batch, of_manifest.unwrap_or_else(|| self.lane_part(part)), runs, voided)
    }

    fn lane_part(&self, part: &PartRef) -> LanePart {
        let (ix, partition) = self.lane_place(part.lane);
        let lane = self.topics.lane(ix, partition).expect("what settles is of an open epoch");
        LanePart {
            topic: lane.topic,
            epoch: lane.epoch,
            partition,
            first_seq: part.first,
            rows: part.rows,
            takes_null_keys: false,
        }
    }

    fn settled(&mut self, parts: &[PartRef], settlements: &[LaneSettlement]) {
        if parts.is_empty() {
            return;
        }
        for part in parts {
            let end = Seq(part.first.0 + u64::from(part.rows));
            if let Some(found) = self.found.get_mut(&part.lane) {
                found.retain(|(seq, _)| *seq >= end);
            }
            self.ground.status.add(Count::Settled, u64::from(part.rows));
        }
        for voided in settlements.iter().flat_map(LaneSettlement::voided) {
            self.ground.status.add(Count::Voided, 1);
            let seq = voided.seq;
            self.voids.retain(|(_, known), void| *known != seq || void.rejected.row != voided.rejected.row);
        }
        let mut batches: Vec<BatchNo> = parts.iter().map(|part| part.batch).collect();
        batches.dedup();
        self.ground.status.add(Count::Batches, batches.len() as u64);
        self.ground.store.signals().settled.ring();
        self.ground.options.steps.reached("relay.settled");
    }

    /// Plans what was read; rows of held topics are left out, and those of `hold` from now on.
    fn claim_live(&mut self, hold: &[TopicIx]) -> Claim {
        let Next { mut batch, mut left_out } = self.next.take().expect("a claim is of what was read");
        for ix in batch.rows.topics().iter().filter_map(|topic| self.machine.find(topic)) {
            // Once left out, rows cannot come back: their topic is held, whatever became of it meanwhile.
            if !left_out.contains(&ix) && (hold.contains(&ix) || self.machine.is_held(ix)) {
                left_out.push(ix);
            }
        }
        let machine = &self.machine;
        batch.rows.retain_topics(|topic| machine.find(topic).is_none_or(|ix| !left_out.contains(&ix)));
        let held: Vec<TopicIx> = left_out.iter().copied().filter(|ix| !machine.is_held(*ix)).collect();
        let hold = held.iter().map(|ix| self.hold_of(*ix, batch.span.from)).collect();
        self.reject_too_large(&mut batch.rows);
        let plan = self.plan(&batch);
        let claimed = Claimed::Live(batch.span.to);
        let reject = batch.rows.faults().to_vec();
        self.next = Some(Next { batch, left_out });
        Claim { kind: ClaimKind::Live, plan, reject, claimed, hold, held, done: false }
    }

    fn hold_of(&self, ix: TopicIx, from: RowId) -> Hold {
        let topic = self.machine.name(ix).clone();
        let (code, reason) = match self.machine.topic_trouble(ix) {
            Some(trouble) => (trouble.code.unwrap_or("X11"), trouble.what.clone()),
            None => ("X11", format!("topic {topic} is being looked at")),
        };
        Hold { topic, from, code, reason, since_ms: now_ms() }
    }

    fn plan(&self, batch: &ReadBatch) -> Option<Plan> {
        let rows = &batch.rows;
        if rows.is_empty() {
            return None;
        }
        let targets: Vec<Target<'_>> = rows
            .topics()
            .iter()
            .map(|topic| {
                let ix = self.machine.find(topic).expect("a topic of what was read is known");
                let epoch = self.topics.epoch(ix).expect("rows of topics without an epoch are held");
                Target { epoch, lanes: self.machine.lanes_of(ix) }
            })
            .collect();
        let next_seq = |lane: LaneIx| self.machine.next_seq(lane);
        Some(plan(self.next_batch, batch.span.clone(), rows, &targets, next_seq))
    }

    /// Sets rows aside that are larger than their topic is known to take.
    fn reject_too_large(&mut self, rows: &mut RowBuf) {
        let limits: Vec<Option<usize>> = rows
            .topics()
            .iter()
            .map(|topic| self.machine.find(topic))
            .map(|ix| ix.and_then(|ix| self.topics.get(ix).message_bytes_max))
            .collect();
        let by_user = self.ground.kafka.client_text("message.max.bytes").and_then(|n| n.parse().ok());
        // Less the batch header (61), the record's own fields (30) and Homing's headers.
        let own = 61 + 30 + (17 + self.ground.store.stream().as_str().len() + 45) + 47 + 28;
        rows.reject_where(|row| {
            let limit = match (limits[row.topic], by_user) {
                (None, None) => return None,
                (known, user) => known.unwrap_or(usize::MAX).min(user.unwrap_or(usize::MAX)),
            };
            let (bytes, limit) = (row.bytes(), limit.saturating_sub(own));
            (bytes > limit).then(|| {
                let reason = format!(
                    "{bytes} bytes of key, payload and headers are more than the {limit} the topic's \
                     max.message.bytes leaves for them"
                );
                (RejectCode::TooLarge, reason)
            })
        });
    }

    fn claimed(&mut self, claim: Claim, committed: &mut Committed) {
        committed.claim = Some(claim.kind);
        committed.held = claim.held;
        committed.hold_ended = claim.done;
        let rows = match claim.kind {
            ClaimKind::Live => self.next.take().map(|next| next.batch.rows),
            ClaimKind::Held(ix) => {
                let rows = self.held_rows.get_mut(&ix).and_then(|held| held.read.pop_front());
                if claim.done {
                    self.held_rows.remove(&ix);
                }
                rows.map(|batch| batch.rows)
            }
        };
        if !claim.reject.is_empty() {
            let (count, first) = (claim.reject.len(), &claim.reject[0]);
            tracing::warn!(rows = count, row = first.row.0, code = %first.code, "set aside: {}", first.reason);
            self.ground.status.add(Count::Rejected, count as u64);
        }
        match (claim.plan, rows) {
            (Some(plan), Some(rows)) => {
                self.next_batch = BatchId(self.next_batch.0 + 1);
                self.ground.status.add(Count::Claimed, u64::from(plan.manifest.rows));
                let batch = plan.manifest.batch;
                let loaded = Loaded::new(plan.manifest, rows, &plan.numbers, plan.lanes);
                committed.batch = Some((BatchNo(batch.0), loaded.parts()));
                self.memory.insert(batch, loaded);
                self.ground.options.steps.reached("relay.manifest_committed");
            }
            (_, rows) => {
                if let Some(rows) = rows {
                    self.reading.recycle(rows);
                }
                if !claim.reject.is_empty() {
                    // Whoever waits for those rows finds them among the dead letters.
                    self.ground.store.signals().settled.ring();
                }
            }
        }
    }

    /// Plans a topic's next held rows.
    fn claim_held(&mut self, ix: TopicIx) -> Result<Claim, Halt> {
        let (batch, done) = self.read_held(ix)?;
        let topic = self.machine.name(ix).clone();
        let Some(mut batch) = batch else {
            let claimed = Claimed::Held { topic, through: RowId(0), done: true };
            let (plan, reject, hold, held) = (None, Vec::new(), Vec::new(), Vec::new());
            return Ok(Claim { kind: ClaimKind::Held(ix), plan, reject, claimed, hold, held, done: true });
        };
        self.reject_too_large(&mut batch.rows);
        let plan = self.plan(&batch);
        let claimed = Claimed::Held { topic, through: batch.span.to, done };
        let reject = batch.rows.faults().to_vec();
        if let Some(held) = self.held_rows.get_mut(&ix) {
            held.read.push_front(batch);
        }
        Ok(Claim {
            kind: ClaimKind::Held(ix),
            plan,
            reject,
            claimed,
            hold: Vec::new(),
            held: Vec::new(),
            done,
        })
    }

    /// The topic's next held rows, and whether they are the last.
    fn read_held(&mut self, ix: TopicIx) -> Result<(Option<ReadBatch>, bool), Halt> {
        let options = self.ground.options;
        let (rows_max, bytes_max) = (options.batch_rows_max, options.batch_bytes_max);
        if !self.held_rows.contains_key(&ix) {
            let reader = self.ground.store.held_reader(self.machine.name(ix))?;
            self.held_rows.insert(ix, HeldRows { reader, read: VecDeque::new() });
        }
        let held = self.held_rows.get_mut(&ix).expect("it was just put there");
        while held.read.len() < 2 {
            let mut rows = RowBuf::default();
            let Some(span) = held.reader.next(rows_max, bytes_max, &mut rows)? else { break };
            held.read.push_back(ReadBatch { span, rows });
        }
        let done = held.read.len() < 2;
        Ok((held.read.pop_front(), done))
    }

    /// Sets a share of a topic's held rows aside.
    pub fn discard_held(&mut self, ix: TopicIx, order: Option<Order>) -> Result<Event, Halt> {
        if !self.machine.is_held(ix) {
            return self.order_done(ix, order, "nothing of the topic is held");
        }
        let (batch, done) = self.read_held(ix)?;
        let (code, reason) = match order {
            Some(order) => (RejectCode::Discarded, self.orders.reason(order.id)),
            None => (
                RejectCode::TopicMissing,
                "its topic was missing for longer than relay.missing_topic_after".to_owned(),
            ),
        };
        let topic = self.machine.name(ix).clone();
        let through = batch.as_ref().map_or(RowId(0), |batch| batch.span.to);
        let reject: Vec<Rejected> = batch.map_or_else(Vec::new, |mut batch| {
            batch.rows.reject_where(|_| Some((code, reason.clone())));
            batch.rows.faults().to_vec()
        });
        let commit = Commit {
            reject: &reject,
            claimed: Some(Claimed::Held { topic: topic.clone(), through, done }),
            now_ms: now_ms(),
            lease_until_ms: self.lease_until_ms(),
            ..Commit::default()
        };
        let written = self.ground.store.commit(self.ground.token, &commit);
        if done || written.is_err() {
            // Read anew: these rows are gone, or were not.
            self.held_rows.remove(&ix);
        }
        written?;
        tracing::warn!(%topic, rows = reject.len(), "held rows are set aside: {reason}");
        self.ground.status.add(Count::Rejected, reject.len() as u64);
        self.ground.store.signals().settled.ring();
        let claim = Some(ClaimKind::Held(ix));
        Ok(Event::Committed(Committed { claim, hold_ended: done, ..Committed::default() }))
    }

    /// Reads the unsettled batch that holds a seq of a lane.
    pub fn load(&mut self, lane: LaneIx, from: Seq) -> Result<Event, Halt> {
        let (ix, partition) = self.lane_place(lane);
        let inconsistent = |what: String| {
            let operation = "read an unsettled batch";
            Halt::from(OutboxError::Inconsistent { operation, what })
        };
        let Some(key) = self.topics.lane(ix, partition) else {
            return Err(inconsistent("its topic has no open epoch".to_owned()));
        };
        let found = self.ground.store.unsettled_of_lane(&key, from, 1)?;
        let Some(unsettled) = found.into_iter().next() else {
            return Err(inconsistent(format!("{key} has no unsettled batch with seq {from}")));
        };
        let manifest = unsettled.manifest.only(&unsettled.unsettled);
        let mut rows = RowBuf::default();
        self.ground.store.read_batch(&manifest, &mut rows)?;
        let topics = &self.topics;
        let place = |part: &LanePart| self.machine.find(&part.topic);
        let numbers =
            number(&rows, &manifest, |part| topics.partitions(place(part), &part.topic, part.epoch))
                .map_err(|misfit| inconsistent(misfit.to_string()))?;
        let lane_of = |part: &LanePart| -> Option<LaneIx> {
            let ix = place(part)?;
            let open = topics.epoch(ix).filter(|open| open.epoch == part.epoch)?;
            let at = usize::try_from(part.partition.0).ok()?;
            debug_assert_eq!(open.topic, part.topic);
            self.machine.lanes_of(ix).get(at).copied()
        };
        let lanes: Option<Vec<LaneIx>> = manifest.lanes.iter().map(lane_of).collect();
        let lanes =
            lanes.ok_or_else(|| inconsistent(format!("batch {} is of a closed epoch", manifest.batch)))?;
        let batch = manifest.batch;
        let mut loaded = Loaded::new(manifest, rows, &numbers, lanes);
        loaded.resend = true;
        let contradicted = self.contradicted(&loaded);
        if !contradicted.is_empty() {
            // Before any of it could be taken for delivered.
            let seen = contradicted.into_iter().map(Seen::Contradicted).collect();
            return Ok(Event::Polled(Polled { seen, ..Polled::default() }));
        }
        let parts = loaded.parts();
        self.memory.insert(batch, loaded);
        Ok(Event::Loaded { batch: BatchNo(batch.0), parts })
    }

    pub fn unload(&mut self, batch: BatchId) -> Event {
        if let Some(loaded) = self.memory.remove(&batch) {
            self.reading.recycle(loaded.rows);
        }
        Event::Nothing
    }
}
