//! Why the relay waits: saying it where others see it, and finding it out when the client keeps it to itself.
//!
//! librdkafka retries most of a cluster's refusals for ever without a word
//! (`message.timeout.ms` is 0), so when nothing is acknowledged for a while the
//! topics' metadata is asked for the reason. A client reads passwords and
//! certificates once; when there is trouble and they have changed since, the
//! clients are opened anew.

use super::error::Halt;
use super::flight::RowFate;
use super::obstacle::{code_of, describe_error, unwritable};
use super::session::{Failure, Session, now_ms};
use crate::kafka::admin::{Admin, TopicAnswer};
use homing_core::TopicName;
use std::time::{Duration, Instant};

/// How long nothing may be acknowledged before the reason is looked for, and between two such looks.
const SILENCE: Duration = Duration::from_secs(2);
/// How long a reason with a finding's code stays against one without.
const CODE_STAYS: Duration = Duration::from_secs(5);
/// How often the same reason is noted again.
const NOTE_EVERY: Duration = Duration::from_secs(1);
const BACKOFF_FIRST: Duration = Duration::from_millis(20);

/// What is known about why nothing goes on.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The reason as noted, and when.
    trouble: Option<(String, Instant)>,
    /// When something was acknowledged last, or began to be waited for.
    progress_at: Instant,
    asked_at: Instant,
    /// Of the settings the present clients were opened with.
    fingerprint: Option<u64>,
    /// Whether the last turn could not be done.
    pub hindered: bool,
    backoff: Duration,
}

impl Waiting {
    pub fn new(fingerprint: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            trouble: None,
            progress_at: now,
            asked_at: now,
            fingerprint,
            hindered: false,
            backoff: BACKOFF_FIRST,
        }
    }

    /// Something was acknowledged, or the first record since is on its way.
    pub fn progress(&mut self) {
        self.progress_at = Instant::now();
    }

    fn is_silent(&self) -> bool {
        self.progress_at.elapsed() >= SILENCE && self.asked_at.elapsed() >= SILENCE
    }
}

impl Session<'_> {
    /// Says why nothing goes on and waits a little, longer each time.
    pub fn hindered(&mut self, why: &str) -> Result<(), Halt> {
        self.waiting.hindered = true;
        self.go_on()?;
        self.troubled(why)?;
        let pause = self.waiting.backoff;
        self.waiting.backoff = (pause * 2).min(self.ground.options.retry_max);
        if self.producer.is_some() {
            let until = Instant::now() + pause;
            while Instant::now() < until && self.drain_until.is_some() == self.stopping() {
                self.poll(pause.min(Duration::from_millis(20)))?;
            }
        } else if !self.stopping() {
            // Whether it was triggered is seen at the next turn.
            let _triggered = self.ground.shutdown.wait(pause);
        } else {
            std::thread::sleep(pause.min(Duration::from_millis(20)));
        }
        Ok(())
    }

    /// Notes trouble in the status and, when it is news, in the log and the database.
    pub fn troubled(&mut self, what: &str) -> Result<(), Halt> {
        let what = &self.with_expired_certificate(what);
        if let Some((text, noted)) = &mut self.waiting.trouble {
            let (old, new) = (code_of(text).is_some(), code_of(what).is_some());
            let stays = if new == old { NOTE_EVERY } else { CODE_STAYS };
            if (old || !new) && text != what && noted.elapsed() < stays {
                return Ok(());
            }
            if text == what {
                *noted = Instant::now();
                return Ok(());
            }
        }
        tracing::warn!(stream = %self.ground.store.stream(), "{what}");
        self.ground.status.set_trouble(Some(what));
        self.waiting.trouble = Some((what.clone(), Instant::now()));
        self.note_in_database(Some(what))
    }

    /// What looks like a broken connection may be a certificate that is over.
    fn with_expired_certificate(&self, what: &str) -> String {
        if code_of(what).is_none()
            && let Some((name, over_s)) = self.ground.kafka.expired_certificate(now_ms() / 1000)
        {
            return match over_s / 60 {
                0 => format!("N05: the {name} has just ended: {what}"),
                minutes @ 1..=119 => format!("N05: the {name} ended {minutes} min ago: {what}"),
                minutes => format!("N05: the {name} ended {} h ago: {what}", minutes / 60),
            };
        }
        what.to_owned()
    }

    /// Notes that all goes well again.
    pub fn untroubled(&mut self) -> Result<(), Halt> {
        self.waiting.backoff = BACKOFF_FIRST;
        if self.waiting.trouble.take().is_none() {
            return Ok(());
        }
        tracing::info!(stream = %self.ground.store.stream(), "goes on");
        self.ground.status.set_trouble(None);
        self.note_in_database(None)
    }

    /// Whether nothing is waited for, neither an acknowledgement nor a step that could not be done.
    pub fn is_at_ease(&self) -> bool {
        self.failure.is_none() && self.flights.is_empty() && !self.waiting.hindered
    }

    /// A note that cannot be written is no reason to stop: only being fenced is.
    fn note_in_database(&mut self, what: Option<&str>) -> Result<(), Halt> {
        match self.ground.store.note_trouble(self.ground.token, what, now_ms()).map_err(Halt::from) {
            Err(Halt::Fenced) => Err(Halt::Fenced),
            Err(halt) => {
                tracing::debug!(?halt, "the note on the relay's trouble was not written");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Looks for the reason when nothing has been acknowledged for a while.
    pub fn look_why(&mut self) -> Result<(), Halt> {
        if self.outstanding == 0 || self.failure.is_some() || !self.waiting.is_silent() {
            return Ok(());
        }
        self.go_on()?;
        let found = self.reason_of_silence();
        self.waiting.asked_at = Instant::now();
        if self.failure.is_some() {
            return Ok(());
        }
        match found {
            Ok(Some(why)) => self.troubled(&why),
            Ok(None) if self.waiting.trouble.is_none() => self.troubled(
                "Kafka acknowledges nothing, though it answers and every partition has what it needs",
            ),
            Ok(None) => Ok(()),
            Err(Halt::Wait(why)) => self.troubled(&why),
            Err(halt) => Err(halt),
        }
    }

    fn reason_of_silence(&mut self) -> Result<Option<String>, Halt> {
        if self.renew_clients()? {
            return Ok(None);
        }
        let waited_for = self.topics_waited_for();
        let names: Vec<&TopicName> = waited_for.iter().collect();
        let answers = self
            .admin
            .topics(&names)
            .map_err(|error| Halt::Wait(format!("Kafka acknowledges nothing: {}", describe_error(&error))))?;
        for (name, answer) in waited_for.iter().zip(answers) {
            self.keep_alive()?;
            let why = match answer {
                TopicAnswer::Present(facts) => {
                    let settings = self.admin.topic_settings(name).unwrap_or_default();
                    unwritable(name, &facts, settings.min_insync)
                }
                TopicAnswer::Missing => {
                    Some(format!("Kafka has no topic {name}, which this outbox writes to"))
                }
                TopicAnswer::NotAuthorised => Some(not_authorised(name)),
                TopicAnswer::Unclear(error) => Some(describe_error(&error)),
            };
            if why.is_some() {
                return Ok(why);
            }
        }
        Ok(None)
    }

    fn topics_waited_for(&self) -> Vec<TopicName> {
        let mut waits = vec![false; self.topics.list.len()];
        for flight in &self.flights {
            for (row, numbered) in flight.numbers.iter().enumerate() {
                if flight.fate(row) == RowFate::Sent {
                    waits[flight.places[numbered.lane as usize].0] = true;
                }
            }
        }
        let open = self.topics.list.iter().zip(waits).filter(|(_, waits)| *waits);
        open.map(|(open, _)| open.epoch.topic.clone()).collect()
    }

    /// Opens the clients anew when what they were opened with has changed; says whether it has.
    pub fn renew_clients(&mut self) -> Result<bool, Halt> {
        let now = self.ground.kafka.fingerprint();
        if now.is_none() || now == self.waiting.fingerprint {
            return Ok(false);
        }
        tracing::info!("a certificate or a client setting has changed; connecting anew");
        self.admin = Admin::open(self.ground.kafka, self.ground.options.request_timeout)?;
        self.waiting.fingerprint = now;
        if self.failure.is_none() {
            self.failure = Some(Failure::Producer);
        }
        Ok(true)
    }

    /// Whether there is trouble at present.
    pub fn is_troubled(&self) -> bool {
        self.waiting.trouble.is_some()
    }
}

/// What is said of a topic that may not be looked at.
pub(super) fn not_authorised(topic: &TopicName) -> String {
    format!("N05: Kafka does not let this user look at topic {topic}: give it Write and Read on the topic")
}
