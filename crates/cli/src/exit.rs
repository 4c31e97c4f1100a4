//! How a command ends: its exit code, and errors that say what to do.

use std::fmt;

/// How a command that could do its work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well: exit code 0.
    Fine,
    /// The work is done and something was found: exit code 1.
    Findings,
    /// It could not tell: exit code 2.
    CouldNotTell,
}

impl Outcome {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Findings => 1,
            Self::CouldNotTell => 2,
        }
    }

    /// The graver of two: what was found, then what could not be told.
    pub fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Findings, _) | (_, Self::Findings) => Self::Findings,
            (Self::CouldNotTell, _) | (_, Self::CouldNotTell) => Self::CouldNotTell,
            (Self::Fine, Self::Fine) => Self::Fine,
        }
    }

    /// Findings when there are any.
    pub fn of_findings(found: bool) -> Self {
        if found { Self::Findings } else { Self::Fine }
    }
}

/// Why a command could not do its work: exit code 2.
#[derive(Debug)]
pub struct Failure {
    message: String,
    help: Option<String>,
}

impl Failure {
    /// A failure with its message: lower case, no full stop.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n help: {help}")?;
        }
        Ok(())
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}

/// What a command gives back.
pub type Ending = Result<Outcome, Failure>;

/// Puts what was attempted in front of an error.
pub trait During<T> {
    /// `OPERATION: ERROR`.
    fn during(self, operation: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> During<T> for Result<T, E> {
    fn during(self, operation: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{operation}: {error}")))
    }
}
