//! The writer: stores the messages that wait, many in one commit.

use super::SendError;
use super::completion::Completion;
use super::watcher::Watch;
use crate::outbox::error::During;
use crate::outbox::sqlite::Guarded;
use crate::outbox::{OutboxError, RowId, SqliteOutbox, Transaction as _};
use homing_core::Message;
use rusqlite::TransactionBehavior;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use uuid::Uuid;

/// A message that waits to be stored; checked already.
pub(super) struct Job {
    pub message: Message,
    pub headers: Option<String>,
    pub completion: Completion,
}

pub(super) struct Writer {
    outbox: SqliteOutbox,
    connection: Guarded,
    jobs: Receiver<Job>,
    watch: Watch,
    group_max: usize,
}

impl Writer {
    pub fn new(
        outbox: &SqliteOutbox,
        jobs: Receiver<Job>,
        watch: Watch,
        group_max: usize,
    ) -> Result<Self, OutboxError> {
        let connection = outbox.connect_guarded()?;
        Ok(Self { outbox: outbox.clone(), connection, jobs, watch, group_max })
    }

    /// Works until every handle to the queue is gone and the queue is empty.
    pub fn run(mut self) {
        let mut group = Vec::with_capacity(self.group_max);
        while let Ok(first) = self.jobs.recv() {
            group.push(first);
            group.extend(self.jobs.try_iter().take(self.group_max - 1));
            self.watch.taken(group.len());
            match self.store(&group) {
                Ok(rows) => {
                    let jobs = group.drain(..).map(|job| job.completion);
                    self.watch.stored(rows.into_iter().zip(jobs));
                    self.outbox.wake();
                }
                Err(error) => {
                    let error = Arc::new(error);
                    self.watch.not_stored(group.len());
                    for job in group.drain(..) {
                        job.completion.complete(Err(SendError::NotStored(Arc::clone(&error))));
                    }
                }
            }
        }
        self.watch.writer_done();
    }

    fn store(&mut self, group: &[Job]) -> Result<Vec<RowId>, OutboxError> {
        let operation = "store messages";
        // Nobody would ever read what is stored in a file that was removed.
        self.connection.check()?;
        let tx =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).during(operation)?;
        let rows = group
            .iter()
            .map(|job| {
                let id = job.message.id.unwrap_or_else(Uuid::now_v7);
                tx.insert(&job.message, job.headers.as_deref(), id)
            })
            .collect::<Result<Vec<_>, _>>()?;
        tx.commit().during(operation)?;
        Ok(rows)
    }
}
