//! `Info`: what an application may want to know of where it runs, with Nitro's measurements where others' would be.

use attestation::Sha256;
use serde_json::{Value, json};

use super::super::AppState;
use crate::error::ApiError;
use crate::module_description::{describe, describe_pcrs};

/// Bytes of an identifier.
const ID_BYTES: usize = 20;

/// What this image is, by its measured manifest: the first 20 bytes of its SHA-256.
pub(super) fn app_id(state: &AppState) -> Vec<u8> {
    let digest = Sha256::of(state.manifest.as_deref().unwrap_or_default());
    digest.0.into_iter().take(ID_BYTES).collect()
}

/// What `Info` answers.
pub(super) async fn answer(state: &AppState) -> Result<Value, ApiError> {
    let both = state.nsm.ask(|nsm| Ok((describe(nsm)?, describe_pcrs(nsm)?)));
    let (module, pcrs) = both.await?;
    let manifest = state.manifest.as_deref().unwrap_or_default();
    let compose_hash = Sha256::of(manifest).to_string();
    let pcr = |index: u16| pcrs.get(&index).map(|pcr| pcr.value.clone()).unwrap_or_default();
    let measured: Vec<u8> = pcrs
        .values()
        .filter(|pcr| pcr.locked)
        .flat_map(|pcr| hex::decode(&pcr.value).unwrap_or_default())
        .collect();
    let instance = Sha256::of(module.module_id.as_bytes()).0;
    let device_id = Sha256::of(&instance).to_string();
    let mr_aggregated = Sha256::of(&measured).to_string();
    let os_image_hash = Sha256::of(pcr(1).as_bytes()).to_string();
    let tcb_info = json!({
        "mrtd": pcr(0),
        "rtmr0": pcr(1),
        "rtmr1": pcr(2),
        "rtmr2": pcr(16),
        "rtmr3": pcr(18),
        "app_compose": String::from_utf8_lossy(manifest),
        "event_log": [],
        "compose_hash": compose_hash,
        "device_id": device_id,
        "os_image_hash": os_image_hash,
        "mr_aggregated": mr_aggregated,
    });
    Ok(json!({
        "app_id": hex::encode(app_id(state)),
        "instance_id": hex::encode(&instance[..ID_BYTES]),
        "app_cert": "",
        "app_name": name(manifest),
        "tcb_info": tcb_info.to_string(),
        "device_id": device_id,
        "mr_aggregated": mr_aggregated,
        "os_image_hash": os_image_hash,
        "key_provider_info": json!({"name": "none", "id": ""}).to_string(),
        "compose_hash": compose_hash,
        "vm_config": "",
        "cloud_vendor": "AWS",
        "cloud_product": "Nitro Enclaves",
    }))
}

/// The image's name in its manifest.
fn name(manifest: &[u8]) -> String {
    let manifest: Option<Value> = serde_json::from_slice(manifest).ok();
    let name = manifest.as_ref().and_then(|manifest| manifest["name"].as_str());
    name.unwrap_or_default().to_owned()
}
