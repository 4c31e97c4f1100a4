//! The kinds of links between a node and the world.

use super::Listener;

/// One kind of connection to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// Of clients, to one of the listeners for them.
    Client {
        /// The node's index.
        to: usize,
        /// Which listener.
        listener: Listener,
    },
    /// Of the other brokers (replication, and requests passed on), to the listener for brokers.
    Broker {
        /// The node's index.
        to: usize,
    },
    /// Of one node to the controller in another, or in itself.
    Controller {
        /// The index of the node that connects.
        from: usize,
        /// The index of the node connected to.
        to: usize,
    },
}
