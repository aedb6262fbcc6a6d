//! The three files, and what is wrong with them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore};

use crate::Certificate;

/// One of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// Certificates of the CAs that others are checked against.
    Ca,
    /// The own certificate, and those between it and the CA.
    Cert,
    /// The private key of the own certificate.
    Key,
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "ca",
            Self::Cert => "cert",
            Self::Key => "key",
        })
    }
}

/// Where they are. All of them are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Certificates of the CAs.
    pub ca: PathBuf,
    /// The own certificate and its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Files {
    fn path(&self, file: File) -> &Path {
        match file {
            File::Ca => &self.ca,
            File::Cert => &self.cert,
            File::Key => &self.key,
        }
    }
}

/// For what the certificate is used; it must be good for all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// To connect to nodes.
    Client,
    /// To connect to nodes, and to be dialled as this host: a name or an address.
    Node(String),
}

/// Why files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub struct TlsError {
    /// Which is at fault.
    pub file: File,
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub why: String,
}

/// What the files hold, byte by byte: to see that they have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Raw {
    pub(crate) fn read(files: &Files) -> Result<Self, TlsError> {
        let read = |file| {
            let path = files.path(file);
            std::fs::read(path).map_err(|error| TlsError {
                file,
                path: path.to_owned(),
                why: format!("cannot be read: {error}"),
            })
        };
        Ok(Self {
            ca: read(File::Ca)?,
            cert: read(File::Cert)?,
            key: read(File::Key)?,
        })
    }
}

/// What the files mean, once they have been checked.
pub(crate) struct Material {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) certificate: Certificate,
    /// Checks the certificates of those who connect.
    pub(crate) callers: Arc<dyn ClientCertVerifier>,
}

/// The one that is built with nothing but a C compiler.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl Material {
    pub(crate) fn check(
        files: &Files,
        raw: &Raw,
        role: &Role,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let fault = |file: File, why: String| TlsError {
            file,
            path: files.path(file).to_owned(),
            why,
        };
        let roots = Arc::new(roots(&raw.ca).map_err(|why| fault(File::Ca, why))?);
        let chain = certificates(&raw.cert).map_err(|why| fault(File::Cert, why))?;
        let certificate =
            Certificate::parse(&chain[0]).map_err(|why| fault(File::Cert, damaged(&why)))?;
        in_time(&certificate, now).map_err(|why| fault(File::Cert, why))?;
        let key = PrivateKeyDer::from_pem_slice(&raw.key)
            .map_err(|_| fault(File::Key, "holds no private key in PEM".to_owned()))?;
        let provider = provider();
        let signing = provider.key_provider.load_private_key(key);
        let signing = signing.map_err(|error| fault(File::Key, error.to_string()))?;
        let key = CertifiedKey::new(chain, signing);
        key.keys_match().map_err(|_| {
            let cert = files.cert.display();
            fault(
                File::Key,
                format!("is not the key of the certificate in {cert}"),
            )
        })?;
        let callers =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                // The health check is for everybody.
                .allow_unauthenticated()
                .build()
                .map_err(|error| fault(File::Ca, error.to_string()))?;
        let material = Self {
            roots,
            key: Arc::new(key),
            certificate,
            callers,
        };
        material
            .check_role(role, now)
            .map_err(|error| fault(File::Cert, material.refusal(&error, files)))?;
        Ok(material)
    }

    /// As those will who see the certificate: better now than by each of them.
    fn check_role(&self, role: &Role, now: SystemTime) -> Result<(), Error> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(now.unwrap_or_default());
        let (own, between) = self
            .key
            .cert
            .split_first()
            .ok_or(Error::NoCertificatesPresented)?;
        self.callers.verify_client_cert(own, between, now)?;
        if let Role::Node(host) = role {
            let host = ServerName::try_from(host.clone())
                .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
            let servers =
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?;
            servers.verify_server_cert(own, between, &host, &[], now)?;
        }
        Ok(())
    }

    fn refusal(&self, error: &Error, files: &Files) -> String {
        let Error::InvalidCertificate(why) = error else {
            return error.to_string();
        };
        match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("is not signed by the CA in {}", files.ca.display())
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "does not name the host that others dial (advertise-addr, or addr): it names {}",
                    self.certificate.names.join(", ")
                )
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "may not be used on both ends: a node needs serverAuth and clientAuth as extended \
                 key usage, a client clientAuth"
                    .to_owned()
            }
            other => other.to_string(),
        }
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| damaged(&error))?;
    }
    Ok(roots)
}

/// At least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| damaged(&error))?;
    if found.is_empty() {
        return Err("holds no certificate in PEM".to_owned());
    }
    Ok(found)
}

fn damaged(why: &dyn fmt::Display) -> String {
    format!("holds a certificate that cannot be read: {why}")
}

fn in_time(certificate: &Certificate, now: SystemTime) -> Result<(), String> {
    let at = |time| humantime::format_rfc3339_seconds(time);
    if certificate.not_after <= now {
        let ended = at(certificate.not_after);
        return Err(format!("expired at {ended}: issue a new one"));
    }
    if certificate.not_before > now {
        let begins = at(certificate.not_before);
        return Err(format!(
            "holds from {begins} on: is this machine's clock right?"
        ));
    }
    Ok(())
}
