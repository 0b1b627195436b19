//! TLS by rustls alone, as another implementation would have it: to talk to our record layer, and to misbehave.

use std::sync::Arc;

use channel::ALPN;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io::{Read, Write};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A client's connection over `stream`.
pub(crate) struct Stock<S> {
    pub(crate) tls: ClientConnection,
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stock<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self::with(stream, |config| config.alpn_protocols = vec![ALPN.to_vec()])
    }

    pub(crate) fn with(stream: S, change: impl FnOnce(&mut ClientConfig)) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        change(&mut config);
        let name = ServerName::try_from("enclave.invalid").unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        tls.set_buffer_limit(None);
        Stock { tls, stream }
    }

    /// Sends `data` once the handshake is done, and everything else that is due.
    pub(crate) async fn send(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.handshake().await?;
        self.tls.writer().write_all(data)?;
        self.flush().await
    }

    pub(crate) async fn handshake(&mut self) -> std::io::Result<()> {
        while self.tls.is_handshaking() {
            self.flush().await?;
            if self.tls.is_handshaking() {
                self.take_in().await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes)?;
        }
        self.stream.write_all(&bytes).await
    }

    /// Receives exactly `count` bytes of data.
    pub(crate) async fn receive(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        let mut data = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.tls.reader().read(&mut data[filled..]) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => filled += more,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => self.take_in().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(data)
    }

    async fn take_in(&mut self) -> std::io::Result<()> {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest)?;
            self.tls.process_new_packets().map_err(std::io::Error::other)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
