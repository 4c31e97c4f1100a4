//! Questions to Kafka in threads of their own, so that the poll thread waits for no answer.

use crate::kafka::bell::Bell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

/// A question under way. Dropped, it is called off: its thread ends with what it is just asking.
#[derive(Debug)]
pub(crate) struct Question<T> {
    answers: Receiver<T>,
    called_off: Arc<AtomicBool>,
}

/// What the asking thread holds.
pub(crate) struct Asking<T> {
    answers: Sender<T>,
    called_off: Arc<AtomicBool>,
    bell: Arc<Bell>,
}

/// What has come of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<T> {
    Here(T),
    NotYet,
    /// There will be none any more.
    Over,
}

impl<T: Send + 'static> Question<T> {
    /// Has a thread ask; it may answer more than once. Each answer rings the bell.
    pub fn put(bell: &Arc<Bell>, ask: impl FnOnce(&Asking<T>) + Send + 'static) -> std::io::Result<Self> {
        let (sender, answers) = channel();
        let called_off = Arc::<AtomicBool>::default();
        let asking = Asking { answers: sender, called_off: Arc::clone(&called_off), bell: Arc::clone(bell) };
        std::thread::Builder::new().name("homing-ask".to_owned()).spawn(move || ask(&asking))?;
        Ok(Self { answers, called_off })
    }

    /// The next answer; never waits.
    pub fn take(&self) -> Answer<T> {
        match self.answers.try_recv() {
            Ok(answer) => Answer::Here(answer),
            Err(TryRecvError::Empty) => Answer::NotYet,
            Err(TryRecvError::Disconnected) => Answer::Over,
        }
    }
}

impl<T> Drop for Question<T> {
    fn drop(&mut self) {
        self.called_off.store(true, Ordering::Relaxed);
    }
}

impl<T> Asking<T> {
    /// Whether nobody wants to know any more.
    pub fn is_called_off(&self) -> bool {
        self.called_off.load(Ordering::Relaxed)
    }

    /// Gives an answer.
    pub fn answer(&self, answer: T) {
        // Nobody takes it once the question was called off.
        let _ = self.answers.send(answer);
        self.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn answers_ring_the_bell_and_a_question_that_is_dropped_is_called_off() {
        let bell = Arc::<Bell>::default();
        let (over, is_over) = channel();
        let question = Question::put(&bell, move |asking| {
            asking.answer(1);
            while !asking.is_called_off() {
                std::thread::yield_now();
            }
            over.send(()).unwrap();
        })
        .unwrap();
        assert!(bell.wait(Duration::from_secs(60)));
        assert_eq!(question.take(), Answer::Here(1));
        assert_eq!(question.take(), Answer::NotYet);
        drop(question);
        is_over.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn a_thread_that_ends_has_no_more_answers() {
        let bell = Arc::<Bell>::default();
        let question = Question::<u8>::put(&bell, |_| ()).unwrap();
        while question.take() == Answer::NotYet {
            std::thread::yield_now();
        }
        assert_eq!(question.take(), Answer::Over);
    }
}
