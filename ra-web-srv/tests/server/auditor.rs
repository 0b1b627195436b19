//! The auditor's page: served to browsers, and right in a browser and by the specification's vectors.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::client::{PATIENCE, get};
use crate::enclave::Enclave;

#[tokio::test]
async fn a_browser_gets_the_page_and_everybody_else_the_text() {
    let enclave = Enclave::start().await;
    let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let (page, _) = get(&enclave.tcp, "/", Some(accept)).await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && policy.ends_with("frame-ancestors 'none'"),
        "{policy}"
    );
    let shipped = std::fs::read(folder().join("../../assets/auditor.html")).unwrap();
    assert!(page.body == shipped, "the page is the file that is shipped");
    for accept in [None, Some("*/*"), Some("application/json")] {
        let (text, _) = get(&enclave.tcp, "/", accept).await;
        assert!(text.body.starts_with(b"This server runs inside an enclave"), "{accept:?}");
    }
    enclave.stop().await;
}

#[tokio::test]
async fn its_verifier_agrees_with_the_vectors() {
    run("node", &[]).await;
}

#[tokio::test]
async fn it_judges_bundles_and_replays_in_a_browser() {
    run("chromium", &[]).await;
}

#[tokio::test]
async fn it_judges_the_server_that_it_came_from() {
    let enclave = Enclave::start_measured().await;
    let root = enclave.dir.path().join("root-for-the-browser.pem");
    std::fs::write(&root, enclave.root_pem()).unwrap();
    let url = format!("https://{}/", enclave.tcp.to_string().strip_prefix("tcp://").unwrap());
    run("chromium", &[&url, root.to_str().unwrap(), &"01".repeat(48)]).await;
    enclave.stop().await;
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/auditor")
}

/// Runs a script that needs node, and the browser if it is named; what is not installed is said.
#[expect(clippy::print_stdout, reason = "the line tells who runs the tests what was not tested")]
async fn run(needs: &str, arguments: &[&str]) {
    for program in ["node", needs] {
        let mut version = Command::new(program);
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if !version.status().await.is_ok_and(|status| status.success()) {
            println!("skipped: the auditor's page ({program} is not installed)");
            return;
        }
    }
    let script = if needs == "node" { "vectors.cjs" } else { "browser.cjs" };
    let run = Command::new("node").arg(folder().join(script)).args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(10 * PATIENCE, run).await.expect("the script ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
}
