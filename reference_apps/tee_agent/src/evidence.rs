//! Who attests the agent's key, and remembers its log: the enclave, or nobody.
//!
//! Outside an enclave there is no evidence, and nothing here makes any up. Other hardware is another [`Evidence`].

use std::{fmt, future::Future, pin::Pin};

pub use enclave_api::{DEFAULT_API, Enclave, EnclaveError, Place, Question};

/// What is returned by those who ask an enclave.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, EnclaveError>> + Send + 'a>>;

/// Has documents made about this process, and entries kept that nobody can take back.
pub trait Evidence: fmt::Debug + Send + Sync {
    /// Has a document made that carries `question`; returns it in base64.
    fn attest(&self, question: Question) -> Asking<'_, String>;

    /// Appends an entry to a stream of the enclave's ledger.
    fn append<'a>(&'a self, stream: &'a str, payload: Vec<u8>) -> Asking<'a, Place>;

    /// The proof of what a stream holds as a whole, for the ledger with `at` entries.
    fn stream_proof<'a>(&'a self, stream: &'a str, at: u64) -> Asking<'a, Vec<u8>>;
}

impl Evidence for Enclave {
    fn attest(&self, question: Question) -> Asking<'_, String> {
        Box::pin(async move { Enclave::attest(self, &question).await })
    }

    fn append<'a>(&'a self, stream: &'a str, payload: Vec<u8>) -> Asking<'a, Place> {
        Box::pin(Enclave::append(self, stream, payload))
    }

    fn stream_proof<'a>(&'a self, stream: &'a str, at: u64) -> Asking<'a, Vec<u8>> {
        Box::pin(async move { Ok(Enclave::stream_proof(self, stream, at).await?.into()) })
    }
}
