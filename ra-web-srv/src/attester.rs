//! Where verifiers' nonces become documents: `docs/spec/nonce-batch.md`.
//!
//! The NSM makes one document after the other. Whoever comes while it works waits, and all who have waited share the next
//! document, each with a path of his own to its nonce. Nobody is made to wait for company: one who finds the NSM idle is
//! alone in the document that is made at once. Whoever cannot read a path is always alone, and takes turns with the others.
//!
//! What a document states is read after its nonces were taken, so that nothing in it is older than the question.

use std::sync::Arc;
use std::time::Duration;

use attestation::batch::{MAX_BATCH_NONCES, NonceBatch, NoncePath};
use attestation::binding::Statement;
use axum::body::Bytes;
use nsm::AttestationRequest;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::binding::Binding;
use crate::error::ApiError;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::nsm_queue::{NsmQueue, NsmQueueError};

/// Most nonces that share a document; the others are in the next one.
const MAX_SHARED: usize = 4096;
const _: () = assert!(MAX_SHARED as u64 <= MAX_BATCH_NONCES);

/// Whether a caller can do with a document that answers others too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Company {
    /// It reads the path that comes with the document.
    Welcome,
    /// It compares the document's nonce with its own and knows of nothing else.
    Unwanted,
}

/// A document, and how the caller's nonce is in it.
#[derive(Debug, Clone)]
pub(crate) struct Attested {
    /// The COSE_Sign1 message.
    pub(crate) document: Bytes,
    /// From the nonce to the document's; `None` where the nonce is the document's.
    pub(crate) path: Option<NoncePath>,
    /// What the document states.
    pub(crate) statement: Arc<Statement>,
}

/// The asking end. Its task ends when it is dropped.
pub(crate) struct Attester {
    shared: mpsc::Sender<Waiting>,
    alone: mpsc::Sender<Waiting>,
    answer_within: Duration,
}

struct Waiting {
    nonce: Vec<u8>,
    reply: oneshot::Sender<Result<Attested, Arc<ApiError>>>,
}

impl Attester {
    /// Starts the task that gathers nonces and asks `nsm`.
    pub(crate) fn start(
        nsm: Arc<NsmQueue>,
        binding: Binding,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (shared, sharing) = mpsc::channel(limits.shared_nonces);
        let (alone, lonely) = mpsc::channel(limits.nsm_queue);
        tokio::spawn(Gatherer { sharing, lonely, nsm, binding, metrics }.run());
        Self { shared, alone, answer_within: limits.nsm_answer }
    }

    /// A document made for `nonce`, from now on.
    pub(crate) async fn attest(&self, nonce: Vec<u8>, company: Company) -> Result<Attested, ApiError> {
        let (reply, answer) = oneshot::channel();
        let queue = match company {
            Company::Welcome => &self.shared,
            Company::Unwanted => &self.alone,
        };
        queue.try_send(Waiting { nonce, reply }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => NsmQueueError::Full,
            mpsc::error::TrySendError::Closed(_) => NsmQueueError::Ended,
        })?;
        match timeout(self.answer_within, answer).await {
            Ok(Ok(answer)) => answer.map_err(ApiError::Shared),
            Ok(Err(_)) => Err(NsmQueueError::Ended.into()),
            Err(_) => Err(NsmQueueError::Slow(self.answer_within).into()),
        }
    }

    /// How many wait for a document to be begun.
    pub(crate) fn waiting(&self) -> usize {
        [&self.shared, &self.alone].iter().map(|queue| queue.max_capacity() - queue.capacity()).sum()
    }
}

struct Gatherer {
    sharing: mpsc::Receiver<Waiting>,
    lonely: mpsc::Receiver<Waiting>,
    nsm: Arc<NsmQueue>,
    binding: Binding,
    metrics: Arc<Metrics>,
}

impl Gatherer {
    async fn run(mut self) {
        while let Some(mut waiting) = self.gather().await {
            // Whoever hung up while waiting costs the NSM nothing.
            waiting.retain(|waiting| !waiting.reply.is_closed());
            if waiting.is_empty() {
                continue;
            }
            let nonces = waiting.iter().map(|waiting| waiting.nonce.clone()).collect();
            let made = tokio::select! {
                made = self.attest(nonces) => made,
                () = all_gone(&mut waiting) => continue,
            };
            match made {
                Ok(made) => made.hand_out(waiting),
                Err(error) => {
                    error.log();
                    let error = Arc::new(error);
                    for waiting in waiting {
                        let _ = waiting.reply.send(Err(Arc::clone(&error)));
                    }
                }
            }
        }
    }

    /// Those of the next document: everyone who shares, or one who does not. Which of the two is drawn when both wait, so
    /// that neither keeps the other out.
    async fn gather(&mut self) -> Option<Vec<Waiting>> {
        let mut shared = Vec::new();
        tokio::select! {
            count = self.sharing.recv_many(&mut shared, MAX_SHARED) => (count > 0).then_some(shared),
            alone = self.lonely.recv() => alone.map(|alone| vec![alone]),
        }
    }

    async fn attest(&self, nonces: Vec<Vec<u8>>) -> Result<Made, ApiError> {
        let count = nonces.len();
        let (nonce, batch) = match <[_; 1]>::try_from(nonces) {
            Ok([alone]) => (alone, None),
            Err(several) => {
                let batch = NonceBatch::new(several).expect("2 to MAX_SHARED nonces, which a batch may have");
                (batch.root().0.to_vec(), Some(batch))
            }
        };
        let statement = self.binding.statement().await?;
        let request =
            AttestationRequest { nonce: Some(nonce), user_data: Some(statement.encode()), public_key: None };
        let document = self.nsm.ask(move |nsm| nsm.attest(&request)).await?;
        self.metrics.document_made(count);
        Ok(Made { document: document.into(), batch, statement: Arc::new(statement) })
    }
}

/// Completes when nobody waits any more.
async fn all_gone(waiting: &mut [Waiting]) {
    for waiting in waiting {
        waiting.reply.closed().await;
    }
}

/// A document for all of a batch.
struct Made {
    document: Bytes,
    batch: Option<NonceBatch>,
    statement: Arc<Statement>,
}

impl Made {
    fn hand_out(&self, waiting: Vec<Waiting>) {
        for (index, waiting) in (0..).zip(waiting) {
            let path = self.batch.as_ref().and_then(|batch| batch.path(index));
            let attested =
                Attested { document: self.document.clone(), path, statement: Arc::clone(&self.statement) };
            let _ = waiting.reply.send(Ok(attested));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use attestation::Sha256;
    use nsm::wire::{Request, Response};
    use nsm::{Provider, Transact};

    use super::*;

    /// A module that remembers the nonces it was given.
    #[derive(Clone, Default)]
    struct Remembering(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Transact for Remembering {
        fn transact(&self, request: &Request) -> Result<Response, nsm::Error> {
            let Request::Attestation(request) = request else { panic!("{request:?}") };
            self.0.lock().unwrap().push(request.nonce.clone().unwrap());
            Ok(Response::Attestation { document: b"document".to_vec() })
        }
    }

    fn attester(module: &Remembering) -> Attester {
        let limits = Limits::default();
        let provider: Arc<dyn Provider> = Arc::new(module.clone());
        let nsm = NsmQueue::start(provider, limits.nsm_queue, limits.nsm_answer).unwrap();
        let binding = Binding {
            tls_key: Sha256([0; 32]),
            application_key: Default::default(),
            control_head: None,
            ledger: None,
        };
        Attester::start(Arc::new(nsm), binding, &limits, Arc::default())
    }

    #[tokio::test]
    async fn those_who_come_together_cost_one_call() {
        let module = Remembering::default();
        let attester = attester(&module);
        let ask = |byte: u8| attester.attest(vec![byte; 16], Company::Welcome);
        let (first, second, third) = tokio::join!(ask(1), ask(2), ask(3));
        let roots = [(1, first), (2, second), (3, third)]
            .map(|(byte, answer)| answer.unwrap().path.unwrap().root(&[byte; 16]).unwrap().0.to_vec());
        assert_eq!(*module.0.lock().unwrap(), [roots[0].clone()]);
        assert_eq!(roots[1..], [roots[0].clone(), roots[0].clone()]);
    }

    #[tokio::test]
    async fn whoever_gave_up_is_in_no_document() {
        let module = Remembering::default();
        let attester = attester(&module);
        {
            let gone = attester.attest(vec![1; 16], Company::Welcome);
            let stays = attester.attest(vec![2; 16], Company::Welcome);
            tokio::pin!(gone, stays);
            // Both are in the queue once they were polled, and the task that empties it has not run since.
            assert!(futures_are_pending(&mut gone, &mut stays).await);
            assert_eq!(attester.waiting(), 2);
        }
        let answer = attester.attest(vec![3; 16], Company::Welcome).await.unwrap();
        assert_eq!(answer.path, None);
        assert_eq!(*module.0.lock().unwrap(), [vec![3; 16]]);
    }

    /// Polls both once.
    async fn futures_are_pending<F: Future>(
        first: &mut std::pin::Pin<&mut F>,
        second: &mut std::pin::Pin<&mut F>,
    ) -> bool {
        std::future::poll_fn(|context| {
            let pending = [first.as_mut().poll(context), second.as_mut().poll(context)];
            std::task::Poll::Ready(pending.iter().all(std::task::Poll::is_pending))
        })
        .await
    }
}
