//! The operator's verbs.

use std::{
    num::NonZeroU64,
    os::unix::ffi::{OsStrExt, OsStringExt},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, stdin},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    Client, Failure,
    args::{Command, RunArgs, Secrets, Services, SetSecret, SettingArgs, ShellArgs},
    connect::connect,
    keys, secret, show,
    terminal::{self, Raw},
};
use crate::{
    client::{self, ClientError, Finished},
    reply::Refusal,
    request::{Program, Request, Run, RunId, Setting, Shell},
    transfer::{self, TransferError, cli::TransferCommand},
};

/// Status of a program that its own client gave up, as shells have it for an interrupt.
const INTERRUPTED_CODE: u8 = 130;

/// Does what an operator's command says, with a runtime of its own. Returns the exit status.
///
/// # Errors
/// When there is no enclave, not the one expected, or it refuses.
pub fn operate(client: &Client, command: Command) -> Result<u8, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::channel)?;
    let outcome = runtime.block_on(carry_out(client, command));
    // A thread that still reads standard input would be waited for otherwise.
    runtime.shutdown_background();
    outcome
}

async fn carry_out(client: &Client, command: Command) -> Result<u8, Failure> {
    let request = match command {
        Command::Run(args) => return run(client, args).await,
        Command::Shell(args) => return shell(client, args).await,
        Command::Transfer(transfer) => return carry_files(client, transfer).await,
        Command::Transcript { from, json } => return transcript(client, from, json).await,
        Command::Secrets { what: Some(Secrets::Set(set)), .. } => return set_secret(client, set).await,
        Command::Secrets { what: None | Some(Secrets::List), json } => {
            return list(client, &Request::Secrets, json, show::SECRET_COLUMNS).await;
        }
        Command::Services { what: None | Some(Services::List), json } => {
            return list(client, &Request::Services, json, show::SERVICE_COLUMNS).await;
        }
        Command::Status { id, json } => {
            return list(client, &Request::Status { id: id.map(RunId) }, json, show::RUN_COLUMNS).await;
        }
        Command::Services { what: Some(Services::Restart { service }), .. } => {
            Request::ServiceRestart { service }
        }
        Command::Services { what: Some(Services::Logs { service }), .. } => Request::ServiceLogs { service },
        Command::Logs { id, follow } => Request::Logs { id: RunId(id), follow },
        Command::Kill { id, signal } => Request::Kill { id: RunId(id), signal },
        Command::Seal => Request::Seal,
        Command::Listen(_) | Command::Completions { .. } | Command::Man => {
            return Err(Failure::Usage("this is no operator's verb".to_owned()));
        }
    };
    let connection = connect(client, &client::first_frame(&request)?).await?;
    let finished = client::ask(connection.stream, &mut Out::stdout(), &mut Out::stderr()).await;
    if let (Ok(_), Request::Seal) = (&finished, &request) {
        show::note("sealed: PCR17 is locked at zero, nobody entered and nobody is admitted any more");
    }
    status(finished)
}

/// One of this program's two outputs.
type Out = show::Output;

fn status(finished: Result<Finished, ClientError>) -> Result<u8, Failure> {
    match finished {
        Ok(finished) => {
            if finished.exit.timed_out {
                show::note("it took longer than it was allowed, and was ended");
            }
            Ok(finished.exit.status)
        }
        // Whoever reads our output has seen enough; what ran has lost its client.
        Err(ClientError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(141),
        Err(error) => Err(error.into()),
    }
}

async fn run(client: &Client, args: RunArgs) -> Result<u8, Failure> {
    let program = match (args.command, args.words) {
        (Some(line), _) => Program::Script(line.into_vec()),
        (None, words) => Program::Words(words.into_iter().map(OsStringExt::into_vec).collect()),
    };
    let request = Request::Run(Run {
        program,
        setting: setting(&args.setting)?,
        timeout_ms: args.timeout.map(milliseconds).transpose()?,
        terminal: args.tty.then(terminal::terminal),
        no_wait: args.no_wait,
    });
    if !args.no_wait {
        return attached(client, &request, args.tty).await;
    }
    let connection = connect(client, &client::first_frame(&request)?).await?;
    let finished = client::ask(connection.stream, &mut Out::stdout(), &mut Out::stderr()).await?;
    match finished.id {
        Some(RunId(id)) => show::line(&id.to_string()).map(|()| 0),
        None => Err(Failure::channel("the enclave did not say which run it is")),
    }
}

async fn shell(client: &Client, args: ShellArgs) -> Result<u8, Failure> {
    let words: Vec<_> = args.words.into_iter().map(OsStringExt::into_vec).collect();
    let request = Request::Shell(Shell {
        program: (!words.is_empty()).then_some(Program::Words(words)),
        setting: setting(&args.setting)?,
        terminal: terminal::terminal(),
    });
    attached(client, &request, true).await
}

/// Is the other end of a program, until it ends.
async fn attached(client: &Client, request: &Request, on_terminal: bool) -> Result<u8, Failure> {
    let connection = connect(client, &client::first_frame(request)?).await?;
    let (acts, gone) = terminal::acts(on_terminal).map_err(Failure::channel)?;
    // Only now: until here Ctrl-C means this program, and a question for a passphrase needs an ordinary terminal.
    let raw = if on_terminal { Raw::enter().map_err(Failure::channel)? } else { None };
    let (input, left): (Box<dyn AsyncRead + Unpin>, _) = if raw.is_some() {
        let (input, left) = keys::read(stdin());
        (Box::new(input), Some(left))
    } else {
        (Box::new(stdin()), None)
    };
    let left = async {
        match left {
            Some(left) => left.await,
            None => std::future::pending().await,
        }
    };
    let (mut out, mut err) = (Out::stdout(), Out::stderr());
    let relayed = client::relay(connection.stream, Some(input), &mut out, &mut err, acts);
    tokio::select! {
        finished = relayed => {
            drop(raw);
            status(finished)
        }
        status = gone => Ok(status.unwrap_or(INTERRUPTED_CODE)),
        _ = left => {
            drop(raw);
            show::note("left; what ran there is ended");
            Ok(INTERRUPTED_CODE)
        }
    }
}

fn setting(args: &SettingArgs) -> Result<Setting, Failure> {
    let variable = |text: &String| {
        if text.contains('=') {
            return Ok(text.clone().into_bytes());
        }
        let value = std::env::var_os(text);
        let value = value.ok_or_else(|| Failure::Usage(format!("--env {text}: it is not set here")))?;
        Ok([text.as_bytes(), b"=", value.as_bytes()].concat())
    };
    Ok(Setting {
        env: args.env.iter().map(variable).collect::<Result<_, Failure>>()?,
        cwd: args.cwd.as_ref().map(|path| path.as_os_str().as_bytes().to_vec()),
        user: args.user.clone(),
    })
}

fn milliseconds(seconds: f64) -> Result<NonZeroU64, Failure> {
    let duration = Duration::try_from_secs_f64(seconds).ok();
    let ms = duration.and_then(|duration| u64::try_from(duration.as_millis()).ok()).and_then(NonZeroU64::new);
    ms.ok_or_else(|| Failure::Usage(format!("--timeout {seconds}: not a time")))
}

async fn list(client: &Client, request: &Request, json: bool, columns: &[&str]) -> Result<u8, Failure> {
    let connection = connect(client, &client::first_frame(request)?).await?;
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    let finished = client::ask(connection.stream, &mut lines, &mut errors).await?;
    show::list(&lines, json, columns)?;
    Ok(finished.exit.status)
}

/// The value is read before the enclave is disturbed, and is in the transcript in no form.
async fn set_secret(client: &Client, set: SetSecret) -> Result<u8, Failure> {
    let value = secret::read(&set)?;
    let request = Request::SecretSet { secret: set.secret };
    let connection = connect(client, &client::first_frame(&request)?).await?;
    let (_acts, none) = mpsc::channel(1);
    let (mut out, mut err) = (Out::stdout(), Out::stderr());
    status(client::relay(connection.stream, Some(&value[..]), &mut out, &mut err, none).await)
}

async fn carry_files(client: &Client, transfer: TransferCommand) -> Result<u8, Failure> {
    // What is not there locally is no reason to disturb the enclave.
    let (words, prepared) = (transfer.clone(), transfer.prepare().map_err(Failure::channel)?);
    let failed = |error: transfer::client::ClientError| match error {
        transfer::client::ClientError::Transfer(TransferError::Peer(refusal)) => {
            Failure::Refused(match words.advice(&refusal) {
                Some(advice) => Refusal::new(refusal.code, format!("{}: {advice}", refusal.message)),
                None => refusal,
            })
        }
        error => Failure::channel(error),
    };
    let mut connection = connect(client, &[]).await?;
    let resumes = prepared.resumes();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::channel)?;
    tokio::select! {
        done = prepared.run(&mut connection.stream) => done.map_err(failed).map(|()| 0),
        _ = interrupt.recv() => {
            show::note(if resumes { "interrupted; the same command goes on from here" } else { "interrupted" });
            Ok(INTERRUPTED_CODE)
        }
    }
}

async fn transcript(client: &Client, from: u64, json: bool) -> Result<u8, Failure> {
    let connection = connect(client, &client::first_frame(&Request::Transcript { from })?).await?;
    let head = connection.control_head;
    let (mut bytes, mut errors) = (Vec::new(), Vec::new());
    client::ask(connection.stream, &mut bytes, &mut errors).await?;
    show::transcript(&bytes, from, head, json)
}
