//! Storage: the shared raft log, the key-value state, and their in-memory twin.
