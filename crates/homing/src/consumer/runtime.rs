//! Where async handlers run: on the caller's tokio runtime, or on one of our own.

use super::error::ConsumerError;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use tokio::runtime::{Handle, Runtime, RuntimeFlavor};

/// More than the steps tokio lets a task make before it has to yield.
const MORE_THAN_A_BUDGET: usize = 1024;

/// The runtime of one consumer's handlers.
pub(crate) enum HandlerRuntime {
    Callers(Handle),
    Own(Runtime),
}

impl HandlerRuntime {
    /// The caller's, or one with `workers` threads.
    pub fn find(workers: usize) -> Result<Self, ConsumerError> {
        if let Ok(handle) = Handle::try_current() {
            // There this thread is the one that would have to run the handlers it waits for.
            if handle.runtime_flavor() == RuntimeFlavor::CurrentThread && is_inside_a_future() {
                return Err(ConsumerError::RuntimeBlocked);
            }
            return Ok(Self::Callers(handle));
        }
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .thread_name("homing-work")
            .build()
            .map(Self::Own)
            .map_err(|error| ConsumerError::Workers(error.to_string()))
    }

    pub fn handle(&self) -> Handle {
        match self {
            Self::Callers(handle) => handle.clone(),
            Self::Own(own) => own.handle().clone(),
        }
    }

    /// Runs what keeps this thread, without keeping the only one that runs handlers.
    pub fn block<T>(&self, work: impl FnOnce() -> T) -> T {
        match self {
            Self::Callers(handle) if handle.metrics().num_workers() == 1 && is_inside_a_future() => {
                tokio::task::block_in_place(work)
            }
            _ => work(),
        }
    }

    /// Ends an own runtime, without waiting for handlers that do not end.
    pub fn end(self) {
        if let Self::Own(own) = self {
            own.shutdown_background();
        }
    }
}

/// Whether this code is called by a future that a runtime polls. Only then does tokio count its
/// steps: on the threads of `spawn_blocking` and on strange threads there is no end to them.
fn is_inside_a_future() -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    (0..MORE_THAN_A_BUDGET).any(|_| pin!(tokio::task::consume_budget()).poll(&mut cx) == Poll::Pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_is_told_from_a_blocking_thread_on_each_kind_of_runtime() {
        let single = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let many = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        for runtime in [single, many] {
            assert!(runtime.block_on(async { is_inside_a_future() }));
            assert!(runtime.block_on(async { tokio::spawn(async { is_inside_a_future() }).await.unwrap() }));
            let blocking = async { tokio::task::spawn_blocking(is_inside_a_future).await.unwrap() };
            assert!(!runtime.block_on(blocking));
        }
        assert!(!is_inside_a_future());
    }
}
