//! The consensus core of one raft group: pure.
