//! Certificates of nodes and clients, and connections that are made with them.
//!
//! ```text
//!  files        the three files, read and checked before anybody relies on them
//!  certificate  what a certificate says: names, serial number, days
//!  tls          what listens and dials, always with the newest files that are good
//!  dial         connections to others, plain or by TLS
//!  args         the command line of tools that connect
//! ```
//!
//! Both sides of a connection show a certificate of one CA. TLS 1.3 and nothing older; sessions are
//! never resumed: connections live long, and a resumed one would go on with a certificate of long ago.

mod args;
mod certificate;
mod dial;
mod files;
mod tls;

pub use args::TlsArgs;
pub use certificate::Certificate;
pub use dial::{Dial, Wire, why};
pub use files::{File, Files, Role, TlsError};
pub use tls::{Accepted, Tls};
