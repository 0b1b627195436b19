//! One session: its request, whether it may, its entry in the transcript, its verb, its end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use enclave_init::private::{self, AskError};
use manifest::Operator;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    access,
    application::Application,
    background::Background,
    frame::{FrameError, FrameReader, FrameWriter, Kind},
    limits::Limits,
    process, relay,
    reply::{Accepted, Code, Exit, Refusal},
    request::{Program, Request, Run, RunId, Shell},
    running::Running,
    secrets,
    serve::{Done, Input, Output, ServeError, Session, Verbs},
    trace::{State, Trace, entry::Ending},
    transfer::RemotePath,
};

/// How long the last frames of a session may take to leave.
const FAREWELL: Duration = Duration::from_secs(30);

/// How long a client may take to hang up after it.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes of the transcript or of a service's output in one frame.
const CHUNK_BYTES: usize = 32 << 10;

/// Everything that sessions share.
pub struct Sessions {
    application: Application,
    trace: Arc<Trace>,
    limits: Limits,
    /// Init's private socket; without it there are no services.
    init: Option<PathBuf>,
    /// Who serves the verbs that this crate's core does not.
    verbs: Vec<Box<dyn Verbs>>,
    background: Background,
    /// Where programs are noted; without it they outlive a server that is killed.
    running: Option<Arc<Running>>,
    slots: Semaphore,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("trace", &self.trace).finish_non_exhaustive()
    }
}

/// An entry of the transcript that is closed when this is dropped, whatever happens until then.
struct Open {
    trace: Arc<Trace>,
    number: u64,
    ending: Ending,
    done: Done,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.trace.close(self.number, self.ending, &self.done);
    }
}

impl Sessions {
    /// Sessions over one trace.
    pub fn new(
        application: Application,
        trace: Arc<Trace>,
        limits: Limits,
        init: Option<PathBuf>,
        verbs: Vec<Box<dyn Verbs>>,
    ) -> Self {
        let background = Background::new(limits.background_runs, limits.background_output_bytes);
        let slots = Semaphore::new(limits.sessions);
        Self { application, trace, limits, init, verbs, background, running: None, slots }
    }

    /// With programs noted, so that the next server can end them.
    #[must_use]
    pub(crate) fn noting(self, running: Option<Arc<Running>>) -> Self {
        Self { running, ..self }
    }

    /// Serves one session on an authenticated stream, to its end.
    pub async fn serve<S>(&self, stream: S, operator: &Operator)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        let mut input: Input = FrameReader::new(Box::new(reader));
        let mut output: Output = FrameWriter::new(Box::new(writer));
        let outcome = match self.begin(&mut input, operator).await {
            Ok((request, bytes, reach)) => {
                let root = self.application.root.clone();
                let mut session = Session { request, root, reach, input, output };
                let outcome = self.admitted(&mut session, &bytes, operator).await;
                (input, output) = (session.input, session.output);
                outcome
            }
            Err(error) => Err(error),
        };
        let frame = match outcome {
            Ok(exit) => (Kind::Exit, exit.encode()),
            Err(ServeError::Refused(refusal)) => {
                tracing::info!(operator = operator.name, code = ?refusal.code, "refused");
                (Kind::Refused, refusal.encode())
            }
            Err(ServeError::Told(_) | ServeError::Connection(FrameError::Io(_) | FrameError::Truncated)) => {
                return;
            }
            Err(ServeError::Connection(error)) => {
                (Kind::Refused, Refusal::new(Code::Malformed, error.to_string()).encode())
            }
        };
        let farewell = async {
            output.send(frame.0, &frame.1).await?;
            output.shutdown().await
        };
        // Whoever does not take the last word goes without.
        if let Ok(Ok(())) = timeout(FAREWELL, farewell).await {
            // A socket that is closed with unread bytes in it can take back what was sent.
            let _ = timeout(LINGER, async { while let Ok(Some(_)) = input.next().await {} }).await;
        }
    }

    /// Reads the request, and asks whether the operator may.
    async fn begin(
        &self,
        input: &mut Input,
        operator: &Operator,
    ) -> Result<(Request, Bytes, Vec<RemotePath>), ServeError> {
        let malformed = |what: &str| Refusal::new(Code::Malformed, what);
        let frame = match timeout(self.limits.request, input.next()).await {
            Ok(frame) => frame?.ok_or(FrameError::Truncated)?,
            Err(_) => return Err(Refusal::new(Code::Idle, "no request came").into()),
        };
        if frame.kind != Kind::Request {
            return Err(malformed("the first frame is no request").into());
        }
        let request = Request::decode(&frame.payload).map_err(|error| malformed(&error.to_string()))?;
        let grant = access::check(operator, &request)?;
        Ok((request, frame.payload, grant.reach))
    }

    /// Serves a request that the operator may make.
    async fn admitted(
        &self,
        session: &mut Session,
        bytes: &Bytes,
        operator: &Operator,
    ) -> Result<Exit, ServeError> {
        let Ok(_slot) = self.slots.try_acquire() else {
            return Err(Refusal::new(Code::Busy, "as many sessions as are allowed are there already").into());
        };
        match session.request {
            // These two do not enter: nothing of the application is seen or changed.
            Request::Seal => {
                let trace = self.trace.clone();
                let sealed = tokio::task::spawn_blocking(move || trace.seal()).await;
                sealed.unwrap_or_else(|error| Err(Refusal::new(Code::Failed, error.to_string())))?;
                accept(&mut session.output, None).await?;
                return Ok(Exit::default());
            }
            Request::Transcript { from } => return self.transcript(from, &mut session.output).await,
            _ => {}
        }
        let number = self.admit(operator, bytes).await?;
        tracing::info!(operator = operator.name, verb = session.request.verb(), session = number, "admitted");
        let trace = self.trace.clone();
        let mut open = Open { trace, number, ending: Ending::Lost, done: Done::default() };
        if let Request::Run(run @ Run { no_wait: true, .. }) = &session.request {
            let run = run.clone();
            return self.detach(&run, open, operator, &mut session.output).await;
        }
        let outcome = self.verb(session, number).await;
        match &outcome {
            Ok(done) => {
                open.ending = Ending::Exit(done.exit);
                open.done = done.clone();
            }
            Err(ServeError::Refused(refusal) | ServeError::Told(refusal)) => {
                open.ending = Ending::Refused(refusal.code as u16)
            }
            Err(ServeError::Connection(_)) => open.ending = Ending::Lost,
        }
        outcome.map(|done| done.exit)
    }

    async fn admit(&self, operator: &Operator, request: &Bytes) -> Result<u64, Refusal> {
        if self.trace.state() != State::Fresh {
            return self.trace.admit(operator, request);
        }
        // The first time the security module has work to do, which may take it a while.
        let (trace, operator, request) = (self.trace.clone(), operator.clone(), request.clone());
        let admitted = tokio::task::spawn_blocking(move || trace.admit(&operator, &request)).await;
        admitted.unwrap_or_else(|error| Err(Refusal::new(Code::Untraceable, error.to_string())))
    }

    async fn verb(&self, session: &mut Session, number: u64) -> Result<Done, ServeError> {
        let Session { request, input, output, .. } = session;
        match &*request {
            Request::Run(run) => {
                let launch = self.application.run(run)?;
                let terminal = run.terminal.as_ref().map(|terminal| terminal.size);
                let program = process::start(launch, terminal, self.running.as_deref()).await?;
                accept(output, Some(RunId(number))).await?;
                let limit = run.timeout_ms.map(|ms| Duration::from_millis(ms.get()));
                relay::relay(input, output, program, limit, self.limits.idle).await
            }
            Request::Shell(shell @ Shell { terminal, .. }) => {
                let launch = self.application.shell(shell)?;
                let program = process::start(launch, Some(terminal.size), self.running.as_deref()).await?;
                accept(output, Some(RunId(number))).await?;
                relay::relay(input, output, program, None, self.limits.idle).await
            }
            Request::Services => self.ask(private::Request::Services, output).await,
            Request::ServiceRestart { service } => self.ask(private::Request::Restart(service), output).await,
            Request::ServiceLogs { service } => self.ask(private::Request::Logs(service), output).await,
            Request::Secrets => self.ask(private::Request::Secrets, output).await,
            Request::SecretSet { secret } => {
                accept(output, None).await?;
                let value = secrets::receive(input, self.limits.stall).await?;
                self.ask_init(private::Request::Give(secret, &value)).await?;
                Ok(Done { bytes: value.len() as u64, ..Done::default() })
            }
            Request::Status { id } => {
                let status = self.background.status(*id)?;
                accept(output, None).await?;
                send(output, &status).await?;
                Ok(Done::default())
            }
            Request::Kill { id, signal } => {
                self.background.kill(*id, *signal)?;
                accept(output, None).await?;
                Ok(Done::default())
            }
            Request::Logs { id, follow } => self.logs(*id, *follow, input, output).await,
            _ => match self.verbs.iter().find(|verbs| verbs.knows(&session.request)) {
                Some(verbs) => verbs.serve(session).await,
                None => {
                    let message = format!("this server has no verb {:?}", session.request.verb());
                    Err(Refusal::new(Code::Unsupported, message).into())
                }
            },
        }
    }

    /// Starts a run that goes on without its client.
    async fn detach(
        &self,
        run: &Run,
        mut open: Open,
        operator: &Operator,
        output: &mut Output,
    ) -> Result<Exit, ServeError> {
        let start = async {
            self.background.reserve()?;
            process::start(self.application.run(run)?, None, self.running.as_deref()).await
        };
        let program =
            start.await.inspect_err(|refusal| open.ending = Ending::Refused(refusal.code as u16))?;
        let (id, command) = (RunId(open.number), readable(&run.program));
        let limit = run.timeout_ms.map(|ms| Duration::from_millis(ms.get()));
        self.background.adopt(id, &operator.name, command, program, limit, move |exit| {
            // As a whole: a closure takes single fields otherwise, and the entry would be closed here and now.
            let mut open = open;
            open.ending = Ending::Exit(exit);
        });
        accept(output, Some(id)).await?;
        Ok(Exit::default())
    }

    async fn logs(
        &self,
        id: RunId,
        follow: bool,
        input: &mut Input,
        output: &mut Output,
    ) -> Result<Done, ServeError> {
        self.background.find(id)?;
        accept(output, None).await?;
        let logs = self.background.logs(id, follow, output);
        // A follower that is gone is noticed, even while there is nothing to send.
        let gone = async {
            loop {
                match timeout(self.limits.stall, input.next()).await {
                    Ok(Ok(Some(_still_there))) => {}
                    Ok(Ok(None)) => return FrameError::Truncated,
                    Ok(Err(error)) => return error,
                    Err(_silent) => return FrameError::Io(std::io::ErrorKind::TimedOut.into()),
                }
            }
        };
        tokio::select! {
            exit = logs => Ok(Done { exit: exit?, ..Done::default() }),
            error = gone => Err(error.into()),
        }
    }

    async fn ask(&self, request: private::Request<'_>, output: &mut Output) -> Result<Done, ServeError> {
        let answer = self.ask_init(request).await?;
        accept(output, None).await?;
        send(output, &answer).await?;
        Ok(Done::default())
    }

    async fn ask_init(&self, request: private::Request<'_>) -> Result<Vec<u8>, ServeError> {
        let Some(socket) = &self.init else {
            return Err(Refusal::new(Code::Unsupported, "this server has no init to ask").into());
        };
        let answer = private::ask(socket, request).await.map_err(|error| match error {
            AskError::Refused(reason) => Refusal::new(Code::NotFound, reason),
            error => Refusal::new(Code::Failed, error.to_string()),
        });
        Ok(answer?)
    }

    /// Sends the transcript from entry `from` on, as it is on file.
    async fn transcript(&self, from: u64, output: &mut Output) -> Result<Exit, ServeError> {
        let (file, length) = self.trace.transcript()?;
        let mut file = tokio::fs::File::from_std(file);
        let mut skipped = 0;
        for _ in 1..from {
            if skipped >= length {
                return Err(Refusal::new(Code::NotFound, format!("there is no entry {from} yet")).into());
            }
            let entry = u64::from(file.read_u32().await?);
            skipped = file.seek(std::io::SeekFrom::Current(entry.cast_signed())).await?;
        }
        accept(output, None).await?;
        let mut rest = file.take(length.saturating_sub(skipped));
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match rest.read(&mut buffer).await? {
                0 => return Ok(Exit::default()),
                count => output.send(Kind::Stdout, &buffer[..count]).await?,
            }
        }
    }
}

async fn accept(output: &mut Output, id: Option<RunId>) -> Result<(), ServeError> {
    output.send(Kind::Accepted, &Accepted { id }.encode()).await?;
    Ok(output.flush().await?)
}

async fn send(output: &mut Output, bytes: &[u8]) -> Result<(), ServeError> {
    for chunk in bytes.chunks(CHUNK_BYTES) {
        output.send(Kind::Stdout, chunk).await?;
    }
    Ok(())
}

/// A program for people, in one line.
fn readable(program: &Program) -> String {
    let text = match program {
        Program::Words(words) => words.join(&b' '),
        Program::Script(script) => script.clone(),
    };
    let mut text = String::from_utf8_lossy(&text).into_owned();
    text.truncate(text.floor_char_boundary(1024));
    text
}
