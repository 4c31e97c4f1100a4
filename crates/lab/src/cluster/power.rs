//! Power cuts: what a node had not flushed is gone.

use super::{Cluster, ClusterError};
use crate::faults::truncation;

impl Cluster {
    /// Writes all that nodes with disks of their own have by now to these disks, as time would.
    ///
    /// # Errors
    /// When a disk does not take it.
    pub fn sync_disks(&self) -> Result<(), ClusterError> {
        for index in 0..self.nodes().len() {
            if let Some(disk) = self.environment().disk(index) {
                disk.sync().map_err(ClusterError::file(disk.path()))?;
            }
        }
        Ok(())
    }

    /// Cuts the power of some nodes at the same moment; each can be started again.
    ///
    /// A node on a disk of its own loses what its file system had not written;
    /// any other is killed, and its logs are cut back to their recovery points.
    ///
    /// # Errors
    /// When a node cannot be killed, or its disk cannot be cut and mounted again.
    pub fn cut_power(&self, nodes: &[usize]) -> Result<(), ClusterError> {
        // Frozen first, so that no node sees another one's end.
        for index in nodes {
            self.node(*index).pause()?;
        }
        let disks: Vec<_> = nodes.iter().map(|index| self.environment().disk(*index)).collect();
        for disk in disks.iter().flatten() {
            disk.cut_power().map_err(ClusterError::file(disk.path()))?;
        }
        for index in nodes {
            self.node(*index).kill()?;
        }
        for (index, disk) in nodes.iter().zip(&disks) {
            let data = self.node(*index).data_dir();
            match disk {
                Some(disk) => disk.mount_again().map_err(ClusterError::file(disk.path()))?,
                None => {
                    let cut = truncation::cut_to_recovery_points(&data).map_err(ClusterError::file(&data))?;
                    tracing::info!(node = index, bytes = cut, "cut back to what was flushed");
                }
            }
        }
        Ok(())
    }
}
