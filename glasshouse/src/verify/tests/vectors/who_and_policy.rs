//! Cases of steps 17 and 18: who entered, and what an organisation demands.

use attestation::{Sha256, binding::Statement, bundle::Base64};
use pipeline::trace::entry::{Ending, Entry, Event, Head};
use serde_json::{Value, json};

use super::{
    super::scene::{IMAGE, NONCE, SIGNER},
    Maker,
};

fn entry(number: u64, event: Event) -> Vec<u8> {
    Entry { number, time_ms: 1_795_000_000_000 + number, event }.encode()
}

fn open(number: u64, operator: &str) -> Vec<u8> {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned();
    entry(number, Event::Open { operator: operator.to_owned(), key, request: vec![0xa0] })
}

fn close(number: u64, session: u64) -> Vec<u8> {
    entry(number, Event::Close { session, ending: Ending::Lost, files: 0, bytes: 0, digest: None })
}

fn head(entries: &[Vec<u8>]) -> Head {
    entries.iter().fold(Head::empty(), |head, entry| head.after(entry))
}

impl Maker {
    /// A bundle's document that states `attested` as the head of the chain, and a transcript.
    fn traced(&self, attested: Option<Head>, entries: &[Vec<u8>]) -> Value {
        let Statement::Server { tls_key, application_key, ledger, .. } = self.scene.statement() else {
            panic!("a server's statement");
        };
        let control_head = attested.map(|head| Sha256(head.0));
        let statement = Statement::Server { tls_key, application_key, control_head, ledger };
        let entries: Vec<_> = entries.iter().map(|entry| Base64(entry.clone())).collect();
        json!({ "document": self.document(&NONCE, Some(statement.encode())), "transcript": entries })
    }
}

pub(super) fn transcripts(maker: &mut Maker) {
    let all = [open(1, "ada"), close(2, 1), open(3, "grace"), open(4, "late")];
    let whole = head(&all[..3]);
    let add = |maker: &mut Maker, name: &str, refused_at, attested, entries: &[Vec<u8>]| {
        let set = maker.traced(attested, entries);
        maker.add(name, refused_at, set, json!({}));
    };
    add(maker, "a transcript of nobody", None, Some(Head::empty()), &[]);
    let early = "a transcript although PCR17 is not locked";
    add(maker, early, Some(17), Some(whole), &all[..3]);
    maker.scene.seal();
    add(maker, "a transcript of nobody, sealed", None, Some(Head::empty()), &[]);
    add(maker, "a transcript although PCR17 is sealed", Some(17), Some(whole), &all[..3]);
    maker.scene.forget_who_entered();
    maker.scene.enter(&all[0]);
    add(maker, "a transcript up to the attested head", None, Some(whole), &all[..3]);
    add(maker, "a transcript with entries younger than the document", None, Some(whole), &all);
    add(maker, "a transcript without its last entry", Some(17), Some(whole), &all[..2]);
    add(maker, "a transcript without its first entry", Some(17), Some(whole), &all[1..3]);
    add(maker, "an empty transcript of an enclave that was entered", Some(17), Some(whole), &[]);
    let swapped = [all[0].clone(), all[2].clone(), all[1].clone()];
    add(maker, "a transcript in another order", Some(17), Some(whole), &swapped);
    let renamed = [open(1, "eve"), all[1].clone(), all[2].clone()];
    add(maker, "a transcript with another name in it", Some(17), Some(whole), &renamed);
    add(maker, "a chain that PCR17 does not begin", Some(17), Some(head(&renamed)), &renamed);
    let twice = [all[0].clone(), open(1, "grace")];
    add(maker, "two entries of one number", Some(17), Some(head(&twice)), &twice);
    // Version 1 in two bytes, where one does.
    let mut longer = all[1].clone();
    longer.splice(2..3, [0x18, 0x01]);
    let longer = [all[0].clone(), longer];
    add(maker, "an entry in another encoding", Some(17), Some(head(&longer)), &longer);
    let mut later = all[1].clone();
    later[2] = 2;
    let later = [all[0].clone(), later];
    add(maker, "an entry of another version", Some(17), Some(head(&later)), &later);
    let more = [all[0].clone(), [all[1].as_slice(), &[0]].concat()];
    add(maker, "an entry with a byte more", Some(17), Some(head(&more)), &more);
    add(maker, "a transcript that no head is attested for", Some(17), None, &all[..3]);
    let restart = entry(2, Event::Restart);
    for (name, second) in [
        ("the end of a session with the status of a program, though it was lost", with(&all[1], &[9, 0])),
        ("the end of a session with a number of files that is 0", with(&all[1], &[13, 0])),
        ("a restart with a session", with(&restart, &[7, 1])),
        ("the end of a session that does not say how", without_last(&all[1])),
    ] {
        let entries = [all[0].clone(), second];
        add(maker, name, Some(17), Some(head(&entries)), &entries);
    }
    maker.scene.forget_who_entered();
    let session = [with(&all[0], &[7, 1])];
    maker.scene.enter(&session[0]);
    add(
        maker,
        "the beginning of a session with another one's number",
        Some(17),
        Some(head(&session)),
        &session,
    );
    maker.scene.forget_who_entered();
}

/// An entry with a key and a value more, behind all others.
fn with(entry: &[u8], member: &[u8]) -> Vec<u8> {
    [&[entry[0] + 1], &entry[1..], member].concat()
}

/// The end of a session without its last member, the word `lost`.
fn without_last(entry: &[u8]) -> Vec<u8> {
    let end = entry.len() - "\u{8}xlost".len();
    [&[entry[0] - 1], &entry[1..end]].concat()
}

/// A policy that the enclave of the base meets.
fn policy() -> String {
    let (image, other) = (hex::encode([IMAGE; 48]), "22".repeat(48));
    let signers = [hex::encode([0x77; 48]), hex::encode([SIGNER; 48])];
    format!(
        r#"version = 1

[[release]]
version = "1.2.0"
pcrs = {{ 0 = "{other}" }}
withdrawn = "CVE in its model loader"

[[release]]
version = "1.10"
pcrs = {{ 0 = "{image}", 2 = "{image}" }}

[signer]
pcr8 = ["{}", "{}"]

[require]
minimum_version = "1.9.3"
control = "never-entered"
egress_only = ["*.example.com:443"]
manifest = {{ "/name" = "agent", "/monitor/roots" = ["/app"], "/egress/allow/0" = "api.example.com:443" }}
absent = ["/control", "/egress/allow/1"]
"#,
        signers[0], signers[1]
    )
}

pub(super) fn policies(maker: &mut Maker) {
    let whole = policy();
    let asked = |text: &str| json!({ "policy": text, "pcrs": {} });
    maker.add("a policy that is met", None, json!({}), asked(&whole));
    let changed = |maker: &mut Maker, name: &str, refused_at, from: &str, to: &str| {
        let text = whole.replacen(from, to, 1);
        assert_ne!(text, whole, "{name}");
        maker.add(name, refused_at, json!({}), asked(&text));
    };
    let (image, signer) = (hex::encode([IMAGE; 48]), hex::encode([SIGNER; 48]));
    let value = format!("2 = \"{image}\"");
    changed(maker, "no release of the policy", Some(18), &value, &value.replace("11", "12"));
    let other = "22".repeat(48);
    changed(maker, "a release that is withdrawn", Some(18), &other, &image);
    changed(maker, "a signer whom the policy does not name", Some(18), &signer, &other);
    changed(maker, "a release older than the least version", Some(18), "1.9.3", "1.10.0.1");
    changed(maker, "a release of the least version", None, "1.9.3", "1.10.0.0");
    changed(maker, "a policy that wants it sealed", Some(18), "never-entered", "sealed");
    changed(maker, "a policy that wants no control channel", None, "never-entered", "absent");
    let egress = "*.example.com:443";
    changed(maker, "a policy with every name", None, egress, "*:443");
    changed(maker, "a policy with every port", None, egress, "API.example.com.:*");
    changed(maker, "a policy with another port", Some(18), egress, "*.example.com:444-65535");
    changed(maker, "a policy with other names", Some(18), egress, "*.api.example.com:443");
    changed(maker, "a policy with another protocol", Some(18), egress, "udp:*:*");
    changed(maker, "a policy with addresses", Some(18), egress, "0.0.0.0/0:*");
    changed(maker, "a policy with no destination", Some(18), "\"*.example.com:443\"", "");
    changed(maker, "another value in the manifest", Some(18), "\"agent\"", "\"tnega\"");
    changed(maker, "a value of another type in the manifest", Some(18), "[\"/app\"]", "\"/app\"");
    changed(maker, "a value that the manifest does not have", Some(18), "/allow/0", "/allow/00");
    changed(maker, "a member that should not be there", Some(18), "\"/control\"", "\"/monitor\"");
    let unknown = json!({ "manifest": null, "baseline": null });
    maker.add("a policy and no manifest", Some(18), unknown, asked(&whole));
    let given = json!({ "policy": whole, "pcrs": { "1": other } });
    maker.add("a policy that is met, and another register", Some(8), json!({}), given);
    maker.scene.enter(b"who entered first");
    let entered = maker.document(&NONCE, Some(maker.scene.statement().encode()));
    maker.add("a policy, and somebody has entered", Some(18), json!({ "document": entered }), asked(&whole));
    let absent = whole.replace("never-entered", "absent");
    let name = "a policy that wants no control channel, and somebody has entered";
    maker.add(name, Some(18), json!({ "document": entered }), asked(&absent));
    maker.scene.forget_who_entered();
    maker.scene.seal();
    let sealed = maker.document(&NONCE, Some(maker.scene.statement().encode()));
    let text = whole.replace("never-entered", "sealed");
    maker.add("a policy that wants it sealed, and it is", None, json!({ "document": sealed }), asked(&text));
    maker.scene.forget_who_entered();
}
