//! A bounded queue in front of the NSM.
//!
//! The NSM answers one request at a time and blocks its caller while it does. One thread asks it; requests wait in a
//! queue of fixed length, and the one that finds it full is told so at once.

use std::sync::Arc;
use std::time::Duration;

use nsm::Provider;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

type Question = Box<dyn FnOnce(&dyn Provider) + Send>;

/// The asking end. Its thread ends when it is dropped.
pub(crate) struct NsmQueue {
    questions: mpsc::Sender<Question>,
    answer_within: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NsmQueueError {
    #[error("as many requests as may wait for the NSM wait already")]
    Full,
    #[error("the NSM gave no answer within {} s", .0.as_secs())]
    Slow(Duration),
    #[error("the thread that asks the NSM has ended")]
    Ended,
    #[error("the NSM failed")]
    Nsm(#[source] nsm::Error),
}

impl NsmQueue {
    /// Starts the thread. `length` requests may wait, each for `answer_within`.
    pub(crate) fn start(
        provider: Arc<dyn Provider>,
        length: usize,
        answer_within: Duration,
    ) -> std::io::Result<Self> {
        let (questions, mut waiting) = mpsc::channel::<Question>(length);
        std::thread::Builder::new().name("nsm".to_owned()).spawn(move || {
            while let Some(question) = waiting.blocking_recv() {
                question(&*provider);
            }
        })?;
        Ok(Self { questions, answer_within })
    }

    /// Asks the NSM and waits for its answer.
    pub(crate) async fn ask<T, F>(&self, question: F) -> Result<T, NsmQueueError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Provider) -> Result<T, nsm::Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let question = Box::new(move |provider: &dyn Provider| {
            // Whoever hung up while waiting costs the NSM nothing.
            if !reply.is_closed() {
                let _ = reply.send(question(provider));
            }
        });
        self.questions.try_send(question).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => NsmQueueError::Full,
            mpsc::error::TrySendError::Closed(_) => NsmQueueError::Ended,
        })?;
        match timeout(self.answer_within, answer).await {
            Ok(Ok(answer)) => answer.map_err(NsmQueueError::Nsm),
            Ok(Err(_)) => Err(NsmQueueError::Ended),
            Err(_) => Err(NsmQueueError::Slow(self.answer_within)),
        }
    }
}
