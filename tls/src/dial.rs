//! Connections to others, plain or by TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint, Error};

use crate::Tls;

/// How to connect to nodes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Dial(Option<Arc<Secured>>);

#[derive(Debug)]
struct Secured {
    tls: Tls,
    /// Who listens at an address that its certificate need not name: this node itself.
    own: Option<(String, String)>,
}

/// A connection to another program.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Wire for S {}

impl From<Option<Tls>> for Dial {
    fn from(tls: Option<Tls>) -> Self {
        Self(tls.map(|tls| Arc::new(Secured { tls, own: None })))
    }
}

impl Dial {
    /// Nothing is encrypted.
    pub const PLAIN: Self = Self(None);

    /// As this; whoever listens at `address` shows a certificate for `host`.
    #[must_use]
    pub fn and_own(&self, address: &str, host: &str) -> Self {
        Self(self.0.as_ref().map(|secured| {
            Arc::new(Secured {
                tls: secured.tls.clone(),
                own: Some((address.to_owned(), host.to_owned())),
            })
        }))
    }

    /// Whether connections are encrypted.
    pub fn is_tls(&self) -> bool {
        self.0.is_some()
    }

    /// The URL of `address`, which is `HOST:PORT`, or a URL of which only that counts.
    pub fn url(&self, address: &str) -> String {
        let scheme = if self.is_tls() { "https" } else { "http" };
        let address = address.split_once("://").map_or(address, |(_, rest)| rest);
        format!("{scheme}://{address}")
    }

    /// Connects to the endpoint of a [`Dial::url`].
    ///
    /// # Errors
    /// Nobody answers, or somebody who does not show the right certificate.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, Error> {
        match &self.0 {
            None => endpoint.connect().await,
            Some(secured) => {
                endpoint
                    .connect_with_connector(Connector(Arc::clone(secured)))
                    .await
            }
        }
    }

    /// As [`Dial::connect`], at the first call, and again whenever the connection is gone.
    pub fn connect_lazy(&self, endpoint: &Endpoint) -> Channel {
        match &self.0 {
            None => endpoint.connect_lazy(),
            Some(secured) => endpoint.connect_with_connector_lazy(Connector(Arc::clone(secured))),
        }
    }

    /// A connection to `address`, which is `HOST:PORT`, for HTTP/1.1.
    ///
    /// # Errors
    /// As [`Dial::connect`].
    pub async fn pages(&self, address: &str) -> io::Result<Box<dyn Wire>> {
        let Some(secured) = &self.0 else {
            return Ok(Box::new(TcpStream::connect(address).await?));
        };
        let uri: Uri = self.url(address).parse().map_err(io::Error::other)?;
        Ok(Box::new(secured.connect(&uri, true).await?))
    }
}

impl Secured {
    async fn connect(&self, uri: &Uri, pages: bool) -> io::Result<TlsStream<TcpStream>> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "no HOST:PORT");
        let address = uri.authority().ok_or_else(wrong)?.as_str();
        let own = self.own.as_ref().filter(|(own, _)| own == address);
        let host = own.map_or_else(|| uri.host().unwrap_or_default(), |(_, host)| host);
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let host = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TcpStream::connect(address).await?;
        // Requests are small and each is waited for.
        stream.set_nodelay(true)?;
        self.tls.connect(host, stream, pages).await
    }
}

/// Makes the connections of one channel, each with the certificate that is current then.
struct Connector(Arc<Secured>);

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let secured = Arc::clone(&self.0);
        Box::pin(async move { secured.connect(&uri, false).await.map(TokioIo::new) })
    }
}

/// An error with its causes: tonic's own words say nothing.
pub fn why(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
