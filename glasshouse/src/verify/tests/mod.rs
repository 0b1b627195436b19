//! Verdicts over a whole enclave, good and attacked.

mod attacks;
mod differential;
mod scene;
mod vectors;

use super::{
    checkpoint::{Kept, Since},
    digests::Wanted,
    gather::Source,
    judge::judge,
    ledger::Questions,
    verdict::Verdict,
    *,
};
use scene::{CONTENT, NONCE, Scene, TLS_KEY, name};

/// The refusals, which have to be there.
fn refused(verdict: &Verdict) -> String {
    assert!(!verdict.verified && verdict.proven.is_empty(), "{verdict}");
    verdict.refusals.join("\n")
}

fn proves(verdict: &Verdict, sentence: &str) {
    assert!(verdict.verified, "{verdict}");
    assert!(
        verdict.proven.iter().any(|proven| proven.contains(sentence)),
        "{sentence:?} is not in: {verdict}"
    );
}

fn file(path: &str, wanted: Option<Wanted>) -> Questions {
    Questions { files: vec![(name(path), wanted)], ..Questions::default() }
}

fn egress_only(list: &str) -> Questions {
    Questions { egress_only: Some(rules(list).unwrap()), ..Questions::default() }
}

/// Who meets a refusal the first time reads what to do.
#[test]
fn usual_mistakes_are_answered_with_a_hint() {
    let scene = Scene::booted();
    let mut question = scene.question(Questions::default());
    let material = scene.live(&Questions::default());
    let hints = |material: &Material, question: &Question| {
        let verdict = judge(material, question);
        assert!(!verdict.verified && verdict.to_string().contains("\nhint: "), "{verdict}");
        verdict.hints.join("; ")
    };
    question.expected.reference_values = attestation::ReferenceValues::Pcrs(Default::default());
    assert!(hints(&material, &question).contains("--image app.eif"));
    question.expected.roots = attestation::Roots::aws();
    assert!(hints(&material, &question).contains("--root FILE"));
    let question = scene.question(Questions::default());
    let old = Material {
        at: Some(scene::later(std::time::Duration::from_secs(1 << 20))),
        ..scene.live(&Questions::default())
    };
    assert!(hints(&old, &question).contains("this machine's clock"));
    assert!(hints(&Material { source: Source::Bundle, ..old }, &question).contains("--at"));
    let another = Scene::of_image(0x22);
    let question = Question { expected: another.question(Questions::default()).expected, ..question };
    assert!(hints(&another.live(&Questions::default()), &question).contains("another image"));
}

/// A document of another maker is judged for what it is: nothing of this framework is read into it.
#[test]
fn a_document_without_a_statement_says_nothing_of_operators() {
    let scene = Scene::booted();
    let document = scene.attest(&NONCE, Some(b"\x12\x20 and a digest".to_vec()));
    let material =
        Material { document, bundle: None, source: Source::Document, ..scene.live(&Questions::default()) };
    let verdict = judge(&material, &scene.question(Questions::default()));
    assert!(verdict.verified, "{verdict}");
    let found =
        |check: &str| verdict.checks.iter().find(|row| row.check == check).unwrap().found.clone().unwrap();
    assert!(found("control channel").contains("nothing says that this is one"));
    assert!(found("binding statement").starts_with("none"));
}

/// A certificate's document is about its key, and answers nobody.
#[test]
fn a_certificate_with_a_document_is_judged_for_its_key() {
    let scene = Scene::booted();
    let of = |key: &[u8], nonce: &[u8]| {
        let key = attestation::Sha256::of(key);
        let material = Material {
            document: scene.attest(nonce, Some(scene.statement().encode())),
            bundle: None,
            source: Source::Certificate(key),
            own_nonce: Some(key.0.to_vec()),
            ..scene.live(&Questions::default())
        };
        judge(&material, &scene.question(Questions::default()))
    };
    let nonce = attestation::Sha256::of(TLS_KEY).0;
    let good = of(TLS_KEY, &nonce);
    proves(&good, "a server that proves to hold this certificate's key");
    assert!(good.not_proven.iter().any(|text| text.contains("how the enclave is now")), "{good}");
    assert!(!good.proven.iter().any(|text| text.contains("you drew")), "{good}");
    assert!(refused(&of(TLS_KEY, &NONCE)).contains("nonce: expected"));
    let other = attestation::Sha256::of(b"another").0;
    assert!(refused(&of(b"another", &other)).contains("TLS key: expected"));
}

/// What the ledger signed and witnesses cosigned, in the form of other tools.
#[test]
fn a_note_with_cosignatures_is_a_checkpoint_of_before() {
    let scene = Scene::booted();
    let (checkpoint, note) = scene.ledger.signed_checkpoint();
    let witness =
        |seed| ::ledger::SigningKey::from_seed(&[seed; 32], |_| "witness.example/w".to_owned()).unwrap();
    let text = ::ledger::Note::decode(note.as_bytes()).unwrap().text().to_owned();
    let cosigned = format!("{note}{}", witness(1).cosign(&text, 1_700_000_000));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("note");
    let ask = |scene: &Scene, note: &str, witness: Option<&::ledger::SigningKey>| {
        fs::write(&path, note).unwrap();
        let witnesses: Vec<_> = witness.iter().map(|key| key.public().verifier_text()).collect();
        scene.ask(Questions { since: Some(since(&path, &witnesses).unwrap()), ..Questions::default() })
    };
    scene.record("/app/new", Some(b"new"));
    let verdict = ask(&scene, &cosigned, Some(&witness(1)));
    proves(&verdict, "the ledger only grew since the note");
    proves(
        &verdict,
        &format!("witness.example/w cosigned the ledger as it was with {} entries", checkpoint.size),
    );
    assert!(verdict.to_string().contains("cosigned at 2023-11-14T22:13:20Z"), "{verdict}");
    // Its key, as others take it, is the one that was measured.
    let key: ::ledger::NoteKey = verdict.ledger.unwrap().note_key.unwrap().parse().unwrap();
    assert_eq!(::ledger::Checkpoint::open(note.as_bytes(), &key).unwrap(), checkpoint);

    proves(&ask(&scene, &note, None), "the ledger only grew since the note");
    assert!(refused(&ask(&scene, &note, Some(&witness(1)))).contains("witness witness.example/w"));
    assert!(refused(&ask(&scene, &cosigned, Some(&witness(2)))).contains("not signed by this key"));
    let changed =
        cosigned.replacen(&format!("\n{}\n", checkpoint.size), &format!("\n{}\n", checkpoint.size - 1), 1);
    assert!(refused(&ask(&scene, &changed, None)).contains("the signature does not hold"));
    assert!(refused(&ask(&Scene::booted(), &cosigned, None)).contains("the enclave was started again"));
    for wrong in ["no note", "a\nb\n\n"] {
        fs::write(&path, wrong).unwrap();
        assert!(since(&path, &[]).is_err());
    }
    assert!(since(&path, &["no key".to_owned()]).unwrap_err().to_string().contains("--witness"));
}

#[test]
fn a_running_enclave_with_a_ledger_is_verified() {
    let scene = Scene::booted();
    let verdict = scene.ask(Questions::default());
    proves(&verdict, "the enclave runs the image that you expect");
    proves(&verdict, "what you send on this connection ends in that enclave");
    proves(&verdict, "the ledger has kept everything since before the application started");
    assert!(verdict.simulated && verdict.headline().contains("simulated"));
    assert_eq!(verdict.operators.as_deref().map(<[_]>::len), Some(0));
    let claims = verdict.ledger.unwrap();
    assert_eq!((claims.size, claims.at_boot), (2, Some(2)));
}

#[test]
fn a_file_is_compared_with_a_digest_and_with_a_local_file() {
    let scene = Scene::booted();
    let sha256 = format!("sha256:{}", attestation::Sha256::of(CONTENT));
    let wanted = |text: &str| Some(Wanted::parse(text).unwrap());
    proves(&scene.ask(file("/app/model.bin", None)), "/app/model.bin is a file of 7 bytes");
    proves(&scene.ask(file("/app/model.bin", wanted(&sha256))), "holds what you expect (sha256)");
    let local = |content| Some(Wanted::of_file(&scene.local(content)).unwrap());
    proves(&scene.ask(file("/app/model.bin", local(CONTENT))), "holds what you expect (blake3)");
    let other = refused(&scene.ask(file("/app/model.bin", local(b"heights"))));
    assert!(
        other.contains("file /app/model.bin: expected blake3:") && other.contains("a file of 7 bytes"),
        "{other}"
    );
    assert!(refused(&scene.ask(file("/app/none", None))).contains("nothing was ever recorded there"));
    // It has changed since.
    scene.record("/app/model.bin", Some(b"other"));
    let changed = refused(&scene.ask(file("/app/model.bin", wanted(&sha256))));
    assert!(changed.contains("a file of 5 bytes"), "{changed}");
}

#[test]
fn absence_and_history_are_proven() {
    let scene = Scene::booted();
    let absent = |path: &str| Questions { absent: vec![name(path)], ..Questions::default() };
    proves(&scene.ask(absent("/app/none")), "/app/none is not there, and never was since boot");
    assert!(
        refused(&scene.ask(absent("/app/old"))).contains("expected nothing there, found a file of 3 bytes")
    );
    assert!(refused(&scene.ask(absent("/etc/passwd"))).contains("below none of the watched: /app"));
    scene.record("/app/old", None);
    proves(&scene.ask(absent("/app/old")), "/app/old is not there any more");
    assert!(refused(&scene.ask(file("/app/old", None))).contains("found removed"));
    scene.record("/app/old", Some(b"again"));
    let verdict = scene.ask(Questions { histories: vec![name("/app/old")], ..Questions::default() });
    proves(&verdict, "3 records are all that there is of /app/old");
    let states: Vec<_> =
        verdict.histories.iter().map(|seen| seen.state.split(" sha256").next().unwrap()).collect();
    assert!(
        states[0].contains("3 bytes") && states[1] == "removed" && states[2].contains("5 bytes"),
        "{states:?}"
    );
    assert!(verdict.to_string().contains("history /app/old: entry 2, scan: removed"), "{verdict}");
}

#[test]
fn whom_it_may_speak_to_and_to_whom_it_spoke_are_compared_with_the_list() {
    let scene = Scene::booted();
    proves(&scene.ask(egress_only("api.example.com:443")), "can speak to nobody but api.example.com:443");
    proves(&scene.ask(egress_only("*.example.com:*")), "can speak to nobody but api.example.com:443");
    let narrower = refused(&scene.ask(egress_only("")));
    assert!(
        narrower.contains("egress allowed: expected at most nothing, found also api.example.com:443"),
        "{narrower}"
    );
    scene.connected("api.example.com", 443);
    proves(
        &scene.ask(egress_only("api.example.com:443")),
        "every connection that the ledger has went to one of those",
    );
    scene.connected("evil.example.net", 443);
    let found = refused(&scene.ask(egress_only("api.example.com:443")));
    assert!(found.contains("connections made") && found.contains("evil.example.net"), "{found}");
}

#[test]
fn the_ledger_is_compared_with_a_kept_checkpoint() {
    let scene = Scene::booted();
    let kept = Kept::of(&scene.ask(Questions::default()).ledger.unwrap());
    let since = |kept: &Kept| Questions { since: Some(Since::Kept(kept.clone())), ..Questions::default() };
    proves(&scene.ask(since(&kept)), "only grew since the checkpoint that you kept");
    for number in 0..5 {
        scene.record(&format!("/app/{number}"), Some(b"x"));
    }
    let grown = scene.ask(since(&kept));
    proves(&grown, "only grew since the checkpoint that you kept");
    assert!(grown.to_string().contains("2 entries known, 5 new"));
    // Another history of as many entries, and a ledger that started again.
    let forged = Kept { log_root: attestation::Sha256([9; 32]), ..kept.clone() };
    assert!(refused(&scene.ask(since(&forged))).contains("ledger since the checkpoint"));
    let restarted = Scene::booted();
    assert!(refused(&restarted.ask(since(&kept))).contains("the enclave was started again"));
    // The enclave's log is shorter than what was kept.
    let later = Kept::of(&scene.ask(Questions::default()).ledger.unwrap());
    let material = restarted.live(&Questions::default());
    let shorter = Kept { vrf_key: attestation::Sha256(restarted.ledger.vrf_key()), ..later };
    let verdict = judge(&material, &restarted.question(since(&shorter)));
    assert!(refused(&verdict).contains("found a log of 2 entries"));
}

#[test]
fn a_bundle_is_verified_offline_and_says_what_it_cannot_prove() {
    let scene = Scene::booted();
    let questions = || file("/app/model.bin", None);
    let bundle = scene.bundle(&questions());
    let saved = Bundle::decode(&bundle.encode().unwrap()).unwrap();
    let material = |own_nonce: Option<[u8; 32]>, at| Material {
        subject: "bundle".to_owned(),
        document: saved.document.0.clone(),
        bundle: Some(saved.clone()),
        source: Source::Bundle,
        own_nonce: own_nonce.map(Vec::from),
        at,
    };
    let alone = judge(&material(None, None), &scene.question(questions()));
    proves(&alone, "/app/model.bin is a file of 7 bytes");
    let unknown = alone.not_proven.join("\n");
    assert!(
        unknown.contains("only it says so") && unknown.contains("whose who made the bundle"),
        "{unknown}"
    );
    assert!(alone.to_string().contains("nobody's connection is judged"));
    let noted = judge(&material(Some(NONCE), Some(scene::now())), &scene.question(questions()));
    proves(&noted, "the document was made after you drew the nonce");
    assert!(noted.not_proven.is_empty(), "{noted}");
    let later = judge(
        &material(None, Some(scene::later(std::time::Duration::from_secs(6 * 3600)))),
        &scene.question(questions()),
    );
    assert!(refused(&later).contains("valid until"));
    // What the bundle does not hold is not proven.
    let other = judge(&material(None, None), &scene.question(file("/app/old", None)));
    assert!(refused(&other).contains("file /app/old: expected a record of it, found no proof of it"));
}

/// Only the proofs that were asked about used to be looked at, so that a bundle with a forged one beside them was good.
#[test]
fn every_proof_of_a_bundle_has_to_be_right() {
    let scene = Scene::booted();
    scene.connected("api.example.com", 443);
    let asked = Questions {
        histories: vec![Name(b"/app/old".to_vec())],
        egress_only: Some(rules("api.example.com:443").unwrap()),
        ..file("/app/model.bin", None)
    };
    let bundle = scene.bundle(&asked);
    assert_eq!(bundle.proofs.len(), 3);
    let judged = |bundle: Bundle, questions: Questions| {
        let mut material = scene.live(&questions);
        (material.document, material.bundle) = (bundle.document.0.clone(), Some(bundle));
        judge(&material, &scene.question(questions))
    };
    let unasked = judged(bundle.clone(), Questions::default());
    assert!(unasked.verified, "{unasked}");
    for found in ["file /app/model.bin", "history /app/old", "stream egress"] {
        assert!(unasked.to_string().contains(found), "{unasked}");
    }
    for which in 0..3 {
        let mut damaged = bundle.clone();
        let last = damaged.proofs[which].proof.0.len() - 1;
        damaged.proofs[which].proof.0[last] ^= 1;
        assert!(!judged(damaged.clone(), Questions::default()).verified, "{which}");
        // Behind a good one of the same subject, where no question looks.
        let mut both = bundle.clone();
        both.proofs.push(damaged.proofs.remove(which));
        assert!(!judged(both, file("/app/model.bin", None)).verified, "{which}");
    }
    let mut foreign = bundle;
    foreign.proofs[2].subject = Name(b"app/other".to_vec());
    assert!(refused(&judged(foreign, Questions::default())).contains("stream app/other"));
}

#[test]
fn a_policy_is_judged_with_the_manifest_of_the_enclave() {
    let scene = Scene::booted();
    let value = hex::encode([scene::IMAGE; 48]);
    let policy = |rest: &str| {
        let text = format!(
            "version = 1\n[[release]]\nversion = \"1.0\"\npcrs = {{ 0 = \"{value}\" }}\n[require]\n{rest}\n"
        );
        PolicyFile::parse(text.as_bytes()).unwrap()
    };
    let verdict = |policy| {
        let mut question = scene.question(Questions::default());
        question.expected.reference_values = attestation::ReferenceValues::Pcrs(Default::default());
        question.policy = Some(policy);
        judge(&scene.live(&Questions::default()), &question)
    };
    let good = verdict(policy(
        "egress_only = [\"*.example.com:443\"]\nmanifest = { \"/name\" = \"agent\" }\ncontrol = \"absent\"",
    ));
    proves(&good, "the enclave runs the image that you expect");
    assert!(
        refused(&verdict(policy("manifest = { \"/name\" = \"other\" }"))).contains("policy: manifest /name")
    );
    assert!(refused(&verdict(policy("minimum_version = \"1.1\""))).contains("policy: minimum version"));
}

#[test]
fn a_path_has_one_spelling() {
    for path in ["/", "/app", "/app/a b/c..d", "/.hidden"] {
        assert_eq!(path_name(OsStr::new(path)).unwrap().0, path.as_bytes());
    }
    for path in ["", "app", "/app/", "//app", "/app//x", "/app/./x", "/app/../x", "/.."] {
        assert!(path_name(OsStr::new(path)).is_err(), "{path}");
    }
    assert!(path_name(OsStr::new(&format!("/{}", "x".repeat(4096)))).is_err());
}

#[test]
fn a_list_of_rules_may_be_empty() {
    assert!(rules("").unwrap().is_empty());
    assert_eq!(rules("a.example:443, *.b.example:*").unwrap().len(), 2);
    assert!(rules("a.example").is_err());
}
