//! The enclave's resolver: the IO around [`intercept::dns`].

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use egress::{Name, Protocol, Record};
use intercept::dns::{About, Answer, DomainName, Query, Rejected, localhost};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use super::{
    guide::Guide,
    records::Records,
    upstream::{AskError, Upstream},
};

/// Questions that are asked outside at once.
const MAX_ASKED: usize = 256;

/// How long an answer from outside may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a program's connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// A name that was asked for again and again leaves one record in this time.
const SAME_DENIAL: Duration = Duration::from_secs(1);

/// How many names are remembered for that.
const MAX_DENIALS: usize = 256;

/// Answers for the policy's names.
#[derive(Debug)]
pub(super) struct Resolver {
    guide: Arc<Guide>,
    upstream: Upstream,
    records: Arc<Records>,
    asked: Semaphore,
    own_name: String,
    denials: Mutex<HashMap<Name, Instant>>,
}

impl Resolver {
    pub(super) fn new(guide: Arc<Guide>, upstream: Upstream, records: Arc<Records>) -> Self {
        let own_name = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
        let asked = Semaphore::new(MAX_ASKED);
        Self { guide, upstream, records, asked, own_name, denials: Mutex::default() }
    }

    /// The answer to a program's question; `None` if it gets none.
    pub(super) async fn answer(&self, question: &[u8], by_udp: bool) -> Option<Vec<u8>> {
        let query = match Query::parse(question) {
            Ok(query) => query,
            Err(Rejected::With(answer)) => return Some(answer),
            Err(_) => return None,
        };
        if query.about() == About::Records && self.permits(&query.name) {
            let answer = self.ask(&query, by_udp).await;
            return Some(answer.unwrap_or_else(|error| {
                let reason: &(dyn std::error::Error + 'static) = &error;
                tracing::debug!(reason, "question not answered outside");
                query.answer(&Answer::Failed, by_udp)
            }));
        }
        Some(query.answer(&self.known(&query), by_udp))
    }

    /// Answers on a program's connection until it has no more questions.
    pub(super) async fn serve(&self, mut program: TcpStream) {
        while let Ok(Ok(length)) = timeout(IDLE, program.read_u16()).await {
            let mut question = vec![0; length.into()];
            let Ok(Ok(_)) = timeout(IDLE, program.read_exact(&mut question)).await else { return };
            let Some(answer) = self.answer(&question, false).await else { return };
            let Ok(length) = u16::try_from(answer.len()) else { return };
            let message = [&length.to_be_bytes()[..], &answer].concat();
            if !matches!(timeout(IDLE, program.write_all(&message)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// The answer to what nobody outside is asked.
    fn known(&self, query: &Query) -> Answer {
        let about = query.about();
        if let About::NameOf(address) = about {
            let name = self.guide.name_of(address).and_then(|name| DomainName::from_text(&name));
            return name.map_or(Answer::NoName, Answer::Name);
        }
        let Some(text) = query.name.to_text() else { return Answer::NoName };
        let is_own = text == "localhost" || text.ends_with(".localhost") || text == self.own_name;
        if is_own {
            return if about == About::Addresses { localhost() } else { Answer::Nothing };
        }
        let Ok(name) = text.parse::<Name>() else { return Answer::NoName };
        if !self.permits(&query.name) {
            self.note_denial(name);
            return Answer::Forbidden;
        }
        match about {
            About::Addresses if self.guide.permits(&name) => match self.guide.lend(&name) {
                Some((v4, v6)) => Answer::Addresses(vec![v4, v6]),
                None => Answer::Failed,
            },
            _ => Answer::Nothing,
        }
    }

    /// Whether anything may be asked about a name. Of `_service._tcp.example.org` that is so if it may of `example.org`.
    fn permits(&self, name: &DomainName) -> bool {
        let Some(text) = name.to_text() else { return false };
        let mut rest = text.as_str();
        loop {
            if rest.parse::<Name>().is_ok_and(|name| self.guide.permits(&name)) {
                return true;
            }
            match rest.split_once('.') {
                Some((label, parent)) if label.starts_with('_') => rest = parent,
                _ => return false,
            }
        }
    }

    async fn ask(&self, query: &Query, by_udp: bool) -> Result<Vec<u8>, AskError> {
        let _place = self.asked.acquire().await.map_err(|_| AskError::Silent)?;
        let id = random_id()?;
        let question = query.upstream(id);
        let reply =
            timeout(ANSWER_TIMEOUT, self.upstream.ask(&question)).await.map_err(|_| AskError::Silent)??;
        Ok(query.relay(id, &reply, by_udp)?)
    }

    fn note_denial(&self, name: Name) {
        let now = Instant::now();
        let mut denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        denials.retain(|_, since| now.saturating_duration_since(*since) < SAME_DENIAL);
        if denials.contains_key(&name) {
            return;
        }
        let verdict = self.guide.judge_name(&name);
        let destination = egress::Destination::Name(name.clone());
        if denials.len() < MAX_DENIALS {
            denials.insert(name, now);
        }
        drop(denials);
        self.records.push(Record::begin(super::records::now_ms(), &destination, 0, Protocol::Tcp, &verdict));
    }
}

/// A number that nobody outside can guess.
fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u16::from_ne_bytes(bytes))
}
