//! Who answers the questions that go outside: the host's resolvers, or one that is spoken to by DNS over TLS (RFC 7858) or
//! HTTPS (RFC 8484).
//!
//! With either the host carries bytes that it can neither read nor change. The roots are Mozilla's, as of the build: a
//! program in the enclave cannot add one. The time by which certificates are judged is the enclave's clock, which the host
//! sets: one whose key was lost and that has expired since could be used again.

use std::{io, net::SocketAddr, sync::Arc};

use egress::{Destination, Name, Protocol, wire};
use manifest::Dns;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::{
    doh::{self, HttpError, Place},
    uplink::{Uplink, UplinkError},
};

/// The port that URLs leave out.
const HTTPS_PORT: u16 = 443;

/// Who is asked.
#[derive(Debug)]
pub(super) struct Upstream {
    uplink: Uplink,
    tls: Option<Tls>,
}

struct Tls {
    server: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
    /// Where questions go if that is HTTP.
    http: Option<Place>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("server", &self.server).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why there is no answer from outside.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    #[error("the connection broke, or the resolver is not who it should be")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{0}")]
    Wire(#[from] wire::WireError),
    #[error("the answer is none to this question")]
    Form(#[from] intercept::dns::FormError),
    #[error("no answer in time")]
    Silent,
}

/// The roots that resolvers are trusted by.
pub(crate) fn mozilla() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

impl Upstream {
    pub(super) fn new(uplink: Uplink, dns: &Dns, roots: RootCertStore) -> Self {
        let tls = match dns {
            Dns::Host => None,
            Dns::Tls { server, name } => {
                let connector = connector(roots, vec![b"dot".to_vec()]);
                Some(Tls {
                    server: *server,
                    name: server_name(*server, name.as_ref()),
                    connector,
                    http: None,
                })
            }
            Dns::Https { server, name, path } => {
                let connector = connector(roots, doh::protocols());
                let http = Some(Place { authority: authority(*server, name.as_ref()), path: path.clone() });
                Some(Tls { server: *server, name: server_name(*server, name.as_ref()), connector, http })
            }
        };
        Self { uplink, tls }
    }

    /// What the answer to `question` is, both without their lengths.
    pub(super) async fn ask(&self, question: &[u8]) -> Result<Vec<u8>, AskError> {
        let Some(tls) = &self.tls else { return exchange(self.uplink.resolve().await?, question).await };
        let server = Destination::Address(tls.server.ip());
        let (stream, _) = self.uplink.connect(Protocol::Tcp, &server, tls.server.port()).await?;
        let stream = tls.connector.connect(tls.name.clone(), stream).await?;
        let Some(place) = &tls.http else { return exchange(stream, question).await };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(doh::exchange(stream, is_http2, place, question).await?)
    }
}

/// What its certificate has to be for.
fn server_name(server: SocketAddr, name: Option<&Name>) -> ServerName<'static> {
    let name = name.and_then(|name| ServerName::try_from(name.as_str().to_owned()).ok());
    name.unwrap_or_else(|| ServerName::IpAddress(server.ip().into()))
}

/// As it is called in a URL.
fn authority(server: SocketAddr, name: Option<&Name>) -> String {
    let host = match (name, server) {
        (Some(name), _) => name.to_string(),
        (None, SocketAddr::V4(v4)) => v4.ip().to_string(),
        (None, SocketAddr::V6(v6)) => format!("[{}]", v6.ip()),
    };
    if server.port() == HTTPS_PORT { host } else { format!("{host}:{}", server.port()) }
}

fn connector(roots: RootCertStore, protocols: Vec<Vec<u8>>) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols;
    TlsConnector::from(Arc::new(config))
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &[u8],
) -> Result<Vec<u8>, AskError> {
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    stream.flush().await?;
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let mut reply = vec![0; wire::message_bytes(head)?];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use egress::wire::{Reply, Request, Status};
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio_rustls::TlsAcceptor;
    use transport::{Addr, Listener};

    use super::*;

    /// A resolver behind a host: it answers every question with the question, its first byte changed.
    async fn resolver(at: &str, names: &[&str]) -> (Uplink, RootCertStore) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        config.alpn_protocols = vec![b"dot".to_vec()];
        let addr = Addr::Memory(at.to_owned());
        let listener = Listener::bind(&addr).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; wire::REQUEST_HEAD_BYTES + 4];
                stream.read_exact(&mut request).await.unwrap();
                let request = Request::decode(&request).unwrap();
                let Request::Connect { destination, port: 853, .. } = request else { panic!("{request:?}") };
                assert_eq!(destination.to_string(), "192.0.2.53");
                let reply = Reply { status: Status::Connected, address: None };
                stream.write_all(&reply.encode()).await.unwrap();
                let Ok(mut stream) = TlsAcceptor::from(Arc::new(config.clone())).accept(stream).await else {
                    continue;
                };
                let mut question = vec![0; 14];
                stream.read_exact(&mut question).await.unwrap();
                question[2] ^= 1;
                stream.write_all(&question).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        (Uplink::new(addr), roots)
    }

    async fn ask(uplink: &Uplink, name: Option<&str>, roots: &RootCertStore) -> Result<Vec<u8>, AskError> {
        let dns = Dns::Tls {
            server: "192.0.2.53:853".parse().unwrap(),
            name: name.map(|name| name.parse().unwrap()),
        };
        let upstream = Upstream::new(uplink.clone(), &dns, roots.clone());
        tokio::time::timeout(Duration::from_secs(30), upstream.ask(b"twelve bytes")).await.unwrap()
    }

    #[tokio::test]
    async fn a_resolver_is_asked_over_tls_and_must_be_who_it_should() {
        let (uplink, roots) = resolver("dot", &["dns.test", "192.0.2.53"]).await;
        assert_eq!(ask(&uplink, Some("dns.test"), &roots).await.unwrap(), b"uwelve bytes");
        assert_eq!(ask(&uplink, None, &roots).await.unwrap(), b"uwelve bytes");
        assert!(matches!(ask(&uplink, Some("other.test"), &roots).await, Err(AskError::Io(_))));
        // A host that answers in the resolver's stead has no certificate that the enclave's roots know.
        assert!(matches!(ask(&uplink, Some("dns.test"), &mozilla()).await, Err(AskError::Io(_))));
    }
}
