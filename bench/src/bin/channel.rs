//! Raw sessions of the attested channel: bytes per second against a plain copy and against tokio-rustls over the same kind
//! of socket pair, and handshakes per second.
//!
//! Arguments: MiB to move (2048), rounds (5), handshakes (2000; they want ssh-keygen). Two threads, as client and server
//! would be two processes. What is moved is in memory; with `+ BLAKE3` both ends hash it, as a transfer does. The
//! handshake's document is a stand-in and is not verified: what the security module and the verifier take is not counted.

use std::error::Error;
use std::future::Future;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use channel::io::{ClientConfig, Denied, Gate, Peer, ServerConfig, accept, connect};
use channel::ssh::{Identity, PrivateKey};
use channel::{Challenge, Evidence};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::CryptoProvider;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What a transfer reads and writes at once.
const PIECE_BYTES: usize = 256 * 1024;

struct Open;

impl Gate for Open {
    type Admitted = ();

    async fn attest(&self, _: Challenge) -> std::result::Result<Vec<u8>, Denied> {
        Ok(vec![0; 4600])
    }

    async fn authorize(&self, _: &Peer) -> std::result::Result<(), Denied> {
        Ok(())
    }
}

fn anybody(_: &Evidence) -> std::result::Result<(), std::convert::Infallible> {
    Ok(())
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn stream(stream: StdStream) -> Result<UnixStream> {
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?)
}

async fn send(mut out: impl AsyncWrite + Unpin, bytes: usize, hash: bool) -> Result<()> {
    let piece: Vec<u8> = (0..PIECE_BYTES).map(|n| (n * 31 % 251) as u8).collect();
    let mut hasher = blake3::Hasher::new();
    for _ in 0..bytes / PIECE_BYTES {
        if hash {
            hasher.update(&piece);
        }
        out.write_all(&piece).await?;
    }
    out.shutdown().await?;
    Ok(())
}

async fn receive(mut from: impl AsyncRead + Unpin, bytes: usize, hash: bool) -> Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut hasher = blake3::Hasher::new();
    let mut received = 0;
    loop {
        match from.read(&mut piece).await? {
            0 => break,
            count => {
                received += count;
                if hash {
                    hasher.update(&piece[..count]);
                }
            }
        }
    }
    if received == bytes { Ok(()) } else { Err(format!("{received} of {bytes} bytes").into()) }
}

/// GB/s from the first byte to the last.
fn plain(bytes: usize, hash: bool) -> Result<f64> {
    let (near, far) = StdStream::pair()?;
    let start = Instant::now();
    let reader = thread::spawn(move || block_on(async { receive(stream(far)?, bytes, hash).await }));
    block_on(async { send(stream(near)?, bytes, hash).await })?;
    reader.join().expect("no panic")?;
    Ok(bytes as f64 / 1e9 / start.elapsed().as_secs_f64())
}

fn session(config: &ServerConfig, bytes: usize, hash: bool) -> Result<f64> {
    let (near, far) = StdStream::pair()?;
    let config = config.clone();
    let start = Instant::now();
    let reader = thread::spawn(move || {
        block_on(async {
            let (session, _, ()) = accept(stream(far)?, &config, &Open).await?;
            receive(session, bytes, hash).await
        })
    });
    block_on(async {
        let (session, ()) = connect(stream(near)?, ClientConfig::default(), anybody).await?;
        send(session, bytes, hash).await
    })?;
    reader.join().expect("no panic")?;
    Ok(bytes as f64 / 1e9 / start.elapsed().as_secs_f64())
}

/// The same with the usual TLS stream.
struct Usual(TlsAcceptor, TlsConnector);

impl Usual {
    fn new() -> Result<Self> {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let certificate = key.cert.der().clone();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone())?;
        let provider = || {
            let cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
            Arc::new(CryptoProvider { cipher_suites, kx_groups: vec![kx_group::X25519], ..default_provider() })
        };
        let versions = &[&rustls::version::TLS13];
        let secret = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], secret.into())?;
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Usual(Arc::new(server).into(), Arc::new(client).into()))
    }

    fn run(&self, bytes: usize, hash: bool) -> Result<f64> {
        let (near, far) = StdStream::pair()?;
        let acceptor = self.0.clone();
        let start = Instant::now();
        let reader = thread::spawn(move || {
            block_on(async { receive(acceptor.accept(stream(far)?).await?, bytes, hash).await })
        });
        block_on(async {
            let name = "localhost".try_into()?;
            send(self.1.connect(name, stream(near)?).await?, bytes, hash).await
        })?;
        reader.join().expect("no panic")?;
        Ok(bytes as f64 / 1e9 / start.elapsed().as_secs_f64())
    }
}

/// Microseconds from connected sockets to an open channel, each sorted.
fn handshakes(config: &ServerConfig, key: Option<&PrivateKey>, count: usize) -> Result<Vec<f64>> {
    let (sender, receiver) = std::sync::mpsc::channel::<StdStream>();
    let config = config.clone();
    let server = thread::spawn(move || {
        block_on(async {
            for far in receiver {
                let (mut session, _, ()) = accept(stream(far)?, &config, &Open).await?;
                session.read_to_end(&mut Vec::new()).await?;
            }
            Ok(())
        })
    });
    let mut times = block_on(async {
        let mut times = Vec::new();
        for _ in 0..count {
            let (near, far) = StdStream::pair()?;
            sender.send(far)?;
            let start = Instant::now();
            let identity = key.map(|key| key as &dyn Identity);
            let config = ClientConfig { identity, ..ClientConfig::default() };
            let (mut session, ()) = connect(stream(near)?, config, anybody).await?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            session.shutdown().await?;
        }
        Result::Ok(times)
    })?;
    drop(sender);
    let served: Result<()> = server.join().expect("no panic");
    served?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    let argument = |n, default| std::env::args().nth(n).map_or(Ok(default), |text| text.parse::<usize>());
    let (mib, rounds, count) = (argument(1, 2048)?, argument(2, 5)?, argument(3, 2000)?);
    let bytes = mib << 20;
    let config = ServerConfig::generate()?;
    let usual = Usual::new()?;
    for hash in [false, true] {
        let mut runs = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            runs[0].push(plain(bytes, hash)?);
            runs[1].push(session(&config, bytes, hash)?);
            runs[2].push(usual.run(bytes, hash)?);
        }
        let [plain, session, usual] = runs.map(median);
        let with = if hash { " + BLAKE3" } else { "" };
        println!("plain copy{with}: {plain:.2} GB/s");
        println!("session{with}: {session:.2} GB/s, {:.2} of the plain copy", session / plain);
        println!("tokio-rustls{with}: {usual:.2} GB/s; the session is {:.2} times as fast", session / usual);
    }
    if count == 0 {
        return Ok(());
    }
    let dir = std::env::temp_dir().join(format!("channel-bench-{}", std::process::id()));
    let made = std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&dir).status()?;
    if !made.success() {
        return Err("ssh-keygen".into());
    }
    let key = PrivateKey::load(&dir, &mut || None);
    std::fs::remove_file(&dir)?;
    std::fs::remove_file(dir.with_extension("pub"))?;
    for (name, key) in [("nameless", None), ("Ed25519", Some(key?))] {
        let times = handshakes(&config, key.as_ref(), count)?;
        println!("handshake, {name}: median {:.0} us, p99 {:.0} us", times[count / 2], times[count * 99 / 100]);
    }
    Ok(())
}
