//! Replacing the producer: what it may have sent is looked for in Kafka, the rest is sent again.
//!
//! The same way serves a takeover after a crash, a fatal producer error, and a
//! refused record: the partitions' tails are read from the last settled offset
//! to their end, rows found there are done, and the others go out with the same
//! seqs, in the same order.

use super::error::{Halt, RelayError};
use super::pins::waits;
use super::session::{Failure, Mode, Session};
use super::status::Count;
use super::topics::MESSAGE_BYTES_DEFAULT;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::producer::{Grouping, Producer};
use crate::kafka::reader::{ReadFrom, TopicReader};
use crate::kafka::record::Record;
use crate::outbox::store::LanePart;
use homing_core::{Offset, PayloadCrc};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a failing producer may report what it still knows.
const REPORTS_WAIT: Duration = Duration::from_secs(1);
/// How long a tail read may get nothing before it begins again.
const TAIL_STALL: Duration = Duration::from_secs(10);

/// One lane whose tail is read: where its unsettled seqs are.
struct Tail {
    topic: usize,
    partition: usize,
    first_seq: u64,
    /// Flight and row of each unsettled seq from `first_seq` on.
    rows: Vec<(usize, usize)>,
}

impl Session<'_> {
    /// Makes a new producer, having looked in Kafka for what the old one sent.
    pub fn recover(&mut self) -> Result<(), Halt> {
        let failure = self.failure.unwrap_or(Failure::Takeover);
        if failure != Failure::Takeover {
            self.ground.status.add(Count::Recoveries, u64::from(self.producer.is_some()));
        }
        self.retire_producer()?;
        self.pause_when_fruitless()?;
        self.check_pins()?;
        self.read_tails(failure)?;
        self.ground.options.steps.reached("relay.tail_read");
        self.mode = if self.failure == Some(Failure::Refused) { Mode::Isolated } else { Mode::Together };
        self.open_producer()?;
        self.failure = None;
        for flight in 0..self.flights.len() {
            if self.failure.is_none() {
                self.send_flight(flight)?;
            }
        }
        Ok(())
    }

    /// Waits, longer each time, when the last producer got nothing acknowledged.
    fn pause_when_fruitless(&mut self) -> Result<(), Halt> {
        if self.fruitless > 0 {
            let most = self.ground.options.retry_max;
            let pause = Duration::from_millis(20).saturating_mul(1 << self.fruitless.min(10)).min(most);
            if !self.ground.shutdown.wait(pause) || self.drain_until.is_none() {
                self.go_on()?;
            }
        }
        self.fruitless += 1;
        Ok(())
    }

    /// Takes what the producer still reports and drops it.
    fn retire_producer(&mut self) -> Result<(), Halt> {
        let until = Instant::now() + REPORTS_WAIT;
        while self.producer.is_some() && self.outstanding > 0 && Instant::now() < until {
            let before = self.outstanding;
            self.poll(Duration::from_millis(100))?;
            self.go_on()?;
            let fatal = self.producer.as_ref().is_some_and(|producer| producer.fatal_error().is_some());
            if fatal && self.outstanding == before {
                break;
            }
        }
        self.wake_up.set(None);
        self.producer = None;
        self.outstanding = 0;
        self.topics.forget_producer();
        self.repairs.forget_producer();
        for flight in &mut self.flights {
            flight.forget_producer();
        }
        Ok(())
    }

    fn open_producer(&mut self) -> Result<(), Halt> {
        let rows = self.ground.options.batch_rows_max * (self.ground.options.batches_in_flight_max + 1);
        self.group_bytes_max = self.fitting_group();
        let grouping = Grouping {
            bytes_max: self.group_bytes_max,
            isolated: self.mode == Mode::Isolated,
            records_max: rows.clamp(1000, 10_000_000),
        };
        let producer = Producer::open(self.ground.kafka, grouping)?;
        self.wake_up.set(Some(producer.waker()));
        self.producer = Some(producer);
        Ok(())
    }

    /// Records of one request together must fit every topic, or a request would
    /// be refused though each of its records fits.
    fn fitting_group(&self) -> usize {
        self.topics.smallest_message_limit().min(MESSAGE_BYTES_DEFAULT) * 19 / 20
    }

    /// Whether the producer groups more than some topic takes, or isolates without need.
    pub fn producer_no_longer_fits(&self) -> bool {
        self.producer.is_some()
            && (self.fitting_group() < self.group_bytes_max || self.mode == Mode::Isolated)
    }

    /// Looks for unsettled rows in Kafka.
    fn read_tails(&mut self, failure: Failure) -> Result<(), Halt> {
        let tails = self.tails(failure);
        let mut from = Vec::new();
        let mut ends = Vec::new();
        let mut vanished = Vec::new();
        for tail in tails.values() {
            self.go_on()?;
            let open = &self.topics.list[tail.topic];
            let partition = i32::try_from(tail.partition).expect("a partition is an i32");
            let (low, high) = self.admin.ends(&open.epoch.topic, partition).map_err(waits)?;
            let next_offset = open.lanes[tail.partition].next_offset;
            if low > next_offset && tail.rows.is_empty() {
                // Somebody wrote there after the last record this database knows of, and it is gone.
                vanished.push((tail.topic, partition, next_offset, low));
            }
            let start = next_offset.max(low);
            if start < high {
                let at = TopicPartition {
                    topic: open.epoch.topic.clone(),
                    partition: homing_core::Partition(partition),
                };
                from.push((at.clone(), ReadFrom::At(start)));
                ends.push((at, high));
            }
        }
        for (topic, partition, next_offset, low) in vanished {
            self.end_epoch(
                topic,
                &format!(
                    "records of partition {partition} from offset {next_offset} to {low} are gone, and this \
                 outbox does not know what they were"
                ),
            );
        }
        if from.is_empty() {
            return Ok(());
        }
        let mut reader = TopicReader::open_uncommitted(self.ground.kafka)?;
        reader.assign(&from)?;
        let mut last = Instant::now();
        let mut records = Vec::new();
        while !reached(&reader, &ends)? {
            self.go_on()?;
            if reader.read(&mut records, 10_000, Duration::from_millis(20))? > 0 {
                last = Instant::now();
            } else if last.elapsed() > TAIL_STALL {
                return Err(Halt::Wait("the partitions' tails cannot be read to their ends".to_owned()));
            }
            for record in records.drain(..) {
                self.take_tail_record(&record, &tails)?;
            }
        }
        Ok(())
    }

    /// The lanes to look into: those with unsettled rows, and for a new owner all
    /// of them, to see whether Kafka has seqs that this database never gave (X12).
    fn tails(&self, failure: Failure) -> HashMap<(String, i32), Tail> {
        let mut tails: HashMap<(usize, usize), Tail> = HashMap::new();
        if failure == Failure::Takeover {
            for (topic, open) in self.topics.list.iter().enumerate() {
                for (partition, lane) in open.lanes.iter().enumerate() {
                    let tail = Tail { topic, partition, first_seq: lane.next_seq, rows: Vec::new() };
                    tails.insert((topic, partition), tail);
                }
            }
        }
        for (at, flight) in self.flights.iter().enumerate() {
            for (row, numbered) in flight.numbers.iter().enumerate() {
                let (topic, partition) = flight.places[numbered.lane as usize];
                let tail = tails.entry((topic, partition)).or_insert_with(|| Tail {
                    topic,
                    partition,
                    first_seq: numbered.seq.0,
                    rows: Vec::new(),
                });
                if tail.rows.is_empty() {
                    tail.first_seq = numbered.seq.0;
                }
                tail.rows.push((at, row));
            }
        }
        let name = |tail: &Tail| {
            let topic = self.topics.list[tail.topic].epoch.topic.as_str().to_owned();
            (topic, i32::try_from(tail.partition).expect("a partition is an i32"))
        };
        tails.into_values().map(|tail| (name(&tail), tail)).collect()
    }

    /// Numbering cannot go on in a topic's epoch: the database was restored.
    fn end_epoch(&mut self, topic: usize, what: &str) {
        let open = &mut self.topics.list[topic];
        if open.outdated.is_none() {
            tracing::warn!(topic = %open.epoch.topic, "X12: {what}: the database was restored; a new epoch begins");
            open.outdated = Some(open.epoch.partitions);
        }
    }

    fn take_tail_record(
        &mut self,
        record: &Record,
        tails: &HashMap<(String, i32), Tail>,
    ) -> Result<(), Halt> {
        let Some(stamp) = record.stamp_ref() else { return Ok(()) };
        let Some(tail) = tails.get(&(record.topic().to_owned(), record.partition().0)) else { return Ok(()) };
        let open = &self.topics.list[tail.topic];
        let ours =
            stamp.stream == self.ground.store.stream().as_str() && stamp.partition == record.partition();
        if ours && stamp.epoch > open.epoch.epoch {
            let what = format!("Kafka has epoch {}, which this outbox never began", stamp.epoch);
            self.end_epoch(tail.topic, &what);
            return Ok(());
        }
        if !ours || stamp.epoch != open.epoch.epoch || stamp.seq.0 < tail.first_seq {
            return Ok(());
        }
        let Some((flight, row)) = tail.rows.get((stamp.seq.0 - tail.first_seq) as usize).copied() else {
            let what = format!("Kafka has seq {}, which this outbox never gave", stamp.seq);
            self.end_epoch(tail.topic, &what);
            return Ok(());
        };
        let flight = &mut self.flights[flight];
        let wanted = flight.rows.get(row);
        if PayloadCrc::of(wanted.key, wanted.payload) != stamp.crc {
            let part: &LanePart = &flight.manifest.lanes[flight.numbers[row].lane as usize];
            return Err(RelayError::Forked {
                topic: part.topic.clone(),
                partition: part.partition,
                epoch: part.epoch,
                seq: stamp.seq,
            }
            .into());
        }
        if flight.found(row, record.offset()) {
            self.ground.status.add(Count::Skipped, 1);
        }
        Ok(())
    }
}

fn reached(reader: &TopicReader, ends: &[(TopicPartition, Offset)]) -> Result<bool, Halt> {
    for (at, end) in ends {
        if !reader.has_reached(at, *end)? {
            return Ok(false);
        }
    }
    Ok(true)
}
