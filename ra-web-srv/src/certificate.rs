//! The document in the certificate: `docs/spec/attestation-api.md`, "Certificate".
//!
//! Nobody's challenge is in it, so it is not fresh: its nonce is the digest of the certificate's key, and all it shows is that this
//! key is this image's, in an enclave, as of the document's time. It is made anew every hour, since the certificates in
//! documents last for a few.

use std::sync::Arc;
use std::time::Duration;

use nsm::AttestationRequest;
use tokio::time::sleep;

use crate::binding::Binding;
use crate::error::ApiError;
use crate::identity::{IdentityError, TlsIdentity};
use crate::nsm_queue::NsmQueue;

/// How long a document is carried.
const RENEWED_AFTER: Duration = Duration::from_secs(3600);

/// How long after a failure it is tried again.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error("no document for the certificate")]
    Document(#[from] ApiError),
    #[error("no certificate with the document")]
    Identity(#[from] IdentityError),
}

/// Keeps a document in the certificate of `identity`. Until there is one the certificate has none, and serves as well.
pub(crate) async fn keep_attested(identity: TlsIdentity, binding: Binding, nsm: Arc<NsmQueue>) {
    loop {
        let wait = match attest(&identity, &binding, &nsm).await {
            Ok(()) => RENEWED_AFTER,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the certificate carries no new document"
                );
                TRIED_AGAIN_AFTER
            }
        };
        sleep(wait).await;
    }
}

async fn attest(identity: &TlsIdentity, binding: &Binding, nsm: &NsmQueue) -> Result<(), CertificateError> {
    let request = AttestationRequest {
        nonce: Some(identity.key_digest().0.to_vec()),
        user_data: Some(binding.statement().await?.encode()),
        public_key: None,
    };
    let document = nsm.ask(move |nsm| nsm.attest(&request)).await.map_err(ApiError::from)?;
    Ok(identity.carry(&document)?)
}
