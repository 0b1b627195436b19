//! A resolver outside that is asked by DNS over TLS and by DNS over HTTPS, on one port, under a root of its own.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::host::answer_to;

/// What it says to every question. The host's own resolver says something else.
const TEXT: &[u8] = b"\x06sealed";

/// Starts it, and writes its root where the enclave finds it. Ends with the process.
pub(crate) fn start(root: &Path) -> SocketAddr {
    let acceptor = acceptor(root);
    let (sender, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not like the certificate goes away.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream).await;
                    }
                });
            }
        });
    });
    address.recv().unwrap()
}

fn acceptor(root: &Path) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let names = ["dns.test".to_owned(), "192.0.2.53".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    std::fs::write(root, certificate.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    config.alpn_protocols = vec![b"dot".to_vec(), b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(mut stream: TlsStream<tokio::net::TcpStream>) {
    if stream.get_ref().1.alpn_protocol() == Some(b"dot") {
        while let Ok(length) = stream.read_u16().await {
            let mut question = vec![0; length.into()];
            stream.read_exact(&mut question).await.unwrap();
            let answer = answer_to(&question, TEXT);
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            stream.flush().await.unwrap();
        }
        return;
    }
    let service = service_fn(answer);
    let builder = auto::Builder::new(TokioExecutor::new());
    // Whoever has an answer goes away as they like.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/dns-query"));
    assert_eq!(request.headers()[CONTENT_TYPE], "application/dns-message");
    let question = request.into_body().collect().await?.to_bytes();
    let answer = Response::new(Full::from(answer_to(&question, TEXT)));
    let (mut head, body) = answer.into_parts();
    head.headers.insert(CONTENT_TYPE, "application/dns-message".parse().unwrap());
    Ok(Response::from_parts(head, body))
}
