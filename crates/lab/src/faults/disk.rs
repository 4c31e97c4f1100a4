//! A disk of its own for a node: an ext4 in a file, whose power can be cut and which can be full.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// `FS_IOC_SHUTDOWN`, from the kernel's `include/uapi/linux/fs.h`: `_IOR('X', 125, __u32)`.
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Ends the file system at once: neither data nor its journal are written out.
const NO_LOG_FLUSH: u32 = 2;
/// How long a killed process may hold on to its files.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(20);
const BALLAST: &str = "ballast";

/// A file system that only one node writes to; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes a file system of `mib` MiB in `dir` and mounts it there.
    ///
    /// # Errors
    /// When it cannot be made or mounted; only root may.
    pub fn create(dir: &Path, mib: u32) -> io::Result<Self> {
        let (image, at) = (dir.join("disk.img"), dir.join("disk"));
        fs::create_dir_all(&at)?;
        File::create(&image)?.set_len(u64::from(mib) << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        let disk = Self { image, at };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    fn mount(&self) -> io::Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.at))
    }

    /// Writes everything out, as time would.
    ///
    /// # Errors
    /// When the file system does not take it.
    pub fn sync(&self) -> io::Result<()> {
        let dir = File::open(&self.at)?;
        // SAFETY: syncfs takes a descriptor that is open for as long as `dir` lives.
        if unsafe { libc::syncfs(dir.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Cuts the power: what was not synced is gone, and every further access fails.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut_power(&self) -> io::Result<()> {
        let dir = File::open(&self.at)?;
        // SAFETY: the ioctl reads one u32 through the pointer, which lives as long as the call.
        let failed = unsafe { libc::ioctl(dir.as_raw_fd(), FS_IOC_SHUTDOWN, &NO_LOG_FLUSH) } != 0;
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Power again: mounts what is on the disk. Nobody may have files open there any more.
    ///
    /// # Errors
    /// When it stays busy, or does not mount.
    pub fn mount_again(&self) -> io::Result<()> {
        let deadline = Instant::now() + UNMOUNT_PATIENCE;
        while let Err(error) = run(Command::new("umount").arg(&self.at)) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.mount()
    }

    /// Fills it to the last block.
    ///
    /// # Errors
    /// When it fails for another reason than being full.
    pub fn fill(&self) -> io::Result<()> {
        let mut ballast = File::create(self.at.join(BALLAST))?;
        let block = vec![0; 1 << 20];
        for size in [block.len(), 4096, 1] {
            let refused = loop {
                if let Err(error) = ballast.write_all(&block[..size]) {
                    break error;
                }
            };
            if refused.kind() != io::ErrorKind::StorageFull {
                return Err(refused);
            }
        }
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When the ballast cannot be removed.
    pub fn free(&self) -> io::Result<()> {
        fs::remove_file(self.at.join(BALLAST))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.at) {
            tracing::warn!(at = %self.at.display(), %error, "cannot unmount a test's disk");
        }
    }
}

/// Unmounts at once, whoever still looks at it; its loop device goes with it.
///
/// # Errors
/// When nothing is mounted there, or it is not allowed.
pub fn unmount(at: &Path) -> io::Result<()> {
    run(Command::new("umount").arg("-l").arg(at))
}

/// Whether this process may mount.
#[must_use]
pub fn may_mount() -> bool {
    // SAFETY: geteuid takes nothing and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{:?}: {said}", command.get_program())))
}
