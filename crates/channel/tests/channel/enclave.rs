//! A simulated enclave that opens channels, and a client that wants it and no other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use attestation::binding::Statement;
use attestation::{
    Appraisal, Document, Pcr, Policy, ReferenceValues, Refused, Roots, UnixTime, VerifyError, appraise,
    verify,
};
use channel::io::{ClientConfig, Denied, Gate, OpenError, Peer, ServerConfig, Session, accept, connect};
use channel::ssh::{Identity, PrivateKey, PublicKey};
use channel::{Challenge, Evidence, Refusal};
use nsm::sim::{DevelopmentRoot, SimulatedNsm};
use nsm::{AttestationRequest, PcrIndex, Provider};
use tokio::io::{AsyncRead, AsyncWrite};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Bound to every wait that could be for ever.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes far too long")
}

/// An enclave, who may enter it, and the root that its documents are signed under.
pub(crate) struct Enclave {
    pub(crate) config: ServerConfig,
    module: Arc<SimulatedNsm>,
    root_pem: String,
    pub(crate) listed: Option<Vec<PublicKey>>,
    pub(crate) closed: Option<Refusal>,
}

impl Enclave {
    /// An enclave whose PCRs 0 to 2 hold `pcr`; it admits `listed`, or everybody.
    pub(crate) fn new(pcr: u8, listed: Option<&[PublicKey]>) -> Self {
        static ROOT: LazyLock<(tempfile::TempDir, DevelopmentRoot)> = LazyLock::new(new_root);
        Self::under(&ROOT.1, pcr, listed)
    }

    pub(crate) fn under(root: &DevelopmentRoot, pcr: u8, listed: Option<&[PublicKey]>) -> Self {
        let pcrs: Vec<_> = (0..3_u8).map(|n| (PcrIndex::new(n).unwrap(), [pcr; 48])).collect();
        let module = SimulatedNsm::new(root, "i-0123456789abcdef0-enc0123456789abcdef", &pcrs).unwrap();
        Enclave {
            config: ServerConfig::generate().unwrap(),
            module: Arc::new(module),
            root_pem: root.root_pem().to_owned(),
            listed: listed.map(<[_]>::to_vec),
            closed: None,
        }
    }

    pub(crate) fn document(&self, nonce: &[u8], statement: &Statement) -> Vec<u8> {
        let request = AttestationRequest {
            nonce: Some(nonce.to_vec()),
            user_data: Some(statement.encode()),
            ..AttestationRequest::default()
        };
        self.module.attest(&request).unwrap()
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::custom(self.root_pem.as_bytes()).unwrap()
    }

    /// When the document says it was made.
    pub(crate) fn time(&self, evidence: &Evidence) -> UnixTime {
        UnixTime::from_millis(
            Document::decode(&evidence.document).map_or(0, |document| document.timestamp_ms),
        )
    }

    /// What a careful client asks of this enclave's evidence.
    pub(crate) fn appraise(&self, evidence: &Evidence, pcr: u8) -> Result<Appraisal, NotIt> {
        let verified = verify(&evidence.document, &self.roots(), self.time(evidence))?;
        let pcrs: BTreeMap<_, _> =
            (0..3_u8).map(|n| (attestation::PcrIndex::new(n).unwrap(), Pcr([pcr; 48]))).collect();
        let mut policy = Policy::new(ReferenceValues::Pcrs(pcrs));
        policy.nonce = Some(evidence.nonce.to_vec());
        policy.binding = evidence.binding();
        Ok(appraise(&verified, &policy)?)
    }

    pub(crate) async fn serve<S>(&self, stream: S) -> Result<(Session<S>, Peer), OpenError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (session, peer, ()) = accept(stream, &self.config, self).await?;
        Ok((session, peer))
    }

    /// Opens a channel to this enclave over `stream`, as whoever holds `identity`.
    pub(crate) async fn enter<S>(
        &self,
        stream: S,
        identity: Option<&dyn Identity>,
    ) -> Result<Session<S>, OpenError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = ClientConfig { identity, ..ClientConfig::default() };
        let (session, _) = connect(stream, config, |evidence| self.appraise(evidence, 1)).await?;
        Ok(session)
    }
}

impl Gate for Enclave {
    type Admitted = ();

    async fn attest(&self, challenge: Challenge) -> Result<Vec<u8>, Denied> {
        Ok(self.document(&challenge.nonce, &challenge.statement(None, None)))
    }

    async fn authorize(&self, peer: &Peer) -> Result<(), Denied> {
        if let Some(refusal) = self.closed {
            return Err(refusal.into());
        }
        match (&self.listed, &peer.key) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Refusal::KeyRequired.into()),
            (Some(listed), Some(key)) if listed.contains(key) => Ok(()),
            (Some(_), Some(_)) => Err(Refusal::UnknownKey.into()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum NotIt {
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Appraise(#[from] Refused),
}

pub(crate) fn new_root() -> (tempfile::TempDir, DevelopmentRoot) {
    let dir = tempfile::tempdir().unwrap();
    let root = DevelopmentRoot::load_or_create(dir.path()).unwrap();
    (dir, root)
}

/// A key that ssh-keygen made in `dir`.
pub(crate) fn ssh_key(dir: &Path, name: &str, kind: &str) -> PrivateKey {
    let path = dir.join(name);
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", "", "-C", name, "-f"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    PrivateKey::load(&path, &mut || None).unwrap()
}
