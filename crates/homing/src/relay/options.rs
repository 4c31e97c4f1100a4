//! How a relay works: sizes, times and limits, each with its default and what goes wrong beside it.

use crate::testing::Steps;
use std::time::Duration;

/// Settings of a [`Relay`](super::Relay).
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// How long the outbox stays ours without a sign of life; default 10 s. Too
    /// short: a long pause hands the work to another relay (safe, but resends).
    /// Too long: another host waits that long after this one died; on the same
    /// host a dead process is noticed at once.
    pub lease: Duration,
    /// Rows per batch when there are few; default 1000. One batch is one commit.
    pub batch_rows: usize,
    /// Rows per batch under backlog; default 20 000. More means fewer commits
    /// and more memory and more to look through after a crash.
    pub batch_rows_max: usize,
    /// Bytes per batch after its first row; default 8 MiB. With
    /// `batches_in_flight_max` it bounds the relay's memory.
    pub batch_bytes_max: usize,
    /// Batches sent and not settled; default 4. At 1 sending waits for each settle.
    pub batches_in_flight_max: usize,
    /// The shortest wait between two looks at an empty outbox; default 1 ms.
    pub poll_min: Duration,
    /// The longest wait, reached by doubling; default 50 ms. It bounds how late
    /// a row of another process is seen after a quiet time.
    pub poll_max: Duration,
    /// How long a stop waits for acknowledgements; default 10 s. What is not
    /// acknowledged then stays unsettled and is the next relay's.
    pub drain_timeout: Duration,
    /// How long one question to Kafka waits for its answer; default 2 s, at most a
    /// third of the lease, which is not renewed meanwhile.
    pub request_timeout: Duration,
    /// How often the cluster id, the topics' ids and their partition counts are
    /// looked at again while all is well; default 10 s. A change is seen at most
    /// that late; after a lost connection it is looked for before the next settle.
    pub pins_every: Duration,
    /// How many records of a partition are searched for this stream's earlier numbers before an
    /// epoch is begun; default 100 000. The search ends at the first one found, so it costs only
    /// where others fill a topic. Too low: epochs are numbered by the clock more often (harmless,
    /// but the numbers are long). Too high: the first row of a topic waits longer.
    pub epoch_search_records: u64,
    /// The longest wait before something that failed is tried again; default 1 s.
    pub retry_max: Duration,
    /// Deletes verified rows; default after an hour. `None` keeps all rows for ever.
    pub prune: Option<PruneOptions>,
    /// Rows a second that repairs may resend; default 1000.
    pub repair_rows_per_second: u32,
    /// How often one repair order is tried; default 5.
    pub repair_attempts_max: u32,
    /// Observer of crash-relevant steps; default none.
    pub steps: Steps,
}

/// When verified rows are deleted.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// How long a settled batch stays even when it is verified; default 1 h.
    pub keep: Duration,
    /// How often the relay looks for batches to delete; default 5 s.
    pub every: Duration,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self { keep: Duration::from_secs(3600), every: Duration::from_secs(5) }
    }
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            batch_rows: 1000,
            batch_rows_max: 20_000,
            batch_bytes_max: 8 << 20,
            batches_in_flight_max: 4,
            poll_min: Duration::from_millis(1),
            poll_max: Duration::from_millis(50),
            drain_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(2),
            pins_every: Duration::from_secs(10),
            epoch_search_records: 100_000,
            retry_max: Duration::from_secs(1),
            prune: Some(PruneOptions::default()),
            repair_rows_per_second: 1000,
            repair_attempts_max: 5,
            steps: Steps::default(),
        }
    }
}

/// Settings that contradict each other or could never work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("relay options: {0}")]
pub struct InvalidRelayOptions(&'static str);

impl RelayOptions {
    /// Checks the settings and their relations.
    ///
    /// # Errors
    /// [`InvalidRelayOptions`] naming the fields.
    pub fn validate(&self) -> Result<(), InvalidRelayOptions> {
        let rules = [
            (self.batch_rows >= 1, "batch_rows must be at least 1"),
            (self.batch_rows_max >= self.batch_rows, "batch_rows_max must be at least batch_rows"),
            (self.batch_rows_max <= 1_000_000, "batch_rows_max must be at most 1 000 000"),
            (self.batch_bytes_max >= 1, "batch_bytes_max must be at least 1"),
            ((1..=1000).contains(&self.batches_in_flight_max), "batches_in_flight_max must be 1 to 1000"),
            (!self.poll_min.is_zero(), "poll_min must be more than 0"),
            (self.poll_max >= self.poll_min, "poll_max must be at least poll_min"),
            (self.lease >= Duration::from_millis(100), "lease must be at least 100 ms"),
            (self.request_timeout >= Duration::from_millis(10), "request_timeout must be at least 10 ms"),
            (self.request_timeout * 3 <= self.lease, "request_timeout must be at most a third of lease"),
            (!self.retry_max.is_zero(), "retry_max must be more than 0"),
            (self.repair_rows_per_second >= 1, "repair_rows_per_second must be at least 1"),
        ];
        rules.iter().find(|(well, _)| !well).map_or(Ok(()), |(_, rule)| Err(InvalidRelayOptions(rule)))
    }
}
