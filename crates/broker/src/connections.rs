//! Who is connected: how many in all and from one address, what they hold, and whose connection ends when there is no room.
//!
//! A place is never given away for good to somebody who is silent. When all places are taken, the
//! newcomer gets the place of a connection that waits for nothing: from the address that has most
//! of them, first one that never asked anything, then the one that was silent for the longest.
//! A connection with a request under way keeps its place, unless nobody else is left and it has
//! waited for long (a Fetch or a join may ask to wait for weeks); only when every place is at work
//! is the newcomer turned away.
//!
//! What connections hold of memory (requests that are half here, answers nobody reads) has one
//! limit for all. Beyond it requests wait, and what stands still longest with most in its hands ends.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Beyond the limit of memory, what stood still for less than this is not ended for it.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// When all places are taken by requests under way, one that has waited for so long may lose its place.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// Pause between two looks whether there is memory again.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// Two warnings about the same are this far apart, at least.
const WARN_PAUSE: Duration = Duration::from_secs(10);

/// How much there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub per_address: usize,
    /// Bytes of half-read requests and unread answers, in all.
    pub held_bytes: usize,
}

/// All connections of a broker.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last_id: u64,
    places: HashMap<u64, Place>,
    held_bytes: usize,
    ended: Said,
    refused: Said,
}

#[derive(Debug)]
struct Place {
    address: IpAddr,
    /// When something last went forward here.
    moved: Instant,
    /// Requests that have arrived whole.
    requests: u64,
    /// Of those, the ones whose answer has not gone out.
    unanswered: usize,
    held_bytes: usize,
    end: Arc<Notify>,
}

/// How often something happened since it was last said.
#[derive(Debug, Default)]
struct Said {
    times: u64,
    last: Option<Instant>,
}

impl Said {
    /// How often, when it is time to say so.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < WARN_PAUSE) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

/// One connection's place; free again when dropped.
#[derive(Debug)]
pub struct Seat {
    connections: Arc<Connections>,
    id: u64,
    end: Arc<Notify>,
}

impl Connections {
    /// None are connected yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, inner: Mutex::default() }
    }

    /// A place for a newcomer, if need be that of somebody who waits for nothing; none when
    /// every place is at work.
    pub fn enter(self: &Arc<Self>, peer: SocketAddr) -> Option<Seat> {
        let now = Instant::now();
        let address = peer.ip();
        let mut inner = self.lock();
        let from_here = inner.places.values().filter(|place| place.address == address).count();
        let has_place = if from_here >= self.limits.per_address {
            inner.end_idle(now, Some(address))
        } else {
            inner.places.len() < self.limits.connections || inner.end_idle(now, None)
        };
        if !has_place {
            if let Some(times) = inner.refused.count(now) {
                tracing::warn!(%peer, times, "all connections are at work; a further one is closed");
            }
            return None;
        }
        inner.last_id += 1;
        let id = inner.last_id;
        let end = Arc::new(Notify::new());
        let place =
            Place { address, moved: now, requests: 0, unanswered: 0, held_bytes: 0, end: Arc::clone(&end) };
        inner.places.insert(id, place);
        Some(Seat { connections: Arc::clone(self), id, end })
    }

    /// Ends one connection that waits for nothing: the process has no more descriptors.
    pub fn end_one_idle(&self) {
        self.lock().end_idle(Instant::now(), None);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each step leaves the numbers whole, so a panic elsewhere changes nothing.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Ends the connection that is missed least, and says whether there was one.
    fn end_idle(&mut self, now: Instant, of: Option<IpAddr>) -> bool {
        let idle = |place: &Place| place.unanswered == 0;
        let waits_long = |place: &Place| now.duration_since(place.moved) >= LONG_WAIT;
        let Some(id) = self.missed_least(of, idle).or_else(|| self.missed_least(of, waits_long)) else {
            return false;
        };
        self.end(id, now, "there are too many connections");
        true
    }

    /// Of those that may go: from the address with most of them, silent from the start, for the longest.
    fn missed_least(&self, of: Option<IpAddr>, may_go: impl Fn(&Place) -> bool) -> Option<u64> {
        let candidates = || {
            let all = self.places.iter();
            all.filter(|(_, place)| of.is_none_or(|of| of == place.address) && may_go(place))
        };
        let mut per_address: HashMap<IpAddr, usize> = HashMap::new();
        for (_, place) in candidates() {
            *per_address.entry(place.address).or_default() += 1;
        }
        let missed_least = candidates().min_by_key(|(id, place)| {
            let spoke = place.requests > 0;
            (usize::MAX - per_address[&place.address], spoke, place.moved, **id)
        });
        missed_least.map(|(id, _)| *id)
    }

    /// Ends what stands still with most in its hands, times how long; false when all move.
    fn end_stalled(&mut self, now: Instant) -> bool {
        let stalled = |place: &&Place| now.duration_since(place.moved) >= STALLED_AFTER;
        let weight = |place: &Place| place.held_bytes as u128 * now.duration_since(place.moved).as_millis();
        let heaviest = self
            .places
            .iter()
            .filter(|(_, place)| place.held_bytes > 0 && stalled(place))
            .max_by_key(|(_, place)| weight(place));
        let Some(id) = heaviest.map(|(id, _)| *id) else { return false };
        self.end(id, now, "half-read requests and unread answers take too much memory");
        true
    }

    fn end(&mut self, id: u64, now: Instant, why: &str) {
        let Some(place) = self.places.remove(&id) else { return };
        self.held_bytes -= place.held_bytes;
        place.end.notify_one();
        if let Some(times) = self.ended.count(now) {
            let address = place.address;
            tracing::warn!(%address, times, why, "a silent connection is ended so that others are served");
        }
    }
}

impl Seat {
    /// Returns when this connection must end to make room.
    pub async fn ended(&self) {
        self.end.notified().await;
    }

    /// A request has arrived whole.
    pub fn asked(&self) {
        self.change(|place| {
            place.requests += 1;
            place.unanswered += 1;
        });
    }

    /// The answer to a request has gone out, or none is due.
    pub fn answered(&self) {
        self.change(|place| place.unanswered = place.unanswered.saturating_sub(1));
    }

    /// Holds so many more bytes.
    pub fn hold(&self, bytes: usize) {
        let mut inner = self.connections.lock();
        if let Some(place) = inner.places.get_mut(&self.id) {
            place.moved = Instant::now();
            place.held_bytes += bytes;
            inner.held_bytes += bytes;
        }
    }

    /// Holds so many fewer.
    pub fn release(&self, bytes: usize) {
        let mut inner = self.connections.lock();
        if let Some(place) = inner.places.get_mut(&self.id) {
            place.moved = Instant::now();
            let bytes = bytes.min(place.held_bytes);
            place.held_bytes -= bytes;
            inner.held_bytes -= bytes;
        }
    }

    /// Waits until all connections together hold no more than they may.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn room(&self) {
        loop {
            {
                let mut inner = self.connections.lock();
                let now = Instant::now();
                while inner.held_bytes > self.connections.limits.held_bytes && inner.end_stalled(now) {}
                if inner.held_bytes <= self.connections.limits.held_bytes {
                    return;
                }
            }
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.connections.lock().places.get_mut(&self.id) {
            place.moved = Instant::now();
            change(place);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.connections.lock();
        if let Some(place) = inner.places.remove(&self.id) {
            inner.held_bytes -= place.held_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1000))
    }

    fn connections(all: usize, per_address: usize) -> Arc<Connections> {
        Arc::new(Connections::new(Limits { connections: all, per_address, held_bytes: 100 }))
    }

    fn is_ended(seat: &Seat) -> bool {
        !seat.connections.lock().places.contains_key(&seat.id)
    }

    #[test]
    fn a_newcomer_takes_the_place_of_one_that_never_asked_before_one_that_did() {
        let all = connections(2, 2);
        let spoke = all.enter(peer(1)).unwrap();
        spoke.asked();
        spoke.answered();
        let silent = all.enter(peer(1)).unwrap();
        let third = all.enter(peer(1)).unwrap();
        assert!(is_ended(&silent) && !is_ended(&spoke) && !is_ended(&third));
    }

    #[test]
    fn a_connection_at_work_keeps_its_place_and_the_newcomer_is_turned_away() {
        let all = connections(2, 2);
        let seats = [all.enter(peer(1)).unwrap(), all.enter(peer(2)).unwrap()];
        seats.iter().for_each(Seat::asked);
        assert!(all.enter(peer(3)).is_none());
        seats[0].answered();
        assert!(all.enter(peer(3)).is_some());
        assert!(is_ended(&seats[0]) && !is_ended(&seats[1]));
    }

    #[test]
    fn a_request_that_waits_for_long_loses_its_place_when_there_is_no_other() {
        let all = connections(2, 2);
        let seats = [all.enter(peer(1)).unwrap(), all.enter(peer(1)).unwrap()];
        seats.iter().for_each(Seat::asked);
        let later = Instant::now() + LONG_WAIT;
        let mut inner = all.lock();
        inner.places.get_mut(&seats[0].id).unwrap().moved = later;
        assert!(inner.end_idle(later, None) && !inner.end_idle(later, None));
        drop(inner);
        assert!(!is_ended(&seats[0]) && is_ended(&seats[1]));
    }

    #[test]
    fn the_address_with_most_connections_makes_room_first() {
        let all = connections(4, 4);
        let alone = all.enter(peer(1)).unwrap();
        let crowd = [all.enter(peer(2)).unwrap(), all.enter(peer(2)).unwrap(), all.enter(peer(2)).unwrap()];
        let newcomer = all.enter(peer(3)).unwrap();
        assert!(!is_ended(&alone) && is_ended(&crowd[0]) && !is_ended(&crowd[1]) && !is_ended(&newcomer));
    }

    #[test]
    fn one_address_never_has_more_than_its_share() {
        let all = connections(10, 2);
        let first = all.enter(peer(1)).unwrap();
        let second = all.enter(peer(1)).unwrap();
        let other = all.enter(peer(2)).unwrap();
        let third = all.enter(peer(1)).unwrap();
        assert!(is_ended(&first), "its own eldest goes");
        [&second, &third].iter().for_each(|seat| seat.asked());
        assert!(all.enter(peer(1)).is_none());
        assert!(!is_ended(&other));
        drop(second);
        assert!(all.enter(peer(1)).is_some());
    }

    #[test]
    fn what_stands_still_with_most_in_its_hands_is_ended_when_memory_is_short() {
        let all = connections(10, 10);
        let [small, large, moving] = [1, 2, 3].map(|n| all.enter(peer(n)).unwrap());
        small.hold(20);
        large.hold(60);
        moving.hold(60);
        let later = Instant::now() + STALLED_AFTER;
        let mut inner = all.lock();
        inner.places.get_mut(&moving.id).unwrap().moved = later;
        assert!(inner.held_bytes > 100 && inner.end_stalled(later));
        assert_eq!(inner.held_bytes, 80);
        drop(inner);
        assert!(is_ended(&large) && !is_ended(&small) && !is_ended(&moving));
        drop((small, large, moving));
        assert_eq!(all.lock().held_bytes, 0);
    }
}
