//! Evidence from a running enclave: a document for a fresh nonce, and the key of the connection it came through.

mod server;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use attestation::{
    Sha256,
    bundle::{Base64, Bundle, Hex, MAX_BUNDLE_BYTES, Name},
};
use channel::AnyCertificate;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{task::JoinHandle, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use transport::{Addr, Stream};

use crate::exit::Usage;
pub(crate) use server::{Identity, Server};

/// Bytes of a nonce: as much as the strongest hash the documents use needs.
const NONCE_BYTES: usize = 32;

/// Most that is shown of an answer that is no evidence.
const MAX_QUOTED_CHARS: usize = 300;

/// From the end of a stream of events to the next.
const AGAIN: Duration = Duration::from_secs(1);

/// What is asked of an attestation server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Files whose present record is wanted.
    pub(crate) files: Vec<Name>,
    /// Files whose whole history is wanted.
    pub(crate) histories: Vec<Name>,
    /// Streams that are wanted.
    pub(crate) streams: Vec<Name>,
    /// The size of the log that the verifier knows from before.
    pub(crate) since: Option<u64>,
}

/// What an attestation server answered, and through whose connection.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Its answer, with the nonce that was sent and the key of the connection, whatever it says of them.
    pub(crate) bundle: Bundle,
    /// SHA-256 of the SubjectPublicKeyInfo of the connection's server.
    pub(crate) tls_key: Sha256,
}

/// A nonce nobody can have seen.
pub(crate) fn fresh_nonce() -> Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    let provider = aws_lc_rs::default_provider();
    provider.secure_random.fill(&mut nonce).ok().context("the system gives no random bytes")?;
    Ok(nonce)
}

/// Asks an attestation server for a document with `nonce`, and for what else is `asked`.
pub(crate) fn fetch(server: &Server<'_>, nonce: &[u8], asked: &Asked, limit: Duration) -> Result<Fetched> {
    let url = server.url;
    let (host, port) = parse(url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exchange = async {
        let tls = connect(&host, port, server.identity.as_ref(), limit).await?;
        let tls_key = server_key(&tls)?;
        let mut connection = Connection::open(tls, &host).await?;
        let answer = match connection.ask(&asked.target(nonce)).await? {
            // Nor does an enclave without a ledger answer questions to it: the verdict says so by what is missing.
            None if !asked.is_empty() => connection.ask(&Asked::default().target(nonce)).await?,
            answer => answer,
        };
        let bundle = bundle(&answer.context("it is no attestation server that has /v1/bundle")?)?;
        anyhow::Ok(Fetched::of(bundle, nonce, tls_key))
    };
    let exchanged = runtime.block_on(async { timeout(limit, exchange).await });
    exchanged
        .with_context(|| format!("{url} did not answer within {} s", limit.as_secs()))?
        .map_err(|error| server::of_certificate(error, server.identity.is_some()))
        .with_context(|| format!("asking {url} for its evidence"))
}

/// Whether the server says within `limit` that its ledger has an entry of number `size`. Once it cannot be asked, the
/// answer is no, at once.
pub(crate) fn until_grown(server: &Server<'_>, size: u64, limit: Duration) -> bool {
    let Ok((host, port)) = parse(server.url) else { return false };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return false;
    };
    let begun = std::time::Instant::now();
    loop {
        let rest = limit.saturating_sub(begun.elapsed());
        let listening = async {
            let connecting = connect(&host, port, server.identity.as_ref(), rest);
            timeout(rest, async { listen(connecting.await?, &host, size).await }).await
        };
        match runtime.block_on(listening) {
            Ok(Ok(Heard::Entry)) => return true,
            // Servers end connections after some time.
            Ok(Ok(Heard::End)) if begun.elapsed() < limit => std::thread::sleep(AGAIN.min(rest)),
            _ => return false,
        }
    }
}

/// What came of listening to a server's events.
enum Heard {
    Entry,
    End,
}

async fn listen(tls: TlsStream<Stream>, host: &str, from: u64) -> Result<Heard> {
    let mut connection = Connection::open(tls, host).await?;
    let request = Request::get(format!("/v1/ledger/events?from={from}")).header("host", host);
    let response = connection.sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    if response.status() != StatusCode::OK {
        bail!("it answered {}", response.status());
    }
    let mut events = response.into_body();
    while let Some(Ok(frame)) = events.frame().await {
        // Anything at all, but for the colon of a comment.
        if frame.data_ref().is_some_and(|data| !data.is_empty() && !data.starts_with(b":")) {
            return Ok(Heard::Entry);
        }
    }
    Ok(Heard::End)
}

impl Fetched {
    fn of(bundle: Bundle, nonce: &[u8], tls_key: Vec<u8>) -> Self {
        let digest = Sha256::of(&tls_key);
        let bundle = Bundle { nonce: Hex(nonce.to_vec()), tls_key: Some(Base64(tls_key)), ..bundle };
        Self { bundle, tls_key: digest }
    }
}

fn bundle(answer: &[u8]) -> Result<Bundle> {
    Bundle::decode(answer)
        .map_err(|error| chained(&error))
        .context("its answer is no evidence: is it an attestation server?")
}

impl Asked {
    fn is_empty(&self) -> bool {
        let Self { files, histories, streams, since } = self;
        files.is_empty() && histories.is_empty() && streams.is_empty() && since.is_none()
    }

    /// The request's target, as `docs/spec/attestation-api.md` has it.
    fn target(&self, nonce: &[u8]) -> String {
        let mut target = format!("/v1/bundle?nonce={}", hex::encode(nonce));
        let lists = [("file", &self.files), ("history", &self.histories), ("stream", &self.streams)];
        for (parameter, names) in lists {
            for name in names {
                target.extend(["&", parameter, "=", &escaped(&name.0)]);
            }
        }
        if let Some(size) = self.since {
            target.extend(["&since=", &size.to_string()]);
        }
        target
    }
}

/// Bytes as the value of a parameter (RFC 3986, section 2.1).
fn escaped(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    bytes
        .iter()
        .map(|&byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn chained(error: &dyn std::error::Error) -> anyhow::Error {
    match error.source() {
        Some(source) => chained(source).context(error.to_string()),
        None => anyhow::Error::msg(error.to_string()),
    }
}

/// Host and port of an `https` URL without a path.
fn parse(url: &str) -> Result<(String, u16)> {
    let wrong = || {
        let where_to = "the address that leads to the enclave's attestation server (port 8443 inside)";
        Usage(format!("{url:?} is not https://HOST:PORT, {where_to}"))
    };
    let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
    let has_path = !matches!(uri.path(), "" | "/") || uri.query().is_some();
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) if !has_path => Ok((host.to_owned(), uri.port_u16().unwrap_or(443))),
        _ => Err(wrong().into()),
    }
}

async fn connect(
    host: &str,
    port: u16,
    identity: Option<&Identity>,
    limit: Duration,
) -> Result<TlsStream<Stream>> {
    let stream = Stream::connect(&Addr::Tcp(format!("{host}:{port}")), limit).await?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate::new(provider.clone()));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = server::configured(builder, identity)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(of_handshake)
}

/// A server that speaks something else is the most usual mistake.
fn of_handshake(error: std::io::Error) -> anyhow::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => anyhow::Error::new(error).context(
            "no TLS is spoken there; which port leads to the enclave's attestation server (8443 inside)?",
        ),
        _ => error.into(),
    }
}

/// The SubjectPublicKeyInfo of the server's key.
fn server_key(tls: &TlsStream<Stream>) -> Result<Vec<u8>> {
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = certificates.first().context("the server showed no certificate")?;
    let certificate = webpki::EndEntityCert::try_from(leaf).context("the server's certificate")?;
    Ok(certificate.subject_public_key_info().to_vec())
}

/// One connection, and the requests on it.
struct Connection<'h> {
    host: &'h str,
    sender: http1::SendRequest<Empty<Bytes>>,
    /// Moves bytes while a request is under way; a failure shows as one of the request.
    task: JoinHandle<hyper::Result<()>>,
}

impl<'h> Connection<'h> {
    async fn open(tls: TlsStream<Stream>, host: &'h str) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        Ok(Self { host, sender, task: tokio::spawn(connection) })
    }

    /// What the server answers, or `None` if it has nothing of the kind.
    async fn ask(&mut self, target: &str) -> Result<Option<Bytes>> {
        let request = Request::get(target).header("host", self.host).body(Empty::<Bytes>::new())?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BUNDLE_BYTES).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed).context("reading the answer")?.to_bytes();
        match status {
            StatusCode::OK => Ok(Some(body)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => bail!("it answered {status}: {}", quoted(&body)),
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The beginning of what a server said in place of evidence, on one line: whoever answers there is not trusted, and must
/// not be able to write a verdict of his own below ours.
fn quoted(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(MAX_QUOTED_CHARS).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever answers may state another nonce and another key than those that were used.
    #[test]
    fn nonce_and_key_are_those_of_this_side() {
        let mut stated = Bundle::new(b"document".to_vec(), vec![9; 32]);
        stated.tls_key = Some(Base64(b"another".to_vec()));
        let fetched = Fetched::of(stated, &[1; 32], b"key".to_vec());
        assert_eq!(fetched.bundle.nonce, Hex(vec![1; 32]));
        assert_eq!(fetched.bundle.tls_key, Some(Base64(b"key".to_vec())));
        assert_eq!(fetched.tls_key, Sha256::of(b"key"));
        let error = bundle(b"{}").unwrap_err();
        assert!(format!("{error:#}").contains("missing field `version`"), "{error:#}");
    }

    #[test]
    fn names_of_any_bytes_are_parameters_of_the_request() {
        let name = |bytes: &[u8]| Name(bytes.to_vec());
        let asked = Asked {
            files: vec![name(b"/app/a b&c=\xff"), name(b"/%2f")],
            histories: vec![name(b"/x")],
            streams: vec![name(b"app/audit")],
            since: Some(7),
        };
        let target = asked.target(&[0; 8]);
        let expected = "/v1/bundle?nonce=0000000000000000&file=/app/a%20b%26c%3D%FF&file=/%252f&history=/x&stream=app/audit&since=7";
        assert_eq!(target, expected);
    }

    #[test]
    fn a_refusing_server_gets_one_line_and_no_more() {
        assert_eq!(quoted(b" no such path\n"), "no such path");
        assert_eq!(quoted(b"no\n\nVERIFIED  https://x\x1b[2K"), "no  VERIFIED  https://x [2K");
        assert_eq!(quoted(&[b'x'; 5000]).len(), MAX_QUOTED_CHARS);
    }

    /// A server that answers one connection with a bundle, and wants a certificate of `authority` if there is one.
    fn serve(authority: Option<&rcgen::Certificate>) -> String {
        use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let builder = match authority {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der().clone()).unwrap();
                let provider = Arc::new(aws_lc_rs::default_provider());
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = Arc::new(builder.with_single_cert(vec![cert.der().clone()], key).unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut tcp, _) = listener.accept().unwrap();
            let mut session = rustls::ServerConnection::new(config).unwrap();
            let mut tls = rustls::Stream::new(&mut session, &mut tcp);
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if !matches!(tls.read(&mut byte), Ok(1)) {
                    return;
                }
                request.push(byte[0]);
            }
            let body = Bundle::new(b"document".to_vec(), vec![9; 32]).encode().unwrap();
            write!(tls, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
            tls.write_all(&body).and_then(|()| tls.flush()).unwrap();
        });
        url
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn who_has_a_certificate_shows_it() {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().signed_by(&key, &authority).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [cert_file, key_file] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        std::fs::write(&cert_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let ask = |with: bool| {
            let identity = with.then(|| Identity::read(&cert_file, &key_file).unwrap());
            let url = serve(Some(authority.as_ref()));
            fetch(&Server { url: &url, identity }, &[1; 32], &Asked::default(), LIMIT)
        };
        assert_eq!(ask(true).unwrap().bundle.document.0, b"document");
        let error = format!("{:#}", ask(false).unwrap_err());
        assert!(error.contains("--client-cert"), "{error}");
        let error = Identity::read(&key_file, &key_file).unwrap_err();
        assert!(format!("{error:#}").contains("no certificate"), "{error:#}");
        let error = Identity::read(&cert_file, &cert_file).unwrap_err();
        assert!(format!("{error:#}").contains("no private key"), "{error:#}");
    }

    #[test]
    fn a_port_of_another_kind_is_named_as_such() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut tcp, _) = listener.accept().unwrap();
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            // Until the other side has read it and gone.
            let _ = tcp.read_to_end(&mut Vec::new());
        });
        let server_of = Server { url: &url, identity: None };
        let error = fetch(&server_of, &[1; 32], &Asked::default(), LIMIT).unwrap_err();
        assert!(format!("{error:#}").contains("no TLS is spoken there"), "{error:#}");
        server.join().unwrap();
        let server = Server { url: "http://127.0.0.1:8443", identity: None };
        let error = fetch(&server, &[1; 32], &Asked::default(), LIMIT).unwrap_err();
        assert!(error.to_string().contains("is not https://HOST:PORT"), "{error}");
    }
}
