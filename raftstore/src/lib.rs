//! Peers and the store as pure machines.
