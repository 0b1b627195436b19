//! How an image came to be, as an in-toto statement with SLSA provenance (`docs/spec/provenance.md`).
//!
//! The statement is not signed: who signs it says with that who built, and no key belongs in a build. It holds no time,
//! host, user or path.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{BuildReport, Digest, PcrValue};

/// Names the kind of build and the meaning of its parameters. `docs/spec/provenance.md` defines it.
pub(crate) const BUILD_TYPE: &str = "urn:glasshouse:build:1";

/// Who built, as far as this program can say: whoever ran it. A service that builds says better in its signature.
pub(crate) const BUILDER: &str = "urn:glasshouse:builder:local";

/// What a statement is made of.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) report: &'a BuildReport,
    pub(crate) image: Digest,
    /// The measured manifest, canonical JSON.
    pub(crate) manifest: &'a [u8],
    /// Of the layers, the lowest first; none if the input was no container image.
    pub(crate) layers: &'a [Digest],
    /// Of the SBOM that goes with the image.
    pub(crate) sbom: Digest,
}

/// Writes the statement.
pub(crate) fn statement(facts: &Facts<'_>) -> String {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [subject(facts)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external_parameters(facts),
                "resolvedDependencies": dependencies(facts),
            },
            "runDetails": {
                "builder": { "id": BUILDER, "version": { "glasshouse": env!("CARGO_PKG_VERSION") } },
                "byproducts": [file(&format!("{}.eif.sbom.json", facts.report.name), &facts.sbom)],
            },
        },
    });
    text(&statement)
}

/// The statement on the same image once it is signed: another file, and another register. `None` if `statement` is on
/// another image, or none.
pub(crate) fn of_signed(statement: &[u8], image: &Digest, pcrs: &BTreeMap<u8, PcrValue>) -> Option<String> {
    let mut statement: Value = serde_json::from_slice(statement).ok()?;
    let subject = statement.get_mut("subject")?.get_mut(0)?;
    let recorded = subject.get("annotations")?;
    let is_same =
        |index: &u8| Some(recorded.get(format!("pcr{index}"))?.as_str()? == pcrs.get(index)?.to_string());
    if ![0, 1, 2].iter().all(|index| is_same(index) == Some(true)) {
        return None;
    }
    *subject.get_mut("digest")? = json!({ "sha256": image.to_hex() });
    *subject.get_mut("annotations")? = annotations(pcrs);
    Some(text(&statement))
}

fn text(statement: &Value) -> String {
    serde_json::to_string_pretty(statement).expect("a JSON value always serialises") + "\n"
}

fn subject(facts: &Facts<'_>) -> Value {
    json!({
        "name": format!("{}.eif", facts.report.name),
        "digest": { "sha256": facts.image.to_hex() },
        "annotations": annotations(&facts.report.pcrs),
    })
}

fn annotations(pcrs: &BTreeMap<u8, PcrValue>) -> Value {
    let named = pcrs.iter().map(|(index, value)| (format!("pcr{index}"), value.to_string().into()));
    Map::from_iter(named).into()
}

fn external_parameters(facts: &Facts<'_>) -> Value {
    let manifest: Value =
        serde_json::from_slice(facts.manifest).expect("the measured manifest was just written as JSON");
    json!({ "manifest": manifest, "cmdline": facts.report.cmdline })
}

fn dependencies(facts: &Facts<'_>) -> Vec<Value> {
    let report = facts.report;
    let mut found = vec![file("kernel", &report.kernel), file("guest-program", &report.guest_binary)];
    found.extend(report.nsm_ko.as_ref().map(|digest| file("nsm.ko", digest)));
    found.extend(report.image_manifest.as_ref().map(|digest| file("image-manifest", digest)));
    let layers =
        (1..).zip(facts.layers).map(|(number, digest): (u32, _)| file(&format!("layer-{number}"), digest));
    found.extend(layers);
    found
}

fn file(name: &str, digest: &Digest) -> Value {
    json!({ "name": name, "digest": { "sha256": digest.to_hex() } })
}
