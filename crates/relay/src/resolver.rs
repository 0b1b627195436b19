//! Looks up host names, on a thread of its own: the system's resolver waits.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::{Mailbox, Message};
use crate::slots::Token;

/// How long an answer is used again.
const REUSE: Duration = Duration::from_secs(5);

/// How many answers are kept.
const MAX_KEPT: usize = 1024;

#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) name: String,
    pub(crate) token: Token,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// Starts its thread with the first question.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    questions: Mutex<Option<Sender<Question>>>,
}

impl Resolver {
    /// The answer comes to the mailbox. Without an answer, the connection's deadline ends the wait.
    pub(crate) fn ask(&self, question: Question) {
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = questions.get_or_insert_with(|| {
            let (sender, receiver) = channel();
            let spawned =
                thread::Builder::new().name("relay-names".to_owned()).spawn(move || answer(&receiver));
            if let Err(error) = spawned {
                tracing::warn!(%error, "cannot start resolving names");
            }
            sender
        });
        if let Err(unsent) = sender.send(question) {
            // The thread could not be started; perhaps it can the next time.
            *questions = None;
            let question = unsent.0;
            question.mailbox.post(Message::Resolved(question.token, Vec::new()));
        }
    }
}

/// Ends with the engine, whose sender hangs up.
fn answer(questions: &Receiver<Question>) {
    let mut kept: HashMap<String, (Instant, Vec<SocketAddr>)> = HashMap::new();
    for question in questions {
        let now = Instant::now();
        let found = match kept.get(&question.name) {
            Some((when, found)) if *when + REUSE > now => found.clone(),
            _ => {
                let found = question.name.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
                kept.retain(|_, (when, _)| *when + REUSE > now);
                if kept.len() < MAX_KEPT {
                    kept.insert(question.name, (Instant::now(), Vec::clone(&found)));
                }
                found
            }
        };
        question.mailbox.post(Message::Resolved(question.token, found));
    }
}
