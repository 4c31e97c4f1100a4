//! Where the relay's other threads put what they found, and what wakes the relay's own thread.

use crate::kafka::producer::Waker;
use crate::outbox::signals::Bell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Wakes the relay's thread, whether it waits in a producer or here.
#[derive(Clone, Default)]
pub(super) struct WakeUp {
    /// Guards only the handle of the producer it may wait in.
    waker: Arc<Mutex<Option<Waker>>>,
    bell: Bell,
}

impl WakeUp {
    pub fn set(&self, waker: Option<Waker>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    pub fn wake(&self) {
        self.bell.ring();
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake();
        }
    }

    /// How often it was woken.
    pub fn count(&self) -> u64 {
        self.bell.count()
    }

    /// Waits without a producer, until woken since `heard`.
    pub fn wait(&self, heard: u64, longest: Duration) {
        self.bell.wait(heard, longest);
    }
}

/// Answers on their way to the relay's thread.
pub(super) struct Inbox<T> {
    /// Guards the answers that were not taken.
    answers: Arc<Mutex<Vec<T>>>,
    wake_up: WakeUp,
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self { answers: Arc::clone(&self.answers), wake_up: self.wake_up.clone() }
    }
}

impl<T> Inbox<T> {
    pub fn new(wake_up: WakeUp) -> Self {
        Self { answers: Arc::default(), wake_up }
    }

    pub fn put(&self, answer: T) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        self.wake_up.wake();
    }

    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
