//! The reading thread: fetches the next batch's rows while the relay sends the last one's.

use super::error::RelayError;
use super::inbox::WakeUp;
use super::options::RelayOptions;
use crate::error::Retry;
use crate::outbox::OutboxError;
use crate::outbox::rows::RowBuf;
use crate::outbox::signals::Bell;
use crate::outbox::store::{RowReader, Span};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Rows read and not yet planned.
#[derive(Debug)]
pub(super) struct ReadBatch {
    pub span: Span,
    pub rows: RowBuf,
}

/// The reading thread's handle; dropping it stops the thread.
pub(super) struct Reading {
    batches: Option<Receiver<Result<ReadBatch, OutboxError>>>,
    used: SyncSender<RowBuf>,
    stop: Arc<AtomicBool>,
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

impl Reading {
    pub fn start(
        reader: Box<dyn RowReader>,
        options: &RelayOptions,
        bell: Bell,
        wake_up: WakeUp,
    ) -> Result<Self, RelayError> {
        let (to_relay, batches) = sync_channel(1);
        let (used, recycled) = sync_channel(options.batches_in_flight_max + 2);
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            reader,
            to_relay,
            recycled,
            wake_up,
            stop: Arc::clone(&stop),
            bell: bell.clone(),
            options: options.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("homing-relay-read".to_owned())
            .spawn(move || worker.run())
            .map_err(RelayError::Thread)?;
        Ok(Self { batches: Some(batches), used, stop, bell, thread: Some(thread) })
    }

    /// The next batch, if one is read.
    pub fn take(&self) -> Result<Option<ReadBatch>, OutboxError> {
        let batches = self.batches.as_ref().expect("the channel is there until this is dropped");
        match batches.try_recv() {
            Ok(batch) => batch.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(OutboxError::Inconsistent {
                operation: "read new rows",
                what: "the reading thread ended".to_owned(),
            }),
        }
    }

    /// Gives a buffer back for its memory.
    pub fn recycle(&self, rows: RowBuf) {
        // A full channel only means that the memory goes back to the allocator.
        drop(self.used.try_send(rows));
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.batches = None;
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed by its thread; there is nothing left to hand on.
            drop(thread.join());
        }
    }
}

struct Worker {
    reader: Box<dyn RowReader>,
    to_relay: SyncSender<Result<ReadBatch, OutboxError>>,
    recycled: Receiver<RowBuf>,
    wake_up: WakeUp,
    stop: Arc<AtomicBool>,
    bell: Bell,
    options: RelayOptions,
}

impl Worker {
    fn run(&mut self) {
        let mut pause = self.options.poll_min;
        let mut rows_max = self.options.batch_rows;
        let mut rows = RowBuf::default();
        while !self.stop.load(Ordering::Acquire) {
            let heard = self.bell.count();
            match self.reader.next(rows_max, self.options.batch_bytes_max, &mut rows) {
                Ok(None) => {
                    self.bell.wait(heard, pause);
                    pause = (pause * 2).min(self.options.poll_max);
                    rows_max = self.options.batch_rows;
                }
                Ok(Some(span)) => {
                    pause = self.options.poll_min;
                    let full = rows.len() + rows.faults().len() >= rows_max;
                    rows_max = if full { rows_max * 4 } else { self.options.batch_rows };
                    rows_max = rows_max.min(self.options.batch_rows_max);
                    let batch = ReadBatch { span, rows };
                    rows = self.recycled.try_recv().unwrap_or_default();
                    if !self.hand_over(Ok(batch)) {
                        return;
                    }
                }
                Err(error) => {
                    let again = error.retry() != Retry::Never;
                    if !self.hand_over(Err(error)) || !again {
                        return;
                    }
                    self.bell.wait(heard, Duration::from_millis(200));
                }
            }
        }
    }

    /// Gives a batch to the relay, waiting for room; false when the relay is gone.
    fn hand_over(&self, batch: Result<ReadBatch, OutboxError>) -> bool {
        let delivered = self.to_relay.send(batch).is_ok();
        self.wake_up.wake();
        delivered
    }
}
