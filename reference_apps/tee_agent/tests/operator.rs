//! The operator's side of the program, against an agent beside a simulated security module.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bed;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use bed::{CONFIG, agent, agent_key, ask};
use nsm::{
    PcrIndex,
    sim::{DevelopmentRoot, SimulatedNsm},
};
use serde_json::json;
use tokio::net::TcpListener;

/// Runs the program, and fails if it takes longer than a test may.
async fn run(args: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(Command::new(env!("CARGO_BIN_EXE_tee_agent")));
    let output = command.args(args).kill_on_drop(true).output();
    tokio::time::timeout(std::time::Duration::from_secs(60), output).await.unwrap().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// An agent and its enclave; returns the agent and its URL, and writes what its operator needs into `dir`.
async fn serve(dir: &Path) -> (axum::Router, String) {
    let root = DevelopmentRoot::load_or_create(dir).unwrap();
    let module = SimulatedNsm::new(&root, "i-0-enc0", &[(PcrIndex::new(0_u8).unwrap(), [1; 48])]).unwrap();
    let api = dir.join("api.sock");
    let config = ra_web_srv::Config { api: Some(api.clone()), ..Default::default() };
    let server = ra_web_srv::Server::bind(config, Arc::new(module)).await.unwrap();
    tokio::spawn(server.run(std::future::pending()));
    for (name, byte) in [("right.json", "01"), ("wrong.json", "02")] {
        fs::write(dir.join(name), json!({"version": 1, "pcrs": {"0": byte.repeat(48)}}).to_string()).unwrap();
    }
    fs::write(dir.join("root.pem"), root.root_pem()).unwrap();
    fs::write(dir.join("key"), format!("0x{}\n", "42".repeat(32))).unwrap();
    fs::write(dir.join("value"), "be kind; be\nbrief\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let agent = agent(CONFIG, &api).await;
    tokio::spawn(tee_agent::serve::serve(listener, agent.clone(), std::future::pending()));
    (agent, url)
}

#[tokio::test]
async fn an_operator_verifies_and_sets_and_tells_nothing_to_an_agent_that_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, url) = serve(dir.path()).await;
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (right, wrong, root, key) = (path("right.json"), path("wrong.json"), path("root.pem"), path("key"));
    let motto = format!("motto=@{}", path("value"));

    let shown = run(&["verify", &url, "--reference", &right, "--root", &root]).await;
    assert!(shown.status.success(), "{}", text(&shown));
    let expected = format!(
        "VERIFIED robot_sensory_forest (simulated: under the root you gave, not AWS's)\naddress {}\npublic key 0x{}\n\
         updates so far up to number 0\n",
        agent_key().address().checksummed(),
        hex::encode(agent_key().public_key())
    );
    assert_eq!(text(&shown), expected);
    let log = run(&["verify", &url, "--reference", &right, "--root", &root, "--log"]).await;
    let expected = expected
        + "log of 1 entries, 1 starts, of which 0 ended without a last entry\n\
           this image keeps no ledger: whether the log was put back, only who remembers its end can tell\n";
    assert_eq!(text(&log), expected);

    for refused in [
        run(&["set", &url, "--reference", &right, "--key", &key, "motto=x"]).await,
        run(&["set", &url, "--reference", &wrong, "--root", &root, "--key", &key, "motto=x"]).await,
    ] {
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused).contains("REFUSED"), "{}", text(&refused));
    }
    let read = async || ask(&agent, "GET", "/api/v1/variables", r#"{"name": "motto"}"#).await.1;
    assert_eq!(read().await, "");

    let set =
        run(&["set", &url, "--reference", &right, "--root", &root, "--key", &key, "--immutable", &motto])
            .await;
    assert!(set.status.success(), "{}", text(&set));
    assert_eq!(text(&set), "Variables set.\n");
    assert_eq!(read().await, "be kind; be\nbrief");
    let again = run(&["set", &url, "--reference", &right, "--root", &root, "--key", &key, "motto=x"]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("403") && text(&again).contains("immutable"), "{}", text(&again));
}

#[tokio::test]
async fn a_configuration_that_is_none_ends_the_start() {
    let missing = run(&["--listen", "127.0.0.1:0", "--config", "/nowhere"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing).contains("/nowhere"), "{}", text(&missing));
}

#[tokio::test]
async fn an_operators_key_is_made_once_and_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("operator.key");
    let made = run(&["keygen", file.to_str().unwrap()]).await;
    assert!(made.status.success(), "{}", text(&made));
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );
    let bytes = hex::decode(fs::read_to_string(&file).unwrap().trim_end()).unwrap().try_into().unwrap();
    let key = tee_agent::eth::AgentKey::from_bytes(&bytes).unwrap();
    let expected = format!(
        "operator = \"{}\"\n# address {}\n",
        hex::encode(&key.public_key()[1..]),
        key.address().checksummed()
    );
    assert_eq!(text(&made), expected);
    let again = run(&["keygen", file.to_str().unwrap()]).await;
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(hex::decode(fs::read_to_string(&file).unwrap().trim_end()).unwrap(), bytes);
}

#[test]
fn the_manifest_beside_it_is_one_and_so_is_the_configuration_in_it() {
    let manifest = manifest::Manifest::parse(include_str!("../glasshouse.toml")).unwrap();
    let egress = manifest.egress().unwrap();
    assert_eq!(egress.allow.len(), 2);
    let image = manifest::ImageConfig { entrypoint: vec!["/tee_agent".to_owned()], ..Default::default() };
    let measured = manifest.resolve(&image).unwrap();
    let text = &measured.services.last().unwrap().env["TEE_AGENT_CONFIG"];
    let config = tee_agent::config::Config::parse(text).unwrap();
    assert!(!config.legacy_signatures);
    let key = include_str!("../testdata/everybodys-operator.key").trim();
    let key = tee_agent::eth::AgentKey::from_bytes(&hex::decode(key).unwrap().try_into().unwrap()).unwrap();
    assert_eq!(key.address(), config.operator.address());
}
