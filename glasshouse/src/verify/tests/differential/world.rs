//! An enclave of which every byte can be chosen: certificates, document, statement, and a ledger of one entry.

use ::ledger::{Baseline, Checkpoint, Entry, Hash, Key, Kind, Opened, Proof, ProofKind, Value, map};
use attestation::binding::{self, Statement};
use attestation::bundle::{self, Base64, Bundle, Name};
use attestation::{Roots, Sha256, UnixTime};
use aws_lc_rs::digest::{SHA256, SHA384, digest};
use manifest::{ImageConfig, Manifest, Measured};
use serde_json::{Value as Json, json};

use super::support::{Chain, NOW_SECS, Payload, bytes, pcr_map};
use crate::verify::{
    Question,
    digests::Wanted,
    gather::{Material, Source},
    judge::judge,
    ledger::Questions,
};
use attestation::{ControlPolicy, ReferenceValues};
use expected::Expected;

pub(super) const NONCE: [u8; 32] = [7; 32];
pub(super) const TLS_KEY: &[u8] = b"a SubjectPublicKeyInfo";
pub(super) const PATH: &str = "/app/a";

/// What is said of a file: `{path, sha256?, absent?}`, as the page takes it.
pub(super) type Asked = Vec<Json>;

pub(super) struct World {
    pub(super) chain: Chain,
    pub(super) manifest: Vec<u8>,
    secret: vrf::SecretKey,
}

/// A ledger of one entry, and the proof of it.
pub(super) struct Alone {
    pub(super) checkpoint: Checkpoint,
    pub(super) proof: Proof,
}

pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    digest(&SHA256, &parts.concat()).as_ref().try_into().unwrap()
}

pub(super) fn extended(register: &[u8], data: &[u8]) -> Vec<u8> {
    digest(&SHA384, &[register, digest(&SHA384, data).as_ref()].concat()).as_ref().to_vec()
}

impl World {
    pub(super) fn new() -> Self {
        let secret = vrf::SecretKey::from_bytes(vrf::Suite::Edwards25519Sha512Tai, &[9; 32]).unwrap();
        let mut manifest = measured(&["/app"]);
        manifest.monitor.as_mut().unwrap().ignore = vec!["*.log".to_owned()];
        Self { chain: Chain::with(1, |_, _| {}), manifest: manifest.to_canonical_json(), secret }
    }

    pub(super) fn vrf_key(&self) -> [u8; 32] {
        self.secret.public_key().as_bytes().try_into().unwrap()
    }

    /// The place of [`PATH`] in the map, and what shows it.
    pub(super) fn place(&self) -> (Key, Vec<u8>) {
        let proof = self.secret.prove(PATH.as_bytes());
        (::ledger::file_key(&proof.output()), proof.as_bytes().to_vec())
    }

    /// A ledger whose one entry has these bytes and stands for `payload`.
    pub(super) fn alone(&self, kind: ProofKind, key: Key, entry: &[u8], payload: &[u8]) -> Alone {
        let leaf = ::ledger::log::leaf_hash(entry);
        let one = 1_u64.to_be_bytes();
        let root = sha256(&[b"glasshouse/ledger/map-leaf/1\0", &key.0, &one, &[0; 8], &leaf.0]);
        let opened =
            Opened { entry: entry.to_vec(), path: Vec::new(), nonce: [3; 32], payload: payload.to_vec() };
        let vrf = (kind != ProofKind::Stream).then(|| self.place().1.try_into().unwrap());
        let end = map::End::Value(Value { count: 1, last: 0, leaf });
        let map = map::Proof { siblings: Vec::new(), end };
        Alone {
            checkpoint: Checkpoint { size: 1, log_root: leaf, map_root: Hash(root) },
            proof: Proof { kind, size: 1, vrf, map, chain: vec![opened] },
        }
    }

    /// An entry of `kind` about `key` that commits to `payload`.
    pub(super) fn entry(kind: Kind, key: Key, payload: &[u8]) -> Vec<u8> {
        let commitment = ::ledger::commitment(&[3; 32], payload);
        Entry { kind, time: 5, subject: key, sequence: 0, previous: None, commitment }.encode()
    }

    pub(super) fn statement(&self, checkpoint: &Checkpoint, control_head: Option<[u8; 32]>) -> Statement {
        let Checkpoint { size, log_root, map_root } = *checkpoint;
        let (log_root, map_root) = (Sha256(log_root.0), Sha256(map_root.0));
        Statement::Server {
            tls_key: Sha256::of(TLS_KEY),
            application_key: None,
            control_head: control_head.map(Sha256),
            ledger: Some(binding::Ledger { vrf_key: self.vrf_key(), size, log_root, map_root }),
        }
    }

    /// What was in the ledger at boot: nothing.
    pub(super) fn baseline(&self) -> Vec<u8> {
        let checkpoint = Checkpoint::empty();
        Baseline { vrf_key: self.vrf_key(), ledger_key: [4; 32], checkpoint }.encode()
    }

    /// PCR16 with this baseline.
    pub(super) fn framework(&self, baseline: &[u8]) -> Vec<u8> {
        extended(&extended(&[0; 48], &self.manifest), baseline)
    }

    /// A document with these registers besides the image's.
    pub(super) fn payload(&self, statement: &[u8], registers: &[(u64, Vec<u8>)]) -> Payload {
        let mut payload = Payload::new(&self.chain);
        let image = (0..3).map(|index| (index, vec![0x11; 48]));
        payload.set("pcrs", pcr_map(&image.chain(registers.iter().cloned()).collect::<Vec<_>>()));
        payload.set("user_data", bytes(statement)).set("nonce", bytes(&NONCE));
        payload
    }

    /// A bundle with a document that states `statement`; PCR16 is what manifest and `baseline` make of it.
    pub(super) fn bundle(&self, statement: &[u8], baseline: &[u8], control: Option<Vec<u8>>) -> Bundle {
        let registers: Vec<_> =
            [(16, self.framework(baseline))].into_iter().chain(control.map(|value| (17, value))).collect();
        let document = self.payload(statement, &registers).sign(&self.chain);
        Bundle {
            tls_key: Some(Base64(TLS_KEY.to_vec())),
            manifest: Some(Base64(self.manifest.clone())),
            baseline: Some(Base64(baseline.to_vec())),
            ..Bundle::new(document, NONCE.to_vec())
        }
    }

    /// A bundle with a proof of kind `kind` about `subject`, whatever bytes it has.
    pub(super) fn proved(
        &self,
        checkpoint: &Checkpoint,
        kind: bundle::ProofKind,
        subject: &str,
        proof: Vec<u8>,
    ) -> Bundle {
        let mut bundle = self.bundle(&self.statement(checkpoint, None).encode(), &self.baseline(), None);
        bundle.proofs = vec![bundle::Proof { kind, subject: Name(subject.into()), proof: Base64(proof) }];
        bundle
    }

    /// The verdict, with the reason of a refusal.
    fn judged_under(&self, root: &[u8], text: &[u8], asked: &Asked) -> Result<(), String> {
        let bundle = Bundle::decode(text).map_err(|error| error.to_string())?;
        let material = Material {
            subject: "a case".to_owned(),
            document: bundle.document.0.clone(),
            bundle: Some(bundle),
            source: Source::Bundle,
            own_nonce: None,
            at: Some(UnixTime::from_secs(NOW_SECS)),
        };
        let mut ledger = Questions::default();
        for file in asked {
            let path: Name = file["path"].as_str().unwrap().parse().unwrap();
            let wanted =
                file["sha256"].as_str().map(|digest| Wanted::parse(&format!("sha256:{digest}")).unwrap());
            match file["absent"].as_bool() {
                Some(true) => ledger.absent.push(path),
                _ => ledger.files.push((path, wanted)),
            }
        }
        let expected = Expected {
            roots: Roots::custom(root).unwrap(),
            reference_values: ReferenceValues::AnyImage,
            allow_debug: false,
            manifest: None,
            manifest_sha384: None,
        };
        let question = Question { expected, policy: None, control: ControlPolicy::Unchecked, ledger };
        let verdict = judge(&material, &question);
        if verdict.verified { Ok(()) } else { Err(verdict.refusals.join("; ")) }
    }

    /// A case for the page, with this verifier's verdict.
    pub(super) fn case(&self, name: &str, text: &[u8], asked: &Asked) -> Json {
        self.case_under(self.chain.root(), name, text, asked)
    }

    pub(super) fn case_under(&self, root: &[u8], name: &str, text: &[u8], asked: &Asked) -> Json {
        let verdict = self.judged_under(root, text, asked);
        json!({
            "name": name, "bundle": str::from_utf8(text).unwrap(), "files": asked, "root": pem(root),
            "at": UnixTime::from_secs(NOW_SECS).to_string(), "accepted": verdict.is_ok(), "why": verdict.err(),
        })
    }
}

/// A manifest that has these roots watched.
pub(super) fn measured(roots: &[&str]) -> Measured {
    let text = format!(
        "name = \"x\"\nimage = {{ rootfs = \".\" }}\n[app]\ncommand = [\"/x\"]\n[monitor]\nroots = {roots:?}\n"
    );
    Manifest::parse(&text).unwrap().resolve(&ImageConfig::default()).unwrap()
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}
