//! Signatures and transactions beside what others made: ethers' own cases, published answers, and what eth_account and
//! ethers make of our inputs (`clients/`).

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::Value;
use tee_agent::{
    eth::{
        Address, AgentKey, Amount, Fee, OperatorKey, Signature, Transaction, erc20::Transfer, keccak256,
        message_digest, recover,
    },
    variables::{Authority, Item, Variable, Variables, update_message},
};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn clients() -> Value {
    json(include_str!("../testdata/clients.json"))
}

fn known() -> Value {
    json(include_str!("../testdata/known_answers.json"))
}

fn bytes(hex_digits: &Value) -> Vec<u8> {
    hex::decode(hex_digits.as_str().unwrap().strip_prefix("0x").unwrap()).unwrap()
}

fn key(hex_digits: &Value) -> AgentKey {
    AgentKey::from_bytes(&bytes(hex_digits).try_into().unwrap()).unwrap()
}

/// A number in any of the forms that the files have; zero where there is none.
fn amount(value: &Value) -> Amount {
    match value {
        Value::Null => Amount::ZERO,
        Value::Number(number) => number.as_u64().unwrap().into(),
        text => text.as_str().unwrap().parse().unwrap(),
    }
}

fn transaction(fields: &Value, fee: Fee) -> Transaction {
    let gas = if fields["gas"].is_null() { &fields["gasLimit"] } else { &fields["gas"] };
    Transaction {
        chain_id: amount(&fields["chainId"]).to_u64().unwrap(),
        nonce: amount(&fields["nonce"]).to_u64().unwrap(),
        fee,
        gas: amount(gas).to_u64().unwrap(),
        to: fields["to"].as_str().map(|to| to.parse().unwrap()),
        value: amount(&fields["value"]),
        data: if fields["data"].is_null() { vec![] } else { bytes(&fields["data"]) },
    }
}

fn legacy(fields: &Value) -> Fee {
    Fee::Legacy { gas_price: amount(&fields["gasPrice"]) }
}

fn market(fields: &Value) -> Fee {
    Fee::Market {
        max_fee: amount(&fields["maxFeePerGas"]),
        max_priority_fee: amount(&fields["maxPriorityFeePerGas"]),
    }
}

#[test]
fn transactions_of_ethers_own_cases_are_the_same_bytes() {
    let cases = json(include_str!("../testdata/ethers_transactions.json"));
    let (mut of_legacy, mut of_market) = (0, 0);
    for case in cases.as_array().unwrap() {
        let (fields, key) = (&case["transaction"], key(&case["privateKey"]));
        let made = transaction(fields, legacy(fields));
        assert_eq!(made.signing_digest(), keccak256(&bytes(&case["unsignedEip155"])), "{}", case["name"]);
        assert_eq!(made.sign(&key).raw, bytes(&case["signedEip155"]), "{}", case["name"]);
        of_legacy += 1;
        // Those with access lists are not of a kind that the agent makes.
        if fields["accessList"].as_array().is_none_or(Vec::is_empty) {
            let made = transaction(fields, market(fields));
            assert_eq!(made.signing_digest(), keccak256(&bytes(&case["unsignedLondon"])), "{}", case["name"]);
            assert_eq!(made.sign(&key).raw, bytes(&case["signedLondon"]), "{}", case["name"]);
            of_market += 1;
        }
    }
    assert_eq!((of_legacy, of_market), (40, 12));
}

#[test]
fn published_answers_are_ours() {
    let known = known();
    let example = &known["eip155_example"];
    let signed = transaction(&example["tx"], legacy(&example["tx"])).sign(&key(&example["private_key"]));
    assert_eq!(signed.raw, bytes(&example["raw"]));
    assert_eq!(signed.hash[..], bytes(&example["hash"]));

    let example = &known["eip191_some_data"];
    let message = example["message"].as_str().unwrap().as_bytes();
    assert_eq!(message_digest(message)[..], bytes(&example["message_hash"]));
    assert_eq!(key(&example["private_key"]).sign_message(message).to_string(), example["signature"]);
}

/// The transaction that the first agent of this kind printed: nobody has its key, but its sender can be recovered.
#[test]
fn a_transaction_that_was_printed_has_its_sender() {
    let known = known();
    let printed = &known["seed000_readme_response"];
    let raw = bytes(&printed["raw"]);
    let sender: Address = printed["sender"].as_str().unwrap().parse().unwrap();
    let made = Transaction {
        chain_id: printed["chain_id"].as_u64().unwrap(),
        nonce: printed["nonce"].as_u64().unwrap(),
        fee: Fee::Legacy { gas_price: printed["gas_price"].as_u64().unwrap().into() },
        gas: printed["gas"].as_u64().unwrap(),
        to: Some(sender),
        value: printed["value"].as_u64().unwrap().into(),
        data: vec![],
    };
    let (s, rest) = (&raw[raw.len() - 32..], &raw[..raw.len() - 33]);
    let (r, v) = (&rest[rest.len() - 32..], 0x0002_948c_u64);
    let y_is_odd = v - 35 - 2 * made.chain_id == 1;
    let signature = Signature { r: r.try_into().unwrap(), s: s.try_into().unwrap(), y_is_odd };
    assert_eq!(recover(&made.signing_digest(), &signature.to_bytes()), Ok(sender));
    let signed = made.with_signature(&signature);
    assert_eq!(signed.raw, raw);
    assert_eq!(signed.hash[..], bytes(&printed["hash"]));
}

#[test]
fn messages_are_signed_as_other_clients_sign_them() {
    let clients = clients();
    let agent = key(&clients["agent"]["private_key"]);
    assert_eq!(agent.address().checksummed(), clients["agent"]["address"]);
    assert_eq!(agent.address().checksummed(), clients["ethers"]["addresses"][0]);
    for (case, by_ethers) in
        clients["messages"].as_array().unwrap().iter().zip(clients["ethers"]["messages"].as_array().unwrap())
    {
        let message = case["message"].as_str().unwrap().as_bytes();
        let signature = agent.sign_message(message);
        assert_eq!(signature.to_string(), case["signature"]);
        assert_eq!(signature.to_string(), *by_ethers);
        assert_eq!(recover(&message_digest(message), &signature.to_bytes()), Ok(agent.address()));
    }
}

#[test]
fn transactions_are_those_that_other_clients_make() {
    let clients = clients();
    let agent = key(&clients["agent"]["private_key"]);
    let mut by_both = 0;
    for (case, by_ethers) in clients["transactions"]
        .as_array()
        .unwrap()
        .iter()
        .zip(clients["ethers"]["transactions"].as_array().unwrap())
    {
        let fields = &case["transaction"];
        let fee = if fields["gasPrice"].is_null() { market(fields) } else { legacy(fields) };
        let signed = transaction(fields, fee).sign(&agent);
        assert_eq!(signed.raw, bytes(&case["raw"]));
        assert_eq!(signed.hash[..], bytes(&case["hash"]));
        // ethers has no nonces above 2^53.
        if !by_ethers.is_null() {
            assert_eq!((&by_ethers["raw"], &by_ethers["hash"]), (&case["raw"], &case["hash"]));
            by_both += 1;
        }
    }
    assert_eq!(by_both, 4);
    let operator: Address = clients["operator"]["address"].as_str().unwrap().parse().unwrap();
    let transfer = Transfer { to: operator, amount: Amount::from_be_bytes(&[0xff; 32]) };
    assert_eq!(transfer.encode(), bytes(&clients["ethers"]["transfer"]));
}

#[test]
fn an_update_that_other_clients_signed_is_taken() {
    let clients = clients();
    let update = &clients["update"];
    let authority = Authority {
        tee_name: update["tee_name"].as_str().unwrap().to_owned(),
        agent: key(&clients["agent"]["private_key"]).address(),
        operator: OperatorKey::parse(clients["operator"]["public_key"].as_str().unwrap()).unwrap(),
    };
    let items: Vec<Item> = update["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| Item {
            name: item["name"].as_str().unwrap().to_owned(),
            value: item["value"].as_str().unwrap().to_owned(),
            public: item["public"].as_bool().unwrap(),
            immutable: item["immutable"].as_bool().unwrap(),
            sealed: None,
        })
        .collect();
    let number = update["number"].as_u64().unwrap();
    assert_eq!(update_message(&authority, number, &items), update["message"]);
    assert_eq!(update["message"], clients["ethers"]["update"]["message"]);
    for signature in [&update["signature"], &clients["ethers"]["update"]["signature"]] {
        let declared = items.iter().map(|item| (item.name.clone(), Variable::default())).collect();
        let mut variables = Variables::new(declared, false);
        let signature = bytes(signature).try_into().unwrap();
        variables.update(&authority, number, &items, &signature).unwrap();
        assert_eq!(variables.value("api_key"), Some("sk;é\n"));
        assert!(variables.by_name("motto").unwrap().public);
    }
}

#[test]
fn signatures_that_are_nobodys_are_refused() {
    let agent = AgentKey::generate().unwrap();
    let digest = message_digest(b"message");
    let good = agent.sign_digest(&digest).to_bytes();
    assert_eq!(recover(&digest, &good), Ok(agent.address()));
    for (index, byte) in [(64, 29), (64, 2), (0, 0xff)] {
        let mut bad = good;
        if index == 0 {
            bad[..32].fill(byte);
        } else {
            bad[index] = byte;
        }
        assert!(recover(&digest, &bad).is_err());
    }
    let mut other = good;
    other[64] ^= 7; // 27 and 28 differ in three bits
    assert_ne!(recover(&digest, &other), Ok(agent.address()));
    // The same point, written with s in the upper half.
    let pair = k256::ecdsa::Signature::from_slice(&good[..64]).unwrap();
    let mut high = [0; 65];
    high[..32].copy_from_slice(&good[..32]);
    high[32..64].copy_from_slice(&(-*pair.s()).to_bytes());
    high[64] = 27 + (28 - good[64]);
    assert!(recover(&digest, &high).is_err());
    assert_ne!(AgentKey::generate().unwrap().address(), agent.address());
}
