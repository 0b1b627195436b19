//! The fields of a request, under the keys that they are encoded with.

use std::num::NonZeroU64;

use minicbor::{Decoder, Encoder, decode};

use super::{
    MAX_LIST_ITEMS, Program, RecvDir, RecvFile, Request, RequestError, Run, RunId, SendDir, SendFile,
    Setting, Shell, Terminal, VERSION, WindowSize,
};

/// Every field that a request can have. Which of them it has depends on its verb.
#[derive(Debug, Default)]
pub(super) struct Fields {
    verb: String,
    argv: Option<Vec<Vec<u8>>>,
    script: Option<Vec<u8>>,
    env: Option<Vec<Vec<u8>>>,
    cwd: Option<Vec<u8>>,
    user: Option<String>,
    timeout_ms: Option<u64>,
    terminal: Option<Terminal>,
    no_wait: bool,
    path: Option<Vec<u8>>,
    mode: Option<u32>,
    size: Option<u64>,
    resume: bool,
    excludes: Option<Vec<Vec<u8>>>,
    id: Option<u64>,
    signal: Option<u8>,
    service: Option<String>,
    follow: bool,
    from: Option<u64>,
    secret: Option<String>,
}

const KEY_VERSION: u64 = 0;
const KEY_VERB: u64 = 1;

type Encoding<'a, 'b> =
    Result<&'a mut Encoder<&'b mut Vec<u8>>, minicbor::encode::Error<std::convert::Infallible>>;

impl Fields {
    pub(super) fn of(request: &Request) -> Self {
        let mut fields = Self { verb: request.verb().to_owned(), ..Self::default() };
        match request.clone() {
            Request::Run(run) => {
                fields.put_program(run.program);
                fields.put_setting(run.setting);
                fields.timeout_ms = run.timeout_ms.map(NonZeroU64::get);
                fields.terminal = run.terminal;
                fields.no_wait = run.no_wait;
            }
            Request::Shell(shell) => {
                if let Some(program) = shell.program {
                    fields.put_program(program);
                }
                fields.put_setting(shell.setting);
                fields.terminal = Some(shell.terminal);
            }
            Request::SendFile(SendFile { path, mode, size, resume }) => {
                fields = Self { path: Some(path), mode, size, resume, ..fields };
            }
            Request::RecvFile(RecvFile { path, resume }) => {
                fields = Self { path: Some(path), resume, ..fields };
            }
            Request::SendDir(SendDir { path, size, resume }) => {
                fields = Self { path: Some(path), size, resume, ..fields };
            }
            Request::RecvDir(RecvDir { path, excludes, resume }) => {
                fields = Self { path: Some(path), excludes: some(excludes), resume, ..fields };
            }
            Request::ServiceRestart { service } | Request::ServiceLogs { service } => {
                fields.service = Some(service);
            }
            Request::Status { id } => fields.id = id.map(|id| id.0),
            Request::Logs { id, follow } => fields = Self { id: Some(id.0), follow, ..fields },
            Request::Kill { id, signal } => {
                fields = Self { id: Some(id.0), signal: Some(signal), ..fields };
            }
            Request::Transcript { from } => fields.from = Some(from),
            Request::SecretSet { secret } => fields.secret = Some(secret),
            Request::Services | Request::Secrets | Request::Seal => {}
        }
        fields
    }

    pub(super) fn into_request(mut self) -> Result<Request, RequestError> {
        Ok(match self.verb.as_str() {
            "run" => Request::Run(Run {
                program: self.take_program().ok_or(RequestError::Missing { field: "argv" })?,
                timeout_ms: match self.timeout_ms {
                    None => None,
                    Some(ms) => Some(
                        NonZeroU64::new(ms)
                            .ok_or(RequestError::Invalid { field: "timeout", rule: "is zero" })?,
                    ),
                },
                terminal: self.terminal.take(),
                no_wait: self.no_wait,
                setting: self.into_setting(),
            }),
            "shell" => Request::Shell(Shell {
                program: self.take_program(),
                terminal: needed("terminal", self.terminal.take())?,
                setting: self.into_setting(),
            }),
            "send-file" => Request::SendFile(SendFile {
                path: needed("path", self.path)?,
                mode: self.mode,
                size: self.size,
                resume: self.resume,
            }),
            "recv-file" => {
                Request::RecvFile(RecvFile { path: needed("path", self.path)?, resume: self.resume })
            }
            "send-dir" => Request::SendDir(SendDir {
                path: needed("path", self.path)?,
                size: self.size,
                resume: self.resume,
            }),
            "recv-dir" => Request::RecvDir(RecvDir {
                path: needed("path", self.path)?,
                excludes: self.excludes.unwrap_or_default(),
                resume: self.resume,
            }),
            "services" => Request::Services,
            "service-restart" => Request::ServiceRestart { service: needed("service", self.service)? },
            "service-logs" => Request::ServiceLogs { service: needed("service", self.service)? },
            "status" => Request::Status { id: self.id.map(RunId) },
            "logs" => Request::Logs { id: RunId(needed("id", self.id)?), follow: self.follow },
            "kill" => {
                Request::Kill { id: RunId(needed("id", self.id)?), signal: needed("signal", self.signal)? }
            }
            "transcript" => Request::Transcript { from: needed("from", self.from)? },
            "secrets" => Request::Secrets,
            "secret-set" => Request::SecretSet { secret: needed("secret", self.secret)? },
            "seal" => Request::Seal,
            _ => return Err(RequestError::UnknownVerb { found: self.verb }),
        })
    }

    fn put_program(&mut self, program: Program) {
        match program {
            Program::Words(words) => self.argv = Some(words),
            Program::Script(script) => self.script = Some(script),
        }
    }

    fn take_program(&mut self) -> Option<Program> {
        let script = self.script.take().map(Program::Script);
        self.argv.take().map(Program::Words).or(script)
    }

    fn put_setting(&mut self, setting: Setting) {
        self.env = some(setting.env);
        self.cwd = setting.cwd;
        self.user = setting.user;
    }

    fn into_setting(self) -> Setting {
        Setting { env: self.env.unwrap_or_default(), cwd: self.cwd, user: self.user }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut entries: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut put = |key: u64, write: &dyn Fn(&mut Encoder<&mut Vec<u8>>)| {
            let mut bytes = Vec::new();
            write(&mut Encoder::new(&mut bytes));
            entries.push((key, bytes));
        };
        put(KEY_VERSION, &|e| done(e.u64(VERSION)));
        put(KEY_VERB, &|e| done(e.str(&self.verb)));
        let lists = [(2, &self.argv), (4, &self.env), (14, &self.excludes)];
        for (key, list) in lists {
            list.iter().for_each(|list| put(key, &|e| byte_strings(e, list)));
        }
        for (key, bytes) in [(3, &self.script), (5, &self.cwd), (10, &self.path)] {
            bytes.iter().for_each(|bytes| put(key, &|e| done(e.bytes(bytes))));
        }
        for (key, text) in [(6, &self.user), (17, &self.service), (20, &self.secret)] {
            text.iter().for_each(|text| put(key, &|e| done(e.str(text))));
        }
        let integers = [
            (7, self.timeout_ms),
            (11, self.mode.map(u64::from)),
            (12, self.size),
            (15, self.id),
            (16, self.signal.map(u64::from)),
            (19, self.from),
        ];
        for (key, integer) in integers {
            integer.iter().for_each(|integer| put(key, &|e| done(e.u64(*integer))));
        }
        for (key, flag) in [(9, self.no_wait), (13, self.resume), (18, self.follow)] {
            flag.then(|| put(key, &|e| done(e.bool(true))));
        }
        if let Some(Terminal { term, size }) = &self.terminal {
            put(8, &|e| done(e.array(3).and_then(|e| e.str(term)?.u16(size.columns)?.u16(size.rows))));
        }
        entries.sort_unstable_by_key(|(key, _)| *key);
        join(&entries)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        let mut d = Decoder::new(bytes);
        let entries = d.map()?.ok_or(RequestError::NotCanonical)?;
        let mut fields = Self::default();
        let mut last = None;
        for _ in 0..entries {
            let key = d.u64()?;
            if last.is_some_and(|last| last >= key) {
                return Err(RequestError::NotCanonical);
            }
            last = Some(key);
            fields.decode_field(key, &mut d)?;
        }
        if d.position() != bytes.len() {
            return Err(RequestError::NotCanonical);
        }
        Ok(fields)
    }

    fn decode_field(&mut self, key: u64, d: &mut Decoder<'_>) -> Result<(), RequestError> {
        match key {
            KEY_VERSION => match d.u64()? {
                VERSION => {}
                found => return Err(RequestError::Version { found }),
            },
            KEY_VERB => self.verb = d.str()?.to_owned(),
            2 => self.argv = Some(read_byte_strings(d)?),
            3 => self.script = Some(d.bytes()?.to_vec()),
            4 => self.env = Some(read_byte_strings(d)?),
            5 => self.cwd = Some(d.bytes()?.to_vec()),
            6 => self.user = Some(d.str()?.to_owned()),
            7 => self.timeout_ms = Some(d.u64()?),
            8 => self.terminal = Some(read_terminal(d)?),
            9 => self.no_wait = d.bool()?,
            10 => self.path = Some(d.bytes()?.to_vec()),
            11 => self.mode = Some(d.u32()?),
            12 => self.size = Some(d.u64()?),
            13 => self.resume = d.bool()?,
            14 => self.excludes = Some(read_byte_strings(d)?),
            15 => self.id = Some(d.u64()?),
            16 => self.signal = Some(d.u8()?),
            17 => self.service = Some(d.str()?.to_owned()),
            18 => self.follow = d.bool()?,
            19 => self.from = Some(d.u64()?),
            20 => self.secret = Some(d.str()?.to_owned()),
            _ => return Err(RequestError::NotCanonical),
        }
        Ok(())
    }
}

/// A list that may be left out when it is empty, and then is.
fn some(list: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    (!list.is_empty()).then_some(list)
}

fn needed<T>(field: &'static str, value: Option<T>) -> Result<T, RequestError> {
    value.ok_or(RequestError::Missing { field })
}

fn join(entries: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let count = u64::try_from(entries.len()).expect("a request has few fields");
    done(Encoder::new(&mut bytes).map(count));
    for (key, value) in entries {
        done(Encoder::new(&mut bytes).u64(*key));
        bytes.extend_from_slice(value);
    }
    bytes
}

fn byte_strings(e: &mut Encoder<&mut Vec<u8>>, items: &[Vec<u8>]) {
    done(e.array(u64::try_from(items.len()).expect("a list fits the memory")));
    items.iter().for_each(|item| done(e.bytes(item)));
}

fn done(written: Encoding<'_, '_>) {
    written.expect("writing to a Vec cannot fail");
}

fn read_byte_strings(d: &mut Decoder<'_>) -> Result<Vec<Vec<u8>>, RequestError> {
    let count = d.array()?.ok_or(RequestError::NotCanonical)?;
    if usize::try_from(count).map_or(true, |count| count > MAX_LIST_ITEMS) {
        return Err(decode::Error::message("a list has too many items").into());
    }
    (0..count).map(|_| Ok(d.bytes()?.to_vec())).collect()
}

fn read_terminal(d: &mut Decoder<'_>) -> Result<Terminal, RequestError> {
    if d.array()? != Some(3) {
        return Err(RequestError::NotCanonical);
    }
    let term = d.str()?.to_owned();
    Ok(Terminal { term, size: WindowSize { columns: d.u16()?, rows: d.u16()? } })
}
