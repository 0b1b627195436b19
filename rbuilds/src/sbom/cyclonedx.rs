//! An inventory as CycloneDX 1.6 JSON (ECMA-424, <https://cyclonedx.org/docs/1.6/json/>).
//!
//! `docs/spec/sbom.md` says what stands where. There is no timestamp, and the serial number is derived, so that the
//! same image has the same document.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use super::{Inventory, Package, Program};
use crate::{BuildReport, Digest, PcrValue};

/// What an inventory is of: the image, and what the framework put into it.
#[derive(Debug)]
pub(crate) struct Framework<'a> {
    pub(crate) report: &'a BuildReport,
    pub(crate) kernel_version: &'a str,
}

/// Writes the document.
pub(crate) fn render(inventory: &Inventory, framework: &Framework<'_>) -> String {
    let document = Document {
        schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: serial_number(framework),
        version: 1,
        metadata: metadata(inventory, framework),
        components: components(inventory, framework),
        dependencies: inventory.programs.iter().map(dependency).collect(),
    };
    serde_json::to_string_pretty(&document).expect("strings and lists always serialise") + "\n"
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata<'a>,
    components: Vec<Component<'a>>,
    dependencies: Vec<Dependency<'a>>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    lifecycles: [Lifecycle; 1],
    tools: Tools<'a>,
    component: Component<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Serialize)]
struct Lifecycle {
    phase: &'static str,
}

#[derive(Serialize)]
struct Tools<'a> {
    components: [Component<'a>; 1],
}

#[derive(Default, Serialize)]
struct Component<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref", skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    licenses: Option<[LicenceChoice<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<Evidence<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
struct LicenceChoice<'a> {
    license: Licence<'a>,
}

#[derive(Serialize)]
struct Licence<'a> {
    name: &'a str,
    acknowledgement: &'static str,
}

#[derive(Serialize)]
struct Evidence<'a> {
    occurrences: Vec<Occurrence<'a>>,
}

#[derive(Serialize)]
struct Occurrence<'a> {
    location: &'a str,
}

#[derive(Serialize)]
struct Property {
    name: String,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency<'a> {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: &'a BTreeSet<String>,
}

/// The register of the signer's certificate. It is left out: signing does not change what is in an image.
const SIGNER_PCR: u8 = 8;

/// The registers that say what is in the image.
fn registers<'a>(framework: &Framework<'a>) -> impl Iterator<Item = (&'a u8, &'a PcrValue)> {
    framework.report.pcrs.iter().filter(|(index, _)| **index != SIGNER_PCR)
}

/// A UUID of version 8 (RFC 9562) that the image's measurements and this program's version determine.
fn serial_number(framework: &Framework<'_>) -> String {
    let mut context = Context::new(&SHA256);
    context.update(b"glasshouse SBOM 1\0");
    context.update(env!("CARGO_PKG_VERSION").as_bytes());
    for (_, PcrValue(value)) in registers(framework) {
        context.update(value);
    }
    let digest = context.finish();
    let mut id: [u8; 16] = *digest.as_ref().first_chunk().expect("a SHA-256 digest has 32 bytes");
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    let hex = hex::encode(id);
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn metadata<'a>(inventory: &Inventory, framework: &Framework<'a>) -> Metadata<'a> {
    let tool = Component {
        kind: "application",
        name: "glasshouse",
        version: Some(env!("CARGO_PKG_VERSION")),
        ..Component::default()
    };
    Metadata {
        lifecycles: [Lifecycle { phase: "build" }],
        tools: Tools { components: [tool] },
        component: image(framework),
        properties: gaps(inventory),
    }
}

fn image<'a>(framework: &Framework<'a>) -> Component<'a> {
    let pcr = |(index, value): (&u8, &PcrValue)| Property {
        name: format!("glasshouse:pcr{index}"),
        value: value.to_string(),
    };
    Component {
        kind: "container",
        reference: Some("image".to_owned()),
        name: &framework.report.name,
        description: Some("enclave image (EIF)"),
        properties: registers(framework).map(pcr).collect(),
        ..Component::default()
    }
}

/// What the inventory knows that it lacks.
fn gaps(inventory: &Inventory) -> Vec<Property> {
    let unread = inventory
        .unread
        .iter()
        .map(|file| ("glasshouse:unread", format!("{}: {}", file.path, file.reason.0)));
    let counts =
        [("glasshouse:unread-more", inventory.more_unread), ("glasshouse:left-out", inventory.left_out)];
    let counted =
        counts.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name, count.to_string()));
    unread.chain(counted).map(|(name, value)| Property { name: name.to_owned(), value }).collect()
}

fn components<'a>(inventory: &'a Inventory, framework: &Framework<'a>) -> Vec<Component<'a>> {
    let report = framework.report;
    let mut components = vec![
        Component {
            version: Some(framework.kernel_version),
            ..file("kernel", "kernel", "Linux kernel that boots the image", &report.kernel)
        },
        file("init", "/init", "guest program: enclave-init, ra-web-srv, pf-proxy", &report.guest_binary),
    ];
    if let Some(nsm_ko) = &report.nsm_ko {
        components.push(file("nsm.ko", "/nsm.ko", "driver of the security module", nsm_ko));
    }
    if let Some(id) = &inventory.os.id {
        components.push(Component {
            kind: "operating-system",
            reference: Some("os".to_owned()),
            name: id,
            version: inventory.os.version.as_deref(),
            description: inventory.os.name.as_deref(),
            ..Component::default()
        });
    }
    components.extend(inventory.programs.iter().map(|program| Component {
        reference: Some(reference(program)),
        ..file("", &program.path, "program that says what it was built of", &program.digest)
    }));
    components.extend(inventory.packages.iter().map(|(purl, package)| package_component(purl, package)));
    components
}

fn file<'a>(reference: &str, name: &'a str, description: &'static str, digest: &Digest) -> Component<'a> {
    Component {
        kind: "file",
        reference: Some(reference.to_owned()),
        name,
        description: Some(description),
        hashes: vec![sha256(digest)],
        ..Component::default()
    }
}

fn package_component<'a>(purl: &'a str, package: &'a Package) -> Component<'a> {
    let licence = |name| [LicenceChoice { license: Licence { name, acknowledgement: "declared" } }];
    Component {
        kind: "library",
        reference: Some(purl.to_owned()),
        name: &package.name,
        version: package.version.as_deref(),
        licenses: package.licence.as_deref().map(licence),
        purl: Some(purl),
        evidence: Some(Evidence {
            occurrences: package.places.iter().map(|location| Occurrence { location }).collect(),
        }),
        ..Component::default()
    }
}

fn dependency(program: &Program) -> Dependency<'_> {
    Dependency { reference: reference(program), depends_on: &program.packages }
}

fn reference(program: &Program) -> String {
    format!("file:{}", program.path)
}

fn sha256(digest: &Digest) -> Hash {
    Hash { alg: "SHA-256", content: digest.to_hex() }
}
