//! The events an enclave reports to its host, and their encoding.
//!
//! One event is one line of JSON, as `docs/spec/event-stream.md` specifies. Init writes them, the `glasshouse` command
//! reads them. Nothing here is a secret or an attestation: whoever runs the enclave can read and forge every line.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

/// The version of the stream this crate writes, said in its first event.
pub const STREAM_VERSION: u32 = 1;

/// Longest line a reader has to accept, in bytes, with its end-of-line.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts every event from 1, also those that were dropped before the host could have them.
    pub seq: u64,
    /// Milliseconds since init started, by the enclave's monotonic clock.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened in an enclave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// Init runs. Always the first event.
    Boot {
        /// [`STREAM_VERSION`].
        version: u32,
    },
    /// The manifest was read and measured into PCR16.
    Measured {
        /// The image's name.
        name: String,
        /// SHA-384 of the manifest's bytes, 96 lower-case hex digits.
        manifest_sha384: String,
    },
    /// Init has something to say.
    Message {
        /// How grave it is.
        level: Level,
        /// For people.
        text: String,
    },
    /// A service wrote a line.
    Log {
        /// The service's name in the manifest; a daemon of the framework has `@` before its name.
        service: String,
        /// Where it wrote the line.
        stream: LogStream,
        /// What it wrote.
        #[serde(flatten)]
        line: Line,
    },
    /// A service's state changed.
    Service {
        /// As in [`Event::Log`].
        service: String,
        /// Counts the starts of this service from 1.
        run: u32,
        /// The new state.
        #[serde(flatten)]
        state: ServiceState,
    },
    /// A service's health changed.
    Health {
        /// As in [`Event::Log`].
        service: String,
        /// As in [`Event::Service`].
        run: u32,
        /// What it is now.
        #[serde(flatten)]
        health: Health,
    },
    /// What became of a connection to the world, or of several alike.
    Egress(Box<egress::Record>),
    /// Every service has been ready.
    Ready,
    /// Log lines or records of connections were dropped here because the host did not read fast enough.
    Dropped {
        /// How many events.
        count: u64,
    },
    /// The enclave ends. Always the last event.
    Exit(Exit),
    /// An event of a later version.
    #[serde(other)]
    Unknown,
}

/// How grave a message of init is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Life cycle.
    Info,
    /// The enclave runs, with less than it should have.
    Warn,
    /// The enclave or a service does not run because of it.
    Error,
}

/// One of a service's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a service's output, or a part of a long one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "EncodedLine", try_from = "EncodedLine")]
pub struct Line {
    /// The bytes, without the end-of-line; at most [`crate::MAX_LINE_BYTES`] from init.
    pub bytes: Vec<u8>,
    /// Whether the line goes on in the service's next event of the same stream.
    pub continues: bool,
}

/// [`Line`] on the wire: exactly one of the two members, text when the bytes are UTF-8.
#[derive(Serialize, Deserialize)]
struct EncodedLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
}

/// Where a service is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ServiceState {
    /// It is its turn to be started, and secrets of it are not given yet. Its `run` is then the number of starts until now.
    AwaitingSecrets {
        /// All its secrets, given or not.
        secrets: Vec<String>,
    },
    /// Init is about to start its process.
    Starting,
    /// It is ready.
    Ready,
    /// It was not ready in time, so init kills it.
    NotReady {
        /// The time it had, in seconds.
        timeout_s: u64,
    },
    /// Its process could not be started.
    Failed {
        /// For people.
        reason: String,
    },
    /// Its process ended.
    Exited(Outcome),
    /// It will be started again.
    Restarting {
        /// After so many milliseconds.
        delay_ms: u64,
    },
}

/// What a service's health check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "health", rename_all = "snake_case")]
pub enum Health {
    /// It is well.
    Healthy,
    /// It failed as often in a row as the manifest allows.
    Unhealthy {
        /// How the last check failed, for people.
        reason: String,
        /// The end of what that check wrote, at most 3,072 bytes.
        output: String,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It exited with this status.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

/// How the enclave ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The main service's exit status, 128 and the signal's number if one ended it, or as [`Cause`] says.
    pub code: u8,
    /// Why the enclave ended.
    pub cause: Cause,
}

/// Why an enclave ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The main service ended for good.
    MainService,
    /// The host or a signal asked for it; the code is 0 if the main service did not run at that time.
    Shutdown,
    /// A service ended for good before it was ready; the code is that service's, or 1 if it exited with 0.
    StartFailed,
    /// Init could not prepare or measure the enclave and started nothing; the code is [`crate::REFUSED_CODE`].
    Refused,
}

impl Outcome {
    /// The exit status a shell would show: the code, or 128 and the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// Events that share their memory while they wait for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Log lines.
    Logs,
    /// Records of connections.
    Egress,
    /// Everything else.
    States,
}

impl Event {
    /// Which events this one may push out: those of its own lane.
    pub(crate) fn lane(&self) -> Lane {
        match self {
            Self::Log { .. } => Lane::Logs,
            Self::Egress(_) => Lane::Egress,
            _ => Lane::States,
        }
    }
}

impl Record {
    /// The line, with its end-of-line.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("strings and integers always serialise");
        line.push(b'\n');
        line
    }

    /// Reads one line, with or without its end-of-line.
    ///
    /// # Errors
    /// [`DecodeError`]; the stream can be read on after the line.
    pub fn from_line(line: &[u8]) -> Result<Self, DecodeError> {
        if line.len() > MAX_EVENT_BYTES {
            return Err(DecodeError::TooLong { found: line.len() });
        }
        Ok(serde_json::from_slice(line)?)
    }
}

/// Why a line is not an event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than any event.
    #[error("the line has {found} bytes, more than the {MAX_EVENT_BYTES} an event may have")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// Not an event's JSON.
    #[error("the line is not an event")]
    Json(#[from] serde_json::Error),
}

impl From<Line> for EncodedLine {
    fn from(Line { bytes, continues }: Line) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self { text: Some(text), base64: None, continues },
            Err(e) => Self { text: None, base64: Some(BASE64.encode(e.into_bytes())), continues },
        }
    }
}

impl TryFrom<EncodedLine> for Line {
    type Error = &'static str;

    fn try_from(EncodedLine { text, base64, continues }: EncodedLine) -> Result<Self, Self::Error> {
        let bytes = match (text, base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => BASE64.decode(base64).map_err(|_| "the member base64 is not base64")?,
            _ => return Err("a log event has one of the members text and base64"),
        };
        Ok(Self { bytes, continues })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every valid line of the specification's vectors is written exactly so by the encoder.
    #[test]
    fn writes_and_reads_the_vectors_of_the_specification() {
        let vectors = include_str!("../../docs/spec/vectors/event-stream-valid.jsonl");
        let mut count = 0;
        for line in vectors.split_inclusive('\n') {
            let record = Record::from_line(line.as_bytes()).unwrap();
            assert_eq!(std::str::from_utf8(&record.to_line()).unwrap(), line);
            count += 1;
        }
        assert_eq!(count, 23);
    }

    #[test]
    fn refuses_the_lines_the_specification_says_must_be_refused() {
        let vectors = include_str!("../../docs/spec/vectors/event-stream-invalid.jsonl");
        assert_eq!(vectors.lines().count(), 12);
        for line in vectors.lines() {
            assert!(Record::from_line(line.as_bytes()).is_err(), "{line}");
        }
        let long = vec![b' '; MAX_EVENT_BYTES + 1];
        assert!(matches!(Record::from_line(&long), Err(DecodeError::TooLong { found: 65537 })));
    }

    #[test]
    fn reads_events_and_members_of_later_versions() {
        let later = br#"{"seq":3,"at_ms":9,"event":"weather","sky":"clear"}"#;
        assert_eq!(Record::from_line(later).unwrap(), Record { seq: 3, at_ms: 9, event: Event::Unknown });
        let more = br#"{"seq":3,"at_ms":9,"event":"ready","mood":"good"}"#;
        assert_eq!(Record::from_line(more).unwrap().event, Event::Ready);
    }

    #[test]
    fn a_line_of_the_longest_kind_fits_an_event() {
        // A control character takes the most room: six bytes of JSON.
        let line = Line { bytes: vec![1; crate::MAX_LINE_BYTES], continues: true };
        let event = Event::Log { service: "s".repeat(64), stream: LogStream::Stdout, line };
        let record = Record { seq: u64::MAX, at_ms: u64::MAX, event };
        assert!(record.to_line().len() <= MAX_EVENT_BYTES);
    }

    #[test]
    fn a_signalled_process_is_not_a_success() {
        assert_eq!((Outcome::Signal(9).code(), Outcome::Code(3).code()), (137, 3));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let line = (any::<Vec<u8>>(), any::<bool>()).prop_map(|(bytes, continues)| Line { bytes, continues });
        let outcome = prop_oneof![any::<u8>().prop_map(Outcome::Code), any::<u8>().prop_map(Outcome::Signal)];
        let state = prop_oneof![
            Just(ServiceState::Starting),
            any::<Vec<String>>().prop_map(|secrets| ServiceState::AwaitingSecrets { secrets }),
            any::<u64>().prop_map(|timeout_s| ServiceState::NotReady { timeout_s }),
            any::<String>().prop_map(|reason| ServiceState::Failed { reason }),
            outcome.prop_map(ServiceState::Exited),
        ];
        prop_oneof![
            line.prop_map(|line| Event::Log { service: "a".into(), stream: LogStream::Stderr, line }),
            (any::<u32>(), state).prop_map(|(run, state)| Event::Service {
                service: "@b".into(),
                run,
                state
            }),
            any::<String>().prop_map(|text| Event::Message { level: Level::Warn, text }),
            (any::<u32>(), any::<String>(), any::<String>()).prop_map(|(run, reason, output)| {
                Event::Health { service: "c".into(), run, health: Health::Unhealthy { reason, output } }
            }),
            any::<u8>().prop_map(|code| Event::Exit(Exit { code, cause: Cause::Shutdown })),
        ]
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(seq: u64, at_ms: u64, event in any_event()) {
            let record = Record { seq, at_ms, event };
            let line = record.to_line();
            prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            prop_assert_eq!(Record::from_line(&line).unwrap(), record);
        }

        #[test]
        fn decoding_never_panics(line: Vec<u8>) {
            let _ = Record::from_line(&line);
        }
    }
}
