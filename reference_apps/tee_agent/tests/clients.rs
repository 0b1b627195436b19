//! Clients that others wrote use a running agent: eth_account and ethers, as `clients/` has them installed.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bed;

use std::{path::Path, process::Command};

use axum::http::StatusCode;
use bed::{CONFIG, Chain, agent_outside, serve_answer};
use tokio::net::TcpListener;

const COMPLETION: &str = r#"{"choices":[{"message":{"content":"naïve","tool_calls":null}}]}"#;

/// Has `program` use an agent whose upstream and node are scripted; `needs` is there if it was installed.
#[expect(clippy::print_stdout, reason = "the line tells who runs the tests what was not tested")]
async fn uses_an_agent(program: &str, script: &str, needs: &str) {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    if !clients.join(needs).exists() {
        println!("skipped: {script} against the agent (make agent-clients installs it)");
        return;
    }
    let (upstream, asked) = serve_answer(StatusCode::OK, COMPLETION.to_owned()).await;
    let (node, chain) = Chain::serve(84532).await;
    let config = CONFIG
        .replace("https://openrouter.ai/api/v1/chat/completions", &upstream)
        .replace("https://sepolia.base.org", &node);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(tee_agent::serve::serve(listener, agent_outside(&config).await, std::future::pending()));
    let mut command = Command::new(program);
    command.arg(script).arg(url).current_dir(&clients);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let question: serde_json::Value = serde_json::from_str(&asked.questions()[0].1).unwrap();
    assert_eq!(question["messages"][1]["content"], "héllo 😀");
    assert_eq!(chain.sent().len(), 2);
}

#[tokio::test]
async fn eth_account_does() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/.venv/bin/python");
    uses_an_agent(python.to_str().unwrap(), "live.py", ".venv/bin/python").await;
}

#[tokio::test]
async fn ethers_does() {
    uses_an_agent("node", "live.mjs", "node_modules/ethers/package.json").await;
}

/// ganache with an ERC-20 contract, and llama.cpp's server with a model: payments that are mined, an answer that is signed.
#[tokio::test]
async fn a_real_node_and_a_real_model_do() {
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/real");
    if !real.join("node_modules/ganache").exists() || !real.join(".venv/bin/python").exists() {
        println!("skipped: a real node and a real model (tools/agent-clients real installs them)");
        return;
    }
    let mut command = tokio::process::Command::new("node");
    command.arg("real.mjs").arg(env!("CARGO_BIN_EXE_tee_agent")).current_dir(&real).kill_on_drop(true);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(600), command.output());
    let output = ended.await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
