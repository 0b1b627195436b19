//! The `nitro` backend: AWS Nitro Enclaves through `nitro-cli`.
//!
//! The arguments and the JSON follow the tool's source and documentation and are tested against a stand-in; real hardware
//! has not been seen yet, which `docs/guide/backends.md` says too.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::{process::Command, time::sleep};

/// The tool's name.
const PROGRAM: &str = "nitro-cli";
/// How many times in a row the list may not be had before the enclave is given up.
const MAX_FAILURES: u32 = 5;
/// How often the list of running enclaves is asked for.
const POLL: Duration = Duration::from_secs(2);
/// The device that an instance with enclaves enabled has.
const DEVICE: &str = "/dev/nitro_enclaves";

/// What `nitro-cli run-enclave` is asked for.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The image.
    pub(crate) image: &'a Path,
    /// The enclave's name.
    pub(crate) name: &'a str,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// Virtual CPUs.
    pub(crate) cpus: u64,
    /// The CID wanted.
    pub(crate) cid: Option<u32>,
    /// Debug mode.
    pub(crate) debug: bool,
}

/// An enclave as `nitro-cli` names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Enclave {
    /// Like `i-05f6ed443aEXAMPLE-enc173dfe3eEXAMPLE`.
    #[serde(rename = "EnclaveID")]
    pub(crate) id: String,
    /// Its vsock CID.
    #[serde(rename = "EnclaveCID")]
    pub(crate) cid: u32,
}

/// Why Nitro cannot be used here; `None` when it can.
pub(crate) fn missing() -> Option<String> {
    if !Path::new(DEVICE).exists() {
        return Some(format!("{DEVICE} is not there: this is no instance with Nitro Enclaves enabled"));
    }
    match std::process::Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => None,
        _ => Some(format!("{PROGRAM} does not run: install aws-nitro-enclaves-cli")),
    }
}

/// The tool, or what stands in for it in a test.
#[derive(Clone, Debug)]
pub(crate) struct NitroCli(PathBuf);

impl Default for NitroCli {
    fn default() -> Self {
        Self(PROGRAM.into())
    }
}

impl NitroCli {
    /// Starts an enclave.
    pub(crate) async fn launch(&self, request: &Request<'_>) -> Result<Enclave> {
        let output = self.call(&run_arguments(request)).await?;
        serde_json::from_slice(&output).with_context(|| {
            format!("nitro-cli run-enclave answered {:?}", String::from_utf8_lossy(&output).trim())
        })
    }

    /// Returns once the enclave is no longer in the list of those that run.
    pub(crate) async fn ended(&self, enclave: &Enclave) -> Result<()> {
        let mut failures = 0;
        loop {
            match self.is_running(enclave).await {
                Ok(false) => return Ok(()),
                Ok(true) => failures = 0,
                Err(error) if failures == MAX_FAILURES => return Err(error),
                Err(error) => {
                    failures += 1;
                    tracing::warn!("{error:#}");
                }
            }
            sleep(POLL).await;
        }
    }

    async fn is_running(&self, enclave: &Enclave) -> Result<bool> {
        let output = self.call(&["describe-enclaves".to_owned()]).await?;
        let running: Vec<Enclave> =
            serde_json::from_slice(&output).context("reading what nitro-cli describe-enclaves answered")?;
        Ok(running.iter().any(|other| other.id == enclave.id))
    }

    /// Ends an enclave by force.
    pub(crate) async fn terminate(&self, enclave: &Enclave) -> Result<()> {
        self.call(&["terminate-enclave".to_owned(), "--enclave-id".to_owned(), enclave.id.clone()]).await?;
        Ok(())
    }

    async fn call(&self, arguments: &[String]) -> Result<Vec<u8>> {
        let verb = arguments.first().map_or("", String::as_str);
        let output = Command::new(&self.0)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("running {} {verb}", self.0.display()))?;
        if !output.status.success() {
            bail!(
                "nitro-cli {verb} failed ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(output.stdout)
    }
}

fn run_arguments(request: &Request<'_>) -> Vec<String> {
    let mut arguments = vec![
        "run-enclave".to_owned(),
        "--eif-path".to_owned(),
        request.image.display().to_string(),
        "--enclave-name".to_owned(),
        request.name.to_owned(),
        "--memory".to_owned(),
        request.memory_mib.to_string(),
        "--cpu-count".to_owned(),
        request.cpus.to_string(),
    ];
    if let Some(cid) = request.cid {
        arguments.extend(["--enclave-cid".to_owned(), cid.to_string()]);
    }
    if request.debug {
        arguments.push("--debug-mode".to_owned());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// A program that notes how it was called, and answers with the lines of `script`.
    fn stand_in(dir: &Path, script: &str) -> NitroCli {
        let program = dir.join("nitro-cli");
        let calls = dir.join("calls");
        fs::write(&program, format!("#!/bin/sh\necho \"$@\" >>{}\n{script}\n", calls.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        NitroCli(program)
    }

    fn request(debug: bool, cid: Option<u32>) -> Request<'static> {
        Request { image: Path::new("/a b/x.eif"), name: "web", memory_mib: 512, cpus: 2, cid, debug }
    }

    fn enclave() -> Enclave {
        Enclave { id: "i-05f6ed443aEXAMPLE-enc173dfe3eEXAMPLE".to_owned(), cid: 16 }
    }

    /// What `nitro-cli run-enclave` prints, after the AWS Nitro Enclaves user guide.
    const RUN_ANSWER: &str = r#"{"EnclaveName":"web","EnclaveID":"i-05f6ed443aEXAMPLE-enc173dfe3eEXAMPLE","ProcessID":12533,"EnclaveCID":16,"NumberOfCPUs":2,"CPUIDs":[1,3],"MemoryMiB":512}"#;

    #[tokio::test]
    async fn passes_memory_cpus_cid_and_debug_and_reads_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let cli = stand_in(dir.path(), &format!("echo '{RUN_ANSWER}'"));
        assert_eq!(cli.launch(&request(true, Some(16))).await.unwrap(), enclave());
        cli.launch(&request(false, None)).await.unwrap();
        let base = "run-enclave --eif-path /a b/x.eif --enclave-name web --memory 512 --cpu-count 2";
        let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
        assert_eq!(calls, format!("{base} --enclave-cid 16 --debug-mode\n{base}\n"));
    }

    #[tokio::test]
    async fn a_failure_carries_what_the_tool_said() {
        let dir = tempfile::tempdir().unwrap();
        let cli = stand_in(dir.path(), "echo '[ E39 ] Enclave process connection failure' >&2; exit 1");
        let error = format!("{:#}", cli.launch(&request(false, None)).await.unwrap_err());
        assert!(error.contains("run-enclave") && error.contains("E39"), "{error}");
    }

    #[tokio::test]
    async fn an_answer_that_is_no_json_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let cli = stand_in(dir.path(), "echo Start allocating memory...");
        let error = format!("{:#}", cli.launch(&request(false, None)).await.unwrap_err());
        assert!(error.contains("Start allocating memory"), "{error}");
    }

    #[tokio::test]
    async fn an_enclave_has_ended_when_it_is_no_longer_listed() {
        let dir = tempfile::tempdir().unwrap();
        let flag = dir.path().join("seen");
        let listed = format!("[{RUN_ANSWER}]");
        let script =
            format!("if [ -e {0} ]; then echo []; else touch {0}; echo '{listed}'; fi", flag.display());
        let cli = stand_in(dir.path(), &script);
        cli.ended(&enclave()).await.unwrap();
        let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
        assert_eq!(calls, "describe-enclaves\ndescribe-enclaves\n");
    }

    /// One failed question ended the supervision of an enclave that went on running.
    #[tokio::test]
    async fn a_list_that_fails_once_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let flag = dir.path().join("seen");
        let script = format!("if [ -e {0} ]; then echo []; else touch {0}; exit 1; fi", flag.display());
        stand_in(dir.path(), &script).ended(&enclave()).await.unwrap();
    }

    #[tokio::test]
    async fn terminates_by_id() {
        let dir = tempfile::tempdir().unwrap();
        stand_in(dir.path(), "exit 0").terminate(&enclave()).await.unwrap();
        let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
        assert_eq!(calls, format!("terminate-enclave --enclave-id {}\n", enclave().id));
    }
}
