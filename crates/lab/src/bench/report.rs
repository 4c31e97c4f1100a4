//! A benchmark's lines: what was measured, beside what, and the aim.

use std::fmt;

/// Which way a ratio is good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// The ratio should reach this.
    AtLeast(f64),
    /// The ratio should stay within this.
    AtMost(f64),
    /// Nothing is aimed at; the figure is for information.
    None,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What was measured.
    pub what: String,
    /// Its figure, with unit.
    pub ours: String,
    /// What it is compared with, with figure and unit.
    pub beside: String,
    /// Ours against the other, or the figure itself where the aim is absolute.
    pub ratio: f64,
    /// The aim.
    pub aim: Aim,
}

impl Line {
    /// Whether the aim is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.aim {
            Aim::AtLeast(bound) => self.ratio >= bound,
            Aim::AtMost(bound) => self.ratio <= bound,
            Aim::None => true,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aim = match self.aim {
            Aim::AtLeast(bound) => format!("aim ≥ {bound}"),
            Aim::AtMost(bound) => format!("aim ≤ {bound}"),
            Aim::None => String::new(),
        };
        let verdict = match (self.aim, self.is_met()) {
            (Aim::None, _) => "",
            (_, true) => "met",
            (_, false) => "MISSED",
        };
        write!(
            f,
            "{:<46} {:>16}  beside {:<38} {:>8.2}  {aim:<10} {verdict}",
            self.what, self.ours, self.beside, self.ratio
        )
    }
}

/// Records a second as text, e.g. `812k/s`.
#[must_use]
pub fn rate(count: u64, seconds: f64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a rate needs three digits")]
    let per_second = count as f64 / seconds;
    if per_second >= 1e6 {
        format!("{:.2}M/s", per_second / 1e6)
    } else {
        format!("{:.0}k/s", per_second / 1e3)
    }
}
