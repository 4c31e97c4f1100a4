//! Whether a record's partition is still this consumer's, for handlers that outlast it.

use super::dispatch::{Dispatch, Job, SlotIndex};
use homing_core::{AssignmentEpoch, Token};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Notify;

/// Tells a handler when its record is no longer this consumer's to handle.
///
/// That is so once the partition is lost, or was given up because the handler had not returned
/// within the drain timeout, or the consumer has stopped in the same way. From then on another
/// member may be handling the same record. Async handlers are also dropped at their next await;
/// what they started beside themselves, and blocking handlers, have to look here.
#[derive(Debug, Clone)]
pub struct Context {
    claim: Arc<Claim>,
}

impl Context {
    /// Whether the record is no longer this consumer's; cheap, once true always true.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.claim.is_over.load(Ordering::Acquire)
    }

    /// Returns once the record is no longer this consumer's.
    ///
    /// # Cancel safety
    /// Changes nothing, so it may be dropped and called again.
    pub async fn cancelled(&self) {
        self.claim.over().await;
    }
}

/// One assignment of one partition, as its handlers see it.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    is_over: AtomicBool,
    changed: Notify,
}

impl Claim {
    fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// # Cancel safety
    /// Changes nothing.
    pub async fn over(&self) {
        loop {
            // Armed before looking, so that an end between looking and waiting counts.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }
}

/// The claims of all partitions held.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Guards the list; changed only when partitions come or go.
    by_slot: RwLock<Vec<Option<Held>>>,
}

/// The claim on a partition under one assignment.
#[derive(Debug, Clone)]
struct Held {
    assignment: AssignmentEpoch,
    claim: Arc<Claim>,
}

impl Claims {
    pub fn open(&self, slot: SlotIndex, assignment: AssignmentEpoch) {
        let mut claims = self.by_slot.write().unwrap_or_else(PoisonError::into_inner);
        let at = slot.0 as usize;
        if claims.len() <= at {
            claims.resize(at + 1, None);
        }
        claims[at] = Some(Held { assignment, claim: Arc::default() });
    }

    /// Ends the claims of these slots: their records may be another member's from now on.
    pub fn end(&self, slots: &[SlotIndex]) {
        let mut claims = self.by_slot.write().unwrap_or_else(PoisonError::into_inner);
        for slot in slots {
            if let Some(held) = claims.get_mut(slot.0 as usize).and_then(Option::take) {
                held.claim.end();
            }
        }
    }

    /// Whether a record is no longer this consumer's.
    pub fn is_over(&self, slot: SlotIndex, token: Token) -> bool {
        let claims = self.by_slot.read().unwrap_or_else(PoisonError::into_inner);
        let held = claims.get(slot.0 as usize).and_then(Option::as_ref);
        held.is_none_or(|held| held.assignment != token.assignment)
    }

    fn of(&self, slot: SlotIndex, token: Token) -> Arc<Claim> {
        let claims = self.by_slot.read().unwrap_or_else(PoisonError::into_inner);
        match claims.get(slot.0 as usize) {
            Some(Some(held)) if held.assignment == token.assignment => Arc::clone(&held.claim),
            _ => Arc::new(Claim { is_over: AtomicBool::new(true), changed: Notify::new() }),
        }
    }
}

/// From which a handler's [`Context`] is made, if it wants one.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    dispatch: &'a Dispatch,
    slot: SlotIndex,
    token: Token,
}

impl<'a> Origin<'a> {
    pub fn of(dispatch: &'a Dispatch, job: &Job) -> Self {
        Self { dispatch, slot: job.slot, token: job.token }
    }

    pub fn claim(&self) -> Arc<Claim> {
        self.dispatch.claims.of(self.slot, self.token)
    }

    pub fn context(&self) -> Context {
        Context { claim: self.claim() }
    }
}
