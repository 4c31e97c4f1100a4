//! Reading lanes' tails on a thread of its own: a partition that cannot be read holds up no other.
//!
//! All ends are asked for in one question. When it gets no answer, the topics are
//! asked about one by one, those that failed before last and over a client of
//! their own: the retries of one must not break the connection of another. A lane
//! whose partition ends where it was read to is answered at once; the others are
//! read by one reader, and each is answered when it is at its end.

use super::answer::{Answer, TailFound};
use super::error::RelayError;
use super::inbox::Inbox;
use super::obstacle::{Said, of_error};
use super::worker::{Questions, Stop, Workers};
use crate::kafka::admin::{Admin, Bound};
use crate::kafka::config::KafkaConfig;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::reader::{ReadFrom, ReaderError, TopicReader};
use crate::kafka::record::Record;
use homing_core::relay::{TailQuestion, TailRead};
use homing_core::{Epoch, Offset, PayloadCrc, Seq, StreamName};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a tail read may get nothing before its ends are asked for again.
const STALL: Duration = Duration::from_secs(5);
/// How long a tail that cannot be read is left alone at first, and at most.
const PAUSE: Duration = Duration::from_millis(300);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long topics are asked about one by one before what can be read is read on.
const ONE_BY_ONE: Duration = Duration::from_millis(500);

/// One lane's tail.
#[derive(Debug, Clone)]
pub(super) struct TailOf {
    pub question: TailQuestion,
    pub at: TopicPartition,
    pub epoch: Epoch,
}

/// A tail whose end is to be asked for.
struct Waiting {
    of: TailOf,
    /// From when on.
    due: Instant,
    /// How many questions about it got no answer; the first was about others too.
    failed: u32,
}

/// Where a tail's log ends and, when it has moved on from where it was read to, begins.
struct Extent {
    end: Offset,
    low: Option<Offset>,
}

/// One tail that is being read.
struct Tail {
    of: TailOf,
    end: Offset,
    read_to: Offset,
    cut: bool,
    found: Vec<(Seq, Offset)>,
    crcs: Vec<(Seq, PayloadCrc)>,
    forked: bool,
    moved_at: Instant,
}

/// Starts the thread that reads.
pub(super) fn start(
    kafka: &KafkaConfig,
    (stream, wait): (&StreamName, Duration),
    inbox: Inbox<Answer>,
) -> Result<Workers<Vec<TailOf>>, RelayError> {
    let (kafka, stream) = (kafka.clone(), stream.clone());
    Workers::start("tails", 1, move |questions: &Questions<Vec<TailOf>>, stop: &Stop| {
        let tails = Tails {
            kafka: &kafka,
            stream: &stream,
            wait,
            inbox: &inbox,
            admin: None,
            waiting: Vec::new(),
            reading: HashMap::new(),
            reader: None,
        };
        tails.run(questions, stop);
    })
}

struct Tails<'a> {
    kafka: &'a KafkaConfig,
    stream: &'a StreamName,
    wait: Duration,
    inbox: &'a Inbox<Answer>,
    admin: Option<Admin>,
    /// Tails whose ends are to be asked for.
    waiting: Vec<Waiting>,
    reading: HashMap<TopicPartition, Tail>,
    reader: Option<TopicReader>,
}

impl Tails<'_> {
    fn run(mut self, questions: &Questions<Vec<TailOf>>, stop: &Stop) {
        while !stop.is_set() {
            let idle = self.waiting.is_empty() && self.reading.is_empty();
            let next = if idle {
                self.reader = None;
                let Some(next) = questions.next() else { return };
                Some(next)
            } else {
                questions.try_next()
            };
            for of in next.into_iter().flatten() {
                // A later question about the same partition takes the earlier one's place.
                self.reading.remove(&of.at);
                self.waiting.retain(|known| known.of.at != of.at);
                self.waiting.push(Waiting { of, due: Instant::now(), failed: 0 });
            }
            self.ask_ends();
            if self.reading.is_empty() {
                if !self.waiting.is_empty() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            } else if let Err(error) = self.read() {
                self.hindered(&error);
            }
        }
    }

    fn admin(&mut self) -> Result<&Admin, Said> {
        let admin = match self.admin.take() {
            Some(admin) => admin,
            None => Admin::open(self.kafka, self.wait).map_err(|error| Said::plain(error.to_string()))?,
        };
        Ok(self.admin.insert(admin))
    }

    /// Asks for the ends of the tails that are due; starts to read those that moved.
    fn ask_ends(&mut self) {
        let now = Instant::now();
        let (due, later): (Vec<Waiting>, Vec<Waiting>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.due <= now);
        self.waiting = later;
        let (together, mut alone): (Vec<Waiting>, Vec<Waiting>) =
            due.into_iter().partition(|waiting| waiting.failed == 0);
        if !together.is_empty() {
            match self.admin().and_then(|admin| extents(admin, &together)) {
                Ok(found) => self.take_up(together, found),
                // Perhaps one of them spoilt the question for all.
                Err(said) => self.put_off(together, &said),
            }
        }
        alone.sort_by(|a, b| (a.failed, &a.of.at).cmp(&(b.failed, &b.of.at)));
        self.ask_topic_by_topic(alone);
    }

    /// Asks about one topic after the other, for a while; a client that got no answer is not used again.
    fn ask_topic_by_topic(&mut self, mut tails: Vec<Waiting>) {
        let began = Instant::now();
        let mut admin = None;
        while began.elapsed() < ONE_BY_ONE && !tails.is_empty() {
            let topic = tails[0].of.at.topic.clone();
            let (asked, others): (Vec<Waiting>, Vec<Waiting>) =
                tails.into_iter().partition(|waiting| waiting.of.at.topic == topic);
            tails = others;
            let opened = match admin.take() {
                Some(admin) => Ok(admin),
                None => Admin::open(self.kafka, self.wait).map_err(|error| Said::plain(error.to_string())),
            };
            match opened.and_then(|admin| extents(&admin, &asked).map(|found| (admin, found))) {
                Ok((used, found)) => {
                    admin = Some(used);
                    self.take_up(asked, found);
                }
                Err(said) => self.put_off(asked, &said),
            }
        }
        self.waiting.extend(tails);
    }

    /// Answers those that have not moved and begins to read the others.
    fn take_up(&mut self, tails: Vec<Waiting>, found: Vec<Result<Extent, Said>>) {
        let mut moved = Vec::new();
        for (waiting, extent) in tails.into_iter().zip(found) {
            match extent {
                Ok(Extent { end, low: None }) => self.answer_unmoved(&waiting.of, end),
                Ok(Extent { end, low: Some(low) }) => moved.push((waiting.of, end, low)),
                Err(said) => self.put_off(vec![waiting], &said),
            }
        }
        self.begin(moved);
    }

    fn put_off(&mut self, tails: Vec<Waiting>, said: &Said) {
        for Waiting { of, failed, .. } in tails {
            let what = format!("{} cannot be asked for what it holds of this outbox: {}", of.at, said.what);
            self.inbox.put(Answer::TailTrouble(of.question.lane, Said { code: said.code, what }));
            let pause = match failed {
                // It was asked about among others, which may be the reason.
                0 => Duration::ZERO,
                failed => PAUSE.saturating_mul(1 << failed.min(8)).min(PAUSE_MAX),
            };
            self.waiting.push(Waiting { of, due: Instant::now() + pause, failed: failed + 1 });
        }
    }

    /// These were being read and begin again, each topic alone.
    fn begin_again(&mut self, tails: Vec<TailOf>, said: &Said) {
        let due = Instant::now();
        self.put_off(tails.into_iter().map(|of| Waiting { of, due, failed: 1 }).collect(), said);
    }

    fn answer_unmoved(&self, of: &TailOf, end: Offset) {
        let read = TailRead { lane: of.question.lane, found: Vec::new(), end, cut: false };
        self.inbox.put(Answer::Tail(TailFound { read, crcs: Vec::new(), forked: false }));
    }

    /// Reads these from where they were read to, or from where their logs begin now.
    fn begin(&mut self, moved: Vec<(TailOf, Offset, Offset)>) {
        if moved.is_empty() {
            return;
        }
        for (of, end, low) in moved {
            let cut = low > of.question.from;
            let read_to = of.question.from.max(low);
            if read_to >= end {
                let read = TailRead { lane: of.question.lane, found: Vec::new(), end, cut };
                self.inbox.put(Answer::Tail(TailFound { read, crcs: Vec::new(), forked: false }));
                continue;
            }
            let at = of.at.clone();
            let (found, crcs, moved_at) = (Vec::new(), Vec::new(), Instant::now());
            self.reading.insert(at, Tail { of, end, read_to, cut, found, crcs, forked: false, moved_at });
        }
        if let Err(error) = self.assign() {
            self.hindered(&error);
        }
    }

    fn assign(&mut self) -> Result<(), ReaderError> {
        let from: Vec<_> =
            self.reading.iter().map(|(at, tail)| (at.clone(), ReadFrom::At(tail.read_to))).collect();
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => TopicReader::open_uncommitted(self.kafka)?,
        };
        self.reader.insert(reader).assign(&from)
    }

    fn read(&mut self) -> Result<(), ReaderError> {
        let Some(reader) = &mut self.reader else { return self.assign() };
        let mut records = Vec::new();
        reader.read(&mut records, 10_000, Duration::from_millis(10))?;
        for record in &records {
            let at = TopicPartition {
                topic: match homing_core::TopicName::parse(record.topic()) {
                    Ok(topic) => topic,
                    Err(_) => continue,
                },
                partition: record.partition(),
            };
            if let Some(tail) = self.reading.get_mut(&at) {
                tail.take(record, self.stream);
            }
        }
        drop(records);
        let mut done = Vec::new();
        for (at, tail) in &self.reading {
            // Control records at the end come to nobody: the reader's position tells.
            if tail.read_to >= tail.end || reader.has_reached(at, tail.end)? {
                done.push(at.clone());
            }
        }
        for at in done {
            let Some(tail) = self.reading.remove(&at) else { continue };
            let read =
                TailRead { lane: tail.of.question.lane, found: tail.found, end: tail.end, cut: tail.cut };
            self.inbox.put(Answer::Tail(TailFound { read, crcs: tail.crcs, forked: tail.forked }));
        }
        let stalled: Vec<_> = self
            .reading
            .iter()
            .filter(|(_, tail)| tail.moved_at.elapsed() > STALL)
            .map(|(at, _)| at.clone())
            .collect();
        let stalled: Vec<TailOf> =
            stalled.iter().filter_map(|at| self.reading.remove(at)).map(|tail| tail.of).collect();
        self.begin_again(stalled, &Said::plain("it does not answer"));
        Ok(())
    }

    /// The reader does not go on: all begin again.
    fn hindered(&mut self, error: &ReaderError) {
        self.reader = None;
        let tails: Vec<TailOf> = self.reading.drain().map(|(_, tail)| tail.of).collect();
        self.begin_again(tails, &Said::plain(error.to_string()));
    }
}

/// The tails' extents, in their order: two questions for all. An error of one is its own.
fn extents(admin: &Admin, tails: &[Waiting]) -> Result<Vec<Result<Extent, Said>>, Said> {
    let bounds = |of: &[&TailOf], which| -> Result<Vec<Result<Offset, Said>>, Said> {
        let at: Vec<TopicPartition> = of.iter().map(|of| of.at.clone()).collect();
        let bounds = admin.bounds(&at, which).map_err(|error| of_error(&error))?;
        Ok(bounds.into_iter().map(|bound| bound.map_err(|error| of_error(&error))).collect())
    };
    let all: Vec<&TailOf> = tails.iter().map(|waiting| &waiting.of).collect();
    let ends = bounds(&all, Bound::End)?;
    let is_moved =
        |(of, end): &(&TailOf, &Result<Offset, Said>)| end.as_ref().is_ok_and(|end| *end > of.question.from);
    let moved: Vec<&TailOf> = all.iter().copied().zip(&ends).filter(is_moved).map(|(of, _)| of).collect();
    let mut lows = bounds(&moved, Bound::Start)?.into_iter();
    let extent = |(of, end): (&TailOf, Result<Offset, Said>)| {
        let end = end?;
        let low = if end > of.question.from { lows.next().transpose()? } else { None };
        Ok(Extent { end, low })
    };
    Ok(all.into_iter().zip(ends).map(extent).collect())
}

impl Tail {
    fn take(&mut self, record: &Record, stream: &StreamName) {
        self.moved_at = Instant::now();
        if record.offset() >= self.end || record.offset() < self.read_to {
            return;
        }
        self.read_to = record.offset().next();
        let Some(stamp) = record.stamp_ref() else { return };
        if stamp.stream != stream.as_str() || stamp.partition != record.partition() {
            return;
        }
        if stamp.epoch > self.of.epoch {
            self.forked = true;
        }
        if stamp.epoch == self.of.epoch && stamp.seq >= self.of.question.first {
            self.found.push((stamp.seq, record.offset()));
            self.crcs.push((stamp.seq, stamp.crc));
        }
    }
}
