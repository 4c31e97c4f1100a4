//! Taking in what the asking threads found: comparing it with what is pinned, and telling the machine.

use super::answer::{Answer, Pins, TailFound};
use super::asking::{Found, Look, not_authorised};
use super::error::{Halt, RelayError};
use super::loaded::Loaded;
use super::obstacle::{Said, weakness};
use super::session::{Session, now_ms};
use super::status::Count;
use super::topics::{Partitions, ids_known, partitions_now};
use crate::outbox::store::{TopicEpoch, Weakness};
use homing_core::relay::{BeganTopic, Event, LaneIx, Polled, Seen, TopicIx, TopicSeen};
use homing_core::{PartitionCount, PayloadCrc, Seq};

impl Session<'_> {
    /// Adds the answers that came to what was heard.
    pub fn take_answers(&mut self, polled: &mut Polled) -> Result<(), Halt> {
        let mut any_tail = false;
        for answer in self.inbox.take() {
            let seen = match answer {
                Answer::Pins { in_doubt, found } => self.pins(in_doubt, found)?,
                Answer::Topic(ix, look) => Seen::Topic(ix, self.looked_at(ix, look)),
                Answer::Reason(ix, said) => Seen::Reason(ix, said.since(self.now())),
                Answer::Epoch(ix, Ok(beginning)) => {
                    self.beginnings.insert(ix, beginning);
                    Seen::EpochFound(ix)
                }
                Answer::Epoch(ix, Err(said)) => Seen::EpochUnknown(ix, said.since(self.now())),
                Answer::TailTrouble(lane, said) => Seen::TailTrouble(lane, said.since(self.now())),
                Answer::Tail(found) => {
                    any_tail = true;
                    self.tail(found, &mut polled.seen)
                }
            };
            polled.seen.push(seen);
        }
        if any_tail {
            self.tail_read = true;
            self.ground.options.steps.reached("relay.tail_read");
        }
        Ok(())
    }

    fn pins(&mut self, in_doubt: bool, found: Result<Pins, Said>) -> Result<Seen, Halt> {
        let now = self.now();
        let unanswered = |said: Said| Seen::Pins { in_doubt, topics: Err(said.since(now)) };
        let pins = match found {
            Ok(pins) => pins,
            Err(said) => return Ok(unanswered(said)),
        };
        self.nodes = pins.cluster.nodes;
        let id = pins.cluster.id;
        match &self.cluster_id {
            Some(pinned) if *pinned == id => {}
            Some(pinned) => {
                return Err(RelayError::ClusterChanged { pinned: pinned.clone(), found: id }.into());
            }
            None => match self.ground.store.pin_cluster(self.ground.token, &id).map_err(Halt::from) {
                Ok(()) => self.cluster_id = Some(id),
                Err(Halt::Wait(said)) => return Ok(unanswered(said)),
                Err(halt) => return Err(halt),
            },
        }
        let topics = pins.topics.into_iter().map(|(ix, look)| (ix, self.compare(ix, look))).collect();
        Ok(Seen::Pins { in_doubt, topics: Ok(topics) })
    }

    /// A topic with an open epoch beside what Kafka shows.
    fn compare(&mut self, ix: TopicIx, look: Look) -> TopicSeen {
        let now = self.now();
        let name = self.machine.name(ix).clone();
        let found = match look {
            Look::Found(found) => found,
            Look::Missing => {
                let what = format!(
                    "Kafka has no topic {name}, which this outbox writes to: create it again and say \
                     `homing topic reopen {name}`, or let what was not delivered go with `homing topic close {name}`"
                );
                return TopicSeen::Missing(Said::plain(what).since(now));
            }
            Look::Hidden => return TopicSeen::Unclear(not_authorised(&name).since(now)),
            Look::Unclear(said) => return TopicSeen::Unclear(said.since(now)),
        };
        let Some(epoch) = self.topics.epoch(ix).cloned() else { return TopicSeen::Present };
        if ids_known(&epoch, &found.facts) && found.facts.id != epoch.topic_id {
            let what = format!(
                "topic {name} was deleted and created again: its records and the consumers' offsets are gone; \
                 `homing topic reopen {name}` numbers what was not delivered anew, with --kept also what is \
                 still kept, and `homing topic close {name}` lets it go"
            );
            return TopicSeen::Recreated(Said::coded("A04", what).since(now));
        }
        self.note_settings(ix, &found);
        match partitions_now(&epoch, &found.facts) {
            Partitions::Same => TopicSeen::Present,
            Partitions::Changed(count) => {
                self.topics.get(ix).grown_to = Some(count);
                TopicSeen::Grown
            }
            Partitions::Stale => {
                tracing::debug!(topic = %name, found.facts.partitions, "a broker is behind the topic's growth");
                TopicSeen::Present
            }
        }
    }

    /// A topic without an open epoch.
    fn looked_at(&mut self, ix: TopicIx, look: Look) -> TopicSeen {
        let now = self.now();
        let name = self.machine.name(ix).clone();
        match look {
            Look::Found(found) if found.facts.partitions > 0 => {
                self.note_settings(ix, &found);
                TopicSeen::Present
            }
            Look::Found(_) => {
                TopicSeen::Unclear(Said::plain(format!("topic {name} has no partitions yet")).since(now))
            }
            Look::Missing => {
                let what = format!(
                    "Kafka knows no topic {name} (yet?): its rows wait, unnumbered and in order, until it is \
                     there; `homing topic discard {name}` sets them aside"
                );
                TopicSeen::Missing(Said::coded("X11", what).since(now))
            }
            Look::Hidden => TopicSeen::Unclear(not_authorised(&name).since(now)),
            Look::Unclear(said) => TopicSeen::Unclear(said.since(now)),
        }
    }

    /// Takes over what the topic's settings allow, and warns when they are weak. What was not told stays as known.
    fn note_settings(&mut self, ix: TopicIx, found: &Found) {
        let Some(settings) = found.settings else { return };
        let name = self.machine.name(ix).clone();
        let nodes = self.nodes;
        let topic = self.topics.get(ix);
        topic.message_bytes_max = settings.message_bytes_max.or(topic.message_bytes_max);
        topic.compacted = settings.compacted.or(topic.compacted);
        let weak = weakness(&name, &found.facts, settings.min_insync, nodes);
        if topic.weakness.as_ref() == Some(&weak) {
            return;
        }
        if let Some(Weakness { code, what }) = &weak {
            tracing::warn!(code, "{what}");
        }
        // Not written: it is tried again at the next look.
        match self.ground.store.note_weakness(self.ground.token, &name, weak.as_ref(), now_ms()) {
            Ok(()) => self.topics.get(ix).weakness = Some(weak),
            Err(error) => tracing::debug!(%error, "the note on a topic's settings was not written"),
        }
    }

    fn tail(&mut self, found: TailFound, seen: &mut Vec<Seen>) -> Seen {
        let lane = found.read.lane;
        self.ground.status.add(Count::Skipped, found.read.found.len() as u64);
        let same = self.contents_match(lane, &found.crcs);
        let forked = found.forked;
        self.found.entry(lane).or_default().extend(found.crcs);
        if forked || !same {
            seen.push(Seen::Tail(found.read));
            return if same { Seen::Forked(lane) } else { Seen::Contradicted(lane) };
        }
        Seen::Tail(found.read)
    }

    /// Whether what the log holds is what the rows in memory say.
    fn contents_match(&self, lane: LaneIx, crcs: &[(Seq, PayloadCrc)]) -> bool {
        self.memory.values().all(|loaded| {
            let Some((place, _)) = loaded.part(lane) else { return true };
            crcs.iter().all(|(seq, crc)| {
                loaded.row(place, *seq).is_none_or(|row| PayloadCrc::of(row.key, row.payload) == *crc)
            })
        })
    }

    /// The lanes of rows just read whose tails held something else under the same seqs.
    pub fn contradicted(&self, loaded: &Loaded) -> Vec<LaneIx> {
        let differs = |(place, lane): &(usize, &LaneIx)| {
            let Some(crcs) = self.found.get(lane) else { return false };
            !crcs.iter().all(|(seq, crc)| {
                loaded.row(*place, *seq).is_none_or(|row| PayloadCrc::of(row.key, row.payload) == *crc)
            })
        };
        loaded.lanes.iter().enumerate().filter(differs).map(|(_, lane)| *lane).collect()
    }

    /// Opens the epoch that the log's answer allows.
    pub fn open_epoch(&mut self, ix: TopicIx) -> Result<Event, Halt> {
        let name = self.machine.name(ix).clone();
        let Some(beginning) = self.beginnings.get(&ix).cloned() else {
            return Err(Halt::Wait(Said::plain(format!("topic {name} is to be looked at again"))));
        };
        let last = self.ground.store.last_epoch(&name)?;
        let now_s = u64::try_from(now_ms() / 1000).unwrap_or_default();
        let used_up = || Halt::Wait(Said::plain(format!("topic {name} has no epochs left")));
        let epoch = homing_core::epoch::next(last, beginning.log, now_s).ok_or_else(used_up)?;
        let partitions = PartitionCount::new(beginning.facts.partitions).ok_or_else(used_up)?;
        let topic_id = beginning.facts.id;
        let epoch = TopicEpoch { topic: name.clone(), epoch, topic_id, partitions };
        self.ground.store.open_epoch(self.ground.token, &epoch, &beginning.ends, now_ms())?;
        tracing::info!(topic = %name, epoch = epoch.epoch.0, partitions = partitions.get(), "epoch begins");
        self.beginnings.remove(&ix);
        self.forget_lanes(ix);
        self.topics.open(ix, epoch);
        if self.regroups() {
            self.orders.regroup = true;
        }
        Ok(Event::EpochOpened(BeganTopic { topic: ix, ends: beginning.ends }))
    }

    /// The lanes of a topic's epoch are over.
    pub fn forget_lanes(&mut self, ix: TopicIx) {
        for lane in self.machine.lanes_of(ix) {
            self.found.remove(lane);
            self.voids.retain(|(of, _), _| of != lane);
        }
    }
}
