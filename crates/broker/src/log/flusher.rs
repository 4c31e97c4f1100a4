//! Syncs files for all partitions: whoever waits while a sync runs shares the next one.

use super::PartitionLog;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// When a partition wants its sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// As soon as a thread is free.
    Now,
    /// Within this many ms of the first unsynced record.
    WithinMs(i64),
}

#[derive(Debug, Default)]
struct Queue {
    /// By the partition's address: each is queued once, however often it asks.
    due: HashMap<usize, (Instant, Arc<PartitionLog>)>,
    stopping: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The door to the syncing threads. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Flusher {
    shared: Arc<Shared>,
}

impl Flusher {
    /// Has `log` synced as soon as possible.
    pub fn sync(&self, log: Arc<PartitionLog>) {
        self.sync_when(log, Sync::Now);
    }

    /// Has `log` synced in time.
    pub fn sync_when(&self, log: Arc<PartitionLog>, when: Sync) {
        let now = Instant::now();
        let due = match when {
            Sync::Now => now,
            Sync::WithinMs(ms) => now + Duration::from_millis(u64::try_from(ms).unwrap_or(0).min(86_400_000)),
        };
        let mut queue = self.shared.queue.lock().expect("no holder of the queue's lock panics");
        let entry = queue.due.entry(Arc::as_ptr(&log) as usize).or_insert((due, log));
        entry.0 = entry.0.min(due);
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// Starts `threads` threads that sync until [`stop`](Self::stop).
    pub fn start(&self, threads: usize) -> Vec<JoinHandle<()>> {
        let run = |n| {
            let flusher = self.clone();
            let name = format!("broker-sync-{n}");
            std::thread::Builder::new()
                .name(name)
                .spawn(move || flusher.run())
                .expect("the system starts threads")
        };
        (0..threads).map(run).collect()
    }

    /// Has the threads end once what is queued is synced.
    pub fn stop(&self) {
        self.shared.queue.lock().expect("no holder of the queue's lock panics").stopping = true;
        self.shared.changed.notify_all();
    }

    fn run(&self) {
        while let Some(log) = self.next() {
            log.sync_now();
        }
    }

    /// Waits for the partition that is due first; `None` when there is none and none will come.
    fn next(&self) -> Option<Arc<PartitionLog>> {
        let mut queue = self.shared.queue.lock().expect("no holder of the queue's lock panics");
        loop {
            let now = Instant::now();
            let first = queue.due.iter().min_by_key(|(_, (due, _))| *due).map(|(key, (due, _))| (*key, *due));
            queue = match first {
                Some((key, due)) if due <= now || queue.stopping => {
                    return queue.due.remove(&key).map(|(_, log)| log);
                }
                None if queue.stopping => return None,
                Some((_, due)) => {
                    let waited = self.shared.changed.wait_timeout(queue, due - now);
                    waited.expect("no holder of the queue's lock panics").0
                }
                None => self.shared.changed.wait(queue).expect("no holder of the queue's lock panics"),
            };
        }
    }
}
