//! What a handler says of a record, and what becomes of the record then.

use std::time::Duration;

/// What a handler made of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The effect is done and durable; the record may be committed.
    Ok,
    /// Not now: try again after a pause. Later records of the same lane wait.
    Retry {
        /// The pause; `None` takes the retry policy's.
        after: Option<Duration>,
        /// Why; ends up in the dead letter when the attempts run out.
        reason: String,
    },
    /// Never: set the record aside without further attempts.
    Reject {
        /// Why; written into the dead letter.
        reason: String,
    },
    /// The consumer cannot go on: it stops, and the record stays unfinished.
    Fatal {
        /// Why; comes out of the run as its error.
        reason: String,
    },
}

impl Outcome {
    /// Asks for another attempt after the retry policy's pause.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { after: None, reason: reason.into() }
    }

    /// Sets the record aside.
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject { reason: reason.into() }
    }

    /// Stops the consumer.
    pub fn fatal(reason: impl Into<String>) -> Self {
        Self::Fatal { reason: reason.into() }
    }
}

/// An error asks for another attempt; its text is the reason.
impl<E: std::fmt::Display> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Ok,
            Err(error) => Self::retry(error.to_string()),
        }
    }
}

/// What a batch handler made of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchOutcome {
    /// The same for all of them.
    All(Outcome),
    /// One for each, in order. Records beyond the end of the list are tried again.
    ///
    /// Of one lane only the records before its first failure count: those
    /// behind it are handled again after it, whatever is said of them here.
    Each(Vec<Outcome>),
}

/// The text of a panic.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned());
    format!("handler panicked: {text}")
}
