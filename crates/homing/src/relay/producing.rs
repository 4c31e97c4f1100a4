//! The two producers: opening and closing them, handing rows over, and hearing what became of them.
//!
//! The main one keeps the gapless guarantee: a permanent error ends it before a
//! later record can overtake the refused one. The probe producer sends one
//! record a request, so that each error is one record's own.

use super::error::{Halt, RelayError};
use super::obstacle::{Said, of_code};
use super::session::Session;
use super::status::Count;
use super::topics::MESSAGE_BYTES_DEFAULT;
use crate::kafka::native::{self, most_telling};
use crate::kafka::producer::{Grouping, Outgoing, Producer, Refusal, Report, TopicHandle};
use crate::outbox::rows::RowRef;
use crate::outbox::store::{BatchId, LanePart, RejectCode};
use homing_core::relay::{
    Ack, Event, Failed, Machine, Polled, Rejection, SendRange, Stopped, Tag, TopicIx, Via,
};
use homing_core::{Flags, PayloadCrc, Seq, StampRef, StreamName, header};
use std::collections::HashMap;
use std::time::Duration;

/// One producer with its topic handles.
struct Open {
    producer: Producer,
    topics: HashMap<TopicIx, TopicHandle>,
}

impl Open {
    fn handle(&mut self, ix: TopicIx, machine: &Machine) -> Result<TopicHandle, RelayError> {
        if let Some(handle) = self.topics.get(&ix) {
            return Ok(*handle);
        }
        let handle = self.producer.topic(machine.name(ix))?;
        self.topics.insert(ix, handle);
        Ok(handle)
    }
}

/// The producers of one session.
pub(super) struct Producers {
    main: Option<Open>,
    probe: Option<Open>,
    /// The most bytes the main one groups together.
    group_bytes_max: usize,
    /// What they were opened with has changed: both are to be opened anew.
    pub renew: bool,
    encoder: Encoder,
    stream: StreamName,
}

impl Producers {
    pub fn new(stream: StreamName) -> Self {
        let encoder = Encoder::default();
        Self { main: None, probe: None, group_bytes_max: 0, renew: false, encoder, stream }
    }

    fn of(&mut self, via: Via) -> &mut Option<Open> {
        match via {
            Via::Main => &mut self.main,
            Via::Probe => &mut self.probe,
        }
    }

    pub fn is_open(&self, via: Via) -> bool {
        match via {
            Via::Main => self.main.is_some(),
            Via::Probe => self.probe.is_some(),
        }
    }
}

/// Buffers reused for every record.
#[derive(Default)]
pub(super) struct Encoder {
    stamp: Vec<u8>,
}

/// What of a record its row does not say.
pub(super) struct Envelope<'a> {
    pub stream: &'a StreamName,
    pub part: &'a LanePart,
    pub seq: Seq,
    pub topic: TopicHandle,
    pub tag: u64,
    pub flags: Flags,
}

impl Encoder {
    /// Hands one row to the producer, stamped.
    pub fn send(
        &mut self,
        producer: &Producer,
        row: &RowRef<'_>,
        envelope: &Envelope<'_>,
    ) -> Result<(), Refusal> {
        let Envelope { stream, part, seq, topic, tag, flags } = *envelope;
        self.stamp.clear();
        let crc = PayloadCrc::of(row.key, row.payload);
        StampRef { stream: stream.as_str(), epoch: part.epoch, partition: part.partition, seq, crc }
            .encode_into(&mut self.stamp);
        let mut id = [0u8; uuid::fmt::Hyphenated::LENGTH];
        let id = uuid::Uuid::from_bytes(row.message_id).hyphenated().encode_lower(&mut id).as_bytes();
        let own = [
            Some((header::STAMP.as_bytes(), Some(&self.stamp[..]))),
            Some((header::ID.as_bytes(), Some(id))),
            flags.encode().map(|flags| (header::FLAGS.as_bytes(), Some(flags.as_bytes()))),
        ];
        let tag = usize::try_from(tag).expect("this runs on 64-bit systems");
        let record = Outgoing { topic, partition: part.partition.0, key: row.key, payload: row.payload, tag };
        producer.send(record, own.into_iter().flatten().chain(row.headers.clone()))
    }
}

impl Session<'_> {
    pub fn open_producer(&mut self, via: Via) -> Result<Event, Halt> {
        let options = self.ground.options;
        let bytes_max = self.fitting_group();
        let records_max = options.client_rows_max();
        let grouping = Grouping { bytes_max, isolated: via == Via::Probe, records_max };
        let producer = Producer::open(self.ground.kafka, grouping)?;
        if via == Via::Main {
            self.producers.group_bytes_max = bytes_max;
            self.wake_up.set(Some(producer.waker()));
            if !self.tail_read {
                // Nothing had to be read before the first record may go out.
                self.tail_read = true;
                options.steps.reached("relay.tail_read");
            }
        }
        *self.producers.of(via) = Some(Open { producer, topics: HashMap::new() });
        Ok(Event::Opened(via))
    }

    pub fn close_producer(&mut self, via: Via) -> Event {
        if via == Via::Main {
            self.wake_up.set(None);
            self.ground.status.add(Count::Recoveries, 1);
            for loaded in self.memory.values_mut() {
                loaded.resend = true;
            }
        }
        *self.producers.of(via) = None;
        Event::Closed(via)
    }

    /// Records of one request together must fit every topic, or a request would
    /// be refused though each of its records fits.
    fn fitting_group(&self) -> usize {
        self.topics.smallest_message_limit().min(MESSAGE_BYTES_DEFAULT) * 19 / 20
    }

    /// Whether the main producer groups more than some topic takes.
    pub fn regroups(&self) -> bool {
        self.producers.main.is_some() && self.fitting_group() < self.producers.group_bytes_max
    }

    /// Hands a range over, as far as the client takes it.
    pub fn send(&mut self, range: &SendRange) -> Result<Event, Halt> {
        let batch = BatchId(range.batch.0);
        let (ix, _) = self.lane_place(range.lane);
        let Producers { main, probe, encoder, stream, .. } = &mut self.producers;
        let open = if range.via == Via::Main { main } else { probe };
        let handed = |to, stopped| Event::Handed { lane: range.lane, to, via: range.via, stopped };
        let (Some(open), Some(loaded)) = (open, self.memory.get_mut(&batch)) else {
            return Ok(handed(range.from, Some(Stopped::Full)));
        };
        let topic = open.handle(ix, &self.machine)?;
        let Some((place, part)) = loaded.part(range.lane) else {
            return Err(inconsistent(format!("batch {batch} lacks a lane that it was read for")));
        };
        let mut seq = range.from;
        let mut stopped = None;
        while seq < range.to {
            let Some(row) = loaded.row(place, seq) else {
                return Err(inconsistent(format!("batch {batch} lacks seq {seq} of {}", part.lane())));
            };
            let tag = Tag::new(range.lane, seq).0;
            let flags = row.flags;
            match encoder.send(&open.producer, &row, &Envelope { stream, part, seq, topic, tag, flags }) {
                Ok(()) => seq = seq.next(),
                Err(Refusal::Full) => stopped = Some(Stopped::Full),
                Err(Refusal::Code(code)) => stopped = Some(Stopped::Code(code)),
            }
            if stopped.is_some() {
                break;
            }
        }
        let rows = usize::try_from(seq.0 - range.from.0).unwrap_or_default();
        let (resend, before, all) = (loaded.resend, loaded.handed, loaded.rows.len());
        loaded.handed += rows;
        let after = loaded.handed;
        self.ground.status.add(Count::Sent, rows as u64);
        if resend {
            self.ground.status.add(Count::Resent, rows as u64);
        }
        let steps = &self.ground.options.steps;
        if before <= all / 2 && after > all / 2 {
            steps.reached("relay.some_sent");
        }
        if before < all && after >= all {
            steps.reached("relay.all_sent");
        }
        Ok(handed(seq, stopped))
    }

    /// Notes why a record is set aside.
    pub fn void(&mut self, rejection: &Rejection) -> Event {
        let batch = BatchId(rejection.batch.0);
        let code = if rejection.code == 10 || rejection.code == 18 {
            RejectCode::TooLarge
        } else {
            RejectCode::Refused
        };
        let reason = format!("Kafka refused it: {}", native::describe(rejection.code));
        let loaded = self.memory.get(&batch).expect("a record is refused while its rows are in memory");
        let (place, part) = loaded.part(rejection.lane).expect("the lane is the record's own");
        tracing::warn!(lane = %part.lane(), seq = rejection.seq.0, "a row is set aside: {reason}");
        if let Some(voided) = loaded.voided(place, rejection.seq, (code, reason)) {
            self.voids.insert((rejection.lane, rejection.seq), voided);
        }
        Event::Nothing
    }

    /// Waits up to `wait` for the main producer's reports and takes those of both.
    pub fn poll(&mut self, wait: Duration) -> Polled {
        let mut polled = Polled::default();
        let mut errors = Vec::new();
        let machine = &self.machine;
        for (via, open) in [(Via::Main, &self.producers.main), (Via::Probe, &self.producers.probe)] {
            let Some(open) = open else { continue };
            let wait = if via == Via::Main { wait } else { Duration::ZERO };
            let heard =
                open.producer.poll(wait, |tag, report| take(machine, (via, tag), report, &mut polled));
            let mut fatal = heard.errors.iter().any(|error| error.fatal);
            fatal |= !polled.failures.is_empty() && open.producer.fatal_error().is_some();
            match via {
                Via::Main => polled.main_fatal = fatal || self.producers.renew,
                Via::Probe => polled.probe_fatal = fatal || self.producers.renew,
            }
            errors.extend(heard.errors);
        }
        self.producers.renew = false;
        let acked: u64 = polled.acks.iter().map(|ack| u64::from(ack.rows)).sum();
        self.ground.status.add(Count::Acked, acked);
        if let Some(error) = most_telling(errors) {
            let text = format!("Kafka at {}: {}", self.ground.kafka.bootstrap, error.reason);
            polled.client = Some(of_code(error.code, &text).since(self.now()));
            polled.doubt = true;
        } else if self.is_throttled() {
            let what = "a quota of the cluster slows this user's requests down: raise its producer_byte_rate";
            polled.client = Some(Said::coded("N06", what).since(self.now()));
        }
        polled
    }

    fn is_throttled(&self) -> bool {
        let throttled = |open: &Open| !open.producer.throttled().is_zero();
        self.machine.out().main > 0 && self.producers.main.as_ref().is_some_and(throttled)
    }
}

/// Takes one delivery report.
fn take(machine: &Machine, (via, tag): (Via, usize), report: Report, polled: &mut Polled) {
    let tag = Tag(tag as u64);
    let lane = tag.lane();
    let seq = tag.seq(machine.seq_near(lane));
    let code = match report {
        Report::At(offset) => {
            if let Some(last) = polled.acks.last_mut()
                && (last.via, last.lane) == (via, lane)
                && last.first.0 + u64::from(last.rows) == seq.0
                && last.offset.0 + i64::from(last.rows) == offset.0
            {
                last.rows += 1;
            } else {
                polled.acks.push(Ack { via, lane, first: seq, rows: 1, offset });
            }
            return;
        }
        Report::Somewhere => None,
        Report::Failed(code) => Some(code),
    };
    polled.failures.push(Failed { via, lane, seq, code });
}

fn inconsistent(what: String) -> Halt {
    crate::outbox::OutboxError::Inconsistent { operation: "send a batch", what }.into()
}
