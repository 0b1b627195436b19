//! Init's private socket, `docs/spec/init-private.md`: the control channel's server lists and restarts services, reads
//! what they print, and brings their secrets.
//!
//! Only root can reach it, and no service can at all: the directory is not in their root. Who of the operators may do what
//! is for the control channel to know. [`ask`] is the client.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use zeroize::Zeroizing;

use crate::journal::Journal;

/// What only the framework's own daemons reach.
pub const PRIVATE_DIRECTORY: &str = "/run/glasshouse-private";

/// Where init listens.
pub const SOCKET_PATH: &str = "/run/glasshouse-private/init.sock";

/// Where the control channel's server keeps the head of its chain, 32 bytes.
pub const CONTROL_HEAD_PATH: &str = "/run/glasshouse-private/control/head";

/// Longest request, in bytes, with its end-of-line.
const MAX_REQUEST_BYTES: usize = 128;

/// Longest secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

/// Longest answer that a client takes, in bytes: more than any list of services and any service's kept output.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

/// Connections served at a time; more are closed at once.
const MAX_CONNECTIONS: usize = 16;

/// How long one connection may take.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What the control channel asks of init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// All services: one JSON object of [`ServiceState`] a line.
    Services,
    /// End the service with this name, and start it again.
    Restart(&'a str),
    /// What the service with this name has printed last.
    Logs(&'a str),
    /// All secrets: one JSON object of [`SecretState`] a line.
    Secrets,
    /// The value of the secret with this name, at most [`MAX_SECRET_BYTES`].
    Give(&'a str, &'a [u8]),
}

/// A service, as init sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// Its name in the manifest; a daemon of the framework has `@` before its name.
    pub service: String,
    /// `waiting`, `starting`, `ready`, `restarting`, `stopping` or `ended`.
    pub state: String,
    /// How many times it was started.
    pub run: u32,
}

/// A secret of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretState {
    /// Its name in the manifest.
    pub secret: String,
    /// Whose it is.
    pub service: String,
    /// Whether an operator has given it.
    pub given: bool,
}

/// Why init did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// It does not want to.
    #[error("{0}")]
    Refused(String),
    /// It cannot be asked, or does not answer.
    #[error("cannot ask init")]
    Io(#[from] io::Error),
}

/// What the supervisor's shell is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    Services(oneshot::Sender<Vec<ServiceState>>),
    Restart { service: String, answer: oneshot::Sender<Result<(), &'static str>> },
    Secrets(oneshot::Sender<Vec<SecretState>>),
    Give { secret: String, value: Zeroizing<Vec<u8>>, answer: oneshot::Sender<Result<(), String>> },
}

/// Asks init at `socket`, and returns what it answers.
///
/// # Errors
/// When it refuses, or cannot be reached.
pub async fn ask(socket: &Path, request: Request<'_>) -> Result<Vec<u8>, AskError> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(request.to_line().as_bytes()).await?;
        if let Request::Give(_, value) = request {
            stream.write_all(value).await?;
        }
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = timeout(CONNECTION_TIMEOUT, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let line = answer.iter().position(|byte| *byte == b'\n').ok_or(io::ErrorKind::UnexpectedEof);
    let (line, body) = answer.split_at(line.map_err(io::Error::from)?);
    match line {
        b"ok" => Ok(body[1..].to_vec()),
        refusal => {
            let text = String::from_utf8_lossy(refusal);
            Err(AskError::Refused(text.strip_prefix("error: ").unwrap_or(&text).to_owned()))
        }
    }
}

impl<'a> Request<'a> {
    fn to_line(self) -> String {
        match self {
            Self::Services => "services\n".to_owned(),
            Self::Restart(service) => format!("restart {service}\n"),
            Self::Logs(service) => format!("logs {service}\n"),
            Self::Secrets => "secrets\n".to_owned(),
            Self::Give(secret, value) => format!("give {secret} {}\n", value.len()),
        }
    }
}

/// A request as its line has it: what follows the line is still to be read.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    Services,
    Restart(&'a str),
    Logs(&'a str),
    Secrets,
    Give { secret: &'a str, len: usize },
}

impl<'a> Asked<'a> {
    fn from_line(line: &'a str) -> Option<Self> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (verb, rest) {
            ("services", "") if line == verb => Some(Self::Services),
            ("secrets", "") if line == verb => Some(Self::Secrets),
            ("restart", service) if !service.is_empty() => Some(Self::Restart(service)),
            ("logs", service) if !service.is_empty() => Some(Self::Logs(service)),
            ("give", rest) => {
                let (secret, len) = rest.split_once(' ')?;
                let len = len.parse().ok().filter(|len| *len <= MAX_SECRET_BYTES)?;
                Some(Self::Give { secret, len })
            }
            _ => None,
        }
    }
}

/// Makes the private directory, and listens in it.
pub(crate) fn bind(directory: &Path) -> io::Result<UnixListener> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // It may have been there, and the mode above is subject to the umask.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    let socket = directory.join("init.sock");
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

/// Serves the private socket, until the enclave ends.
pub(crate) async fn serve(listener: UnixListener, journal: Rc<Journal>, asks: mpsc::Sender<Ask>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would spin.
                journal.warn(format!("private socket: {error}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (journal, asks) = (journal.clone(), asks.clone());
        tokio::task::spawn_local(async move {
            let _slot = slot;
            let _ = timeout(CONNECTION_TIMEOUT, answer(stream, &journal, &asks)).await;
        });
    }
}

async fn answer(mut stream: UnixStream, journal: &Journal, asks: &mpsc::Sender<Ask>) -> io::Result<()> {
    let line = read_line(&mut stream).await?;
    let reply = match line.as_deref().and_then(Asked::from_line) {
        None => Err("there is no such request".to_owned()),
        Some(Asked::Services) => services(asks).await,
        Some(Asked::Restart(service)) => {
            journal.info(format!("the control channel asks for a restart of {service}"));
            restart(service.to_owned(), asks).await
        }
        Some(Asked::Logs(service)) => {
            journal.tail(service).ok_or("it has printed nothing, or there is no such service".to_owned())
        }
        Some(Asked::Secrets) => secrets(asks).await,
        Some(Asked::Give { secret, len }) => {
            let mut value = Zeroizing::new(vec![0; len]);
            stream.read_exact(&mut value).await?;
            journal.info(format!("the control channel brings the secret {secret}"));
            give(secret.to_owned(), value, asks).await
        }
    };
    match reply {
        Ok(body) => {
            stream.write_all(b"ok\n").await?;
            stream.write_all(&body).await?;
        }
        Err(reason) => stream.write_all(format!("error: {reason}\n").as_bytes()).await?,
    }
    stream.shutdown().await
}

const GONE: &str = "the enclave ends";

async fn services(asks: &mpsc::Sender<Ask>) -> Result<Vec<u8>, String> {
    let (sender, receiver) = oneshot::channel();
    asks.send(Ask::Services(sender)).await.map_err(|_| GONE)?;
    Ok(lines(&receiver.await.map_err(|_| GONE)?))
}

async fn restart(service: String, asks: &mpsc::Sender<Ask>) -> Result<Vec<u8>, String> {
    let (answer, receiver) = oneshot::channel();
    asks.send(Ask::Restart { service, answer }).await.map_err(|_| GONE)?;
    receiver.await.map_err(|_| GONE)?.map(|()| Vec::new()).map_err(str::to_owned)
}

async fn secrets(asks: &mpsc::Sender<Ask>) -> Result<Vec<u8>, String> {
    let (sender, receiver) = oneshot::channel();
    asks.send(Ask::Secrets(sender)).await.map_err(|_| GONE)?;
    Ok(lines(&receiver.await.map_err(|_| GONE)?))
}

async fn give(
    secret: String,
    value: Zeroizing<Vec<u8>>,
    asks: &mpsc::Sender<Ask>,
) -> Result<Vec<u8>, String> {
    let (answer, receiver) = oneshot::channel();
    asks.send(Ask::Give { secret, value, answer }).await.map_err(|_| GONE)?;
    receiver.await.map_err(|_| GONE)?.map(|()| Vec::new())
}

/// One JSON object a line.
fn lines(states: &[impl Serialize]) -> Vec<u8> {
    let mut body = Vec::new();
    for state in states {
        serde_json::to_writer(&mut body, state).expect("strings, integers and booleans always serialise");
        body.push(b'\n');
    }
    body
}

/// One line of text without its end, and nothing after it is read.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    while line.len() < MAX_REQUEST_BYTES {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(line).ok()),
            byte => line.push(byte),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::event::{Event, Line, LogStream};

    const VALUE: &[u8] = b"line\nline\0\xff";

    /// A private socket whose supervisor knows one service and restarts it, but no other.
    fn with_socket(test: impl AsyncFnOnce(&Path, &Journal)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let directory = tempfile::tempdir().unwrap();
            let private = directory.path().join("private");
            let listener = bind(&private).unwrap();
            assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o700);
            let journal = Rc::new(Journal::new());
            let (asks, mut asked) = mpsc::channel(4);
            tokio::task::spawn_local(serve(listener, journal.clone(), asks));
            tokio::task::spawn_local(async move {
                while let Some(ask) = asked.recv().await {
                    match ask {
                        Ask::Services(answer) => {
                            let state = ServiceState { service: "web".into(), state: "ready".into(), run: 2 };
                            answer.send(vec![state]).unwrap();
                        }
                        Ask::Restart { service, answer } => {
                            answer
                                .send(if service == "web" { Ok(()) } else { Err("no such service") })
                                .unwrap();
                        }
                        Ask::Secrets(answer) => {
                            let state =
                                SecretState { secret: "token".into(), service: "web".into(), given: false };
                            answer.send(vec![state]).unwrap();
                        }
                        Ask::Give { secret, value, answer } => {
                            let taken = secret == "token" && value[..] == *VALUE;
                            answer.send(if taken { Ok(()) } else { Err(format!("no {secret}")) }).unwrap();
                        }
                    }
                }
            });
            timeout(Duration::from_secs(20), test(&private.join("init.sock"), &journal)).await.unwrap();
        });
    }

    #[test]
    fn services_are_listed_and_restarted() {
        with_socket(async |socket, _| {
            let list = ask(socket, Request::Services).await.unwrap();
            let state: ServiceState = serde_json::from_slice(&list).unwrap();
            assert_eq!((state.service.as_str(), state.run), ("web", 2));
            assert_eq!(ask(socket, Request::Restart("web")).await.unwrap(), b"");
            let refused = ask(socket, Request::Restart("db")).await.unwrap_err();
            assert_eq!(refused.to_string(), "no such service");
        });
    }

    #[test]
    fn a_secret_is_brought_as_it_is() {
        with_socket(async |socket, _| {
            let list = ask(socket, Request::Secrets).await.unwrap();
            let state: SecretState = serde_json::from_slice(&list).unwrap();
            assert_eq!((state.secret.as_str(), state.given), ("token", false));
            assert_eq!(ask(socket, Request::Give("token", VALUE)).await.unwrap(), b"");
            let refused = ask(socket, Request::Give("token", b"other")).await.unwrap_err();
            assert_eq!(refused.to_string(), "no token");
            let long = vec![0; MAX_SECRET_BYTES + 1];
            assert!(ask(socket, Request::Give("token", &long)).await.is_err());
        });
    }

    #[test]
    fn what_a_service_printed_last_is_kept_and_bounded() {
        with_socket(async |socket, journal| {
            assert!(matches!(ask(socket, Request::Logs("web")).await, Err(AskError::Refused(_))));
            for i in 0..20_000 {
                let line = Line { bytes: format!("line {i}\u{ff}").into_bytes(), continues: false };
                journal.record(Event::Log { service: "web".into(), stream: LogStream::Stdout, line });
            }
            let logs = ask(socket, Request::Logs("web")).await.unwrap();
            assert!(logs.ends_with("\nline 19999\u{ff}\n".as_bytes()));
            assert!((10_000..=crate::journal::TAIL_BYTES).contains(&logs.len()), "{}", logs.len());
        });
    }

    #[test]
    fn anything_else_is_refused() {
        with_socket(async |socket, _| {
            for request in [
                "shutdown\n",
                "restart\n",
                "logs \n",
                "services \n",
                "give token\n",
                "give token -1\n",
                "\n",
                "\u{ff}\n",
                &"x".repeat(MAX_REQUEST_BYTES),
            ] {
                let mut stream = UnixStream::connect(socket).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert_eq!(answer, "error: there is no such request\n", "{request:?}");
            }
        });
    }
}
