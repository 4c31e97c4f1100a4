//! Saying why the relay waits, whom it holds back and whom not, where others see it.

use super::error::Halt;
use super::obstacle::{Said, code_of};
use super::session::{Session, now_ms};
use super::status::LaneTrouble;
use homing_core::relay::{Place, Trouble};
use std::time::{Duration, Instant, SystemTime};

/// How often what waits is looked over.
const EVERY: Duration = Duration::from_millis(50);
/// How long a reason with a finding's code stays against one without.
const CODE_STAYS: Duration = Duration::from_secs(5);
/// How often another reason is noted.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// How far wall clock and monotonic clock may part before it is said.
const CLOCK_JUMP: Duration = Duration::from_secs(2);

/// What was said, and what the clocks showed.
#[derive(Debug)]
pub(super) struct Saying {
    looked_at: Option<Instant>,
    /// The reason as noted, and when.
    trouble: Option<(String, Instant)>,
    /// The note in the database is to be written again: it failed.
    unwritten: bool,
    /// Of the settings the present clients were opened with.
    fingerprint: Option<u64>,
    clocks: (Instant, SystemTime),
}

impl Saying {
    pub fn new(fingerprint: Option<u64>) -> Self {
        let clocks = (Instant::now(), SystemTime::now());
        Self { looked_at: None, trouble: None, unwritten: false, fingerprint, clocks }
    }

    pub fn is_troubled(&self) -> bool {
        self.trouble.is_some()
    }

    /// Whether the clients' settings are others than before.
    pub fn settings_changed(&mut self, now: Option<u64>) -> bool {
        let changed = now.is_some() && now != self.fingerprint;
        if changed {
            self.fingerprint = now;
        }
        changed
    }

    /// How far the wall clock jumped since the last look, in seconds; `None`: it did not.
    fn clock_jump(&mut self) -> Option<f64> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let passed = now.duration_since(self.clocks.0).as_secs_f64();
        let by_wall = match wall.duration_since(self.clocks.1) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(back) => -back.duration().as_secs_f64(),
        };
        self.clocks = (now, wall);
        let jump = by_wall - passed;
        (jump.abs() > CLOCK_JUMP.as_secs_f64()).then_some(jump)
    }
}

impl Session<'_> {
    /// Looks over what waits and says what is news.
    pub fn say(&mut self) -> Result<(), Halt> {
        if self.saying.looked_at.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        self.saying.looked_at = Some(Instant::now());
        if let Some(seconds) = self.saying.clock_jump() {
            tracing::warn!(
                seconds,
                "O07: the wall clock jumped; leases and waits go by another clock and hold"
            );
        }
        let troubles = self.machine.troubles();
        let oldest = self.memory.values().map(|loaded| loaded.since).min();
        self.ground.status.set_oldest(oldest);
        let text = self.overall(&troubles);
        self.ground.status.set_troubles(self.listed(troubles));
        match text {
            Some(text) => self.troubled(&text),
            None => self.untroubled(),
        }
    }

    fn listed(&self, troubles: Vec<(Place, Trouble)>) -> Vec<LaneTrouble> {
        let now = (self.now(), SystemTime::now());
        let listed = troubles.into_iter().map(|(place, trouble)| LaneTrouble {
            place: self.place_name(place),
            code: trouble.code,
            what: trouble.what,
            since: now.1.checked_sub(now.0.since(trouble.since)).unwrap_or(now.1),
            holds_back: match place {
                Place::All => "every lane",
                Place::Topic(_) => "this topic only",
                Place::Lane(_) => "this lane only",
            },
        });
        listed.collect()
    }

    fn place_name(&self, place: Place) -> Option<String> {
        match place {
            Place::All => None,
            Place::Topic(ix) => Some(self.machine.name(ix).to_string()),
            Place::Lane(lane) => {
                let (ix, partition) = self.lane_place(lane);
                Some(format!("{}[{partition}]", self.machine.name(ix)))
            }
        }
    }

    /// The most telling of the troubles in one line, with whom it does not hold back.
    fn overall(&self, troubles: &[(Place, Trouble)]) -> Option<String> {
        let rank = |(place, trouble): &&(Place, Trouble)| {
            let width = match place {
                Place::All => 0,
                Place::Topic(_) => 1,
                Place::Lane(_) => 2,
            };
            (trouble.code.is_none(), width)
        };
        let (place, trouble) = troubles.iter().min_by_key(rank)?;
        let said = self.with_expired_certificate(trouble);
        let code = said.code.map_or_else(String::new, |code| format!("{code}: "));
        let Some(name) = self.place_name(*place) else { return Some(format!("{code}{}", said.what)) };
        let others = troubles.len() - 1;
        let more = if others > 0 { format!(" ({others} more wait)") } else { String::new() };
        Some(format!("{code}{name} waits{more}, all others go on: {}", said.what))
    }

    /// What looks like a broken connection may be a certificate that is over.
    fn with_expired_certificate(&self, trouble: &Trouble) -> Said {
        let what = &trouble.what;
        if trouble.code.is_none()
            && let Some((name, over_s)) = self.ground.kafka.expired_certificate(now_ms() / 1000)
        {
            let ended = match over_s / 60 {
                0 => format!("the {name} has just ended: {what}"),
                minutes @ 1..=119 => format!("the {name} ended {minutes} min ago: {what}"),
                minutes => format!("the {name} ended {} h ago: {what}", minutes / 60),
            };
            return Said::coded("N05", ended);
        }
        Said { code: trouble.code, what: what.clone() }
    }

    fn troubled(&mut self, what: &str) -> Result<(), Halt> {
        if let Some((text, noted)) = &mut self.saying.trouble {
            if text == what {
                if std::mem::take(&mut self.saying.unwritten) {
                    return self.note_in_database(Some(what));
                }
                return Ok(());
            }
            let (old, new) = (code_of(text).is_some(), code_of(what).is_some());
            let stays = if new == old { NOTE_EVERY } else { CODE_STAYS };
            if (old || !new) && noted.elapsed() < stays {
                return Ok(());
            }
        }
        tracing::warn!(stream = %self.ground.store.stream(), "{what}");
        self.ground.status.set_trouble(Some(what));
        self.saying.trouble = Some((what.to_owned(), Instant::now()));
        self.note_in_database(Some(what))
    }

    fn untroubled(&mut self) -> Result<(), Halt> {
        if self.saying.trouble.take().is_none() {
            if std::mem::take(&mut self.saying.unwritten) {
                return self.note_in_database(None);
            }
            return Ok(());
        }
        tracing::info!(stream = %self.ground.store.stream(), "goes on");
        self.ground.status.set_trouble(None);
        self.note_in_database(None)
    }

    /// A database that is busy or full keeps the note for later.
    fn note_in_database(&mut self, trouble: Option<&str>) -> Result<(), Halt> {
        match self.ground.store.note_trouble(self.ground.token, trouble, now_ms()).map_err(Halt::from) {
            Err(Halt::Wait(said)) => {
                self.saying.unwritten = true;
                tracing::debug!(what = said.what, "the note on the relay's trouble was not written");
                Ok(())
            }
            other => other,
        }
    }
}
