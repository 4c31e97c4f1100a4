//! The watchdog of each partition: one that has more and receives nothing is a fault of the client.
//!
//! It is said, then mended: by reading anew from where the tracker stands, and
//! if that does not help, by a new client. Before the last a client of its own
//! looks whether there is anything for readers at all: control records and open
//! transactions (T03) lie above the last record that anybody can be given.

use super::error::ConsumerError;
use super::intake::Intake;
use super::question::{Answer, Question};
use super::status::ConsumerStatus;
use crate::kafka::native::{Client, ClientConfig, NativeError};
use crate::kafka::native_call::{ReadBuffer, SharedClient, Source};
use crate::kafka::partition_list::{Entry, TopicPartition};
use homing_core::{AssignmentEpoch, Offset};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One question to a partition's leader.
const ASK: Duration = Duration::from_secs(2);
/// How long another client may take to find a record.
const PROBE: Duration = Duration::from_secs(10);
/// Partitions asked about at a time.
const SUSPECTS_MAX: usize = 64;

/// When a partition was last heard of.
#[derive(Debug)]
pub(crate) struct Hearing {
    /// A record came since the last look.
    pub heard: bool,
    quiet_since: Instant,
    /// It was read anew, and nothing came since.
    read_anew: bool,
    /// Below this the log has nothing for readers.
    nothing_below: Offset,
}

impl Default for Hearing {
    fn default() -> Self {
        let (quiet_since, nothing_below) = (Instant::now(), Offset(0));
        Self { heard: false, quiet_since, read_anew: false, nothing_below }
    }
}

impl Hearing {
    /// Something was done that may take its time.
    pub fn begin(&mut self, now: Instant) {
        self.quiet_since = now;
    }
}

/// A partition that has been quiet for long.
#[derive(Debug, Clone)]
struct Suspect {
    at: TopicPartition,
    assignment: AssignmentEpoch,
    position: Offset,
}

/// What was found out.
#[derive(Debug)]
enum Finding {
    /// The log ends here, or the leader does not say.
    End(Suspect, Result<Offset, NativeError>),
    /// Another client was given a record below this end, or was not, or cannot say.
    Probed(Suspect, Offset, Result<bool, NativeError>),
}

/// The poll thread's watch over its partitions.
#[derive(Debug)]
pub(crate) struct Watch {
    after: Duration,
    next_at: Instant,
    question: Option<Question<Finding>>,
    /// When the client was last opened anew.
    reopened_at: Option<Instant>,
}

impl Watch {
    pub fn new(after: Duration) -> Self {
        Self { after, next_at: Instant::now() + after, question: None, reopened_at: None }
    }
}

impl Intake {
    /// Looks after partitions that receive nothing; opens the client anew if one needs it.
    pub fn watch_partitions(&mut self) -> Result<(), ConsumerError> {
        let mut reopen = false;
        while let Some(question) = &self.watch.question {
            match question.take() {
                Answer::Here(finding) => reopen |= self.judge(finding),
                Answer::NotYet => break,
                Answer::Over => self.watch.question = None,
            }
        }
        let now = Instant::now();
        if reopen && self.watch.reopened_at.is_none_or(|at| now - at > self.watch.after * 4) {
            self.watch.reopened_at = Some(now);
            return self.reopen();
        }
        if now >= self.watch.next_at {
            self.watch.next_at = now + (self.watch.after / 4).min(Duration::from_secs(5));
            self.look(now);
        }
        Ok(())
    }

    /// What is being found out is no longer wanted.
    pub fn questions_over(&mut self) {
        self.watch.question = None;
    }

    fn look(&mut self, now: Instant) {
        let reads = self.is_reading();
        let (after, is_asking) = (self.watch.after, self.watch.question.is_some());
        let mut suspects = Vec::new();
        for slot in self.slots.iter_mut() {
            let hearing = &mut slot.hearing;
            if std::mem::take(&mut hearing.heard) {
                hearing.read_anew = false;
                hearing.quiet_since = now;
            } else if slot.paused || !reads {
                hearing.quiet_since = now;
            } else if !is_asking && suspects.len() < SUSPECTS_MAX && now - hearing.quiet_since >= after {
                let (at, assignment) = (slot.at.clone(), slot.tracker.assignment());
                suspects.push(Suspect { at, assignment, position: slot.tracker.position() });
            }
        }
        if suspects.is_empty() {
            return;
        }
        let client = Arc::clone(&self.client);
        self.put(move |asking| {
            for suspect in suspects {
                if asking.is_called_off() {
                    return;
                }
                let end = client.watermarks(&suspect.at, ASK).map(|(_, high)| high);
                asking.answer(Finding::End(suspect, end));
            }
        });
    }

    fn put(&mut self, ask: impl FnOnce(&super::question::Asking<Finding>) + Send + 'static) {
        match Question::put(&self.bell, ask) {
            Ok(question) => self.watch.question = Some(question),
            Err(error) => tracing::warn!(%error, "no thread to ask in; asking later"),
        }
    }

    /// Follows a finding; says whether the client has to be opened anew.
    fn judge(&mut self, finding: Finding) -> bool {
        let (Finding::End(suspect, _) | Finding::Probed(suspect, ..)) = &finding;
        let (at, seconds) = (suspect.at.clone(), self.watch.after.as_secs_f64());
        let Some(slot) = self.slots.named(&at).and_then(|index| self.slots.get_mut(index)) else {
            return false;
        };
        let is_same = slot.tracker.assignment() == suspect.assignment;
        if !is_same || slot.hearing.heard || slot.tracker.position() != suspect.position {
            return false;
        }
        slot.hearing.begin(Instant::now());
        match finding {
            Finding::End(_, Err(error)) | Finding::Probed(_, _, Err(error)) => {
                tracing::warn!(%at, %error, "nothing was received for long, and nobody says why; other partitions go on");
                self.status.failed(format!("{at}: nothing received for {seconds} s: {error}"));
            }
            Finding::End(suspect, Ok(end))
                if end <= suspect.position || end <= slot.hearing.nothing_below => {}
            Finding::End(suspect, Ok(end)) if slot.hearing.read_anew => {
                let settings = self.settings.clone();
                self.put(move |asking| {
                    let found = probe(&settings, &suspect, || asking.is_called_off());
                    asking.answer(Finding::Probed(suspect, end, found));
                });
            }
            Finding::End(suspect, Ok(end)) => {
                slot.hearing.read_anew = true;
                slot.holes.unsettle();
                let from = slot.read_on();
                ConsumerStatus::add(&self.status.stalled, 1);
                let (position, end) = (suspect.position.0, end.0);
                tracing::warn!(%at, position, end, seconds, "there are records and none was received (C16): reading anew from there; other partitions go on");
                self.status
                    .failed(format!("{at}: nothing received for {seconds} s, though there is more (C16)"));
                if let Err(error) = self.client.seek(&[from], Duration::ZERO) {
                    tracing::warn!(%at, %error, "reading anew");
                }
            }
            Finding::Probed(_, end, Ok(false)) => {
                slot.hearing.nothing_below = end;
                slot.hearing.read_anew = false;
                tracing::info!(%at, end = end.0, "the log has nothing for readers below its end: control records, or an open transaction (T03)");
            }
            Finding::Probed(suspect, end, Ok(true)) => {
                let (position, end) = (suspect.position.0, end.0);
                tracing::error!(%at, position, end, "another client is given records where ours is not (C16): opening a new one");
                return true;
            }
        }
        false
    }
}

/// Whether a client of its own is given a record from there on.
fn probe(
    settings: &ClientConfig,
    suspect: &Suspect,
    is_called_off: impl Fn() -> bool,
) -> Result<bool, NativeError> {
    let mut settings = settings.clone();
    settings.remove("group.instance.id");
    let client: SharedClient = Client::open(&settings, None)?;
    client.assign(&[Entry { offset: suspect.position.0, ..Entry::of(suspect.at.clone()) }])?;
    let (mut buffer, mut records, mut errors) = (ReadBuffer::default(), Vec::new(), Vec::new());
    let until = Instant::now() + PROBE;
    while Instant::now() < until && !is_called_off() {
        let limit = (1, Duration::from_millis(100));
        client.read(Source::Consumer, &mut buffer, limit, &mut records, &mut errors);
        if !records.is_empty() {
            // Destroying a client waits for its records.
            records.clear();
            return Ok(true);
        }
        let (_, more) = client.take_events();
        let fatal = errors
            .drain(..)
            .map(|read| read.error)
            .chain(more)
            .find(|error| error.fatal || error.is_out_of_range());
        if let Some(error) = fatal {
            return Err(error);
        }
    }
    Ok(false)
}
