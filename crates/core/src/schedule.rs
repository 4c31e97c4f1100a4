//! Decides which records may start now.

/// Which records wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProcessingOrder {
    /// Records of one key in one partition run one after the other, in offset
    /// order; other records run beside them.
    #[default]
    Key,
    /// Records of one partition run one after the other, in offset order.
    Partition,
    /// Records run in any order, all beside one another.
    Unordered,
}
