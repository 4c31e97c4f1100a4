//! TCP proxies on the links of clients and of brokers: cut, half-open, slow, throttled, or dropping answers.
//!
//! Every proxy stands in front of one socket of one node. Who is at the other
//! end of a connection is told by where the proxy stands (a client, a controller
//! link of one pair), or, between brokers, by the client id of the first request:
//! `broker-2-fetcher-0` is node 2.

use super::frames::{Follower, Head};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// Any client.
    Client,
    /// The node with this index.
    Node(usize),
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the one that connected.
    Requests,
    /// To the one that connected.
    Answers,
}

/// How a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weather {
    /// Bytes pass.
    #[default]
    Fair,
    /// Connections end, and new ones end at once.
    Cut,
    /// Connections that are open go on, and new ones end at once.
    Closed,
    /// Connections stay open, and bytes of one direction vanish. In fair weather such a connection
    /// ends with its next bytes: no peer ever sees a stream with a hole.
    HalfOpen(Direction),
    /// Whatever arrives together is handed on this much later, each way.
    Slow(Duration),
    /// At most so many bytes a second, each way.
    Throttled(u32),
}

/// All links of a cluster that lead through proxies.
#[derive(Debug, Default)]
pub struct Links {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    weather: Mutex<HashMap<(End, End), Weather>>,
    /// Connections at work, with their ends once they are known, for breaking them off.
    open: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
    doors: Mutex<Vec<(SocketAddr, JoinHandle<()>)>>,
    over: AtomicBool,
    dropping: Mutex<Dropping>,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Open {
    ends: (End, End),
    sockets: [TcpStream; 2],
}

/// Which answers to clients are dropped: each with this chance, until enough were.
#[derive(Debug, Default)]
struct Dropping {
    /// Only those of this API; of any otherwise.
    api_key: Option<i16>,
    one_in: u64,
    left: u64,
    random: u64,
}

impl Links {
    /// Opens a proxy in front of `node`'s socket at `behind`; `from` is who connects there, or nobody
    /// when brokers share it. Answers the address to connect to.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn open(&self, from: Option<End>, node: usize, behind: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::spawn(move || shared.welcome(&listener, from, node, behind));
        lock(&self.shared.doors).push((address, thread));
        Ok(address)
    }

    /// Sets how a link is from now on: for connections that `from` opened to `to`.
    pub fn set(&self, from: End, to: End, weather: Weather) {
        lock(&self.shared.weather).insert((from, to), weather);
        if weather == Weather::Cut {
            self.shared.break_off(|ends| ends == (from, to));
        }
    }

    /// Sets how two nodes reach each other, whoever of them connects.
    pub fn set_between(&self, one: usize, other: usize, weather: Weather) {
        self.set(End::Node(one), End::Node(other), weather);
        self.set(End::Node(other), End::Node(one), weather);
    }

    /// Fair weather everywhere, and no more answers dropped.
    pub fn heal(&self) {
        lock(&self.shared.weather).clear();
        *lock(&self.shared.dropping) = Dropping::default();
    }

    /// Drops answers to clients after the broker did the work, one in `one_in` by chance, until
    /// `count` were dropped; their connections end with them.
    pub fn drop_answers(&self, one_in: u64, count: u64, seed: u64) {
        let dropping = Dropping { api_key: None, one_in: one_in.max(1), left: count, random: seed | 1 };
        *lock(&self.shared.dropping) = dropping;
    }

    /// Drops the next `count` answers of one API to clients, likewise: 0 is Produce, 1 Fetch.
    pub fn drop_answers_of(&self, api_key: i16, count: u64) {
        let dropping = Dropping { api_key: Some(api_key), one_in: 1, left: count, random: 1 };
        *lock(&self.shared.dropping) = dropping;
    }

    /// How many answers were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for (address, thread) in lock(&self.shared.doors).drain(..) {
            // Wakes the thread that waits there; it sees that all is over.
            if TcpStream::connect(address).is_ok() && thread.join().is_err() {
                tracing::warn!(%address, "a link's thread panicked");
            }
        }
        self.shared.break_off(|_| true);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn welcome(self: Arc<Self>, listener: &TcpListener, from: Option<End>, node: usize, behind: SocketAddr) {
        for connection in listener.incoming() {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let Ok(connection) = connection else { continue };
            let shared = Arc::clone(&self);
            std::thread::spawn(move || {
                // A link that breaks is what this is for.
                let _ = shared.connect(connection, from, node, behind);
            });
        }
    }

    fn connect(
        self: &Arc<Self>,
        near: TcpStream,
        from: Option<End>,
        node: usize,
        behind: SocketAddr,
    ) -> io::Result<()> {
        near.set_nodelay(true)?;
        let (from, first) = match from {
            Some(from) => (from, Vec::new()),
            None => read_first(&near)?,
        };
        let ends = (from, End::Node(node));
        let weather = self.weather(ends);
        if matches!(weather, Weather::Cut | Weather::Closed) {
            return Ok(());
        }
        let far = TcpStream::connect(behind)?;
        far.set_nodelay(true)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let sockets = [near.try_clone()?, far.try_clone()?];
        lock(&self.open).insert(number, Open { ends, sockets });
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let requests = Pump::new(self, ends, Direction::Requests, &asked);
        let answers = Pump::new(self, ends, Direction::Answers, &asked);
        let (near_in, mut far_out) = (near.try_clone()?, far.try_clone()?);
        let there = std::thread::spawn(move || {
            // A link that breaks is what this is for.
            let _ = requests.run(first, &near_in, &mut far_out);
            end(&near_in, &far_out);
        });
        let _ = answers.run(Vec::new(), &far, &mut &near);
        end(&near, &far);
        if there.join().is_err() {
            tracing::warn!(?ends, "a link's thread panicked");
        }
        lock(&self.open).remove(&number);
        Ok(())
    }

    fn weather(&self, ends: (End, End)) -> Weather {
        lock(&self.weather).get(&ends).copied().unwrap_or_default()
    }

    fn break_off(&self, which: impl Fn((End, End)) -> bool) {
        for open in lock(&self.open).values().filter(|open| which(open.ends)) {
            end(&open.sockets[0], &open.sockets[1]);
        }
    }

    /// Whether an answer of this API is one of those to be dropped.
    fn drops(&self, api_key: Option<i16>) -> bool {
        let mut dropping = lock(&self.dropping);
        if dropping.left == 0 || (dropping.api_key.is_some() && dropping.api_key != api_key) {
            return false;
        }
        dropping.random ^= dropping.random << 13;
        dropping.random ^= dropping.random >> 7;
        dropping.random ^= dropping.random << 17;
        let is_it = dropping.random.is_multiple_of(dropping.one_in);
        if is_it {
            dropping.left -= 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        is_it
    }
}

/// One direction of one connection.
struct Pump {
    shared: Arc<Shared>,
    ends: (End, End),
    direction: Direction,
    frames: Follower,
    /// The APIs of requests on their way, by correlation id; of clients only.
    asked: Arc<Mutex<HashMap<i32, i16>>>,
    /// Whether bytes have vanished here.
    holed: bool,
}

impl Pump {
    fn new(
        shared: &Arc<Shared>,
        ends: (End, End),
        direction: Direction,
        asked: &Arc<Mutex<HashMap<i32, i16>>>,
    ) -> Self {
        let frames = match direction {
            Direction::Requests => Follower::of_requests(),
            Direction::Answers => Follower::of_answers(),
        };
        Self { shared: Arc::clone(shared), ends, direction, frames, asked: Arc::clone(asked), holed: false }
    }

    /// Hands on `first` and then what comes from `source`, as the weather allows, until either side ends.
    fn run(mut self, first: Vec<u8>, mut source: &TcpStream, sink: &mut impl Write) -> io::Result<()> {
        let mut buffer = first;
        let mut filled = buffer.len();
        buffer.resize(filled.max(64 << 10), 0);
        loop {
            if filled > 0 && !self.pass(&buffer[..filled], sink)? {
                return Ok(());
            }
            filled = source.read(&mut buffer)?;
            if filled == 0 {
                return Ok(());
            }
        }
    }

    /// Hands on some bytes; whether the connection lives on.
    fn pass(&mut self, bytes: &[u8], sink: &mut impl Write) -> io::Result<bool> {
        if self.ends.0 == End::Client && self.frames.follow(bytes).iter().any(|head| self.is_dropped(*head)) {
            return Ok(false);
        }
        match self.shared.weather(self.ends) {
            Weather::Cut => return Ok(false),
            Weather::HalfOpen(lost) if lost == self.direction => {
                self.holed = true;
                return Ok(true);
            }
            _ if self.holed => return Ok(false),
            Weather::Fair | Weather::Closed | Weather::HalfOpen(_) => {}
            Weather::Slow(delay) => std::thread::sleep(delay),
            Weather::Throttled(rate) => {
                let sent = f64::from(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                std::thread::sleep(Duration::from_secs_f64(sent / f64::from(rate.max(1))));
            }
        }
        sink.write_all(bytes)?;
        Ok(true)
    }

    fn is_dropped(&self, head: Head) -> bool {
        match head {
            Head::Request { api_key, correlation } => {
                lock(&self.asked).insert(correlation, api_key);
                false
            }
            Head::Answer { correlation } => {
                let api_key = lock(&self.asked).remove(&correlation);
                self.shared.drops(api_key)
            }
        }
    }
}

fn end(one: &TcpStream, other: &TcpStream) {
    // Whoever ended it first leaves nothing to do.
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

/// The first request of a broker, and which node it is by its client id; an unknown one counts as a client.
fn read_first(mut connection: &TcpStream) -> io::Result<(End, Vec<u8>)> {
    const FRAME_MAX: usize = 1 << 20;
    let mut frame = vec![0; 4];
    connection.read_exact(&mut frame)?;
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if !(10..=FRAME_MAX).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a first request of {length} bytes")));
    }
    frame.resize(4 + length, 0);
    connection.read_exact(&mut frame[4..])?;
    let name_length = usize::from(u16::from_be_bytes([frame[12], frame[13]]));
    let name = frame.get(14..14 + name_length).unwrap_or_default();
    Ok((node_of(&String::from_utf8_lossy(name)).map_or(End::Client, End::Node), frame))
}

/// The index of the node whose client id this is, e.g. `broker-2-fetcher-0`: node id 2, index 1.
fn node_of(client_id: &str) -> Option<usize> {
    let digits = client_id.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?;
    digits.parse::<usize>().ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_known_by_its_client_id() {
        assert_eq!(node_of("broker-2-fetcher-0"), Some(1));
        assert_eq!(node_of("raft-client-3"), Some(2));
        assert_eq!(node_of("rdkafka"), None);
    }
}
