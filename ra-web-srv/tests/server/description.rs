//! The server keeps to its description: schemathesis asks everything that `/openapi.json` allows, and much that it forbids.

use std::ffi::OsString;
use std::fs;
use std::process::Stdio;

use ra_web_srv::{Config, Limits};
use tokio::process::Command;

use crate::client::PATIENCE;
use crate::enclave::{Enclave, patient};
use crate::monitor::{until_scanned, watch};

/// What no schema can say: that one size is not above another, how many questions there are together, and that `at` goes with a proof.
const CONFIG: &str = r#"
[[operations]]
include-path = ["/v1/ledger/consistency", "/v1/bundle", "/v1/ledger/stream/{stream}"]
checks.positive_data_acceptance.enabled = false
"#;

/// From `GLASSHOUSE_SCHEMATHESIS`, or from the `PATH`.
async fn schemathesis() -> Option<OsString> {
    let program = std::env::var_os("GLASSHOUSE_SCHEMATHESIS").unwrap_or_else(|| "schemathesis".into());
    let mut version = Command::new(&program);
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    version.status().await.is_ok_and(|status| status.success()).then_some(program)
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let Some(program) = schemathesis().await else {
        println!("skipped: the description of the API against the server (schemathesis is not installed)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (head, socket) = (dir.path().join("head"), dir.path().join("ledger.sock"));
    fs::write(&head, [9; 32]).unwrap();
    fs::write(dir.path().join("transcript"), [0, 0, 0, 1, 7]).unwrap();
    fs::create_dir(dir.path().join("app")).unwrap();
    fs::write(dir.path().join("app/a"), "a").unwrap();
    watch(dir.path(), &socket);
    let limits = Limits { budget: u32::MAX, budget_per_second: u32::MAX, ..patient() };
    let config = Config { limits, ledger: Some(socket), control_head: Some(head), ..Config::default() };
    let enclave = Enclave::start_configured(config).await;
    until_scanned(&enclave).await;

    fs::write(dir.path().join("schemathesis.toml"), CONFIG).unwrap();
    let url = format!("https://{}/openapi.json", enclave.tcp.to_string().strip_prefix("tcp://").unwrap());
    let mut command = Command::new(program);
    command.args(["run", &url, "--tls-verify", "false", "--no-color", "--workers", "1", "--seed", "7"]);
    command.args(["--max-examples", "8", "--generation-deterministic", "--request-timeout", "60"]);
    // It has no end; another test reads it.
    command.args(["--exclude-path", "/v1/ledger/events"]);
    command.current_dir(dir.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(10 * PATIENCE, command.output()).await.expect("it ends").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    enclave.stop().await;
}
