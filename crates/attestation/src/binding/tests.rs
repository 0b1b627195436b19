//! The vectors of the specification, and properties of the codec.

#![expect(clippy::indexing_slicing, reason = "a vector without the member fails the test")]

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!("../../../../docs/spec/vectors/binding-statement.json");

fn vectors(list: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    vectors[list].as_array().unwrap().clone()
}

fn text<'v>(vector: &'v Value, member: &str) -> &'v str {
    vector[member].as_str().unwrap()
}

fn bytes(vector: &Value, member: &str) -> Vec<u8> {
    hex::decode(text(vector, member)).unwrap()
}

fn statement(vector: &Value) -> Statement {
    let digest = |member| vector.get(member).map(|_| text(vector, member).parse().unwrap());
    let application_key = digest("application_key");
    let control_head = digest("control_head");
    let ledger = vector.get("ledger").map(|ledger| Ledger {
        vrf_key: bytes(ledger, "vrf_key").try_into().unwrap(),
        size: ledger["size"].as_u64().unwrap(),
        log_root: text(ledger, "log_root").parse().unwrap(),
        map_root: text(ledger, "map_root").parse().unwrap(),
    });
    match text(vector, "kind") {
        KIND_SERVER => {
            Statement::Server { tls_key: digest("tls_key").unwrap(), application_key, control_head, ledger }
        }
        KIND_CHANNEL => Statement::Channel { exporter: digest("exporter").unwrap(), control_head, ledger },
        _ => {
            let data = ApplicationData::new(bytes(vector, "application_data")).unwrap();
            Statement::Application { application_key, data, ledger }
        }
    }
}

#[test]
fn valid_vectors_decode_and_encode_to_the_same_bytes() {
    for vector in vectors("valid") {
        let (expected, encoding) = (statement(&vector["statement"]), bytes(&vector, "encoding"));
        assert_eq!(Statement::decode(&encoding).unwrap(), expected, "{}", vector["name"]);
        assert_eq!(expected.encode(), encoding, "{}", vector["name"]);
    }
}

#[test]
fn vectors_to_refuse_are_refused_for_the_reason_stated() {
    for vector in vectors("refused") {
        let refusal = Statement::decode(&bytes(&vector, "encoding")).unwrap_err();
        let found = format!("{refusal:?}");
        assert!(found.starts_with(text(&vector, "refusal")), "{}: found {found}", vector["name"]);
    }
}

#[test]
fn the_longest_statement_fits_into_user_data() {
    let data = ApplicationData::new(vec![0; MAX_APPLICATION_DATA_BYTES]).unwrap();
    let digest = Sha256([0; 32]);
    let ledger = Some(Ledger { vrf_key: [0; 32], size: u64::MAX, log_root: digest, map_root: digest });
    let longest = Statement::Application { application_key: Some(digest), data, ledger };
    assert!(longest.encode().len() <= MAX_STATEMENT_BYTES);
}

#[test]
fn application_data_is_limited() {
    let found = MAX_APPLICATION_DATA_BYTES + 1;
    assert_eq!(ApplicationData::new(vec![0; found]), Err(ApplicationDataTooLong { found }));
}

fn any_ledger() -> impl Strategy<Value = Option<Ledger>> {
    let ledger = any::<([u8; 32], u64, [u8; 32], [u8; 32])>().prop_map(|(vrf_key, size, log, map)| Ledger {
        vrf_key,
        size,
        log_root: Sha256(log),
        map_root: Sha256(map),
    });
    prop::option::of(ledger)
}

fn any_statement() -> impl Strategy<Value = Statement> {
    let digest = any::<[u8; 32]>().prop_map(Sha256);
    let optional = prop::option::of(digest.clone());
    let server = (digest.clone(), optional.clone(), optional.clone(), any_ledger()).prop_map(
        |(tls_key, application_key, control_head, ledger)| Statement::Server {
            tls_key,
            application_key,
            control_head,
            ledger,
        },
    );
    let channel = (digest, optional.clone(), any_ledger())
        .prop_map(|(exporter, control_head, ledger)| Statement::Channel { exporter, control_head, ledger });
    let data = prop::collection::vec(any::<u8>(), 0..=MAX_APPLICATION_DATA_BYTES);
    let application = (optional, data, any_ledger()).prop_map(|(application_key, data, ledger)| {
        Statement::Application { application_key, data: ApplicationData(data), ledger }
    });
    prop_oneof![server, application, channel]
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(statement in any_statement()) {
        prop_assert_eq!(Statement::decode(&statement.encode()).unwrap(), statement);
    }

    #[test]
    fn a_statement_has_one_encoding(statement in any_statement(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut encoding = statement.encode();
        let position = at.index(encoding.len());
        prop_assume!(encoding.get(position) != Some(&byte));
        encoding.splice(position..=position, [byte]);
        if let Ok(other) = Statement::decode(&encoding) {
            prop_assert_ne!(&other, &statement);
            prop_assert_eq!(other.encode(), encoding);
        }
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(statement) = Statement::decode(&bytes) {
            prop_assert_eq!(statement.encode(), bytes);
        }
    }
}
