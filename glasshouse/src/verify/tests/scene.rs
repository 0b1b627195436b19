//! An enclave without a machine: a simulated module, a ledger in a file, and the statements that its server would make.

use std::time::{Duration, SystemTime};

use ::ledger::{
    Algorithm, Attributes, Cause, Content, Digests, Record, State, StreamName,
    store::{Event, Ledger, Options},
};
use attestation::{
    Roots, Sha256, UnixTime,
    binding::{self, Statement},
    bundle::{Base64, Bundle, Consistency, Name, Proof, ProofKind},
};
use aws_lc_rs::digest::{SHA256, SHA384, digest};
use egress::{Destination, Outcome, Policy, Protocol, Rule};
use expected::{Expected, Registers};
use manifest::{ImageConfig, Manifest};
use nsm::{
    AttestationRequest, PcrIndex, Provider,
    sim::{DevelopmentRoot, SimulatedNsm},
};
use tempfile::TempDir;

use super::super::{
    Question,
    gather::{Material, Source},
    judge::judge,
    ledger::Questions,
    verdict::Verdict,
};
use attestation::{ControlPolicy, Pcr, ReferenceValues};

pub(crate) const NONCE: [u8; 32] = [7; 32];
pub(crate) const TLS_KEY: &[u8] = b"the enclave's SubjectPublicKeyInfo";
pub(crate) const CONTENT: &[u8] = b"weights";

/// PCR0, 1 and 2 of the image.
pub(crate) const IMAGE: u8 = 0x11;

/// PCR8 of the image.
pub(crate) const SIGNER: u8 = 0x88;

pub(crate) struct Scene {
    folder: TempDir,
    root: DevelopmentRoot,
    module: SimulatedNsm,
    pub(crate) ledger: Ledger,
    manifest: Vec<u8>,
    baseline: Vec<u8>,
}

pub(crate) fn name(text: &str) -> Name {
    Name(text.into())
}

pub(crate) fn now() -> UnixTime {
    UnixTime::try_from(SystemTime::now()).unwrap()
}

pub(crate) fn later(duration: Duration) -> UnixTime {
    UnixTime::try_from(SystemTime::now() + duration).unwrap()
}

fn index(number: u64) -> PcrIndex {
    PcrIndex::new(number).unwrap()
}

/// A module that has measured an image, who signed it, and in PCR16 what init measures.
fn module(root: &DevelopmentRoot, image: u8, measured: &[&[u8]]) -> SimulatedNsm {
    let pcrs: Vec<_> =
        [(0, image), (1, image), (2, image), (8, SIGNER)].map(|(at, byte)| (index(at), [byte; 48])).into();
    let module = SimulatedNsm::new(root, "i-0123456789abcdef0-enc0123456789abcdef", &pcrs).unwrap();
    for bytes in measured {
        module.extend_pcr(index(16), digest(&SHA384, bytes).as_ref()).unwrap();
    }
    module.lock_pcr(index(16)).unwrap();
    module
}

impl Scene {
    /// An enclave that has booted: its files are recorded, and PCR16 is locked.
    pub(crate) fn booted() -> Self {
        Self::of_image(IMAGE)
    }

    pub(crate) fn of_image(byte: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = DevelopmentRoot::load_or_create(&folder.path().join("root")).unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger"), 1, Options::default()).unwrap();
        let manifest = "name = \"agent\"\nimage = { rootfs = \".\" }\n[app]\ncommand = [\"/x\"]\n[monitor]\nroots = [\"/app\"]\n[egress]\nallow = [\"api.example.com:443\"]\n";
        let manifest = Manifest::parse(manifest).unwrap().resolve(&ImageConfig::default()).unwrap();
        let mut scene = Self {
            folder,
            module: module(&root, byte, &[]),
            root,
            ledger,
            manifest: manifest.to_canonical_json(),
            baseline: Vec::new(),
        };
        scene.record("/app/model.bin", Some(CONTENT));
        scene.record("/app/old", Some(b"old"));
        scene.baseline = scene.ledger.baseline().encode();
        scene.module = module(&scene.root, byte, &[&scene.manifest, &scene.baseline]);
        scene
    }

    /// The same module before anybody entered.
    pub(crate) fn forget_who_entered(&mut self) {
        self.module = module(&self.root, IMAGE, &[&self.manifest, &self.baseline]);
    }

    /// Records what is at a path, or that nothing is there any more.
    pub(crate) fn record(&self, path: &str, content: Option<&[u8]>) {
        let state = content.map_or(State::Removed, |content| {
            let digests = Digests::new()
                .with(Algorithm::Blake3, blake3::hash(content).as_bytes())
                .with(Algorithm::Sha256, digest(&SHA256, content).as_ref());
            let attributes = Attributes { mode: 0o644, uid: 0, gid: 0, mtime: 0 };
            State::Present(attributes, Content::File { size: content.len() as u64, digests })
        });
        let file = self.ledger.file(path.into()).unwrap();
        self.ledger
            .append(2, vec![Event::File { file, record: Record { cause: Cause::Scan, state } }])
            .unwrap();
    }

    /// Records a connection.
    pub(crate) fn connected(&self, to: &str, port: u16) {
        let rule: Rule = format!("{to}:{port}").parse().unwrap();
        let policy = Policy::compile(&[rule], &[], &[]).unwrap();
        let destination = Destination::Name(to.parse().unwrap());
        let verdict = policy.evaluate(&destination, port, Protocol::Tcp);
        let record = egress::Record::begin(0, &destination, port, Protocol::Tcp, &verdict);
        assert_eq!(record.outcome, Outcome::NoAnswer);
        let name: StreamName = "egress".parse().unwrap();
        self.ledger.append(3, vec![Event::Stream { name, payload: record.to_cbor() }]).unwrap();
    }

    /// Somebody enters; `entry` is the first of the transcript.
    pub(crate) fn enter(&self, entry: &[u8]) {
        self.module.extend_pcr(index(17), digest(&SHA384, entry).as_ref()).unwrap();
        self.seal();
    }

    /// Nobody enters any more.
    pub(crate) fn seal(&self) {
        self.module.lock_pcr(index(17)).unwrap();
    }

    /// The root that the module's documents are under, as PEM.
    pub(crate) fn root_pem(&self) -> &str {
        self.root.root_pem()
    }

    /// A document.
    pub(crate) fn attest(&self, nonce: &[u8], user_data: Option<Vec<u8>>) -> Vec<u8> {
        self.module
            .attest(&AttestationRequest { nonce: Some(nonce.to_vec()), user_data, public_key: None })
            .unwrap()
    }

    /// What the enclave's server states.
    pub(crate) fn statement(&self) -> Statement {
        let checkpoint = self.ledger.checkpoint();
        let sha256 = |hash: ::ledger::Hash| Sha256(hash.0);
        Statement::Server {
            tls_key: Sha256::of(TLS_KEY),
            application_key: None,
            control_head: None,
            ledger: Some(binding::Ledger {
                vrf_key: self.ledger.vrf_key(),
                size: checkpoint.size,
                log_root: sha256(checkpoint.log_root),
                map_root: sha256(checkpoint.map_root),
            }),
        }
    }

    /// A document for [`NONCE`] with all that is asked for, as a server puts it together.
    pub(crate) fn bundle(&self, questions: &Questions) -> Bundle {
        let checkpoint = self.ledger.checkpoint();
        let sha256 = |hash: ::ledger::Hash| Sha256(hash.0);
        let document = self.attest(&NONCE, Some(self.statement().encode()));
        let (asked, at) = (questions.asked(), Some(checkpoint.size));
        let proof = |kind, subject: &Name, proof: Vec<u8>| Proof {
            kind,
            subject: subject.clone(),
            proof: Base64(proof),
        };
        let files = asked
            .files
            .iter()
            .map(|path| proof(ProofKind::File, path, self.ledger.prove_file(&path.0, at).unwrap()));
        let histories = asked.histories.iter();
        let histories = histories
            .map(|path| proof(ProofKind::History, path, self.ledger.prove_history(&path.0, at).unwrap()));
        let egress: StreamName = "egress".parse().unwrap();
        let streams = asked.streams.iter();
        let streams = streams
            .map(|name| proof(ProofKind::Stream, name, self.ledger.prove_stream(&egress, 0, at).unwrap()));
        let at_boot = ::ledger::Baseline::decode(&self.baseline).unwrap().checkpoint.size;
        let consistency = |from: u64| Consistency {
            from,
            to: checkpoint.size,
            hashes: self
                .ledger
                .prove_consistency(from, checkpoint.size)
                .unwrap()
                .into_iter()
                .map(sha256)
                .collect(),
        };
        Bundle {
            tls_key: Some(Base64(TLS_KEY.to_vec())),
            manifest: Some(Base64(self.manifest.clone())),
            baseline: Some(Base64(self.baseline.clone())),
            proofs: files.chain(histories).chain(streams).collect(),
            consistency: [Some(at_boot), asked.since].into_iter().flatten().map(consistency).collect(),
            ..Bundle::new(document, NONCE.to_vec())
        }
    }

    /// As it comes from the running enclave.
    pub(crate) fn live(&self, questions: &Questions) -> Material {
        let bundle = self.bundle(questions);
        Material {
            subject: "https://enclave".to_owned(),
            document: bundle.document.0.clone(),
            bundle: Some(bundle),
            source: Source::Connection(Sha256::of(TLS_KEY)),
            own_nonce: Some(NONCE.to_vec()),
            at: Some(now()),
        }
    }

    /// Who asks expects this image under this root.
    pub(crate) fn question(&self, ledger: Questions) -> Question {
        let pcrs: Registers =
            [0, 1, 2].map(|index| (attestation::PcrIndex::new(index).unwrap(), Pcr([IMAGE; 48]))).into();
        let expected = Expected {
            roots: Roots::custom(self.root.root_der()).unwrap(),
            reference_values: ReferenceValues::Pcrs(pcrs),
            allow_debug: false,
            manifest: None,
            manifest_sha384: None,
        };
        Question { expected, policy: None, control: ControlPolicy::Unchecked, ledger }
    }

    /// The verdict on what the running enclave answers to `questions`.
    pub(crate) fn ask(&self, questions: Questions) -> Verdict {
        let material = self.live(&questions);
        judge(&material, &self.question(questions))
    }

    /// A file of this machine.
    pub(crate) fn local(&self, content: &[u8]) -> std::path::PathBuf {
        let path = self.folder.path().join("local");
        std::fs::write(&path, content).unwrap();
        path
    }
}
