use attestation::ControlState;
use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = include_str!("../../../../docs/spec/vectors/policy/example.toml");

fn value(byte: u8) -> Pcr {
    Pcr([byte; 48])
}

fn registers(pairs: &[(u8, u8)]) -> Registers {
    pairs.iter().map(|(index, byte)| (PcrIndex::new(*index).unwrap(), value(*byte))).collect()
}

fn example() -> PolicyFile {
    PolicyFile::parse(EXAMPLE.as_bytes()).unwrap()
}

/// The demands of the example that are not met.
fn unmet(found: &[(u8, u8)], control: ControlState, manifest: Option<&str>) -> Vec<String> {
    let findings = example().judge_registers(&registers(found), control, manifest.map(str::as_bytes));
    assert_eq!(findings.len(), 7, "every demand is judged");
    findings.iter().filter(|f| !f.met).map(|f| format!("{}: {}", f.rule, f.found)).collect()
}

const GOOD: &[(u8, u8)] = &[(0, 0x11), (1, 0x22), (2, 0x33), (8, 0x88), (16, 0x66)];
const MANIFEST: &str = r#"{"egress":{"allow":["api.example.com:443"]},"name":"agent","version":1}"#;

#[test]
fn the_example_of_the_specification_is_read() {
    let policy = example();
    assert_eq!(policy.releases.len(), 3);
    assert_eq!(policy.releases[0].withdrawn.as_deref(), Some("CVE in its model loader"));
    assert_eq!(policy.signers, [value(0x88)]);
    assert_eq!(policy.minimum_version.unwrap().to_string(), "1.4");
    assert_eq!(policy.control, Some(ControlRequirement::NeverEntered));
}

#[test]
fn an_enclave_that_meets_every_demand_is_accepted() {
    assert_eq!(unmet(GOOD, ControlState::NotEntered, Some(MANIFEST)), [""; 0]);
    assert_eq!(unmet(GOOD, ControlState::Sealed, Some(MANIFEST)), [""; 0]);
}

#[test]
fn each_demand_that_is_not_met_says_what_was_found() {
    let one = |found: &[(u8, u8)], control, manifest| unmet(found, control, manifest);
    let with = |index: u8, byte: u8| {
        let mut found = GOOD.to_vec();
        found.iter_mut().filter(|(i, _)| *i == index).for_each(|pair| pair.1 = byte);
        found
    };
    let entered = ControlState::Entered(value(1));
    let fresh = ControlState::NotEntered;
    assert_eq!(
        one(&with(2, 0x34), fresh, Some(MANIFEST)),
        [
            "policy: release: none of them; of 1.4.0, PCR2 (application) differs",
            "policy: minimum version: no release"
        ]
    );
    assert_eq!(
        one(&[(0, 9), (8, 0x88)], fresh, Some(MANIFEST)),
        [
            "policy: release: none of them, and nothing in common with one",
            "policy: minimum version: no release"
        ]
    );
    // 1.2.0, which the policy knows and does not want.
    assert_eq!(
        one(&[(0, 0x01), (8, 0x88)], fresh, Some(MANIFEST)),
        [
            "policy: release: 1.2.0, which is withdrawn: CVE in its model loader",
            "policy: minimum version: 1.2.0"
        ]
    );
    assert_eq!(one(&[(0, 0x02), (8, 0x88)], fresh, Some(MANIFEST)), ["policy: minimum version: 1.3.0"]);
    let other_signer = format!("policy: signer: PCR8 {}", value(0x89));
    assert_eq!(one(&with(8, 0x89), fresh, Some(MANIFEST)), [other_signer]);
    let unsigned: Vec<_> = GOOD.iter().copied().filter(|(index, _)| *index != 8).collect();
    assert_eq!(one(&unsigned, fresh, Some(MANIFEST)), ["policy: signer: none"]);
    assert!(
        one(GOOD, entered, Some(MANIFEST))[0].starts_with("policy: control channel: somebody has entered")
    );
    let wider = MANIFEST.replace("api.example.com:443", "*:443");
    assert_eq!(one(GOOD, fresh, Some(&wider)), ["policy: egress: the manifest also allows *:443"]);
    let renamed = MANIFEST.replace("agent", "tnega");
    assert_eq!(one(GOOD, fresh, Some(&renamed)), ["policy: manifest /name: \"tnega\""]);
    let with_control = MANIFEST.replace("{\"egress\"", "{\"control\":{\"port\":1},\"egress\"");
    assert_eq!(one(GOOD, fresh, Some(&with_control)), ["policy: manifest /control: {\"port\":1}"]);
    // Without a manifest nothing that it would have to say is met.
    assert_eq!(one(GOOD, fresh, None).len(), 3);
}

#[test]
fn an_image_without_a_way_out_meets_every_egress_demand() {
    let inside = r#"{"name":"agent"}"#;
    assert_eq!(unmet(GOOD, ControlState::NotEntered, Some(inside)), [""; 0]);
    let strange = r#"{"egress":{"allow":["no rule"]},"name":"agent"}"#;
    assert_eq!(
        unmet(GOOD, ControlState::NotEntered, Some(strange)),
        ["policy: egress: an egress policy that cannot be read"]
    );
}

#[test]
fn a_sealed_and_an_absent_channel_are_more_than_an_unused_one() {
    let meets = |wanted: &str, state, manifest: Option<&str>| {
        let text =
            format!("version = 1\n[signer]\npcr8 = [\"{}\"]\n[require]\ncontrol = \"{wanted}\"\n", value(8));
        let policy = PolicyFile::parse(text.as_bytes()).unwrap();
        let findings = policy.judge_registers(&registers(&[(8, 8)]), state, manifest.map(str::as_bytes));
        findings.iter().all(|finding| finding.met)
    };
    let (none, some) = (Some(r#"{"name":"x"}"#), Some(r#"{"control":{},"name":"x"}"#));
    assert!(meets("sealed", ControlState::Sealed, some) && !meets("sealed", ControlState::NotEntered, some));
    assert!(meets("absent", ControlState::NotEntered, none));
    assert!(!meets("absent", ControlState::NotEntered, some));
    assert!(!meets("absent", ControlState::NotEntered, None));
    assert!(!meets("absent", ControlState::Entered(value(1)), none));
}

#[test]
fn mistakes_are_refused_for_what_they_are() {
    let release =
        |version: &str, pcrs: &str| format!("[[release]]\nversion = \"{version}\"\npcrs = {{ {pcrs} }}\n");
    let full = |index: &str| format!("{index} = \"{}\"", value(1));
    let policy =
        |rest: &str| PolicyFile::parse(format!("version = 1\n{rest}").as_bytes()).unwrap_err().to_string();
    for (rest, reason) in [
        (String::new(), "neither a [[release]] nor a signer"),
        (release("1.0", &full("4")), "release 1.0: PCR0"),
        (release("1.0", "0 = \"ab\""), "`pcrs.0`"),
        (release("1.0", &full("32")), "`pcrs.32`"),
        (release("1.0", &full("00")), "`pcrs.00`"),
        (release("1.x", &full("0")), "1 to 8 numbers"),
        (release("1.0", &full("0")) + &release("1", &full("0")), "release 1 is there twice"),
        (release("1.0", &full("0")) + "[require]\nminimum = 1\n", "unknown field `minimum`"),
        (release("1.0", &full("0")) + "[require]\negress_only = [\"host\"]\n", "no port"),
        (release("1.0", &full("0")) + "[require]\nabsent = [\"control\"]\n", "no JSON Pointer"),
        (
            release("1.0", &full("0")) + "[require]\ncontrol = \"none\"\n",
            "\"none\" is not never-entered, sealed or absent",
        ),
        ("[signer]\npcr8 = [\"00\"]\n".to_owned(), "signer.pcr8"),
        (
            format!("[signer]\npcr8 = [\"{}\"]\n[require]\nminimum_version = \"1\"\n", value(1)),
            "a signature does not tell a version",
        ),
    ] {
        let found = policy(&rest);
        assert!(found.contains(reason), "{rest}: {found}");
    }
    assert!(matches!(PolicyFile::parse(b"version = 2\n"), Err(PolicyError::Version { found: 2 })));
    assert!(matches!(PolicyFile::parse(&[0xff]), Err(PolicyError::NotUtf8(_))));
    assert!(matches!(PolicyFile::parse(&vec![b' '; MAX_POLICY_BYTES + 1]), Err(PolicyError::TooLong { .. })));
}

/// The auditor's page reads the same.
#[test]
fn the_forms_of_the_specification_are_read_and_refused() {
    let forms: Value =
        serde_json::from_str(include_str!("../../../../docs/spec/vectors/policy/forms.json")).unwrap();
    let cases = |member: &str| forms[member].as_array().unwrap().clone();
    let (valid, refused) = (cases("valid"), cases("refused"));
    assert!(valid.len() >= 15 && refused.len() >= 50);
    for case in valid {
        let policy = PolicyFile::parse(case["text"].as_str().unwrap().as_bytes());
        let policy = policy.unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
        let found = (policy.releases.len() as u64, policy.signers.len() as u64);
        assert_eq!(found, (case["releases"].as_u64().unwrap(), case["signers"].as_u64().unwrap()));
    }
    for case in refused {
        let found = PolicyFile::parse(case["text"].as_str().unwrap().as_bytes());
        assert!(found.is_err(), "{}", case["name"]);
    }
}

#[test]
fn versions_are_compared_by_their_numbers() {
    let version = |text: &str| text.parse::<ReleaseVersion>().unwrap();
    assert!(version("1.10") > version("1.9.9") && version("2") > version("1.99"));
    assert_eq!(version("1.4"), version("1.4.0.0"));
    for text in ["", ".", "1.", "v1", "1.-1", "1.01", "+1", "1.2.3.4.5.6.7.8.9", "4294967296"] {
        assert_eq!(text.parse::<ReleaseVersion>(), Err(VersionError), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_is_read_without_panic(text in "(version = 1\n)?(.|\n){0,80}") {
        let _ = PolicyFile::parse(text.as_bytes());
    }

    #[test]
    fn versions_round_trip(parts in prop::collection::vec(any::<u32>(), 1..8)) {
        let text: Vec<_> = parts.iter().map(u32::to_string).collect();
        let text = text.join(".");
        prop_assert_eq!(text.parse::<ReleaseVersion>().unwrap().to_string(), text);
    }
}
