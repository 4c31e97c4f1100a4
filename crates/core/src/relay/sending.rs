//! Which rows go out next, and what their reports mean for lane and producer.

use super::event::{Ack, Action, Failed, Rejection, SendRange, Stopped};
use super::fates::Run;
use super::machine::{Machine, ProbePhase};
use super::verdict::{Class, Verdict, verdict};
use super::{LaneIx, LanePhase, MainPhase, Now, TopicIx, Trouble, Via};
use crate::Seq;

/// Rows of one action: so that the lease and other lanes have their turn.
const ROWS_AT_ONCE: u64 = 4096;
/// How long a full client is left alone.
const FULL_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

impl Machine {
    pub(super) fn next_send(&mut self, now: Now) -> Option<Action> {
        for _ in 0..self.list.len() {
            let ix = self.list.pop_front()?;
            self.lane(ix).listed = false;
            match self.send_of(ix, now) {
                Turn::Send(range) => {
                    self.attend(ix);
                    self.sending = Some(range);
                    return Some(Action::Send(range));
                }
                Turn::Later => self.attend(ix),
                Turn::Hungry => {
                    self.hungry.insert(ix);
                }
                Turn::Nothing => {}
            }
        }
        None
    }

    fn send_of(&self, ix: LaneIx, now: Now) -> Turn {
        let lane = &self.lanes[ix.0 as usize];
        let topic = &self.topics[lane.topic.0 as usize];
        if !lane.works(now) {
            return Turn::Nothing;
        }
        if !topic.sends() {
            // What the tail found must be in memory to be settled.
            let found = lane.fates.first_undecided(lane.queued_to) > lane.queued_to;
            let found = found && topic.settles() && lane.wants_loading().is_some();
            return if found { Turn::Hungry } else { Turn::Nothing };
        }
        let most = self.limits.lane_rows_out_max.max(1);
        let (via, room) = match lane.phase {
            LanePhase::Cold if lane.out == 0 => (Via::Main, 1),
            LanePhase::Flowing => (Via::Main, most.saturating_sub(lane.out)),
            LanePhase::Refused { .. } | LanePhase::Probing if lane.out == 0 => (Via::Probe, 1),
            _ => return Turn::Nothing,
        };
        if room == 0 {
            return Turn::Nothing;
        }
        let from = lane.next_unsent();
        let Some(part) = lane.part_of(from).filter(|part| part.loaded) else {
            return if lane.wants_loading().is_some() { Turn::Hungry } else { Turn::Nothing };
        };
        let able = match via {
            Via::Main => self.main == MainPhase::Open && now >= self.full_until && !self.regroup,
            Via::Probe => self.probe == ProbePhase::Open,
        };
        if !able {
            return Turn::Later;
        }
        let to = part.end().0.min(from.0 + u64::from(room).min(ROWS_AT_ONCE));
        let to = Seq(to).min(lane.fates.decided_after(from));
        let (batch, place, part_first) = (part.batch, part.place, part.first);
        Turn::Send(SendRange { lane: ix, batch, place, part_first, from, to, via })
    }

    pub(super) fn handed(&mut self, ix: LaneIx, to: Seq, via: Via, stopped: Option<Stopped>, now: Now) {
        let Some(range) = self.sending.take().filter(|range| range.lane == ix) else { return };
        let rows = to.0.saturating_sub(range.from.0) as u32;
        let lane = self.lane(ix);
        if rows > 0 {
            if lane.out == 0 {
                lane.moved_at = now;
            }
            lane.out += rows;
            lane.handed_to = to;
            if via == Via::Probe {
                lane.phase = LanePhase::Probing;
                self.probe_out += u64::from(rows);
            } else {
                self.main_out += u64::from(rows);
            }
            self.watched.insert(ix);
        }
        match stopped {
            None => {}
            Some(Stopped::Full) if via == Via::Main => {
                self.full_until = now.plus(FULL_PAUSE);
                self.relieve_full_client(now);
            }
            Some(Stopped::Full) => self.refuse(ix, None, now),
            Some(Stopped::Code(code)) => self.not_taken(&range, to, code, now),
        }
    }

    /// The client did not take a record: it was never sent.
    fn not_taken(&mut self, range: &SendRange, seq: Seq, code: i32, now: Now) {
        let verdict = verdict(code);
        match verdict.class {
            Class::Record => self.void(range, seq, code, now),
            Class::Indeterminate if range.via == Via::Main => self.fail_main(Some(&verdict), now),
            class => self.blame(range.lane, class, &verdict, now),
        }
    }

    fn void(&mut self, range: &SendRange, seq: Seq, code: i32, now: Now) {
        let SendRange { lane, batch, place, part_first, .. } = *range;
        self.voids.push_back(Rejection { lane, batch, place, part_first, seq, code });
        self.lane(lane).fates.add(Run { first: seq, rows: 1, at: None });
        self.note_ready(lane, now);
        self.attend(lane);
    }

    /// Records of lanes that hear nothing may not fill the client for the others.
    fn relieve_full_client(&mut self, now: Now) {
        let silent: u64 = self
            .watched
            .iter()
            .map(|ix| &self.lanes[ix.0 as usize])
            .filter(|lane| lane.phase == LanePhase::Silent)
            .map(|lane| u64::from(lane.out))
            .sum();
        if silent * 2 > self.main_out {
            self.fail_main(None, now);
        }
    }

    pub(super) fn acked(&mut self, ack: Ack, now: Now) {
        match ack.via {
            Via::Main => {
                self.main_out = self.main_out.saturating_sub(u64::from(ack.rows));
                (self.main_acked, self.main_failures) = (true, 0);
            }
            Via::Probe => {
                self.probe_out = self.probe_out.saturating_sub(u64::from(ack.rows));
                self.probe_failures = 0;
            }
        }
        let lane = self.lane(ack.lane);
        if lane.phase == LanePhase::Closed {
            return;
        }
        let back = ack.offset < lane.read_from;
        let run = Run { first: ack.first, rows: u64::from(ack.rows), at: Some(ack.offset) };
        lane.acked(run, ack.rows, now);
        match lane.phase {
            LanePhase::Cold | LanePhase::Silent if ack.via == Via::Main => {
                lane.phase = LanePhase::Flowing;
                lane.trouble = None;
            }
            LanePhase::Probing if ack.via == Via::Probe => self.probed(ack.lane),
            _ => {}
        }
        if back {
            // Offsets that go back: another log than the one settled before.
            self.in_doubt = true;
        }
        self.client = None;
        self.attend(ack.lane);
        self.note_ready(ack.lane, now);
    }

    /// One record of a lane in trouble went through, or was set aside: it may rejoin the others.
    fn probed(&mut self, ix: LaneIx) {
        let lane = self.lane(ix);
        lane.attempt = 0;
        if lane.out == 0 && lane.next_unsent() >= lane.isolate_to {
            lane.refused = false;
            lane.trouble = None;
            lane.phase = LanePhase::Cold;
        }
    }

    pub(super) fn failed(&mut self, failed: Failed, now: Now) {
        let verdict = failed.code.map_or(verdict(0), verdict);
        match failed.via {
            Via::Main => {
                // The lane still counts it as out: only the log can tell what arrived.
                self.main_out = self.main_out.saturating_sub(1);
                let lane = self.lane(failed.lane);
                match verdict.class {
                    // The broker's own word on this lane: it is tried apart, so that one lane cannot end
                    // the others' producer again and again.
                    Class::Indeterminate if failed.code.is_some_and(|code| code > 0) => {
                        lane.refused = true;
                        Trouble::replace(&mut lane.trouble, Trouble::of(&verdict, now));
                    }
                    Class::Indeterminate => {}
                    Class::Record => {
                        lane.refused = true;
                        lane.isolate_to = lane.isolate_to.max(failed.seq.next());
                        Trouble::replace(&mut lane.trouble, Trouble::of(&verdict, now));
                    }
                    class => self.blame(failed.lane, class, &verdict, now),
                }
                self.fail_main(Some(&verdict), now);
            }
            Via::Probe => {
                self.probe_out = self.probe_out.saturating_sub(1);
                self.probe_failed(&failed, &verdict, now);
            }
        }
    }

    fn probe_failed(&mut self, failed: &Failed, verdict: &Verdict, now: Now) {
        let ix = failed.lane;
        let lane = self.lane(ix);
        if lane.phase != LanePhase::Probing {
            return;
        }
        lane.forget_producer();
        match (verdict.class, failed.code) {
            (Class::Record, Some(code)) => {
                let Some(part) = lane.part_of(failed.seq).copied() else { return };
                let range = SendRange {
                    lane: ix,
                    batch: part.batch,
                    place: part.place,
                    part_first: part.first,
                    from: failed.seq,
                    to: failed.seq.next(),
                    via: Via::Probe,
                };
                self.void(&range, failed.seq, code, now);
                self.probed(ix);
            }
            (Class::Indeterminate, _) => {
                lane.attempt += 1;
                Trouble::replace(&mut lane.trouble, Trouble::of(verdict, now));
                self.ask_log(ix);
            }
            (class, _) => self.blame(ix, class, verdict, now),
        }
    }

    /// Kafka does not take this lane's records, or this topic's: it waits and is tried apart.
    fn blame(&mut self, ix: LaneIx, class: Class, verdict: &Verdict, now: Now) {
        self.refuse(ix, Some(Trouble::of(verdict, now)), now);
        if class == Class::Topic {
            let topic = self.lanes[ix.0 as usize].topic;
            for other in self.topics[topic.0 as usize].lanes.clone() {
                let lane = self.lane(other);
                if matches!(lane.phase, LanePhase::Cold | LanePhase::Flowing) {
                    self.refuse(other, Some(Trouble::of(verdict, now)), now);
                }
            }
        }
    }

    fn refuse(&mut self, ix: LaneIx, trouble: Option<Trouble>, now: Now) {
        let pause = self.limits.backoff(self.lanes[ix.0 as usize].attempt);
        let lane = self.lane(ix);
        lane.attempt += 1;
        lane.refused = true;
        lane.phase = LanePhase::Refused { retry_at: now.plus(pause) };
        if let Some(trouble) = trouble {
            Trouble::replace(&mut lane.trouble, trouble);
        }
        self.watched.insert(ix);
    }

    /// Only the log can tell what arrived.
    pub(super) fn ask_log(&mut self, ix: LaneIx) {
        self.lane(ix).phase = LanePhase::Unread { asked: false };
        self.unread.insert(ix);
    }

    /// The main producer is over: its reports are waited for a little, then it is replaced.
    pub(super) fn fail_main(&mut self, why: Option<&Verdict>, now: Now) {
        if self.main == MainPhase::Open {
            self.main = MainPhase::Retiring { until: now.plus(self.limits.reports_wait) };
            if let Some(verdict) = why.filter(|verdict| verdict.class == Class::Indeterminate) {
                Trouble::replace(&mut self.client, Trouble::of(verdict, now));
            }
        }
    }

    pub(super) fn main_closed(&mut self, now: Now) {
        self.main_failures = if self.main_acked { 0 } else { self.main_failures + 1 };
        let pause = match self.main_failures {
            0 => std::time::Duration::ZERO,
            n => self.limits.backoff(n - 1),
        };
        (self.main_acked, self.main_out, self.regroup) = (false, 0, false);
        self.main = MainPhase::Closed { retry_at: now.plus(pause) };
        for at in 0..self.lanes.len() {
            let ix = LaneIx(at as u32);
            let lane = self.lane(ix);
            let its = match lane.phase {
                LanePhase::Cold | LanePhase::Flowing | LanePhase::Silent | LanePhase::Refused { .. } => true,
                LanePhase::Unread { .. } | LanePhase::Probing | LanePhase::Closed => false,
            };
            if !its {
                continue;
            }
            if lane.phase == LanePhase::Silent {
                lane.refused = true;
            }
            if lane.out > 0 {
                lane.forget_producer();
                self.ask_log(ix);
            } else if matches!(lane.phase, LanePhase::Flowing | LanePhase::Silent | LanePhase::Cold) {
                self.enter(ix, now);
            }
        }
    }

    /// A lane of which all is known goes on: with the others, or tried apart.
    pub(super) fn enter(&mut self, ix: LaneIx, now: Now) {
        let pause = self.lanes[ix.0 as usize].attempt.checked_sub(1).map(|n| self.limits.backoff(n));
        let lane = self.lane(ix);
        if lane.refused {
            lane.phase = LanePhase::Refused { retry_at: now.plus(pause.unwrap_or_default()) };
            self.watched.insert(ix);
        } else {
            lane.phase = LanePhase::Cold;
            lane.trouble = None;
        }
        self.attend(ix);
    }

    pub(super) fn probe_closed(&mut self, now: Now) {
        self.probe_failures += 1;
        let pause = self.limits.backoff(self.probe_failures - 1);
        self.probe = ProbePhase::Closed { retry_at: now.plus(pause) };
        self.probe_out = 0;
        for ix in self.watched.clone() {
            let lane = self.lane(ix);
            if lane.phase == LanePhase::Probing {
                let out = lane.out > 0;
                lane.forget_producer();
                if out { self.ask_log(ix) } else { self.enter(ix, now) }
            }
        }
    }

    /// Looks at what is due by time: lanes that hear nothing, tries that are due. Returns topics to ask about.
    pub(super) fn watch(&mut self, now: Now) -> Vec<TopicIx> {
        self.watched_at = now;
        let mut ask = Vec::new();
        for ix in self.watched.clone() {
            let silence = self.limits.silence;
            let lane = self.lane(ix);
            let hears_nothing = lane.out > 0 && now.since(lane.moved_at) >= silence;
            match lane.phase {
                LanePhase::Cold | LanePhase::Flowing if hears_nothing => {
                    lane.phase = LanePhase::Silent;
                    let what = format!("no acknowledgement for {} s", silence.as_secs_f32());
                    Trouble::replace(&mut lane.trouble, Trouble::new(None, what, lane.moved_at));
                }
                LanePhase::Silent | LanePhase::Probing => {}
                LanePhase::Refused { retry_at } => {
                    if retry_at <= now {
                        self.attend(ix);
                    }
                    continue;
                }
                _ => {
                    if lane.out == 0 {
                        self.watched.remove(&ix);
                    }
                    continue;
                }
            }
            let topic = self.lanes[ix.0 as usize].topic;
            let asked = self.topics[topic.0 as usize].reason_asked;
            if hears_nothing && asked.is_none_or(|at| now.since(at) >= silence) {
                self.topic(topic).reason_asked = Some(now);
                ask.push(topic);
            }
        }
        ask
    }
}

enum Turn {
    Send(SendRange),
    /// Its producer is not there or full.
    Later,
    /// Its rows are not in memory.
    Hungry,
    Nothing,
}
