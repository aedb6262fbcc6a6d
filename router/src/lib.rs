//! Mailboxes, batch pollers, the log writer, outgoing queues: turns effects into IO.
