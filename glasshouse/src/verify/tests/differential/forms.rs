//! Forms: the JSON of bundles, certificates, and patterns of what is not watched.

use attestation::{
    batch::NonceBatch,
    bundle::{Base64, Bundle, Consistency, Name},
};
use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use serde_json::{Value as Json, json};

use super::{
    compare,
    support::{Chain, Payload, Place, Plan, bytes},
    world::{self, World},
};
use crate::verify::ledger::watched;

/// Texts that differ from that of `value` in one place.
fn texts(value: &Json) -> Vec<String> {
    let others = |value: &Json| -> Vec<String> {
        let own = value.to_string();
        let mut all: Vec<String> = [
            "null",
            "true",
            "0",
            "1",
            "-1",
            "1.0",
            "1e0",
            "01",
            "18446744073709551615",
            "18446744073709551616",
            "\"\"",
            "\"x\"",
            "[]",
            "{}",
            "",
        ]
        .map(str::to_owned)
        .into();
        if let Json::String(text) = value {
            all.push(json!(text.to_uppercase()).to_string());
            all.push(json!(format!("{text}=")).to_string());
            all.push(json!(format!("{text} ")).to_string());
            all.push(json!(text.get(1..).unwrap_or_default()).to_string());
            all.push(json!(format!("\u{feff}{text}")).to_string());
            all.push(format!(
                "\"\\u{:04x}{}\"",
                text.bytes().next().unwrap_or(b'x'),
                text.get(1..).unwrap_or_default()
            ));
            all.push(format!("\"{text}\n\""));
            all.push(format!("{{{own}:null}}"));
        }
        all.push(format!("[{own}]"));
        all.push(format!(" {own}\t"));
        all
    };
    let mut all = others(value);
    match value {
        Json::Object(members) => {
            let text = |members: &[(String, String)]| {
                let members: Vec<_> =
                    members.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
                format!("{{{}}}", members.join(","))
            };
            let own: Vec<_> = members.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
            for (place, (name, value)) in members.iter().enumerate() {
                let mut fewer = own.clone();
                let one = fewer.remove(place);
                all.push(text(&fewer));
                all.push(text(&[&own[..], &[one]].concat()));
                for other in texts(value) {
                    let mut own = own.clone();
                    own[place] = (name.clone(), other);
                    all.push(text(&own));
                }
            }
            for name in ["more", "__proto__", "Version", ""] {
                all.push(text(&[&own[..], &[(name.to_owned(), "1".to_owned())]].concat()));
            }
            let values: Vec<_> = own.iter().map(|(_, value)| value.clone()).collect();
            all.push(format!("[{}]", values.join(",")));
        }
        Json::Array(items) => {
            let own: Vec<_> = items.iter().map(ToString::to_string).collect();
            for (place, item) in items.iter().enumerate() {
                for other in texts(item) {
                    let mut own = own.clone();
                    own[place] = other;
                    all.push(format!("[{}]", own.join(",")));
                }
            }
            all.push(format!("[{},]", own.join(",")));
            all.push(format!("[{}]", [&own[..], &own[..]].concat().join(",")));
        }
        _ => {}
    }
    all
}

#[test]
fn texts_of_bundles_are_judged_alike() {
    let world = World::new();
    let checkpoint = ::ledger::Checkpoint::empty();
    let statement = world.statement(&checkpoint, Some(pipeline::trace::entry::Head::empty().0)).encode();
    let mut bundle: Bundle = world.bundle(&statement, &world.baseline(), None);
    let batch = NonceBatch::new([[8; 32], world::NONCE, [9; 32]]).unwrap();
    let mut payload = world.payload(&statement, &[(16, world.framework(&world.baseline()))]);
    bundle.document = Base64(payload.set("nonce", bytes(&batch.root().0)).sign(&world.chain));
    bundle.batch = batch.path(1);
    bundle.transcript = Some(Vec::new());
    let end = ::ledger::map::Proof { siblings: Vec::new(), end: ::ledger::map::End::Empty };
    let proof = ::ledger::Proof {
        kind: ::ledger::ProofKind::Stream,
        size: 0,
        vrf: None,
        map: end,
        chain: Vec::new(),
    };
    let proof = attestation::bundle::Proof {
        kind: attestation::bundle::ProofKind::Stream,
        subject: Name(b"app/a".to_vec()),
        proof: Base64(proof.encode()),
    };
    bundle.proofs = vec![proof];
    bundle.consistency = vec![
        Consistency { from: 0, to: 0, hashes: Vec::new() },
        Consistency { from: 1, to: 2, hashes: vec![attestation::Sha256([1; 32])] },
    ];
    let right: Json = serde_json::from_slice(&bundle.encode().unwrap()).unwrap();
    let mut cases = vec![world.case("as it is", right.to_string().as_bytes(), &Vec::new())];
    assert_eq!(cases[0]["accepted"], true, "{}", cases[0]["why"]);
    for text in texts(&right).into_iter().chain([
        format!("{right}x"),
        format!("\u{feff}{right}"),
        format!("\n{right}\r\n"),
    ]) {
        let name = text.chars().filter(|c| !c.is_control()).take(4000).collect::<String>();
        cases.push(world.case(&name, text.as_bytes(), &Vec::new()));
    }
    // Whatever was measured: a manifest of another version, and what is none.
    for manifest in
        ["{}", "null", "[]", "x", "{\"monitor\":null}", "{\"monitor\":false}", "\u{feff}{\"monitor\":{}}"]
    {
        let register = world::extended(&[0; 48], manifest.as_bytes());
        let document = world.payload(&statement, &[(16, register)]).sign(&world.chain);
        let bundle = Bundle {
            manifest: Some(Base64(manifest.into())),
            ..Bundle::new(document, world::NONCE.to_vec())
        };
        cases.push(world.case(&format!("manifest {manifest}"), &bundle.encode().unwrap(), &Vec::new()));
    }
    let mut newer = world;
    newer.manifest = b"{\"monitor\":{},\"new\":1}".to_vec();
    for baseline in [newer.baseline(), b"none".to_vec()] {
        let bundle = newer.bundle(&statement, &baseline, None);
        cases.push(newer.case("manifest of another version", &bundle.encode().unwrap(), &Vec::new()));
    }
    compare(&cases);
}

/// A change of one certificate of a chain.
type Change = fn(Place, &mut Plan);

#[test]
fn certificates_are_judged_alike() {
    const ROOT: Place = Place::Root;
    const LAST: Place = Place::Intermediate(2);
    fn on(place: Place, at: Place, plan: &mut Plan, change: impl FnOnce(&mut Plan)) {
        if place == at {
            change(plan);
        }
    }
    fn unknown(critical: bool) -> CustomExtension {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    }
    let changes: Vec<(&str, Change)> = vec![
        ("as they are", |_, _| {}),
        ("a root without path length", |at, plan| {
            on(at, ROOT, plan, |plan| plan.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))
        }),
        ("an intermediate with room", |at, plan| {
            on(at, Place::Intermediate(1), plan, |plan| {
                plan.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1))
            })
        }),
        ("an intermediate without room", |at, plan| {
            on(at, Place::Intermediate(1), plan, |plan| {
                plan.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))
            })
        }),
        ("no authority", |at, plan| on(at, LAST, plan, |plan| plan.params.is_ca = IsCa::ExplicitNoCa)),
        ("nothing of authorities", |at, plan| on(at, LAST, plan, |plan| plan.params.is_ca = IsCa::NoCa)),
        ("a leaf that is an authority", |at, plan| {
            on(at, Place::Leaf, plan, |plan| plan.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
        }),
        ("an issuer that may not sign", |at, plan| {
            on(at, LAST, plan, |plan| plan.params.key_usages = vec![KeyUsagePurpose::CrlSign])
        }),
        ("a leaf that may not sign", |at, plan| {
            on(at, Place::Leaf, plan, |plan| plan.params.key_usages = vec![KeyUsagePurpose::KeyAgreement])
        }),
        ("no key usage", |at, plan| on(at, Place::Leaf, plan, |plan| plan.params.key_usages.clear())),
        ("another purpose", |at, plan| {
            on(at, Place::Leaf, plan, |plan| {
                plan.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
            })
        }),
        ("the purpose", |at, plan| {
            on(at, Place::Leaf, plan, |plan| {
                plan.params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            })
        }),
        ("another purpose of an issuer", |at, plan| {
            on(at, LAST, plan, |plan| {
                plan.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
            })
        }),
        ("another purpose of the root", |at, plan| {
            on(at, ROOT, plan, |plan| {
                plan.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
            })
        }),
        ("names", |at, plan| {
            on(at, Place::Leaf, plan, |plan| {
                plan.params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())]
            })
        }),
        ("an unknown extension", |at, plan| {
            on(at, LAST, plan, |plan| plan.params.custom_extensions = vec![unknown(false)])
        }),
        ("an unknown critical extension", |at, plan| {
            on(at, LAST, plan, |plan| plan.params.custom_extensions = vec![unknown(true)])
        }),
        ("an unknown critical extension of the leaf", |at, plan| {
            on(at, Place::Leaf, plan, |plan| plan.params.custom_extensions = vec![unknown(true)])
        }),
        ("an extension twice", |at, plan| {
            on(at, LAST, plan, |plan| {
                let usage = |bits| CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 0, bits]);
                plan.params.key_usages.clear();
                plan.params.custom_extensions = vec![usage(0x80), usage(0x04)];
            })
        }),
        ("a name that constraints forbid", |at, plan| {
            on(at, LAST, plan, |plan| {
                let permitted_subtrees = vec![GeneralSubtree::DnsName("b.example".to_owned())];
                plan.params.name_constraints =
                    Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
            });
            on(at, Place::Leaf, plan, |plan| {
                plan.params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())]
            });
        }),
        ("expired", |at, plan| on(at, LAST, plan, |plan| plan.params.not_after = date_time_ymd(2025, 5, 31))),
        ("to the last second", |at, plan| {
            on(at, Place::Leaf, plan, |plan| plan.params.not_after = date_time_ymd(2025, 6, 1))
        }),
        ("from this second", |at, plan| {
            on(at, Place::Leaf, plan, |plan| plan.params.not_before = date_time_ymd(2025, 6, 1))
        }),
        ("not yet", |at, plan| {
            on(at, Place::Leaf, plan, |plan| plan.params.not_before = date_time_ymd(2025, 6, 2))
        }),
        ("for ever", |at, plan| {
            on(at, Place::Leaf, plan, |plan| plan.params.not_after = date_time_ymd(9999, 12, 31))
        }),
        ("an expired root", |at, plan| {
            on(at, ROOT, plan, |plan| plan.params.not_after = date_time_ymd(2025, 5, 31))
        }),
        ("another curve", |at, plan| {
            on(at, Place::Leaf, plan, |plan| plan.algorithm = &PKCS_ECDSA_P256_SHA256)
        }),
        ("another curve of an issuer", |at, plan| {
            on(at, LAST, plan, |plan| plan.algorithm = &PKCS_ECDSA_P256_SHA256)
        }),
    ];
    let world = World::new();
    let mut cases = Vec::new();
    let mut add = |name: &str, chain: &Chain, bundle: &[Vec<u8>]| {
        let statement = world.statement(&::ledger::Checkpoint::empty(), None).encode();
        let mut payload = Payload::new(chain);
        payload
            .set("user_data", bytes(&statement))
            .set("nonce", bytes(&world::NONCE))
            .set("cabundle", super::support::array(bundle));
        let document =
            if chain.leaf_key_pkcs8.len() > 170 { payload.sign(chain) } else { payload.unsigned() };
        let bundle = Bundle::new(document, world::NONCE.to_vec()).encode().unwrap();
        cases.push(world.case_under(chain.root(), name, &bundle, &Vec::new()));
    };
    for (name, change) in changes {
        let chain = Chain::with(2, change);
        add(name, &chain, &chain.bundle);
    }
    for length in [0, 1, 5, 6, 7] {
        let chain = Chain::with(length, |_, _| {});
        let count = chain.bundle.len().min(7);
        add(&format!("{length} intermediates"), &chain, &chain.bundle[chain.bundle.len() - count..]);
    }
    let chain = Chain::new();
    let turned: Vec<_> = chain.bundle.iter().rev().cloned().collect();
    add("the other way round", &chain, &turned);
    add("one twice", &chain, &[&chain.bundle[..], &chain.bundle[2..3]].concat());
    add("one missing", &chain, &chain.bundle[..3]);
    add("one that is none", &chain, &[&chain.bundle[..], &[vec![0x30, 0]]].concat());
    add("without the root", &chain, &chain.bundle[1..]);
    compare(&cases);
}

#[test]
fn patterns_of_what_is_not_watched_are_judged_alike() {
    let patterns = [
        "",
        "*.log",
        "!keep.log",
        "/app/cache/",
        "a\\ b",
        "trailing ",
        "trailing\\ ",
        "# a comment",
        "\\#x",
        "\\!x",
        "cache",
        "/cache",
        "app/cache",
        "**",
        "**/x",
        "x/**",
        "/app/**/x",
        "a/**/b",
        "**/cache/**",
        "?.txt",
        "[ab].txt",
        "[!ab].txt",
        "[^ab]",
        "[a-c]x",
        "[]a]",
        "[a-]",
        "[a",
        "[[a]",
        "*.{log,tmp}",
        "{a,b/c}",
        "{}x",
        "{a,{b,c}}x",
        "a,b",
        "\u{fc}",
        "[\u{fc}]",
        "x*y",
        "x**y",
        "a/b/",
        "*/x",
        "app/*",
        "/*",
        "/app/",
        "/app",
        "*.",
        ".*",
        "(a|b)",
        "a+b",
        "$x",
        "^x",
        "a.b",
        "\\*",
        "\\?x",
        "x\\/",
        "//x",
        "/app//x",
        "!*",
        "***",
        "/**",
        "a/***",
        "**x",
        "x**",
        "{**/a,b}",
        "{a/**,b}",
    ];
    let paths = [
        "/app",
        "/app/x",
        "/app/x.log",
        "/app/keep.log",
        "/app/cache",
        "/app/cache/x",
        "/app/cache/d/keep.log",
        "/app/d/cache/e",
        "/app/a b",
        "/app/trailing",
        "/app/trailing ",
        "/app/#x",
        "/app/!x",
        "/app/a.txt",
        "/app/c.txt",
        "/app/bx",
        "/app/]",
        "/app/-",
        "/app/[a",
        "/app/a.tmp",
        "/app/b/c",
        "/app/b/c/d",
        "/app/cx",
        "/app/a,b",
        "/app/\u{fc}",
        "/app/xzy",
        "/app/x/y",
        "/app/a/b",
        "/app/a/z/b",
        "/app/(a|b)",
        "/app/a+b",
        "/app/$x",
        "/app/^x",
        "/app/a.b",
        "/app/axb",
        "/app/*",
        "/app/?x",
        "/app/\n.log",
        "/app/.x",
        "/application",
        "/",
        "/etc",
        "/app/a/b/x",
        "/app/d/x",
    ];
    let mut sets: Vec<Vec<&str>> = patterns.iter().map(|pattern| vec![*pattern]).collect();
    sets.extend([
        vec!["*.log", "!keep.log"],
        vec!["!keep.log", "*.log"],
        vec!["/app/cache/", "!keep.log"],
        vec!["*", "!x"],
        vec!["cache", "!/app/cache"],
        vec!["/app/d/", "!/app/d/x"],
    ]);
    let mut cases = Vec::new();
    for set in &sets {
        let both: [&[&str]; 2] = [&["/app"], &["/"]];
        for roots in both.into_iter().take(set.len()) {
            let monitor = json!({ "roots": roots, "ignore": set });
            let mut measured = world::measured(roots);
            measured.monitor.as_mut().unwrap().ignore = set.iter().map(|line| (*line).to_owned()).collect();
            for path in paths.into_iter().chain(["/proc/1", "/dev/pts", "/dev/ptsx"]) {
                let name = Name(path.into());
                let verdict = watched(Some(&measured), &name);
                cases.push(json!({
                    "name": format!("{set:?} below {roots:?}: {path}"), "monitor": monitor, "path": name.to_string(),
                    "accepted": verdict.is_ok(), "why": verdict.err(),
                }));
            }
        }
    }
    compare(&cases);
}
