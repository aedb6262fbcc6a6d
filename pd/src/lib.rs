//! The placement driver: cluster metadata, timestamps, routes, keyspaces.
