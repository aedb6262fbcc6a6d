//! What a store or a tool asks of PD.

pub mod codec;
