//! What a caller may do after an error: each error type of this crate answers with [`Retry`].
//!
//! The shape all errors here share: an enum of its own per part (`OutboxError`,
//! `RelayError`, `ConsumerError` …), context put on once at the boundary, and a
//! method `retry()` that tells the three cases apart which matter for a message:
//! nothing happened and trying again may help, nothing happened and trying again
//! will not help, or it may have happened already.

/// Whether trying the same call again is safe and may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Nothing happened; the same call may succeed later (busy, full disk, broker away).
    Later,
    /// Nothing happened and the same call will fail again until someone changes something.
    Never,
    /// It may have happened already; only what is recorded durably can tell.
    Indeterminate,
}
