//! What the demo shows while it runs: one line that changes on a terminal, a line a second elsewhere.

use super::stage::Progress;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const ON_TERMINAL: Duration = Duration::from_millis(100);
const ELSEWHERE: Duration = Duration::from_secs(1);

/// The live view, on standard error: standard output is for the result.
pub struct View {
    is_terminal: bool,
    is_quiet: bool,
    shown: Option<Instant>,
    last: (Instant, Progress),
    rates: (f64, f64),
    killed: Option<(Instant, String)>,
}

impl View {
    /// A view; with `--json` only kills and stages are told.
    pub fn new(json: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let last = (Instant::now(), Progress::default());
        Self { is_terminal, is_quiet: json, shown: None, last, rates: (0.0, 0.0), killed: None }
    }

    /// Says a sentence on a line of its own.
    pub fn say(&mut self, what: &str) {
        self.clear();
        eprintln!("{what}");
    }

    /// Tells who was killed.
    pub fn killed(&mut self, who: &str) {
        self.killed = Some((Instant::now(), who.to_owned()));
        if !self.is_terminal && !self.is_quiet {
            eprintln!("  SIGKILL: {who}");
        }
    }

    /// Shows how far everything is.
    pub fn progress(&mut self, progress: &Progress, elapsed: Duration) {
        let every = if self.is_terminal { ON_TERMINAL } else { ELSEWHERE };
        if self.is_quiet || self.shown.is_some_and(|shown| shown.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        self.measure(progress);
        let fresh =
            self.killed.as_ref().filter(|(at, _)| self.is_terminal && at.elapsed() < Duration::from_secs(1));
        let killed = fresh.map(|(_, who)| format!("  \x1b[31mSIGKILL {who}\x1b[0m")).unwrap_or_default();
        let line = format!(
            "{:>5.1} s  homing: {} committed, {} effects ({:.0}/s)   usual code: {} committed, {} effects ({:.0}/s)   {} kills{killed}",
            elapsed.as_secs_f64(),
            progress.committed,
            progress.effects,
            self.rates.0,
            progress.usual_committed,
            progress.usual_effects,
            self.rates.1,
            progress.kills,
        );
        if self.is_terminal {
            eprint!("\r\x1b[2K{line}");
            // Nothing can be done about a terminal that is gone.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    /// Effects per second since about a second ago.
    fn measure(&mut self, progress: &Progress) {
        let seconds = self.last.0.elapsed().as_secs_f64();
        if seconds < 1.0 {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate needs three digits")]
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let before = self.last.1;
        self.rates =
            (rate(progress.effects, before.effects), rate(progress.usual_effects, before.usual_effects));
        self.last = (Instant::now(), *progress);
    }

    fn clear(&self) {
        if self.is_terminal && self.shown.is_some() {
            eprint!("\r\x1b[2K");
        }
    }

    /// Leaves the changing line as it is.
    pub fn end(&mut self) {
        if self.is_terminal && self.shown.take().is_some() {
            eprintln!();
        }
    }
}
