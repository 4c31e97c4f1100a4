//! What the demo shows while it runs: four lines that change on a terminal, a line a second elsewhere.

use super::stage::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const ELSEWHERE: Duration = Duration::from_secs(1);
/// How long a kill stays in sight.
const KILL_SHOWN: Duration = Duration::from_millis(900);

/// The changing lines of a terminal.
struct Screen {
    all: MultiProgress,
    time: ProgressBar,
    ours: ProgressBar,
    usual: ProgressBar,
    killed: ProgressBar,
}

/// The live view, on standard error: standard output is for the result.
pub struct View {
    screen: Option<Screen>,
    is_quiet: bool,
    shown: Option<Instant>,
    last: (Instant, Progress),
    rates: (f64, f64),
    killed: Option<(Instant, String)>,
}

impl Screen {
    fn new(length: Duration) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let line = |template: &str| {
            let bar = ProgressBar::new(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
            bar.set_style(
                ProgressStyle::with_template(template).expect("the template is constant and well-formed"),
            );
            all.add(bar)
        };
        let time = line("  {wide_bar:.green} {msg}");
        let (ours, usual, killed) = (line("  {msg}"), line("  {msg}"), line("  {msg:.red}"));
        Self { all, time, ours, usual, killed }
    }
}

impl View {
    /// A view of a run whose kills go on for `length`; with `json` only its stages are told.
    pub fn new(json: bool, length: Duration) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let screen = (is_terminal && !json).then(|| Screen::new(length));
        let last = (Instant::now(), Progress::default());
        Self { screen, is_quiet: json, shown: None, last, rates: (0.0, 0.0), killed: None }
    }

    /// Says a sentence on a line of its own.
    pub fn say(&self, what: &str) {
        match &self.screen {
            // A terminal that is gone takes no more sentences; the run goes on.
            Some(screen) => drop(screen.all.println(what)),
            None => eprintln!("{what}"),
        }
    }

    /// Tells who was killed.
    pub fn killed(&mut self, who: &str) {
        self.killed = Some((Instant::now(), who.to_owned()));
        if self.screen.is_none() && !self.is_quiet {
            eprintln!("  SIGKILL: {who}");
        }
    }

    /// Shows how far everything is.
    pub fn progress(&mut self, progress: &Progress, elapsed: Duration) {
        self.measure(progress);
        let side = |name: &str, committed: u64, effects: u64, rate: f64| {
            format!("{name:<12}{committed:>7} committed {effects:>7} effects {rate:>6.0}/s")
        };
        let ours = side("homing", progress.committed, progress.effects, self.rates.0);
        let usual = side("usual code", progress.usual_committed, progress.usual_effects, self.rates.1);
        let time = format!("{:>5.1} s {:>3} kills", elapsed.as_secs_f64(), progress.kills);
        if let Some(screen) = &self.screen {
            let fresh = self.killed.as_ref().filter(|(at, _)| at.elapsed() < KILL_SHOWN);
            screen.killed.set_message(fresh.map(|(_, who)| format!("SIGKILL  {who}")).unwrap_or_default());
            screen.ours.set_message(ours);
            screen.usual.set_message(usual);
            screen.time.set_message(time);
            screen.time.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        } else if !self.is_quiet && self.shown.is_none_or(|shown| shown.elapsed() >= ELSEWHERE) {
            self.shown = Some(Instant::now());
            eprintln!("{time}   {ours}   {usual}");
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

    /// Leaves the lines as they are.
    pub fn end(&self) {
        if let Some(Screen { time, ours, usual, killed, .. }) = &self.screen {
            killed.finish_and_clear();
            [time, ours, usual].into_iter().for_each(ProgressBar::abandon);
        }
    }
}
