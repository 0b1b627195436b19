//! The way to an ACME authority: one HTTPS request at a time, each on a connection of its own. An order takes a dozen.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// From connecting to the end of the answer.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(30);

/// Longest answer, in bytes. A chain of certificates has some 8 KiB.
const MAX_ANSWER_BYTES: usize = 256 << 10;

const HTTPS_PORT: u16 = 443;

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS")]
pub(super) struct SetupError(#[from] rustls::Error);

#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error("{0} is no HTTPS URL")]
    Url(Uri),
    #[error("cannot connect to {host}")]
    Connect { host: String, source: io::Error },
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    #[error("the answer is cut, or longer than {MAX_ANSWER_BYTES} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {} s", EXCHANGE_WITHIN.as_secs())]
    Slow,
}

/// Trusts servers under these roots.
#[derive(Clone)]
pub(super) struct Client(TlsConnector);

impl Client {
    pub(super) fn new(roots: RootCertStore) -> Result<Self, SetupError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    async fn exchange(
        self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, ExchangeError> {
        let (mut parts, body) = request.into_parts();
        let url = || ExchangeError::Url(parts.uri.clone());
        let authority = parts.uri.authority().filter(|_| parts.uri.scheme_str() == Some("https"));
        let authority = authority.ok_or_else(url)?.clone();
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| url())?;
        let target = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        parts.headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| url())?);
        parts.uri = Uri::from(target);

        let failed = |source| ExchangeError::Connect { host: host.clone(), source };
        let port = authority.port_u16().unwrap_or(HTTPS_PORT);
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        let stream = self.0.connect(name, stream).await.map_err(failed)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It moves bytes while there is a sender or a body; what fails there fails these.
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(Request::from_parts(parts, body)).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(ExchangeError::Body)?;
        Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let exchange = timeout(EXCHANGE_WITHIN, self.clone().exchange(request));
        Box::pin(async move {
            let answer = exchange.await.unwrap_or(Err(ExchangeError::Slow));
            answer.map(BytesResponse::from).map_err(|error| instant_acme::Error::Other(Box::new(error)))
        })
    }
}
