//! What can happen to a cluster besides the death of a process: links that fail, disks that lose power or fill up.

pub mod disk;
pub mod environment;
mod frames;
pub mod links;
pub mod truncation;

pub use environment::Environment;
pub use links::{Direction, End, Links, Weather};
