//! How a send ends: a callback that is called exactly once, and the future built on it.

use super::SendError;
use crate::outbox::{Receipt, RowId};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

type Callback = Box<dyn FnOnce(Result<Receipt, SendError>) + Send>;

/// Calls its callback once; dropped without that, it reports a closed sender.
pub(super) struct Completion {
    callback: Option<Callback>,
    /// Where the row's id is told as soon as it is stored.
    stored: Option<Arc<OnceLock<RowId>>>,
    row: Option<RowId>,
}

impl Completion {
    pub fn new(callback: Callback, stored: Option<Arc<OnceLock<RowId>>>) -> Self {
        Self { callback: Some(callback), stored, row: None }
    }

    pub fn stored(&mut self, row: RowId) {
        self.row = Some(row);
        if let Some(stored) = &self.stored {
            stored.get_or_init(|| row);
        }
    }

    pub fn complete(mut self, result: Result<Receipt, SendError>) {
        if let Some(callback) = self.callback.take() {
            callback(result);
        }
    }

    /// Ends it without calling.
    pub fn forget(mut self) {
        self.callback = None;
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            callback(Err(match self.row {
                Some(row) => SendError::ClosedStored { row },
                None => SendError::Closed,
            }));
        }
    }
}

#[derive(Default)]
struct Shared {
    result: Option<Result<Receipt, SendError>>,
    waker: Option<Waker>,
}

/// Ready when the message is delivered or cannot be; works on any executor.
#[must_use = "the message is sent anyway, but its receipt is lost"]
pub struct SendFuture {
    /// Guards result and waker between the watcher and the executor.
    shared: Arc<Mutex<Shared>>,
}

pub(super) fn future() -> (Completion, SendFuture) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let future = SendFuture { shared: Arc::clone(&shared) };
    let callback = Box::new(move |result| {
        let waker = {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.result = Some(result);
            shared.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    });
    (Completion::new(callback, None), future)
}

impl Future for SendFuture {
    type Output = Result<Receipt, SendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                shared.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl std::fmt::Debug for SendFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SendFuture")
    }
}
