//! What each event changes.

use super::event::{
    BeganTopic, ClaimKind, Committed, Event, NewPart, Order, Polled, Seen, TailRead, TopicSeen,
};
use super::fates::Run;
use super::lane::Lane;
use super::machine::{Machine, Pending, ProbePhase};
use super::{LaneIx, LanePhase, MainPhase, Now, TopicIx, TopicPhase, Trouble, Via};
use crate::Seq;

impl Machine {
    pub(super) fn take(&mut self, event: Event, now: Now) {
        match event {
            Event::Nothing => {}
            Event::Hindered(trouble) => {
                self.database_retry_at = now.plus(self.limits.backoff(self.database_attempt));
                self.database_attempt += 1;
                Trouble::replace(&mut self.database, trouble);
            }
            Event::Polled(polled) => self.polled(polled, now),
            Event::RowsRead(names) => {
                let topics: Vec<TopicIx> = names.iter().map(|name| self.place(name)).collect();
                for topic in &topics {
                    self.want(*topic);
                }
                self.pending = Some(Pending { topics, since: now });
            }
            Event::StopAsked => {
                self.drain_until.get_or_insert(now.plus(self.limits.drain_timeout));
            }
            Event::Renewed => self.renewed(now),
            Event::Committed(committed) => self.committed(committed, now),
            Event::Loaded { batch, parts } => {
                self.database_works();
                self.loaded(batch, parts, false, now);
            }
            Event::Handed { lane, to, via, stopped } => self.handed(lane, to, via, stopped, now),
            Event::Opened(Via::Main) => self.main = MainPhase::Open,
            Event::Opened(Via::Probe) => self.probe = ProbePhase::Open,
            Event::Closed(Via::Main) => self.main_closed(now),
            Event::Closed(Via::Probe) => self.probe_closed(now),
            Event::EpochOpened(began) => self.epoch_opened(&began, now),
            Event::TopicClosed(topic) => self.topic_closed(topic),
            Event::OrderDone(topic) => {
                self.database_works();
                self.topic(topic).orders.pop_front();
            }
        }
    }

    fn database_works(&mut self) {
        self.database = None;
        self.database_attempt = 0;
    }

    fn renewed(&mut self, now: Now) {
        self.database_works();
        self.renew_at = now.plus(self.limits.lease / 3);
    }

    fn committed(&mut self, committed: Committed, now: Now) {
        self.renewed(now);
        for part in &committed.settled {
            self.lane(part.lane).settled(part, now);
            self.note_ready(part.lane, now);
            let topic = self.lanes[part.lane.0 as usize].topic;
            self.topics_due.insert(topic);
        }
        for topic in committed.held {
            self.topic(topic).held = true;
            self.topics_due.insert(topic);
        }
        match committed.claim {
            Some(ClaimKind::Live) => self.pending = None,
            Some(ClaimKind::Held(topic)) => {
                self.topic(topic).held = !committed.hold_ended;
                self.topics_due.insert(topic);
            }
            None => {}
        }
        if let Some((batch, parts)) = committed.batch {
            for NewPart { lane, first, rows, .. } in &parts {
                let lane = self.lane(*lane);
                assert_eq!(lane.next_seq, *first, "a batch continues its lanes");
                lane.next_seq = Seq(first.0 + u64::from(*rows));
            }
            let live = committed.claim == Some(ClaimKind::Live);
            self.loaded(batch, parts, live, now);
        }
    }

    fn polled(&mut self, polled: Polled, now: Now) {
        for ack in polled.acks {
            self.acked(ack, now);
        }
        for failed in polled.failures {
            self.failed(failed, now);
        }
        self.in_doubt |= polled.doubt;
        self.regroup |= polled.regroup && self.main == MainPhase::Open;
        if let Some(trouble) = polled.client {
            Trouble::replace(&mut self.client, trouble);
        }
        if polled.main_fatal {
            self.fail_main(None, now);
        }
        if polled.probe_fatal && self.probe == ProbePhase::Open {
            self.probe = ProbePhase::Failed;
        }
        for seen in polled.seen {
            self.seen(seen, now);
        }
    }

    fn seen(&mut self, seen: Seen, now: Now) {
        match seen {
            Seen::Pins { in_doubt, topics } => self.pins_seen(in_doubt, topics, now),
            Seen::Topic(ix, seen) => self.topic_seen(ix, seen, now),
            Seen::EpochFound(ix) => {
                self.goes_on(ix, TopicPhase::Beginning { out: true }, TopicPhase::Opening)
            }
            Seen::EpochUnknown(ix, trouble) => {
                if self.topic_phase(ix) == (TopicPhase::Beginning { out: true }) {
                    self.topic_waits(ix, trouble, now);
                }
            }
            Seen::Tail(read) => self.tail_read(read, now),
            Seen::TailTrouble(ix, trouble) => {
                let lane = self.lane(ix);
                if matches!(lane.phase, LanePhase::Unread { .. }) {
                    Trouble::replace(&mut lane.trouble, trouble);
                }
            }
            Seen::Forked(lane) => self.forked(lane, now),
            Seen::Contradicted(ix) => {
                self.lane(ix).fates = super::fates::Fates::default();
                self.note_ready(ix, now);
                self.forked(ix, now);
            }
            Seen::Reason(topic, trouble) => {
                for ix in self.topics[topic.0 as usize].lanes.clone() {
                    let lane = self.lane(ix);
                    if matches!(lane.phase, LanePhase::Silent | LanePhase::Probing) {
                        Trouble::replace(&mut lane.trouble, trouble.clone());
                    }
                }
            }
            Seen::Order(order) => self.ordered(order),
        }
    }

    fn ordered(&mut self, order: Order) {
        let topic = self.topic(order.topic);
        if topic.orders.iter().all(|known| known.id != order.id) {
            topic.orders.push_back(order);
            self.topics_due.insert(order.topic);
        }
    }

    fn goes_on(&mut self, ix: TopicIx, from: TopicPhase, to: TopicPhase) {
        let topic = self.topic(ix);
        if topic.phase == from {
            topic.phase = to;
            self.topics_due.insert(ix);
        }
    }

    fn topic_seen(&mut self, ix: TopicIx, seen: TopicSeen, now: Now) {
        let topic = self.topic(ix);
        if topic.phase != (TopicPhase::Asked { out: true }) {
            return;
        }
        match seen {
            TopicSeen::Present | TopicSeen::Grown => {
                topic.phase = TopicPhase::Beginning { out: false };
                topic.missing_since = None;
                self.topics_due.insert(ix);
            }
            TopicSeen::Missing(trouble) | TopicSeen::Recreated(trouble) => {
                topic.missing_since.get_or_insert(now);
                self.topic_waits(ix, trouble, now);
            }
            TopicSeen::Unclear(trouble) => self.topic_waits(ix, trouble, now),
        }
    }

    fn topic_waits(&mut self, ix: TopicIx, trouble: Trouble, now: Now) {
        let pause = self.limits.backoff(self.topics[ix.0 as usize].attempt);
        let topic = self.topic(ix);
        topic.attempt += 1;
        // The newest word counts: missing at first, then without leaders.
        let since = topic.trouble.as_ref().map_or(trouble.since, |old| old.since);
        topic.trouble = Some(Trouble { since, ..trouble });
        topic.phase = TopicPhase::Missing { retry_at: now.plus(pause) };
        self.topics_due.insert(ix);
    }

    fn pins_seen(&mut self, in_doubt: bool, topics: Result<Vec<(TopicIx, TopicSeen)>, Trouble>, now: Now) {
        self.pins_out = false;
        let topics = match topics {
            Ok(topics) => topics,
            Err(trouble) => {
                self.in_doubt = true;
                Trouble::replace(&mut self.client, trouble);
                return;
            }
        };
        self.pinned = true;
        self.in_doubt &= !in_doubt;
        if self.main_out == 0 {
            // Whatever the client said before, the cluster answers.
            self.client = None;
        }
        for (ix, seen) in topics {
            if self.topics[ix.0 as usize].is_pinned() {
                self.compared(ix, seen, now);
            }
        }
    }

    /// What a topic with an open epoch is now.
    fn compared(&mut self, ix: TopicIx, seen: TopicSeen, now: Now) {
        let grace = self.limits.missing_grace;
        let topic = self.topic(ix);
        match seen {
            TopicSeen::Present | TopicSeen::Grown => {
                topic.missing_since = None;
                topic.trouble = None;
                topic.doubted = false;
                let ends = topic.phase == TopicPhase::Ending || seen == TopicSeen::Grown;
                topic.phase = match topic.phase {
                    TopicPhase::Forked => TopicPhase::Forked,
                    _ if ends => TopicPhase::Ending,
                    _ => TopicPhase::Open,
                };
                self.topics_due.insert(ix);
                self.look_at_lanes(ix);
            }
            TopicSeen::Missing(trouble) => {
                let since = *topic.missing_since.get_or_insert(now);
                topic.doubted = true;
                Trouble::replace(&mut topic.trouble, trouble);
                if now.since(since) >= grace
                    && let Some(trouble) = &mut topic.trouble
                {
                    trouble.code = Some("A03");
                    topic.phase = TopicPhase::Stopped;
                }
            }
            TopicSeen::Recreated(trouble) => {
                topic.trouble = Some(trouble);
                topic.phase = TopicPhase::Stopped;
            }
            TopicSeen::Unclear(trouble) => {
                topic.doubted = true;
                Trouble::replace(&mut topic.trouble, trouble);
            }
        }
    }

    /// Rows of a topic came: its lanes are looked at before any is numbered.
    fn want(&mut self, ix: TopicIx) {
        if !self.topics[ix.0 as usize].wanted {
            self.topic(ix).wanted = true;
            self.topics_due.insert(ix);
            self.look_at_lanes(ix);
        }
    }

    /// Has the tails read that have to be.
    pub(super) fn look_at_lanes(&mut self, ix: TopicIx) {
        let topic = &self.topics[ix.0 as usize];
        let wanted = topic.wanted;
        for lane in topic.lanes.clone() {
            let state = &self.lanes[lane.0 as usize];
            if state.phase == (LanePhase::Unread { asked: false }) && (wanted || state.has_unsettled()) {
                self.unread.insert(lane);
            }
            self.attend(lane);
        }
    }

    fn tail_read(&mut self, read: TailRead, now: Now) {
        let lane = self.lane(read.lane);
        if !matches!(lane.phase, LanePhase::Unread { .. }) {
            return;
        }
        let beyond = read.found.iter().any(|(seq, _)| *seq >= lane.next_seq);
        let unexplained = read.cut && (!lane.has_unsettled() || !lane.looked_at);
        for (seq, at) in read.found {
            if seq >= lane.settled_to && seq < lane.next_seq {
                lane.fates.add(Run { first: seq, rows: 1, at: Some(at) });
            }
        }
        lane.read_from = lane.read_from.max(read.end);
        lane.looked_at = true;
        if !lane.refused {
            lane.trouble = None;
        }
        self.enter(read.lane, now);
        self.note_ready(read.lane, now);
        if beyond || unexplained {
            self.forked(read.lane, now);
        }
    }

    fn forked(&mut self, lane: LaneIx, now: Now) {
        let ix = self.lanes[lane.0 as usize].topic;
        let topic = self.topic(ix);
        if matches!(topic.phase, TopicPhase::Open | TopicPhase::Ending | TopicPhase::Pinned) {
            topic.phase = TopicPhase::Forked;
            let what = "Kafka has records of this stream that this outbox never gave: it was restored or copied; \
                        a new epoch begins";
            topic.trouble = Some(Trouble::new(Some("X12"), what, now));
            self.topics_due.insert(ix);
        }
    }

    fn epoch_opened(&mut self, began: &BeganTopic, now: Now) {
        self.database_works();
        self.close_lanes(began.topic);
        let topic = self.topic(began.topic);
        topic.phase = TopicPhase::Open;
        topic.trouble = None;
        topic.attempt = 0;
        topic.doubted = false;
        for end in &began.ends {
            let mut lane = Lane::new(began.topic, LanePhase::Cold, 0, Seq::FIRST, *end);
            lane.moved_at = now;
            self.add_lane(lane);
        }
        self.topics_due.insert(began.topic);
    }

    fn topic_closed(&mut self, ix: TopicIx) {
        self.database_works();
        self.close_lanes(ix);
        let topic = self.topic(ix);
        topic.phase = TopicPhase::Asked { out: false };
        topic.trouble = None;
        topic.held = true;
        topic.wanted = true;
        topic.doubted = false;
        topic.attempt = 0;
        self.topics_due.insert(ix);
    }

    fn close_lanes(&mut self, ix: TopicIx) {
        for lane in std::mem::take(&mut self.topic(ix).lanes) {
            self.unread.remove(&lane);
            self.hungry.remove(&lane);
            self.ready.remove(&lane);
            let state = self.lane(lane);
            state.phase = LanePhase::Closed;
            state.trouble = None;
            state.parts.clear();
            state.out = 0;
        }
    }
}
