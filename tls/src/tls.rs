//! What listens and dials, always with the newest files that are good.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::files::{Material, Raw, provider};
use crate::{Certificate, Files, Role, TlsError};

/// What both ends may speak: gRPC needs the first.
const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The certificate of this program and what it takes of others. Cheap to clone; clones see a reload.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: Files,
    role: Role,
    current: ArcSwap<Current>,
}

struct Current {
    raw: Raw,
    certificate: Certificate,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// Speaks HTTP/1.1 only.
    pages: Arc<ClientConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.0.files)
            .finish_non_exhaustive()
    }
}

/// A connection that came in.
pub struct Accepted {
    /// It.
    pub stream: server::TlsStream<TcpStream>,
    /// Who called, if it has shown a certificate. It is one of the CA's.
    pub caller: Option<Certificate>,
}

impl Tls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// What is wrong with which.
    pub fn load(files: Files, role: Role) -> Result<Self, TlsError> {
        let raw = Raw::read(&files)?;
        let current = ArcSwap::from_pointee(Current::new(&files, raw, &role)?);
        Ok(Self(Arc::new(Inner {
            files,
            role,
            current,
        })))
    }

    /// Reads the files again; new connections use what they say now. Answers the new certificate if
    /// anything has changed.
    ///
    /// # Errors
    /// What is wrong with the new files: the old ones go on.
    pub fn reload(&self) -> Result<Option<Certificate>, TlsError> {
        let inner = &*self.0;
        let raw = Raw::read(&inner.files)?;
        if raw == inner.current.load().raw {
            return Ok(None);
        }
        let current = Current::new(&inner.files, raw, &inner.role)?;
        let certificate = current.certificate.clone();
        inner.current.store(Arc::new(current));
        Ok(Some(certificate))
    }

    /// The own certificate.
    pub fn certificate(&self) -> Certificate {
        self.0.current.load().certificate.clone()
    }

    /// The handshake of a connection that came in.
    ///
    /// # Errors
    /// The other side speaks no TLS, or shows a certificate that is not of the CA.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Accepted> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.current.load().server));
        let stream = acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let caller = match shown.and_then(|chain| chain.first()) {
            Some(der) => Some(Certificate::parse(der).map_err(io::Error::other)?),
            None => None,
        };
        Ok(Accepted { stream, caller })
    }

    /// The handshake of a connection to `host`, for gRPC or, with `pages`, for HTTP/1.1.
    pub(crate) async fn connect(
        &self,
        host: ServerName<'static>,
        stream: TcpStream,
        pages: bool,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let current = self.0.current.load_full();
        let config = if pages {
            &current.pages
        } else {
            &current.client
        };
        let connector = TlsConnector::from(Arc::clone(config));
        connector.connect(host, stream).await
    }
}

impl Current {
    fn new(files: &Files, raw: Raw, role: &Role) -> Result<Self, TlsError> {
        let Material {
            roots,
            key,
            certificate,
            callers,
        } = Material::check(files, &raw, role, SystemTime::now())?;
        let own = Arc::new(Own(key));
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_client_cert_verifier(callers)
            .with_cert_resolver(own.clone());
        server.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(roots)
            .with_client_cert_resolver(own);
        client.resumption = Resumption::disabled();
        let mut pages = client.clone();
        client.alpn_protocols = vec![H2.to_vec()];
        pages.alpn_protocols = vec![HTTP1.to_vec()];
        Ok(Self {
            raw,
            certificate,
            server: Arc::new(server),
            client: Arc::new(client),
            pages: Arc::new(pages),
        })
    }
}

/// Shows the one certificate to everybody.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
