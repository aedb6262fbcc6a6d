//! A node, the two kinds of client, and waiting for what is to come.

pub(crate) mod http;
pub(crate) mod node;
pub(crate) mod stock;
pub(crate) mod wait;
pub(crate) mod wire;

pub(crate) use node::TestNode;
pub(crate) use wait::{eventually, in_time};
pub(crate) use wire::Wire;
