//! One broker shared by the processes of one directory: one serves, the others connect and stand by.
//!
//! Whoever holds the directory's lock serves, on the address kept in the file
//! `address`. When that process ends, however it ends, the kernel frees the
//! lock and one of those standing by serves on the same address, so that
//! clients only see a broken connection.
//!
//! | file `address` | the process named in it | means |
//! |---|---|---|
//! | missing | | nobody has served yet: wait |
//! | present | lives, and accepts connections | this is the address |
//! | present | is gone, or does not answer yet | someone is about to serve: wait |
//!
//! The port is not left to the system: one from its ephemeral range can be taken
//! by any outgoing connection while nobody listens, even by a client that is
//! trying to reach this very broker and ends up connected to itself.

use crate::options::BrokerOptions;
use crate::server::{Broker, BrokerError, RunningBroker};
use crate::trouble::Trouble;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

/// Below Linux' ephemeral range (32768 and up) and above most services.
const PORTS: std::ops::Range<u16> = 21_000..32_000;
/// How many ports a first start tries.
const PORTS_TRIED_MAX: u16 = 200;
/// How often one that stands by looks whether it is wanted.
const STANDBY_POLL: Duration = Duration::from_millis(50);
/// How long a kept port may be busy before another is chosen.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
/// How long [`Host::open`] waits for another process to serve.
const OPEN_PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no broker in a directory.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The broker does not start.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The address file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Address {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// Another process holds the directory and does not serve.
    #[error("{}: another process holds the broker's directory and has not begun to serve", dir.display())]
    NotServing {
        /// The directory.
        dir: PathBuf,
    },
}

/// A place at a directory's broker: serving it, or standing by to.
///
/// ```
/// use homing_broker::{BrokerOptions, embedded::Host};
/// let dir = tempfile::tempdir()?;
/// let options = || BrokerOptions { dir: dir.path().join("orders.db.broker"), ..BrokerOptions::default() };
/// let first = Host::open(options())?;
/// let second = Host::open(options())?;
/// assert_eq!(first.addr(), second.addr());
/// assert!(first.is_serving() && !second.is_serving());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Host {
    shared: Arc<Shared>,
    standby: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Guards all that changes while the host is open.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    addr: SocketAddr,
    running: Option<RunningBroker>,
    stop: bool,
}

impl Host {
    /// Serves the broker in `options.dir`, or connects to the process that does.
    ///
    /// `options.listen` with port 0 lets the host choose a port and keep it.
    /// Returns once the broker can be reached.
    ///
    /// # Errors
    /// [`HostError`] when the directory cannot be used, or another process holds
    /// it for long without serving.
    pub fn open(options: BrokerOptions) -> Result<Self, HostError> {
        let deadline = Instant::now() + OPEN_PATIENCE;
        let (addr, running) = loop {
            match serve(&options, PORT_PATIENCE) {
                Ok(running) => break (running.addr(), Some(running)),
                Err(HostError::Broker(BrokerError::InUse { .. })) => {}
                Err(error) => return Err(error),
            }
            if let Some(addr) = reachable(&options.dir)? {
                break (addr, None);
            }
            if Instant::now() > deadline {
                return Err(HostError::NotServing { dir: options.dir });
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let state = State { addr, running, stop: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let for_thread = Arc::clone(&shared);
        let standby = std::thread::Builder::new()
            .name("broker-standby".into())
            .spawn(move || stand_by(&for_thread, &options))
            .map_err(BrokerError::Threads)?;
        Ok(Self { shared, standby: Some(standby) })
    }

    /// Where the broker is. It stays the same unless a stranger takes the port
    /// while nobody serves.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.lock().addr
    }

    /// Whether this process serves.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.lock().running.is_some()
    }

    /// What the disk of the broker refuses right now, when this process serves it.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        self.lock().running.as_ref().map(RunningBroker::troubles).unwrap_or_default()
    }

    /// Leaves; when it served, it stops cleanly and another process takes over.
    pub fn stop(self) {
        drop(self);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(standby) = self.standby.take()
            && standby.join().is_err()
        {
            tracing::error!("the thread that stood by to serve panicked");
        }
        // Taken out first: stopping takes a moment, and nobody needs the lock for it.
        let running = self.lock().running.take();
        drop(running);
    }
}

/// Waits until the lock is free, then serves; ends when it serves or is told to stop.
fn stand_by(shared: &Shared, options: &BrokerOptions) {
    let mut told = None;
    loop {
        let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stop || state.running.is_some() {
            return;
        }
        let (state, _) =
            shared.changed.wait_timeout(state, STANDBY_POLL).unwrap_or_else(PoisonError::into_inner);
        if state.stop {
            return;
        }
        drop(state);
        match serve(options, PORT_PATIENCE) {
            Ok(running) => {
                let addr = running.addr();
                tracing::info!(%addr, "the embedded broker's process ended; this one serves now");
                let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                warn_if_moved(state.addr, addr);
                state.addr = addr;
                state.running = Some(running);
                return;
            }
            Err(HostError::Broker(BrokerError::InUse { .. })) => {
                // Another took over; normally on the same address.
                if let Ok(Some((addr, _))) = read_address(&options.dir) {
                    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                    warn_if_moved(state.addr, addr);
                    state.addr = addr;
                }
            }
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::error!(
                        error = text,
                        "nobody serves the embedded broker and this process cannot"
                    );
                    told = Some(text);
                }
            }
        }
    }
}

fn warn_if_moved(before: SocketAddr, now: SocketAddr) {
    if before != now {
        tracing::error!(%before, %now, "the embedded broker had to move; restart the processes that use it");
    }
}

/// Starts the broker on the kept address and writes down that we serve there.
fn serve(options: &BrokerOptions, patience: Duration) -> Result<RunningBroker, HostError> {
    let kept = read_address(&options.dir)?.map(|(addr, _)| addr);
    let start = |listen| Broker::start(BrokerOptions { listen, ..options.clone() });
    let until = Instant::now() + patience;
    let running = loop {
        let wanted = match (kept, options.listen.port()) {
            (Some(kept), 0) => kept,
            (_, 0) => break start_on_new_port(options)?,
            _ => options.listen,
        };
        match start(wanted) {
            Err(BrokerError::Listen { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(BrokerError::Listen { .. }) if options.listen.port() == 0 => {
                tracing::warn!(%wanted, "the embedded broker's port is taken; choosing another");
                break start_on_new_port(options)?;
            }
            result => break result?,
        }
    };
    write_address(&options.dir, running.addr())?;
    Ok(running)
}

/// Tries ports one after another, from one that depends on the directory.
fn start_on_new_port(options: &BrokerOptions) -> Result<RunningBroker, BrokerError> {
    let in_dir = |error| BrokerError::Dir { dir: options.dir.clone(), error };
    fs::create_dir_all(&options.dir).map_err(in_dir)?;
    let path = fs::canonicalize(&options.dir).unwrap_or_else(|_| options.dir.clone());
    let seed = crc32c::crc32c(path.as_os_str().as_encoded_bytes());
    let width = PORTS.end - PORTS.start;
    let first = u16::try_from(seed % u32::from(width)).expect("a remainder of a u16 fits a u16");
    let ip = match options.listen.ip() {
        ip if ip.is_unspecified() => ip,
        _ => Ipv4Addr::LOCALHOST.into(),
    };
    let mut tried = 0;
    loop {
        let port = PORTS.start + (first + tried) % width;
        let listen = SocketAddr::new(ip, port);
        tried += 1;
        match Broker::start(BrokerOptions { listen, ..options.clone() }) {
            Err(BrokerError::Listen { .. }) if tried < PORTS_TRIED_MAX => {}
            result => return result,
        }
    }
}

/// The address, when the process that wrote it lives and accepts connections.
fn reachable(dir: &Path) -> Result<Option<SocketAddr>, HostError> {
    let Some((addr, pid)) = read_address(dir)? else { return Ok(None) };
    let lives = Path::new("/proc").join(pid.to_string()).exists() || !Path::new("/proc/self").exists();
    let answers = || TcpStream::connect_timeout(&addr, Duration::from_millis(200)).is_ok();
    Ok((lives && answers()).then_some(addr))
}

fn address_file(dir: &Path) -> PathBuf {
    dir.join("address")
}

/// Address and process id; a file that says something else counts as missing.
fn read_address(dir: &Path) -> Result<Option<(SocketAddr, u32)>, HostError> {
    let path = address_file(dir);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let mut words = text.split_whitespace();
            let addr = words.next().and_then(|word| word.parse().ok());
            let pid = words.next().and_then(|word| word.parse().ok());
            Ok(addr.zip(pid))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::Address { path, error }),
    }
}

fn write_address(dir: &Path, addr: SocketAddr) -> Result<(), HostError> {
    let path = address_file(dir);
    let fresh = dir.join("address.new");
    fs::write(&fresh, format!("{addr} {}\n", std::process::id()))
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|error| HostError::Address { path, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path) -> BrokerOptions {
        BrokerOptions { dir: dir.join("a.db.broker"), ..BrokerOptions::default() }
    }

    fn wait_until(mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < deadline, "did not happen within 10 s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_one_that_stands_by_takes_over_on_the_same_address() {
        let dir = tempfile::tempdir().unwrap();
        let first = Host::open(options(dir.path())).unwrap();
        let addr = first.addr();
        assert!(PORTS.contains(&addr.port()), "{addr}");
        let second = Host::open(options(dir.path())).unwrap();
        let third = Host::open(options(dir.path())).unwrap();
        assert!(first.is_serving() && !second.is_serving() && !third.is_serving());
        first.stop();
        wait_until(|| second.is_serving() || third.is_serving());
        assert_ne!(second.is_serving(), third.is_serving(), "one of them serves");
        assert_eq!((second.addr(), third.addr()), (addr, addr));
        TcpStream::connect(addr).unwrap();
    }

    #[test]
    fn the_address_is_kept_from_one_start_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::open(options(dir.path())).unwrap();
        let addr = host.addr();
        host.stop();
        assert_eq!(Host::open(options(dir.path())).unwrap().addr(), addr);
    }

    #[test]
    fn a_port_taken_by_a_stranger_is_given_up_for_another_that_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::open(options(dir.path())).unwrap();
        let before = host.addr();
        host.stop();
        let _stranger = std::net::TcpListener::bind(before).unwrap();
        let host = Host::open(options(dir.path())).unwrap();
        let moved = host.addr();
        assert_ne!(moved, before);
        host.stop();
        assert_eq!(Host::open(options(dir.path())).unwrap().addr(), moved);
    }

    #[test]
    fn an_address_left_by_a_dead_process_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        fs::create_dir_all(options(dir.path()).dir).unwrap();
        // Process ids end below 2^22 on Linux.
        let text = format!("{} {}\n", stranger.local_addr().unwrap(), u32::MAX);
        fs::write(address_file(&options(dir.path()).dir), text).unwrap();
        assert_eq!(reachable(&options(dir.path()).dir).unwrap(), None);
    }
}
