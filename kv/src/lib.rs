//! The commands: RawKV over raftstore snapshots and proposals.
