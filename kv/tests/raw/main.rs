//! RawKV from requests to answers: transcripts of the rules, and a random run against a naive model.

mod model;
mod session;
mod state;
mod transcripts;
