//! Stands between clients and any cluster, and does to their requests what a test asks for.
//!
//! Each broker gets a door: a port of ours. What brokers say of their addresses is rewritten to
//! the doors, so that no client ever finds a broker itself. A connection is served as a broker
//! serves it: one request after the other, answers in order.

use super::frames::{self, Request};
use homing_broker::{ApiKey, Count, Fault};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Doors to all brokers of a cluster; closed when dropped.
pub struct GoBetween {
    shared: Arc<Shared>,
    bootstrap: String,
}

/// What happens to requests; the same words as the embedded broker's own faults.
#[derive(Default)]
pub struct Faults(Mutex<VecDeque<Injected>>);

/// The API, the topic a request has to name, what happens to it, and how often.
type Injected = (ApiKey, Option<String>, Fault, Count);

#[derive(Default)]
struct Shared {
    faults: Faults,
    /// The port that stands for each broker's address.
    doors: Mutex<BTreeMap<(String, i32), u16>>,
    waiting: Mutex<Vec<JoinHandle<()>>>,
    /// Both ends of every conversation, for breaking it off.
    links: Mutex<Vec<TcpStream>>,
    cut: AtomicBool,
    over: AtomicBool,
    /// How many conversations there were.
    links_opened: AtomicU64,
    /// Conversations up to this one are given no records.
    given_nothing: AtomicU64,
    /// Longer commit metadata is refused; 0 is none.
    metadata_max: AtomicUsize,
}

impl Faults {
    /// Has `fault` strike requests of `api`; several for one API strike in the order given.
    pub fn inject(&self, api: ApiKey, fault: Fault, times: Count) {
        self.0.lock().unwrap().push_back((api, None, fault, times));
    }

    /// As [`inject`](Self::inject), for requests that name `topic` only.
    pub fn inject_for(&self, topic: &str, api: ApiKey, fault: Fault, times: Count) {
        self.0.lock().unwrap().push_back((api, Some(topic.to_owned()), fault, times));
    }

    /// Takes all faults back.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn strike(&self, api: ApiKey, frame: &[u8]) -> Option<Fault> {
        let mut injected = self.0.lock().unwrap();
        let names = |topic: &str| frame.windows(topic.len()).any(|bytes| bytes == topic.as_bytes());
        let at =
            injected.iter().position(|(of, topic, ..)| *of == api && topic.as_deref().is_none_or(names))?;
        let (_, _, fault, left) = &mut injected[at];
        let fault = *fault;
        match left {
            Count::Always => {}
            Count::Times(n) if *n > 1 => *n -= 1,
            Count::Once | Count::Times(_) => drop(injected.remove(at)),
        }
        Some(fault)
    }
}

impl GoBetween {
    /// Opens doors to the brokers of `bootstrap`; others follow as brokers name them.
    pub fn before(bootstrap: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let doors = bootstrap.split(',').map(|address| {
            let (host, port) = address.trim().rsplit_once(':').expect("host:port");
            format!("127.0.0.1:{}", shared.door(host, port.parse().unwrap()))
        });
        let bootstrap = doors.collect::<Vec<_>>().join(",");
        Self { shared, bootstrap }
    }

    /// Where clients find the doors.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Connections that are open now are given no records any more; they look well otherwise.
    pub fn give_nothing(&self) {
        let opened = self.shared.links_opened.load(Ordering::SeqCst);
        self.shared.given_nothing.store(opened, Ordering::SeqCst);
    }

    /// Commits with longer metadata are refused, as by `offset.metadata.max.bytes`.
    pub fn limit_metadata(&self, bytes: usize) {
        self.shared.metadata_max.store(bytes, Ordering::SeqCst);
    }

    /// No broker can be reached any more: connections end, new ones end at once.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        self.shared.end_links();
    }

    /// All brokers can be reached again.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for GoBetween {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.cut();
        for port in self.shared.doors.lock().unwrap().values() {
            // Wakes the thread that waits there.
            drop(TcpStream::connect(("127.0.0.1", *port)));
        }
        let waiting = std::mem::take(&mut *self.shared.waiting.lock().unwrap());
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

impl Shared {
    /// The port of ours that stands for a broker's address.
    fn door(self: &Arc<Self>, host: &str, port: i32) -> u16 {
        let mut doors = self.doors.lock().unwrap();
        *doors.entry((host.to_owned(), port)).or_insert_with(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let ours = listener.local_addr().unwrap().port();
            let (shared, broker) = (Arc::clone(self), format!("{host}:{port}"));
            let thread = std::thread::spawn(move || shared.wait_at(&listener, &broker));
            self.waiting.lock().unwrap().push(thread);
            ours
        })
    }

    fn wait_at(self: &Arc<Self>, listener: &TcpListener, broker: &str) {
        for client in listener.incoming() {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let (Ok(client), false) = (client, self.cut.load(Ordering::SeqCst)) else { continue };
            let Ok(broker) = TcpStream::connect(broker) else { continue };
            let (shared, ends) = (Arc::clone(self), [&client, &broker].map(|end| end.try_clone().unwrap()));
            self.links.lock().unwrap().extend(ends);
            if self.cut.load(Ordering::SeqCst) {
                self.end_links();
            }
            std::thread::spawn(move || {
                // However it ended: both sides see the connection close.
                let _ = shared.converse(&client, &broker);
                let _ = client.shutdown(Shutdown::Both);
                let _ = broker.shutdown(Shutdown::Both);
            });
        }
    }

    fn end_links(&self) {
        for link in self.links.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = link.shutdown(Shutdown::Both);
        }
    }

    fn converse(self: &Arc<Self>, mut client: &TcpStream, mut broker: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let link = self.links_opened.fetch_add(1, Ordering::SeqCst) + 1;
        loop {
            let request = Request::parse(frames::read(client)?);
            let metadata_max = self.metadata_max.load(Ordering::SeqCst);
            let fault = match request.api.and_then(|api| self.faults.strike(api, &request.frame)) {
                // OFFSET_METADATA_TOO_LARGE
                None if metadata_max > 0 && request.metadata_size() > metadata_max => {
                    Some(Fault::ErrorCode(12))
                }
                fault => fault,
            };
            let answer = match fault {
                Some(Fault::DropConnection) => return Ok(()),
                Some(Fault::ErrorCode(code)) => request.refused(code),
                Some(Fault::AckWithoutAppend) => request.acknowledged_falsely(broker)?,
                _ => {
                    broker.write_all(&request.frame)?;
                    let answer =
                        request.readdressed(frames::read(broker)?, |host, port| self.door(host, port));
                    match link <= self.given_nothing.load(Ordering::SeqCst) {
                        true => request.without_records(answer),
                        false => answer,
                    }
                }
            };
            match fault {
                Some(Fault::DropResponse) => return Ok(()),
                Some(Fault::Delay(delay)) => std::thread::sleep(delay),
                _ => {}
            }
            client.write_all(&answer)?;
        }
    }
}
