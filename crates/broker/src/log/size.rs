//! How many bytes a partition's records take.

use super::PartitionLog;

impl PartitionLog {
    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.lock().segments.iter().map(|segment| segment.bytes).sum()
    }
}
