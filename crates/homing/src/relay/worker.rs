//! Threads that ask Kafka, so that no question holds the relay's own thread up.

use super::error::RelayError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Some threads that work through one list of questions; dropping it stops them.
///
/// The list is as long as the questions under way, which the machine bounds: one
/// for the pins, one for each topic and lane.
pub(super) struct Workers<Q: Send + 'static> {
    questions: Option<Sender<Q>>,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

/// Set once its workers are to end.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The questions of one worker among others.
pub(super) struct Questions<Q>(Arc<Mutex<Receiver<Q>>>);

impl<Q> Questions<Q> {
    /// The next one; `None` when there will be none.
    pub fn next(&self) -> Option<Q> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    /// The next one, if it is there.
    pub fn try_next(&self) -> Option<Q> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).try_recv().ok()
    }
}

impl<Q: Send + 'static> Workers<Q> {
    pub fn start<W>(name: &str, count: usize, work: W) -> Result<Self, RelayError>
    where
        W: Fn(&Questions<Q>, &Stop) + Clone + Send + 'static,
    {
        let (questions, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut workers = Self { questions: Some(questions), stop: Stop::default(), threads: Vec::new() };
        for _ in 0..count {
            let (work, stop) = (work.clone(), workers.stop.clone());
            let questions = Questions(Arc::clone(&receiver));
            let thread = std::thread::Builder::new()
                .name(format!("homing-relay-{name}"))
                .spawn(move || work(&questions, &stop))
                .map_err(RelayError::Thread)?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    pub fn ask(&self, question: Q) {
        if let Some(questions) = &self.questions {
            // A worker ends only when this is dropped, or by a panic that its thread has printed.
            drop(questions.send(question));
        }
    }
}

impl<Q: Send + 'static> Drop for Workers<Q> {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Release);
        self.questions = None;
        for thread in self.threads.drain(..) {
            // A panic over there has been printed by its thread; there is nothing left to hand on.
            drop(thread.join());
        }
    }
}
