//! The directory of a cluster, removed at its end; those that a killed test left are removed by the next.

use super::{ClusterError, fetch};
use crate::faults::disk::unmount;
use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PREFIX: &str = "homing-kafka-";
const LOCK: &str = "lock";

/// A directory whose owner lives.
#[derive(Debug)]
pub(super) struct ClusterDir {
    dir: TempDir,
    /// Held as long as this process lives: who can take it may remove the directory.
    _lock: File,
}

impl ClusterDir {
    /// Removes what dead processes left and makes a new directory.
    pub fn create() -> Result<Self, ClusterError> {
        let (parent, cache) = (env::temp_dir(), fetch::cache_dir()?);
        // Between a directory's birth and its lock nobody may look at it.
        fs::create_dir_all(&cache).map_err(ClusterError::file(&cache))?;
        let all = File::create(cache.join("clusters.lock")).map_err(ClusterError::file(&cache))?;
        all.lock().map_err(ClusterError::file(&cache))?;
        sweep(&parent).map_err(ClusterError::file(&parent))?;
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent);
        let mut dir = dir.map_err(ClusterError::file(&parent))?;
        let lock = File::create(dir.path().join(LOCK)).map_err(ClusterError::file(dir.path()))?;
        lock.lock().map_err(ClusterError::file(dir.path()))?;
        dir.disable_cleanup(env::var_os("HOMING_KEEP_CLUSTER").is_some());
        Ok(Self { dir, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes the directories of processes that are gone, and unmounts what is mounted in them.
fn sweep(parent: &Path) -> io::Result<()> {
    if env::var_os("HOMING_KEEP_CLUSTER").is_some() {
        return Ok(());
    }
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let ours =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
        if !ours || !path.is_dir() || !is_abandoned(&path) {
            continue;
        }
        let unmounted = mounted_in(&path)?.iter().try_for_each(|point| unmount(point));
        if let Err(error) = unmounted.and_then(|()| fs::remove_dir_all(&path)) {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a killed test left");
        }
    }
    Ok(())
}

fn is_abandoned(dir: &Path) -> bool {
    File::open(dir.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

/// Where file systems are mounted below `dir`.
fn mounted_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = match fs::read_to_string("/proc/self/mounts") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        mounts => mounts?,
    };
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1).map(PathBuf::from));
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::disk::{Disk, may_mount};
    use std::time::{Duration, Instant};

    #[test]
    fn as_root_disks_that_a_killed_test_left_mounted_are_unmounted_and_removed_by_the_next() {
        assert!(may_mount(), "a disk of its own takes root");
        let left = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("a directory").keep();
        File::create(left.join(LOCK)).expect("a lock that nobody holds");
        // As after SIGKILL: nothing of its clean-up runs.
        std::mem::forget(Disk::create(&left, 16).expect("a disk"));
        assert_eq!(mounted_in(&left).expect("mounts"), [left.join("disk")]);
        assert!(is_on_a_loop_device(&left));
        drop(ClusterDir::create().expect("a directory"));
        assert!(!left.exists() && mounted_in(&left).expect("mounts").is_empty());
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_on_a_loop_device(&left) {
            assert!(Instant::now() < deadline, "its loop device goes with it");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_on_a_loop_device(dir: &Path) -> bool {
        let devices = fs::read_dir("/sys/block").expect("devices").flatten();
        let images = devices.filter_map(|at| fs::read_to_string(at.path().join("loop/backing_file")).ok());
        images.into_iter().any(|image| image.starts_with(&dir.display().to_string()))
    }
}
