//! What AWS KMS gives this enclave and no other. A stand-in plays KMS's half as AWS documents it ("Cryptographic
//! attestation for AWS Nitro Enclaves"): it looks at the document and the key's policy, and encrypts to the document's
//! key. OpenSSL writes the message.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use attestation::{Document, Pcr, PcrIndex, Roots, UnixTime, verify};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

use crate::client::{Answer, ask, connect};
use crate::enclave::Enclave;

/// A key of KMS whose policy names one image: `kms:RecipientAttestation:PCR0`.
struct KmsKey<'a> {
    root_pem: &'a str,
    pcr0: [u8; 48],
    plaintext: &'static [u8],
}

impl KmsKey<'_> {
    /// `Decrypt` with a `Recipient`: the answer's `CiphertextForRecipient`, or the name of the exception.
    fn decrypt(&self, recipient: &Value) -> Result<String, &'static str> {
        if recipient["KeyEncryptionAlgorithm"] != "RSAES_OAEP_SHA_256" {
            return Err("ValidationException");
        }
        let document = STANDARD.decode(recipient["AttestationDocument"].as_str().unwrap()).unwrap();
        let at = UnixTime::from_millis(Document::decode(&document).unwrap().timestamp_ms);
        let roots = Roots::custom(self.root_pem.as_bytes()).unwrap();
        let verified = verify(&document, &roots, at).map_err(|_| "InvalidCiphertextException")?;
        let pcr0 = verified.document().pcrs.get(&PcrIndex::new(0).unwrap());
        if pcr0.is_none_or(|pcr| *pcr != Pcr(self.pcr0)) {
            return Err("AccessDeniedException");
        }
        Ok(STANDARD.encode(encrypt(verified.public_key().unwrap(), self.plaintext)))
    }
}

fn openssl(dir: &Path, args: &str) {
    let words = args.split_ascii_whitespace();
    let done = Command::new("openssl").args(words).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// EnvelopedData of indefinite length for this RSA key, named by its identifier.
fn encrypt(public_key: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("key.der", public_key);
    write("extensions", b"subjectKeyIdentifier = hash\n");
    write("plaintext", plaintext);
    let run = |args: &str| openssl(dir.path(), args);
    run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key");
    run("req -new -x509 -key ca.key -subj /CN=ca -out ca.pem");
    run("req -new -key ca.key -subj /CN=enclave -out request.pem");
    run("pkey -pubin -inform DER -in key.der -out key.pem");
    run(
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -force_pubkey key.pem -extfile extensions -out cert.pem",
    );
    run(
        "cms -encrypt -binary -stream -keyid -aes-256-cbc -in plaintext -outform DER -out message -recip cert.pem \
         -keyopt rsa_padding_mode:oaep -keyopt rsa_oaep_md:sha256 -keyopt rsa_mgf1_md:sha256",
    );
    fs::read(dir.path().join("message")).unwrap()
}

async fn post(enclave: &Enclave, path: &str, body: &Value) -> Answer {
    let body = Full::new(body.to_string().into());
    let request = Request::post(path).header("host", "enclave").body(body).unwrap();
    ask(connect(&enclave.api).await, request).await
}

async fn recipient(enclave: &Enclave) -> Value {
    let answer = post(enclave, "/v1/kms/recipient", &json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn kms_gives_its_plaintext_to_the_image_of_the_policy() {
    let enclave = Enclave::start().await;
    let key = KmsKey {
        root_pem: enclave.root_pem(),
        pcr0: [1; 48],
        plaintext: b"a data key of 32 bytes, as usual",
    };
    for _ in 0..2 {
        let sealed = key.decrypt(&recipient(&enclave).await).unwrap();
        let body = json!({ "ciphertext_for_recipient": sealed });
        let opened = post(&enclave, "/v1/kms/open", &body).await.json();
        assert_eq!(STANDARD.decode(opened["plaintext"].as_str().unwrap()).unwrap(), key.plaintext);
    }
    let other_image = KmsKey { pcr0: [2; 48], ..key };
    assert_eq!(other_image.decrypt(&recipient(&enclave).await), Err("AccessDeniedException"));
}

/// What an agent keeps for its next start: docs/spec/sealed.md.
#[tokio::test]
async fn what_was_sealed_is_unsealed_by_the_same_image_when_it_runs_again() {
    const DATA_KEY: &[u8] = b"a data key of 32 bytes, as usual";
    fn kms(root_pem: &str) -> KmsKey<'_> {
        KmsKey { root_pem, pcr0: [1; 48], plaintext: DATA_KEY }
    }
    let (text, wrapped) = (STANDARD.encode("what I know"), STANDARD.encode("the data key, wrapped"));
    let enclave = Enclave::start().await;
    let key = kms(enclave.root_pem()).decrypt(&recipient(&enclave).await).unwrap();
    let body = json!({
        "key_id": "alias/agent", "ciphertext_blob": wrapped, "ciphertext_for_recipient": key,
        "data": text, "context": STANDARD.encode("memory"),
    });
    let sealed = post(&enclave, "/v1/seal", &body).await.json()["sealed"].clone();
    drop(enclave);

    let later = Enclave::start().await;
    let wanted = post(&later, "/v1/unseal", &json!({ "sealed": sealed })).await.json();
    assert_eq!(wanted, json!({"KeyId": "alias/agent", "CiphertextBlob": wrapped}));
    let key = kms(later.root_pem()).decrypt(&recipient(&later).await).unwrap();
    let unseal = async |sealed: &Value, key: &str, context: &str| {
        let body = json!({
            "sealed": sealed, "ciphertext_for_recipient": key, "context": STANDARD.encode(context),
        });
        post(&later, "/v1/unseal", &body).await
    };
    assert_eq!(unseal(&sealed, &key, "memory").await.json(), json!({ "data": text }));
    let refused = (400, "seal_refused".to_owned());
    assert_eq!(unseal(&sealed, &key, "settings").await.refusal(), refused);
    assert_eq!(unseal(&json!("AAAA"), &key, "memory").await.refusal(), refused);
    let other = KmsKey { plaintext: b"another key of so many bytes too", ..kms(later.root_pem()) };
    let other = other.decrypt(&recipient(&later).await).unwrap();
    assert_eq!(unseal(&sealed, &other, "memory").await.refusal(), refused);
    let short = KmsKey { plaintext: b"short", ..kms(later.root_pem()) };
    let short = short.decrypt(&recipient(&later).await).unwrap();
    let body = json!({"key_id": "k", "ciphertext_blob": "AAAA", "ciphertext_for_recipient": short});
    assert_eq!(post(&later, "/v1/seal", &body).await.refusal(), refused);
    let body = json!({"key_id": "k", "ciphertext_blob": "AAAA", "data": STANDARD.encode([0; 70_000])});
    assert_eq!(post(&later, "/v1/seal", &body).await.refusal().1, "field_length");
}

/// Whoever listens at the host, or runs the same image again, has the message but not the key.
#[tokio::test]
async fn another_enclave_of_the_same_image_cannot_open_it() {
    let (enclave, other) = (Enclave::start().await, Enclave::start().await);
    let key = KmsKey { root_pem: enclave.root_pem(), pcr0: [1; 48], plaintext: b"x" };
    let sealed = key.decrypt(&recipient(&enclave).await).unwrap();
    let refused = post(&other, "/v1/kms/open", &json!({ "ciphertext_for_recipient": sealed })).await;
    assert_eq!(refused.refusal(), (400, "kms_answer_refused".to_owned()));
}

#[tokio::test]
async fn what_is_no_answer_of_kms_is_refused_with_a_reason() {
    let enclave = Enclave::start().await;
    for (body, code) in [
        (json!({}), "kms_answer_refused"),
        (json!({ "ciphertext_for_recipient": "MIAG" }), "kms_answer_refused"),
        (json!({ "ciphertext_for_recipient": "no base64" }), "field_not_base64"),
        (json!({ "CiphertextForRecipient": "" }), "json_malformed"),
        (json!({ "ciphertext_for_recipient": STANDARD.encode([0; 16 << 10]) }), "body_too_large"),
    ] {
        let refused = post(&enclave, "/v1/kms/open", &body).await;
        assert_eq!(refused.refusal().1, code, "{body}");
    }
}
