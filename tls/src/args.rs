//! The command line of tools that connect to nodes.

use std::path::PathBuf;

use clap::Args;

use crate::{Dial, Files, Role, Tls, TlsError};

/// With what certificate to connect; without one the connection is plain.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Certificates (PEM) of the CA that signed the nodes' certificates; with --cert and --key,
    /// connections use TLS
    #[arg(long, global = true, value_name = "FILE", env = "FLOTILLA_SECURITY_CA", requires_all = ["cert", "key"])]
    ca: Option<PathBuf>,
    /// Own certificate (PEM), with those between it and the CA
    #[arg(long, global = true, value_name = "FILE", env = "FLOTILLA_SECURITY_CERT", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// Private key (PEM) of the own certificate
    #[arg(long, global = true, value_name = "FILE", env = "FLOTILLA_SECURITY_KEY", requires_all = ["ca", "cert"])]
    key: Option<PathBuf>,
}

impl TlsArgs {
    /// Where the files are, if connections use TLS.
    pub fn files(&self) -> Option<Files> {
        // All or none: the parser has seen to it.
        Some(Files {
            ca: self.ca.clone()?,
            cert: self.cert.clone()?,
            key: self.key.clone()?,
        })
    }

    /// How to connect.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn dial(&self) -> Result<Dial, TlsError> {
        let tls = self.files().map(|files| Tls::load(files, Role::Client));
        Ok(tls.transpose()?.into())
    }
}
