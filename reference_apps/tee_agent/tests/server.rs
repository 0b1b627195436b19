//! The agent's paths, beside a real attestation web server with a simulated module, an upstream and a node that are scripted.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bed;

use std::{path::Path, sync::Arc};

use attestation::{
    Document, Roots, UnixTime,
    binding::{ApplicationData, Statement},
    verify,
};
use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use nsm::{
    PcrIndex,
    sim::{DevelopmentRoot, SimulatedNsm},
};
use serde_json::{Value, json};
use tee_agent::{
    config::Config,
    eth::{Amount, Fee, Transaction, message_digest, recover},
    server::KEY_STATEMENT,
    variables::{Authority, Item, update_message},
};

use bed::{CONFIG, Chain, agent, agent_key, agent_outside, ask, operator_key, serve_answer};

const NONCE: &str = "0123456789abcdef0123456789abcdef01234567";
const PAYEE: &str = "0x86693CbE3f2581DF512635823F46f0d593D96dbA";
const TOKEN: &str = "0x1c23A3912247f104D707dfEf41F4B7842B241d4B";
const TRANSFER: &str = "0xa9059cbb00000000000000000000000000693cbe3f2581df512635823f46f0d593d96dba0000000000000000000000000000000000000000000000000000048c27395000";

/// Serves the application API at `api`, and returns the root its documents end in.
async fn serve_enclave(dir: &Path, api: &Path) -> Roots {
    let root = DevelopmentRoot::load_or_create(dir).unwrap();
    let pcr0 = (PcrIndex::new(0_u8).unwrap(), [1; 48]);
    let module = SimulatedNsm::new(&root, "i-0-enc0", &[pcr0]).unwrap();
    let config = ra_web_srv::Config { api: Some(api.to_owned()), ..Default::default() };
    let server = ra_web_srv::Server::bind(config, Arc::new(module)).await.unwrap();
    tokio::spawn(server.run(std::future::pending()));
    Roots::custom(root.root_pem().as_bytes()).unwrap()
}

#[tokio::test]
async fn the_document_carries_the_agents_key_and_the_callers_nonce() {
    let dir = tempfile::tempdir().unwrap();
    let api = dir.path().join("api.sock");
    let roots = serve_enclave(dir.path(), &api).await;
    let (status, about) =
        ask(&agent(CONFIG, &api).await, "GET", &format!("/api/v1/config?nonce={NONCE}"), "").await;
    assert_eq!(status, StatusCode::OK, "{about}");

    let document = about["code_attestation"].as_str().unwrap();
    let document = STANDARD.decode(document.strip_suffix('\n').unwrap()).unwrap();
    let at = UnixTime::from_millis(Document::decode(&document).unwrap().timestamp_ms);
    let verified = verify(&document, &roots, at).unwrap();
    assert_eq!(verified.nonce(), Some(&*hex::decode(NONCE).unwrap()));
    assert_eq!(verified.public_key(), Some(&agent_key().public_key()[..]));
    assert_eq!(about["public_key"], format!("0x{}", hex::encode(agent_key().public_key())));
    let Statement::Application { data, .. } = Statement::decode(verified.user_data().unwrap()).unwrap()
    else {
        panic!("a document for an application")
    };
    assert_eq!(data, ApplicationData::new(KEY_STATEMENT.into()).unwrap());
}

#[tokio::test]
async fn without_an_enclave_or_a_nonce_nothing_looks_attested() {
    let agent = agent_outside(CONFIG).await;
    for path in ["/api/v1/config", "/api/v1//config"] {
        let (status, about) = ask(&agent, "GET", path, "").await;
        assert_eq!(status, StatusCode::OK);
        let operator = operator_key();
        assert_eq!(
            about,
            json!({
                "tee_name": "robot_sensory_forest",
                "tee_public_key": agent_key().address().to_string(),
                "operator_pubkey": hex::encode(&operator.public_key()[1..]),
                "code_attestation": null,
                "public_key": format!("0x{}", hex::encode(agent_key().public_key())),
                "operator_address": operator.address().checksummed(),
                "operator_number": 0,
                "operator_signatures": ["v2", "legacy (weak: can be replayed, ambiguous)"],
            })
        );
    }
    let (status, answer) = ask(&agent, "GET", &format!("/api/v1/config?nonce={NONCE}"), "").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(answer["error"].as_str().unwrap().starts_with("no enclave at "), "{answer}");
    for nonce in ["", "00", "xyz", &"00".repeat(65)] {
        let (status, _) = ask(&agent, "GET", &format!("/api/v1/config?nonce={nonce}"), "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{nonce}");
    }
}

#[tokio::test]
async fn other_paths_methods_and_bodies_are_refused() {
    let agent = agent_outside(CONFIG).await;
    for path in ["/api/v1", "/api/v1/", "/api/v1//"] {
        let (status, greeting) = ask(&agent, "GET", path, "").await;
        assert_eq!(status, StatusCode::OK);
        assert!(greeting.as_str().unwrap().contains("robot_sensory_forest"));
    }
    for (method, path, body, expected) in [
        ("GET", "/api/v2/config", String::new(), StatusCode::NOT_FOUND),
        ("GET", "/api/v1/prompt", String::new(), StatusCode::METHOD_NOT_ALLOWED),
        ("POST", "/api/v1/prompt", "{".to_owned(), StatusCode::BAD_REQUEST),
        ("POST", "/api/v1/prompt", " ".repeat((1 << 20) + 1), StatusCode::PAYLOAD_TOO_LARGE),
        ("POST", "/api/v1/variables", "{}".to_owned(), StatusCode::BAD_REQUEST),
        ("POST", "/api/v1/variables", r#"{"variables":[],"number":1}"#.to_owned(), StatusCode::BAD_REQUEST),
        ("POST", "/api/v1/sign-transaction", "{}".to_owned(), StatusCode::BAD_REQUEST),
    ] {
        let (status, answer) = ask(&agent, method, path, body).await;
        assert_eq!(status, expected, "{method} {path}");
        assert!(answer["error"].is_string(), "{answer}");
    }
}

fn update(config: &str, number: u64, items: Value) -> String {
    let config = Config::parse(config).unwrap();
    let authority =
        Authority { tee_name: config.tee_name, agent: agent_key().address(), operator: config.operator };
    let signed: Vec<Item> = items
        .as_array()
        .unwrap()
        .iter()
        .map(|item| Item {
            name: item["name"].as_str().unwrap().to_owned(),
            value: item["value"].as_str().unwrap_or_default().to_owned(),
            public: item["public"] == true,
            immutable: item["immutable"] == true,
            sealed: item["sealed"].as_str().map(|sealed| {
                let sealed = STANDARD.decode(sealed).unwrap();
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &sealed).as_ref().try_into().unwrap()
            }),
        })
        .collect();
    let message = update_message(&authority, number, &signed);
    let signature = operator_key().sign_message(message.as_bytes()).to_string();
    json!({"variables": items, "number": number, "signature": signature}).to_string()
}

async fn set(agent: &axum::Router, number: u64, name: &str, value: &str) {
    let body = update(CONFIG, number, json!([{"name": name, "value": value}]));
    let (status, answer) = ask(agent, "POST", "/api/v1/variables", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test]
async fn the_operator_sets_variables_and_others_read_the_public_ones() {
    let agent = agent_outside(CONFIG).await;
    let items = json!([
        {"name": "openrouter_api_key", "value": "sk-1"},
        {"name": "motto", "value": "be kind", "immutable": true},
    ]);
    let body = update(CONFIG, 7, items);
    let (status, answer) = ask(&agent, "POST", "/api/v1//variables", body.clone()).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"result": "Variables set.", "number": 7})));
    assert_eq!(ask(&agent, "POST", "/api/v1/variables", body).await.0, StatusCode::CONFLICT);

    let read = async |body: &'static str| ask(&agent, "GET", "/api/v1/variables", body).await;
    assert_eq!(read(r#"{"name": "motto"}"#).await, (StatusCode::OK, json!("be kind")));
    let all = json!({"motto": {"value": "be kind", "public": true, "immutable": true}});
    assert_eq!(read("{}").await, (StatusCode::OK, all.clone()));
    assert_eq!(read("").await, (StatusCode::OK, all));
    let not_found = (StatusCode::NOT_FOUND, json!({"error": "Variable not found"}));
    assert_eq!(read(r#"{"name": "openrouter_api_key"}"#).await, not_found);
    assert_eq!(read(r#"{"name": "nobody"}"#).await, not_found);

    let again = update(CONFIG, 8, json!([{"name": "motto", "value": "be rude"}]));
    let (status, answer) = ask(&agent, "POST", "/api/v1/variables", again).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(answer["error"], "Variable motto is immutable and can only be set once.");
    let unknown = update(CONFIG, 8, json!([{"name": "nobody", "value": ""}]));
    assert_eq!(ask(&agent, "POST", "/api/v1/variables", unknown).await.0, StatusCode::NOT_FOUND);
    let forged = update(CONFIG, 8, json!([{"name": "secret_token", "value": "a"}])).replace("\"a\"", "\"b\"");
    assert_eq!(ask(&agent, "POST", "/api/v1/variables", forged).await.0, StatusCode::UNAUTHORIZED);
    let (_, about) = ask(&agent, "GET", "/api/v1/config", "").await;
    assert_eq!((&about["operator_number"], &about["operator_signatures"]), (&json!(7), &json!(["v2"])));
}

/// The request that the documentation of the first deployments prints, whose signature is no signature.
#[tokio::test]
async fn the_printed_update_is_understood_and_refused() {
    let body = r#"{
        "variables": [ {
        "name": "anthropic_api_key" ,
        "value": "sk-proj-f-xxxxxx",
        "signature": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    }]
    }
    "#;
    let answer = ask(&agent_outside(CONFIG).await, "POST", "/api/v1//variables", body).await;
    assert_eq!(answer, (StatusCode::UNAUTHORIZED, json!("Signature verification failed.")));
}

#[tokio::test]
async fn a_legacy_update_is_taken_where_it_is_allowed_and_shown_as_weak() {
    let clients: Value = serde_json::from_str(include_str!("../testdata/clients.json")).unwrap();
    let config = CONFIG.replace("name = \"motto\"", "name = \"api_key\"");
    let body = json!({"variables": [
        {"name": "api_key", "value": "sk;1", "signature": clients["legacy"]["api_key"]["signature"]},
    ]})
    .to_string();
    let open = agent_outside(&config).await;
    let answer = ask(&open, "POST", "/api/v1/variables", body.clone()).await;
    assert_eq!(answer, (StatusCode::OK, json!("Variables set.")));
    let (_, all) = ask(&open, "GET", "/api/v1/variables", "{}").await;
    assert_eq!(all, json!({"api_key": {"value": "sk;1", "public": true, "immutable": false, "weak": true}}));

    let closed =
        agent_outside(&config.replace("legacy_signatures = true", "legacy_signatures = false")).await;
    let (status, answer) = ask(&closed, "POST", "/api/v1/variables", body).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(answer.as_str().unwrap().starts_with("legacy signatures are not accepted"), "{answer}");
}

#[tokio::test]
async fn a_sealed_value_is_opened_by_the_agent_alone() {
    let agent = agent_outside(CONFIG).await;
    let (_, about) = ask(&agent, "GET", "/api/v1/config", "").await;
    let key = hex::decode(about["public_key"].as_str().unwrap().strip_prefix("0x").unwrap()).unwrap();
    let sealed = tee_agent::sealed::seal(&key.try_into().unwrap(), "motto", "be kind").unwrap();
    let body = update(CONFIG, 1, json!([{"name": "motto", "sealed": sealed}]));
    // Whoever carries it cannot put another one in its place.
    let other = tee_agent::sealed::seal(&agent_key().public_key(), "motto", "be rude").unwrap();
    let replaced = body.replace(&sealed, &other);
    assert_eq!(ask(&agent, "POST", "/api/v1/variables", replaced).await.0, StatusCode::UNAUTHORIZED);
    let both = body.replace("\"sealed\"", "\"value\":\"\",\"sealed\"");
    assert_eq!(ask(&agent, "POST", "/api/v1/variables", both).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(ask(&agent, "POST", "/api/v1/variables", body).await.0, StatusCode::OK);
    let motto = ask(&agent, "GET", "/api/v1/variables", r#"{"name": "motto"}"#).await;
    assert_eq!(motto, (StatusCode::OK, json!("be kind")));
}

const COMPLETION: &str = r#"{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":null,
    "tool_calls":[{"id":"call_1","type":"function","function":{"name":"get_weather","arguments":"{\"location\":\"Paris\"}"}}]}}]}"#;

/// The request that the documentation of the first deployments prints.
const PRINTED_PROMPT: &str = r#"{
    "system_prompt": "You are a helpful AI assistant focused on technical writing and documentation.",
    "messages": [ { "role": "user", "content": "give me the weather in paris, s'il te plaît" } ],
    "tools": [ { "type": "function", "function": { "name": "get_weather", "description": "Get the current weather",
        "parameters": { "type": "object", "properties": { "location": { "type": "string" },
        "unit": { "type": "string", "enum": [ "celsius", "fahrenheit" ] } }, "required": [ "location" ] } } } ]
}"#;

fn with_upstream(url: &str) -> String {
    CONFIG.replace("https://openrouter.ai/api/v1/chat/completions", url)
}

#[tokio::test]
async fn an_answer_is_signed_with_its_question() {
    let (url, asked) = serve_answer(StatusCode::OK, COMPLETION.to_owned()).await;
    let agent = agent_outside(&with_upstream(&url)).await;
    let (status, answer) = ask(&agent, "POST", "/api/v1/prompt", PRINTED_PROMPT).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    set(&agent, 1, "openrouter_api_key", "sk-1").await;
    let (status, answer) = ask(&agent, "POST", "/api/v1/prompt", PRINTED_PROMPT).await;
    assert_eq!(status, StatusCode::OK, "{answer}");

    let text = answer["signed_response"].as_str().unwrap();
    let expected = r#"{"model":"anthropic/claude-3.5-sonnet","response":{"content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"get_weather","arguments":"{\"location\":\"Paris\"}"}}]},"messages":[{"role":"user","content":"give me the weather in paris, s'il te pla\u00eet"}],"tools":[{"type":"function","function":{"name":"get_weather","description":"Get the current weather","parameters":{"type":"object","properties":{"location":{"type":"string"},"unit":{"type":"string","enum":["celsius","fahrenheit"]}},"required":["location"]}}}],"system_prompt":"You are a helpful AI assistant focused on technical writing and documentation."}"#;
    assert_eq!(text, expected);
    let signature = hex::decode(answer["signature"].as_str().unwrap().strip_prefix("0x").unwrap()).unwrap();
    let signer = recover(&message_digest(text.as_bytes()), &signature.try_into().unwrap());
    assert_eq!(signer, Ok(agent_key().address()));
    let said: Value = serde_json::from_str(text).unwrap();
    for member in ["model", "response", "messages", "tools", "system_prompt"] {
        assert_eq!(answer[member], said[member]);
    }

    let questions = asked.questions();
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].0.as_deref(), Some("Bearer sk-1"));
    let question: Value = serde_json::from_str(&questions[0].1).unwrap();
    assert_eq!(question["messages"][0]["role"], "system");
    assert_eq!(question["messages"][1], said["messages"][0]);
    assert_eq!((&question["tools"], &question["tool_choice"]), (&said["tools"], &json!("auto")));
    assert_eq!((&question["max_tokens"], &question["model"]), (&json!(350), &said["model"]));
}

#[tokio::test]
async fn without_tools_there_is_no_word_of_them_and_a_choice_is_passed_on() {
    let completion = json!({"choices": [{"message": {"content": "hi"}}]}).to_string();
    let (url, asked) = serve_answer(StatusCode::OK, completion).await;
    let agent = agent_outside(&with_upstream(&url).replace("key = \"openrouter_api_key\"\n", "")).await;
    let plain = json!({"messages": [{"role": "user", "content": "hi"}], "model": "m"}).to_string();
    let (status, answer) = ask(&agent, "POST", "/api/v1/prompt", plain).await;
    assert_eq!((status, &answer["response"]), (StatusCode::OK, &json!({"content": "hi", "tool_calls": []})));
    let chosen = json!({"type": "function", "function": {"name": "f"}});
    let choice = json!({"messages": [{"role": "user"}], "tools": [{}], "tool_choice": chosen}).to_string();
    assert_eq!(ask(&agent, "POST", "/api/v1/prompt", choice).await.0, StatusCode::OK);
    let questions = asked.questions();
    let plain: Value = serde_json::from_str(&questions[0].1).unwrap();
    assert_eq!(
        plain,
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 350})
    );
    assert_eq!(questions[0].0, None);
    let choice: Value = serde_json::from_str(&questions[1].1).unwrap();
    assert_eq!(choice["tool_choice"], chosen);
}

#[tokio::test]
async fn what_an_upstream_does_wrong_is_a_502_and_a_bad_prompt_a_400() {
    let prompt = r#"{"messages":[{"role":"user","content":"x"}]}"#;
    for (status, answer) in [
        (StatusCode::UNAUTHORIZED, "Incorrect API key provided: sk-1"),
        (StatusCode::OK, "no json"),
        (StatusCode::OK, r#"{"choices":[]}"#),
        (StatusCode::FOUND, ""),
    ] {
        let (url, _) = serve_answer(status, answer.to_owned()).await;
        let agent = agent_outside(&with_upstream(&url)).await;
        set(&agent, 1, "openrouter_api_key", "sk-1").await;
        let (status, answer) = ask(&agent, "POST", "/api/v1/prompt", prompt).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{answer}");
        assert!(!answer.to_string().contains("sk-1"), "{answer}");
    }
    let agent = agent_outside(&with_upstream("http://127.0.0.1:1/")).await;
    for bad in [
        r#"{"messages":[]}"#,
        r#"{"messages":"x"}"#,
        r#"{"messages":[{}],"tools":{}}"#,
        r#"{"messages":[{}],"tool_choice":1}"#,
        r#"{"messages":[{}],"max_tokens":4097}"#,
        r#"{"messages":[{"a":1,"a":2}]}"#,
    ] {
        assert_eq!(ask(&agent, "POST", "/api/v1/prompt", bad).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
    set(&agent, 1, "openrouter_api_key", "sk-1").await;
    assert_eq!(ask(&agent, "POST", "/api/v1/prompt", prompt).await.0, StatusCode::BAD_GATEWAY);
}

fn with_node(url: &str) -> String {
    CONFIG.replace("https://sepolia.base.org", url)
}

fn payment(url: &str) -> Value {
    json!({"transaction": {"to": PAYEE, "value": 3, "data": "0x"}, "rpc_url": url, "secret_token": "t"})
}

fn expected(nonce: u64, fee: Fee) -> Transaction {
    Transaction {
        chain_id: 84532,
        nonce,
        fee,
        gas: 21_000,
        to: Some(PAYEE.parse().unwrap()),
        value: 3.into(),
        data: vec![],
    }
}

#[tokio::test]
async fn payments_are_completed_signed_and_broadcast() {
    let (url, chain) = Chain::serve(84532).await;
    let agent = agent_outside(&with_node(&url)).await;
    set(&agent, 1, "secret_token", "t").await;
    let (status, answer) = ask(&agent, "POST", "/api/v1/sign-transaction", payment(&url).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let legacy = Fee::Legacy { gas_price: 1_000_395.into() };
    let signed = expected(128, legacy).sign(&agent_key());
    assert_eq!(answer["signed_transaction"], format!("0x{}", hex::encode(&signed.raw)));
    assert_eq!(answer["transaction_hash"], format!("0x{}", hex::encode(signed.hash)));
    assert_eq!(chain.sent(), [signed.raw]);

    let mut market = payment(&url);
    market["transaction"]["maxFeePerGas"] = json!("2000000000");
    let (status, answer) = ask(&agent, "POST", "/api/v1/sign-transaction", market.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let fee = Fee::Market { max_fee: 2_000_000_000.into(), max_priority_fee: 5.into() };
    assert_eq!(chain.sent()[1], expected(129, fee).sign(&agent_key()).raw);

    // A token, with gas as printed and with the node's own estimate; kept instead of broadcast.
    for gas in [json!(60000), Value::Null] {
        let mut transaction = json!({"to": TOKEN, "value": 0, "data": TRANSFER, "gas": gas, "nonce": "0x7"});
        if gas.is_null() {
            transaction.as_object_mut().unwrap().remove("gas");
        }
        let request = json!({"transaction": transaction, "secret_token": "t", "broadcast": false});
        let (status, answer) = ask(&agent, "POST", "/api/v1/sign-transaction", request.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let transfer = Transaction {
            nonce: 7,
            gas: 60_000,
            to: Some(TOKEN.parse().unwrap()),
            value: Amount::ZERO,
            data: hex::decode(&TRANSFER[2..]).unwrap(),
            ..expected(7, legacy)
        };
        let raw = transfer.sign(&agent_key()).raw;
        assert_eq!(answer["signed_transaction"], format!("0x{}", hex::encode(raw)));
    }
    assert_eq!(chain.sent().len(), 2);
}

#[tokio::test]
async fn payments_at_the_same_time_have_numbers_of_their_own() {
    let (url, chain) = Chain::serve(84532).await;
    let agent = agent_outside(&with_node(&url)).await;
    set(&agent, 1, "secret_token", "t").await;
    let requests: Vec<_> = (0..4)
        .map(|_| {
            let (agent, body) = (agent.clone(), payment(&url).to_string());
            tokio::spawn(async move { ask(&agent, "POST", "/api/v1/sign-transaction", body).await.0 })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    }
    let legacy = Fee::Legacy { gas_price: 1_000_395.into() };
    let all: Vec<_> = (128..132).map(|nonce| expected(nonce, legacy).sign(&agent_key()).raw).collect();
    assert_eq!(chain.sent(), all);
}

#[tokio::test]
async fn payments_outside_the_measured_limits_are_refused() {
    let (url, chain) = Chain::serve(84532).await;
    let agent = agent_outside(&with_node(&url)).await;
    let refused = async |request: &Value, expected: StatusCode, reason: &str| {
        let (status, answer) = ask(&agent, "POST", "/api/v1/sign-transaction", request.to_string()).await;
        assert_eq!(status, expected, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(reason), "{answer}");
    };
    refused(&payment(&url), StatusCode::SERVICE_UNAVAILABLE, "has not set secret_token").await;
    set(&agent, 1, "secret_token", "t").await;
    let mut stranger = payment(&url);
    stranger["secret_token"] = "u".into();
    refused(&stranger, StatusCode::UNAUTHORIZED, "secret_token").await;
    refused(&payment("http://127.0.0.1:1"), StatusCode::FORBIDDEN, "rpc_url").await;
    for (member, value, status, reason) in [
        ("to", json!(TOKEN), StatusCode::FORBIDDEN, "only `transfer(address,uint256)`"),
        (
            "to",
            json!("0x0000000000000000000000000000000000000001"),
            StatusCode::FORBIDDEN,
            "not among the destinations",
        ),
        ("to", json!("0x86693CbE3f2581DF512635823F46f0d593D96dba"), StatusCode::BAD_REQUEST, "checksum"),
        ("data", json!("0x00"), StatusCode::FORBIDDEN, "paid, not called"),
        ("data", json!("0x0"), StatusCode::BAD_REQUEST, "data"),
        ("value", json!("10000000000000001"), StatusCode::FORBIDDEN, "value and fee"),
        ("value", json!(1.5), StatusCode::BAD_REQUEST, "amount"),
        ("value", json!(-1), StatusCode::BAD_REQUEST, "amount"),
        ("gas", json!(500_001), StatusCode::FORBIDDEN, "gas"),
        ("gas", json!("0x10000000000000000"), StatusCode::BAD_REQUEST, "64 bits"),
        ("gasPrice", json!(2_000_000_001_u64), StatusCode::FORBIDDEN, "gas price"),
        ("maxPriorityFeePerGas", json!(1), StatusCode::BAD_REQUEST, "needs"),
        ("chainId", json!(1), StatusCode::BAD_REQUEST, "chain 84532"),
        ("accessList", json!([]), StatusCode::BAD_REQUEST, "accessList"),
    ] {
        let mut request = payment(&url);
        request["transaction"][member] = value;
        refused(&request, status, reason).await;
    }
    let mut large = payment(&url);
    large["transaction"]["value"] = json!(9_900_000_000_000_000_u64);
    for _ in 0..2 {
        let (status, answer) = ask(&agent, "POST", "/api/v1/sign-transaction", large.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    refused(&large, StatusCode::FORBIDDEN, "all transactions").await;
    assert_eq!(chain.sent().len(), 2);
}

#[tokio::test]
async fn a_node_of_another_chain_or_without_help_is_a_502() {
    let (url, chain) = Chain::serve(1).await;
    let agent = agent_outside(&with_node(&url)).await;
    set(&agent, 1, "secret_token", "t").await;
    let (status, answer) = ask(&agent, "POST", "/api/v1/sign-transaction", payment(&url).to_string()).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("chain 1, not 84532"), "{answer}");
    assert!(chain.sent().is_empty());

    let (url, chain) = Chain::serve(84532).await;
    chain.refuse("insufficient funds");
    let agent = agent_outside(&with_node(&url)).await;
    set(&agent, 1, "secret_token", "t").await;
    let (status, answer) = ask(&agent, "POST", "/api/v1/sign-transaction", payment(&url).to_string()).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(answer["error"].as_str().unwrap().contains("insufficient funds"), "{answer}");
}

#[tokio::test]
async fn what_the_agent_did_is_in_its_log_and_the_log_is_attested() {
    let dir = tempfile::tempdir().unwrap();
    let api = dir.path().join("api.sock");
    let roots = serve_enclave(dir.path(), &api).await;
    let (upstream, _) = serve_answer(StatusCode::OK, COMPLETION.to_owned()).await;
    let (node, _) = Chain::serve(84532).await;
    let config = with_upstream(&upstream).replace("https://sepolia.base.org", &node);
    let agent = agent(&config, &api).await;
    set(&agent, 1, "openrouter_api_key", "sk-1").await;
    set(&agent, 2, "secret_token", "t").await;
    assert_eq!(ask(&agent, "POST", "/api/v1/prompt", PRINTED_PROMPT).await.0, StatusCode::OK);
    let (status, paid) = ask(&agent, "POST", "/api/v1/sign-transaction", payment(&node).to_string()).await;
    assert_eq!(status, StatusCode::OK);

    let (status, shown) = ask(
        &agent,
        "POST",
        &format!("/tee/logs?nonce={NONCE}"),
        r#"{"query":{"agentId":"robot_sensory_forest"}}"#,
    )
    .await;
    assert_eq!(status, StatusCode::OK, "{shown}");
    let rows: Vec<tee_log::Row> = serde_json::from_value(shown["logs"]["data"].clone()).unwrap();
    let mut verifier = tee_log::Verifier::default();
    rows.iter().for_each(|row| verifier.push(&tee_log::SignedEntry::try_from(row).unwrap()).unwrap());
    let kinds: Vec<_> = rows.iter().map(|row| row.r#type.trim_start_matches("Action:")).collect();
    assert_eq!(kinds, ["tee-log:opened", "SET_VARIABLES", "SET_VARIABLES", "PROMPT", "SIGN_TRANSACTION"]);
    assert_eq!(rows[1].content, r#"{"names":["openrouter_api_key"],"number":1}"#);
    assert!(rows[4].content.contains(paid["transaction_hash"].as_str().unwrap()), "{}", rows[4].content);

    // The answer is attested for this nonce, and the log's key when it was made.
    let life = verifier.lives()[0];
    let attested = |document: &str, data: Vec<u8>, nonce: Option<&[u8]>| {
        let document = STANDARD.decode(document).unwrap();
        let at = UnixTime::from_millis(Document::decode(&document).unwrap().timestamp_ms);
        let verified = verify(&document, &roots, at).unwrap();
        let Statement::Application { data: said, .. } =
            Statement::decode(verified.user_data().unwrap()).unwrap()
        else {
            panic!("a document for an application")
        };
        assert_eq!(said, ApplicationData::new(data).unwrap());
        assert_eq!((verified.nonce(), verified.public_key()), (nonce, Some(&life.key.0[..])));
    };
    let page: tee_log::Page = serde_json::from_value(shown["logs"].clone()).unwrap();
    let json = serde_json::to_string(&page).unwrap();
    let document = shown["attestation"].as_str().unwrap();
    attested(document, tee_log::reply_statement(&json), Some(&hex::decode(NONCE).unwrap()));
    let (_, agents) = ask(&agent, "GET", "/tee/agents", "").await;
    let document = agents["agents"][0]["attestation"].as_str().unwrap();
    attested(document, tee_log::key_statement(&life.opened), None);
}

#[tokio::test]
async fn connections_are_served_until_the_end_is_asked_for() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(tee_agent::serve::serve(listener, agent_outside(CONFIG).await, async {
        let _ = ended.await;
    }));
    let answer = tokio::task::spawn_blocking(move || {
        let mut response = ureq::get(format!("http://{address}/api/v1//config")).call().unwrap();
        response.body_mut().read_to_string().unwrap()
    });
    assert!(answer.await.unwrap().contains("robot_sensory_forest"));
    // A connection that is kept open does not keep the agent alive.
    let _idle = tokio::net::TcpStream::connect(address).await.unwrap();
    end.send(()).unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(60), served).await.unwrap().unwrap();
}
