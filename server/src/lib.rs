//! The flotilla node as a library.
