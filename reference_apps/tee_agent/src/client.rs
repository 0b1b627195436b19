//! The other side: who verifies an agent, and its operator, who tells secrets to a verified agent only.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail, ensure};
use attestation::{
    BindingPolicy, Document, Pcr, PcrIndex, Policy, ReferenceValues, Roots, UnixTime, appraise, verify,
};
use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tee_agent::{
    config::is_valid_tee_name,
    eth::{Address, AgentKey, OperatorKey},
    sealed,
    server::KEY_STATEMENT,
    variables::{Authority, Item, is_valid_name, update_message},
};

use crate::audit::audit;

/// How long an agent may take for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Longest answer read: a thousand entries of the log, each as long as it may be.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// Which agent, and by what it is trusted
#[derive(Args)]
pub(crate) struct Whom {
    /// The agent, http://HOST:7047
    url: String,
    /// Reference values of its image, as `glasshouse build` wrote them
    #[arg(long, value_name = "app.eif.json")]
    reference: PathBuf,
    /// The root to trust instead of AWS's, PEM; a development root's evidence is simulated
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

/// What is verified
#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    whom: Whom,
    /// Verify the agent's log too, from its first entry to its last, and against the enclave's ledger
    #[arg(long)]
    log: bool,
}

/// What the operator sets
#[derive(Args)]
pub(crate) struct Update {
    #[command(flatten)]
    whom: Whom,
    /// A file with the operator's private key, 64 hex digits
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Make the variables public: anybody may read them, for good
    #[arg(long)]
    public: bool,
    /// Make the variables immutable: they stay as they are, once they are not empty
    #[arg(long)]
    immutable: bool,
    /// Variables and values; a value `@FILE` is the file's content without its last line end
    #[arg(required = true, value_name = "NAME=VALUE")]
    variables: Vec<String>,
}

#[derive(Deserialize)]
struct About {
    tee_name: String,
    tee_public_key: String,
    code_attestation: Option<String>,
    operator_number: u64,
}

#[derive(Deserialize)]
struct Reference {
    pcrs: BTreeMap<u8, String>,
}

/// An agent whose key was attested for a nonce of ours.
struct Verified {
    about: About,
    public_key: [u8; 65],
    address: Address,
    simulated: bool,
}

/// Verifies an agent, and says whose key it has.
pub(crate) fn show(Verify { whom, log }: &Verify) -> anyhow::Result<String> {
    let Verified { about, public_key, address, simulated } = whom.verified()?;
    let log = if *log { format!("\n{}", audit(whom)?) } else { String::new() };
    let simulated = if simulated { " (simulated: under the root you gave, not AWS's)" } else { "" };
    Ok(format!(
        "VERIFIED {}{simulated}\naddress {}\npublic key 0x{}\nupdates so far up to number {}{log}",
        about.tee_name,
        address.checksummed(),
        hex::encode(public_key),
        about.operator_number
    ))
}

/// Sets variables of a verified agent. Values are sealed to its key.
pub(crate) fn set(update: &Update) -> anyhow::Result<String> {
    let agent = update.whom.verified()?;
    let text = fs::read_to_string(&update.key).with_context(|| format!("{}", update.key.display()))?;
    let mut bytes = [0; 32];
    let digits = text.trim().trim_start_matches("0x");
    hex::decode_to_slice(digits, &mut bytes).context("the operator's key is 64 hex digits")?;
    let operator = AgentKey::from_bytes(&bytes)?;

    let mut items = Vec::new();
    let mut sent = Vec::new();
    for variable in &update.variables {
        let (name, value) =
            variable.split_once('=').with_context(|| format!("{variable}: write NAME=VALUE"))?;
        ensure!(is_valid_name(name), "{name:?}: a name is of a-z, 0-9 and _");
        let sealed = sealed::seal(&agent.public_key, name, &value_of(value)?)?;
        let mut digest = [0; 32];
        digest.copy_from_slice(digest::digest(&digest::SHA256, &STANDARD.decode(&sealed)?).as_ref());
        let (public, immutable) = (update.public, update.immutable);
        sent.push(json!({"name": name, "sealed": sealed, "public": public, "immutable": immutable}));
        items.push(Item {
            name: name.to_owned(),
            value: String::new(),
            sealed: Some(digest),
            public,
            immutable,
        });
    }
    let number = agent.about.operator_number + 1;
    let authority = Authority {
        tee_name: agent.about.tee_name,
        agent: agent.address,
        operator: OperatorKey::Address(operator.address()),
    };
    let signature = operator.sign_message(update_message(&authority, number, &items).as_bytes()).to_string();
    let body = json!({"variables": sent, "number": number, "signature": signature});
    let answer: Value = ask(&update.whom.path("/api/v1/variables"), Some(body.to_string()))?;
    Ok(answer["result"].as_str().unwrap_or("done").to_owned())
}

fn value_of(text: &str) -> anyhow::Result<String> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

impl Whom {
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.url.trim_end_matches('/'))
    }

    fn verified(&self) -> anyhow::Result<Verified> {
        let nonce = draw_nonce()?;
        let about: About = ask(&self.path(&format!("/api/v1/config?nonce={}", hex::encode(nonce))), None)?;
        ensure!(is_valid_tee_name(&about.tee_name), "the agent's name is none");
        let document = about.code_attestation.as_deref().context("the agent shows no attestation")?;
        let (verified, simulated) = self.appraised(document, Some(&nonce), KEY_STATEMENT.into())?;
        let public_key: [u8; 65] = verified
            .public_key()
            .and_then(|key| key.try_into().ok())
            .context("REFUSED: the attestation carries no key")?;
        let key = OperatorKey::parse(&hex::encode(&public_key[1..])).context("REFUSED: the key attested")?;
        let address = key.address();
        ensure!(
            about.tee_public_key == address.to_string(),
            "REFUSED: the agent shows another key than is attested"
        );
        Ok(Verified { about, public_key, address, simulated })
    }

    /// A document of the agent's, for this nonce and with these data, and whether it is simulated. One without a nonce is of whatever time: its
    /// certificates are judged as of the time that it says.
    pub(crate) fn appraised(
        &self,
        document: &str,
        nonce: Option<&[u8]>,
        data: Vec<u8>,
    ) -> anyhow::Result<(attestation::Verified, bool)> {
        ensure!(!document.is_empty(), "REFUSED: there is no attestation");
        let document = STANDARD.decode(document.trim_end()).context("the attestation is not base64")?;
        let roots = match &self.root {
            None => Roots::aws(),
            Some(path) => Roots::custom(&fs::read(path).with_context(|| format!("{}", path.display()))?)?,
        };
        let at = match nonce {
            Some(_) => now()?,
            None => UnixTime::from_millis(Document::decode(&document)?.timestamp_ms),
        };
        let verified = verify(&document, &roots, at).context("REFUSED: the attestation is not genuine")?;
        let policy = Policy {
            nonce: nonce.map(<[u8]>::to_vec),
            binding: BindingPolicy::Application { data: Some(data) },
            ..Policy::new(self.reference_values()?)
        };
        match appraise(&verified, &policy) {
            Ok(appraisal) => Ok((verified, appraisal.is_simulated())),
            Err(refused) => bail!(
                "REFUSED: {}",
                refused.refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            ),
        }
    }

    fn reference_values(&self) -> anyhow::Result<ReferenceValues> {
        let path = self.reference.display();
        let text = fs::read_to_string(&self.reference).with_context(|| format!("{path}"))?;
        let reference: Reference = serde_json::from_str(&text).with_context(|| format!("{path}"))?;
        ensure!(reference.pcrs.contains_key(&0), "{path} has no value for PCR0");
        let mut pcrs = BTreeMap::new();
        for (index, digits) in reference.pcrs {
            let value: Pcr = digits.parse().with_context(|| format!("{path}: PCR{index}"))?;
            pcrs.insert(PcrIndex::new(index).with_context(|| format!("{path}: PCR{index}"))?, value);
        }
        Ok(ReferenceValues::Pcrs(pcrs))
    }
}

/// A challenge that nobody has seen.
pub(crate) fn draw_nonce() -> anyhow::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    rand::fill(&mut nonce).map_err(|_| anyhow::anyhow!("no random bytes for a nonce"))?;
    Ok(nonce)
}

fn now() -> anyhow::Result<UnixTime> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("this machine's clock")?;
    Ok(UnixTime::from_secs(now.as_secs()))
}

pub(crate) fn ask<T: DeserializeOwned>(url: &str, body: Option<String>) -> anyhow::Result<T> {
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER_WITHIN));
    let agent: ureq::Agent = config.build().into();
    let answer = match body {
        Some(body) => agent.post(url).send(body),
        None => agent.get(url).call(),
    };
    let mut answer = answer.with_context(|| format!("no answer at {url}"))?;
    let text = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string()?;
    if answer.status().as_u16() != 200 {
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        bail!(
            "the agent answered {}: {}",
            answer.status(),
            said["error"].as_str().unwrap_or("no reason given")
        );
    }
    serde_json::from_str(&text).context("the agent's answer is not what was specified")
}
