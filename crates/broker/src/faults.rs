//! Faults on purpose, per API: what a test injects to see whether a client survives it.

use kafka_protocol::messages::ApiKey;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; the answer carries this Kafka error code (for Produce, Fetch, ListOffsets,
    /// Metadata and the group APIs: wherever an answer has a code; elsewhere the connection ends).
    ErrorCode(i16),
    /// The work is done and answered this much later.
    Delay(Duration),
    /// The work is done; the answer never comes, and the connection ends.
    DropResponse,
    /// Nothing is done; the connection ends.
    DropConnection,
    /// The disk takes this much longer (for every API that reads or writes files, but Fetch).
    SlowDisk(Duration),
    /// Produce only: acknowledged with an offset, and not appended. A broker that lies.
    AckWithoutAppend,
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The next request only.
    Once,
    /// The next so many requests.
    Times(u32),
    /// Until [`Faults::clear`].
    Always,
}

#[derive(Debug)]
struct Injected {
    api: ApiKey,
    fault: Fault,
    left: Count,
}

/// The faults waiting for their requests.
#[derive(Debug, Default)]
pub struct Faults {
    injected: Mutex<VecDeque<Injected>>,
}

impl Faults {
    /// Has `fault` strike requests of `api`; several for one API strike in the order given.
    pub fn inject(&self, api: ApiKey, fault: Fault, times: Count) {
        self.lock().push_back(Injected { api, fault, left: times });
    }

    /// Takes all faults back.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// How many faults of an API have not struck as often as they were told to.
    #[must_use]
    pub fn waiting(&self, api: ApiKey) -> usize {
        self.lock().iter().filter(|injected| injected.api == api).count()
    }

    /// The fault that strikes this request of `api`, if any.
    pub(crate) fn strike(&self, api: ApiKey) -> Option<Fault> {
        let mut injected = self.lock();
        let at = injected.iter().position(|injected| injected.api == api)?;
        let fault = injected[at].fault;
        injected[at].left = match injected[at].left {
            Count::Always => Count::Always,
            Count::Times(n) if n > 1 => Count::Times(n - 1),
            Count::Once | Count::Times(_) => {
                injected.remove(at);
                return Some(fault);
            }
        };
        Some(fault)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Injected>> {
        self.injected.lock().expect("no holder of the faults' lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_in_order_and_as_often_as_told() {
        let faults = Faults::default();
        faults.inject(ApiKey::Fetch, Fault::DropConnection, Count::Times(2));
        faults.inject(ApiKey::Fetch, Fault::ErrorCode(3), Count::Always);
        assert_eq!(faults.strike(ApiKey::Produce), None);
        let struck: Vec<_> = (0..4).map(|_| faults.strike(ApiKey::Fetch).unwrap()).collect();
        assert_eq!(struck[..2], [Fault::DropConnection; 2]);
        assert_eq!(struck[2..], [Fault::ErrorCode(3); 2]);
        faults.clear();
        assert_eq!(faults.strike(ApiKey::Fetch), None);
    }
}
