//! Loopback ports for servers that must keep theirs through restarts.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Below Linux' ephemeral range, from which the kernel hands ports to clients,
/// and below the range of the embedded broker.
const RANGE: std::ops::Range<u16> = 10_000..21_000;

/// Ports given out by this process; none is given twice, as a stopped node keeps its own.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Chooses `count` ports on which nobody listens now.
///
/// Another process may take one before the caller binds it: be ready to choose again.
///
/// # Errors
/// When the range has not that many.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let width = u32::from(RANGE.end - RANGE.start);
    // Processes that start at one time begin at different places.
    let first = now.wrapping_add(std::process::id().wrapping_mul(2_654_435_761)) % width;
    let mut held = Vec::new();
    for step in 0..width {
        if held.len() == count {
            break;
        }
        let offset = u16::try_from((first + step) % width).expect("the range is one of u16");
        let port = RANGE.start + offset;
        if given.contains(&port) {
            continue;
        }
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
    }
    if held.len() < count {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "no free loopback ports between 10000 and 21000",
        ));
    }
    let ports: Vec<u16> = held.into_iter().map(|(port, _)| port).collect();
    given.extend(&ports);
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_none_is_ephemeral() {
        let ports: Vec<u16> = (0..4).flat_map(|_| free_ports(5).unwrap()).collect();
        assert!(ports.iter().all(|port| RANGE.contains(port)), "{ports:?}");
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 20);
    }
}
