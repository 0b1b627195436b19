//! The rules, with an operator whose key is here.

use super::*;
use crate::eth::AgentKey;

fn operator() -> AgentKey {
    AgentKey::from_bytes(&[7; 32]).unwrap()
}

fn authority() -> Authority {
    let key = operator().public_key();
    Authority {
        tee_name: "robot_sensory_forest".to_owned(),
        agent: AgentKey::from_bytes(&[9; 32]).unwrap().address(),
        operator: OperatorKey::parse(&hex::encode(&key[1..])).unwrap(),
    }
}

fn variables() -> Variables {
    let hidden = Variable::default;
    Variables::new(
        BTreeMap::from([
            ("api_key".to_owned(), hidden()),
            ("motto".to_owned(), Variable { public: true, ..hidden() }),
            ("rules".to_owned(), Variable { immutable: true, ..hidden() }),
            ("fixed".to_owned(), Variable { immutable: true, value: "at build".to_owned(), ..hidden() }),
        ]),
        true,
    )
}

fn item(name: &str, value: &str) -> Item {
    Item { name: name.to_owned(), value: value.to_owned(), ..Item::default() }
}

fn signed(number: u64, items: &[Item]) -> [u8; 65] {
    operator().sign_message(update_message(&authority(), number, items).as_bytes()).to_bytes()
}

fn update(variables: &mut Variables, number: u64, items: &[Item]) -> Result<(), UpdateError> {
    variables.update(&authority(), number, items, &signed(number, items))
}

#[test]
fn an_update_is_taken_once() {
    let mut variables = variables();
    let items = [item("api_key", "secret"), item("motto", "a;b\nset c")];
    let signature = signed(5, &items);
    variables.update(&authority(), 5, &items, &signature).unwrap();
    assert_eq!(variables.value("api_key"), Some("secret"));
    assert_eq!(variables.last_number(), 5);

    update(&mut variables, 6, &[item("api_key", "newer")]).unwrap();
    let replayed = variables.update(&authority(), 5, &items, &signature);
    assert_eq!(replayed, Err(UpdateError::Replay { number: 5, last: 6 }));
    assert_eq!(update(&mut variables, 6, &items), Err(UpdateError::Replay { number: 6, last: 6 }));
    assert_eq!(variables.value("api_key"), Some("newer"));
}

#[test]
fn nothing_that_was_signed_can_be_changed() {
    let items = [item("api_key", "secret"), item("motto", "m")];
    let signature = signed(1, &items);
    let refused = |number, items: &[Item], authority: &Authority| {
        let mut variables = variables();
        let result = variables.update(authority, number, items, &signature);
        assert_eq!(result, Err(UpdateError::Signature), "{number} {items:?}");
        assert_eq!(variables.last_number(), 0);
    };
    refused(2, &items, &authority());
    refused(1, &items[..1], &authority());
    refused(1, &[items[1].clone(), items[0].clone()], &authority());
    refused(1, &[item("api_key", "Secret"), items[1].clone()], &authority());
    refused(1, &[item("rules", "secret"), items[1].clone()], &authority());
    refused(1, &[Item { public: true, ..items[0].clone() }, items[1].clone()], &authority());
    refused(1, &[Item { immutable: true, ..items[0].clone() }, items[1].clone()], &authority());
    // The same operator's other agent, and the next life of this one.
    refused(1, &items, &Authority { tee_name: "other".to_owned(), ..authority() });
    refused(1, &items, &Authority { agent: Address([1; 20]), ..authority() });
    let stranger = OperatorKey::Address(Address([2; 20]));
    refused(1, &items, &Authority { operator: stranger, ..authority() });
}

#[test]
fn an_update_is_whole_or_nothing() {
    let mut variables = variables();
    for (items, error) in [
        (vec![item("api_key", "x"), item("fixed", "y")], UpdateError::Immutable { name: "fixed".to_owned() }),
        (vec![item("api_key", "x"), item("nobody", "y")], UpdateError::Unknown { name: "nobody".to_owned() }),
        (vec![item("api_key", "x"), item("api_key", "y")], UpdateError::Twice { name: "api_key".to_owned() }),
        (vec![item("a\nset api_key", "x")], UpdateError::Unknown { name: "a\nset api_key".to_owned() }),
        (vec![], UpdateError::Size),
        (vec![item("api_key", &"x".repeat(MAX_VALUE_BYTES + 1))], UpdateError::Size),
        (vec![item("api_key", "x"); MAX_ITEMS + 1], UpdateError::Size),
    ] {
        assert_eq!(update(&mut variables, 1, &items), Err(error));
    }
    assert_eq!(update(&mut variables, 0, &[item("motto", "x")]), Err(UpdateError::Size));
    assert_eq!(update(&mut variables, MAX_NUMBER + 1, &[item("motto", "x")]), Err(UpdateError::Size));
    assert_eq!((variables.value("api_key"), variables.last_number()), (None, 0));
}

#[test]
fn flags_go_one_way() {
    let mut variables = variables();
    let open = Item { public: true, ..item("api_key", "a") };
    update(&mut variables, 1, std::slice::from_ref(&open)).unwrap();
    update(&mut variables, 2, &[item("api_key", "b")]).unwrap();
    assert!(variables.by_name("api_key").unwrap().public, "public stays public");
    update(&mut variables, 3, &[Item { immutable: true, ..item("api_key", "") }]).unwrap();
    // Immutable and empty: settable once.
    update(&mut variables, 4, &[item("api_key", "last")]).unwrap();
    let immutable = |name: &str| Err(UpdateError::Immutable { name: name.to_owned() });
    assert_eq!(update(&mut variables, 5, &[item("api_key", "")]), immutable("api_key"));
    update(&mut variables, 5, &[item("rules", "be kind")]).unwrap();
    assert_eq!(update(&mut variables, 6, &[item("rules", "be rude")]), immutable("rules"));
    let public: Vec<_> = variables.public().map(|(name, _)| name).collect();
    assert_eq!(public, ["api_key", "motto"]);
}

/// Made with python-ecdsa 0.19: `SigningKey.sign(sha256(text).digest())`, whose default hash is SHA-1.
fn legacy_signature(vectors: &serde_json::Value, name: &str) -> [u8; 64] {
    let text = vectors["legacy"][name]["signature"].as_str().unwrap();
    hex::decode(text).unwrap().try_into().unwrap()
}

#[test]
fn a_legacy_signature_counts_only_where_it_is_allowed_and_only_at_first() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../testdata/clients.json")).unwrap();
    let key = vectors["operator"]["public_key"].as_str().unwrap();
    let authority = Authority { operator: OperatorKey::parse(key).unwrap(), ..authority() };
    let signature = legacy_signature(&vectors, "api_key");
    let items = [(item("api_key", "sk;1"), signature)];

    let mut open = variables();
    assert!(open.takes_legacy());
    open.update_legacy(&authority, &items).unwrap();
    assert!(open.by_name("api_key").unwrap().weak);
    let forged = [(item("api_key", "sk;2"), signature)];
    assert_eq!(open.update_legacy(&authority, &forged), Err(UpdateError::Signature));
    let flagged = [(Item { public: true, ..item("api_key", "sk;1") }, signature)];
    assert!(matches!(open.update_legacy(&authority, &flagged), Err(UpdateError::Legacy { .. })));
    // The other half of s is as good: libraries that made these signatures do not lower it.
    let mut high = k256::ecdsa::Signature::from_slice(&signature).unwrap();
    high = k256::ecdsa::Signature::from_scalars(high.r().to_bytes(), (-*high.s()).to_bytes()).unwrap();
    open.update_legacy(&authority, &[(item("api_key", "sk;1"), high.to_bytes().into())]).unwrap();

    let mut closed = Variables::new(BTreeMap::from([("api_key".to_owned(), Variable::default())]), false);
    assert!(matches!(closed.update_legacy(&authority, &items), Err(UpdateError::Legacy { .. })));
    assert_eq!(closed.value("api_key"), None);

    let mut moved_on = variables();
    update(&mut moved_on, 1, &[item("motto", "m")]).unwrap();
    assert!(!moved_on.takes_legacy());
    assert!(matches!(moved_on.update_legacy(&authority, &items), Err(UpdateError::Legacy { .. })));

    let by_address = Authority { operator: OperatorKey::Address(authority.operator.address()), ..authority };
    assert_eq!(variables().update_legacy(&by_address, &items), Err(UpdateError::Signature));
}
