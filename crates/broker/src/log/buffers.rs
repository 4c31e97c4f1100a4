//! Buffers for reads, used again: fresh memory of megabytes costs the kernel as much as the read itself.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// A smaller buffer comes from the heap, which keeps its pages.
const BYTES_MIN: usize = 64 * 1024;
/// Kept in all: two answers of the largest size, or eight of a usual consumer's.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// What the logs of a broker read into.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// So many bytes to read into; they come back when the last view of them is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Buffers,
}

impl Buffers {
    /// A buffer of `length` bytes with anything in it.
    pub fn take(&self, length: usize) -> Buffer {
        let kept = if length < BYTES_MIN { None } else { self.kept().pop() };
        let mut bytes = kept.unwrap_or_default();
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        Buffer { bytes, length, home: self.clone() }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// What may be written to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// Its first `length` bytes, to be shared.
    pub fn share(mut self, length: usize) -> Bytes {
        self.length = length.min(self.length);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() >= BYTES_MIN {
            let mut kept = self.home.kept();
            if kept.iter().map(Vec::len).sum::<usize>() + self.bytes.len() <= KEPT_BYTES_MAX {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_is_used_again_once_nobody_looks_at_it() {
        let buffers = Buffers::default();
        let mut first = buffers.take(BYTES_MIN * 2);
        first.bytes_mut().fill(7);
        let shared = first.share(BYTES_MIN);
        let view = shared.slice(10..20);
        drop(shared);
        assert_eq!(buffers.kept().len(), 0, "it is still looked at");
        assert_eq!(view, [7; 10].as_slice());
        drop(view);
        assert_eq!(buffers.kept().len(), 1);
        assert_eq!(buffers.take(BYTES_MIN).as_ref().len(), BYTES_MIN);
    }

    #[test]
    fn so_many_bytes_are_kept_and_small_buffers_never() {
        let buffers = Buffers::default();
        let taken: Vec<Buffer> = (0..10).map(|_| buffers.take(KEPT_BYTES_MAX / 4)).collect();
        drop(taken);
        assert_eq!(buffers.kept().len(), 4);
        let small = buffers.take(BYTES_MIN - 1);
        assert_eq!((buffers.kept().len(), small.as_ref().len()), (4, BYTES_MIN - 1));
        drop(small);
        assert_eq!(buffers.kept().len(), 4);
    }
}
