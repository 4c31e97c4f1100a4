//! Sending a batch's rows in order, and what their delivery reports mean.
//!
//! The first record of every lane goes alone and is waited for (P12): a
//! partition that was just created may refuse one request and accept the next,
//! which would then never take the first. So the first real record is the
//! canary; no foreign record enters the topic, and each new producer does it
//! again at the cost of one round trip.

use super::error::Halt;
use super::flight::{Flight, RowFate};
use super::obstacle::{Meaning, describe_code, meaning};
use super::session::{Failure, Mode, Session};
use super::status::Count;
use crate::kafka::native;
use crate::kafka::producer::{Outgoing, Producer, Refusal, Report, TopicHandle};
use crate::outbox::rows::RowRef;
use crate::outbox::store::LanePart;
use homing_core::{Flags, PayloadCrc, Seq, StampRef, header};
use std::time::Duration;

/// Takes a report that is no plain acknowledgement. In isolation a refusal is
/// the record's own, so its row is voided and the others go on.
pub(super) fn failed(
    (flight, mode): (&mut Flight, Mode),
    row: usize,
    report: Report,
    failure: &mut Option<Failure>,
    reason: &mut Option<String>,
) {
    if let (Report::Failed(code), Mode::Isolated) = (report, mode)
        && let Meaning::Refused(reject) = meaning(code)
    {
        flight.void(row, reject, format!("Kafka refused it: {}", native::describe(code)));
        return;
    }
    flight.unknown(row);
    let (found, text) = match report {
        Report::At(_) => return,
        Report::Somewhere => (Failure::Producer, "acknowledged without an offset".to_owned()),
        Report::Failed(code) => match meaning(code) {
            Meaning::Refused(_) => (Failure::Refused, describe_code(code)),
            Meaning::Indeterminate => (Failure::Producer, describe_code(code)),
        },
    };
    if *failure != Some(Failure::Refused) {
        *failure = Some(found);
        *reason = Some(text);
    }
}

/// Buffers reused for every record.
#[derive(Default)]
pub(super) struct Encoder {
    stamp: Vec<u8>,
}

impl Encoder {
    /// Hands one row to the producer, stamped.
    pub fn send(
        &mut self,
        producer: &Producer,
        (stream, part): (&str, &LanePart),
        (row, seq): (&RowRef<'_>, Seq),
        (topic, tag, flags): (TopicHandle, usize, Flags),
    ) -> Result<(), Refusal> {
        self.stamp.clear();
        let crc = PayloadCrc::of(row.key, row.payload);
        StampRef { stream, epoch: part.epoch, partition: part.partition, seq, crc }
            .encode_into(&mut self.stamp);
        let mut id = [0u8; uuid::fmt::Hyphenated::LENGTH];
        let id = uuid::Uuid::from_bytes(row.message_id).hyphenated().encode_lower(&mut id).as_bytes();
        let own = [
            Some((header::STAMP.as_bytes(), Some(&self.stamp[..]))),
            Some((header::ID.as_bytes(), Some(id))),
            flags.encode().map(|flags| (header::FLAGS.as_bytes(), Some(flags.as_bytes()))),
        ];
        let record = Outgoing { topic, partition: part.partition.0, key: row.key, payload: row.payload, tag };
        producer.send(record, own.into_iter().flatten().chain(row.headers.clone()))
    }
}

impl Session<'_> {
    /// Sends the unsent rows of a flight in order; returns early when the producer fails.
    pub fn send_flight(&mut self, flight: usize) -> Result<(), Halt> {
        let mut encoder = Encoder::default();
        if self.mode == Mode::Together && !self.warm_up(flight, &mut encoder)? {
            return Ok(());
        }
        let rows = self.flights[flight].rows.len();
        for row in 0..rows {
            if self.flights[flight].fate(row) == RowFate::Unsent
                && !self.send_row(flight, row, &mut encoder)?
            {
                return Ok(());
            }
            if row == rows / 2 {
                self.ground.options.steps.reached("relay.some_sent");
            }
            if row % 1024 == 1023 {
                self.poll(Duration::ZERO)?;
                self.go_on()?;
                if self.failure.is_some() {
                    return Ok(());
                }
            }
        }
        self.ground.options.steps.reached("relay.all_sent");
        Ok(())
    }

    /// Sends the first unsent row of each lane that has had no acknowledgement
    /// from this producer and waits for those; false when the producer fails.
    fn warm_up(&mut self, flight: usize, encoder: &mut Encoder) -> Result<bool, Halt> {
        let this = &self.flights[flight];
        let mut cold: Vec<bool> =
            this.places.iter().map(|(topic, at)| !self.topics.list[*topic].lanes[*at].warm).collect();
        if !cold.contains(&true) {
            return Ok(true);
        }
        let mut canaries = Vec::new();
        for row in 0..this.rows.len() {
            let lane = this.numbers[row].lane as usize;
            if cold[lane] && this.fate(row) == RowFate::Unsent {
                cold[lane] = false;
                canaries.push(row);
            }
        }
        for row in &canaries {
            if !self.send_row(flight, *row, encoder)? {
                return Ok(false);
            }
        }
        while canaries.iter().any(|row| self.flights[flight].fate(*row) == RowFate::Sent) {
            self.poll(Duration::from_millis(20))?;
            self.go_on()?;
            if self.failure.is_some() {
                return Ok(false);
            }
        }
        for row in canaries {
            let (topic, at) = self.flights[flight].places[self.flights[flight].numbers[row].lane as usize];
            self.topics.list[topic].lanes[at].warm = true;
        }
        Ok(true)
    }

    /// Sends one row, waiting while the client is full; false when the producer fails.
    fn send_row(&mut self, flight: usize, row: usize, encoder: &mut Encoder) -> Result<bool, Halt> {
        let numbered = self.flights[flight].numbers[row];
        let (topic, _) = self.flights[flight].places[numbered.lane as usize];
        let handle = self.handle(topic)?;
        loop {
            let this = &self.flights[flight];
            let part = &this.manifest.lanes[numbered.lane as usize];
            let row_ref = this.rows.get(row);
            let number = self.first_flight.wrapping_add(u32::try_from(flight).expect("few flights"));
            let tag = (number as usize) << 32 | row;
            let producer = self.producer.as_ref().expect("whoever sends has a producer");
            let stream = self.ground.store.stream().as_str();
            let flags = row_ref.flags;
            let sent = encoder.send(producer, (stream, part), (&row_ref, numbered.seq), (handle, tag, flags));
            let resend = this.resend;
            match sent {
                Ok(()) => {
                    self.flights[flight].sent(row);
                    if self.outstanding == 0 {
                        self.waiting.progress();
                    }
                    self.outstanding += 1;
                    self.ground.status.add(Count::Sent, 1);
                    if resend {
                        self.ground.status.add(Count::Resent, 1);
                    }
                    return Ok(true);
                }
                Err(Refusal::Full) => {
                    self.poll(Duration::from_millis(20))?;
                    self.go_on()?;
                }
                Err(Refusal::Code(code)) => {
                    if let Meaning::Refused(reject) = meaning(code) {
                        // It was never sent, so this is about this row alone.
                        self.flights[flight].void(row, reject, native::describe(code));
                        return Ok(true);
                    }
                    self.fail(Failure::Producer, &describe_code(code))?;
                }
            }
            if self.failure.is_some() {
                return Ok(false);
            }
        }
    }
}
