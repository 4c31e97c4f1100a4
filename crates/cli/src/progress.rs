//! How far a long command has come: a bar on a terminal, a line now and then elsewhere.

use crate::talk;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Pause between two lines when stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress on stderr.
pub struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Begins; `bytes_total` when the size of the input is known.
    pub fn new(bytes_total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let (bar, template) = match bytes_total {
                Some(total) => (
                    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10)),
                    "{bar:12} {percent:>3}%  {msg}  eta {eta}",
                ),
                None => (
                    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10)),
                    "{spinner} {msg}",
                ),
            };
            bar.with_style(ProgressStyle::with_template(template).expect("the template is well formed"))
        });
        Self { bar, begun: Instant::now(), told: Instant::now() }
    }

    /// Shows where it stands.
    pub fn at(&mut self, bytes: u64, message: impl FnOnce(Duration) -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(message(self.begun.elapsed()));
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            say!("{}", message(self.begun.elapsed()));
        }
    }

    /// Says something without tearing the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            // Written before the bar is drawn again.
            Some(bar) => bar.suspend(|| {
                say!("{line}");
                talk::flush();
            }),
            None => say!("{line}"),
        }
    }

    /// Takes the bar away.
    pub fn end(&self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.begun.elapsed()
    }
}

/// A count a second, whole.
pub fn rate(count: u64, elapsed: Duration) -> u64 {
    (count as f64 / elapsed.as_secs_f64().max(0.001)) as u64
}
