//! The metadata section: JSON that says what an image is and what built it, in the words of AWS's tools.
//!
//! Nothing measures this section, so nothing here may be trusted about an image of unknown origin.
//! See `docs/spec/eif.md`, "Metadata".

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest metadata section read or written, in bytes.
pub const MAX_METADATA_BYTES: u64 = 1024 * 1024;

/// What the metadata section says. All keys must be there; others are ignored when read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The image's name.
    #[serde(rename = "ImageName")]
    pub image_name: String,
    /// The image's version.
    #[serde(rename = "ImageVersion")]
    pub image_version: String,
    /// How the image came to be.
    #[serde(rename = "BuildMetadata")]
    pub build: BuildMetadata,
    /// The container image it was made from, as `docker inspect` has it; `null` if it was not.
    #[serde(rename = "DockerInfo")]
    pub docker_info: Value,
    /// Whatever else the image's maker wants to say; `null` for nothing.
    #[serde(rename = "CustomMetadata")]
    pub custom: Value,
}

/// How an image came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildMetadata {
    /// RFC 3339. A reproducible build puts a fixed time here.
    #[serde(rename = "BuildTime")]
    pub build_time: String,
    /// The name of the builder.
    #[serde(rename = "BuildTool")]
    pub build_tool: String,
    /// The builder's version.
    #[serde(rename = "BuildToolVersion")]
    pub build_tool_version: String,
    /// The operating system inside, such as `Linux`.
    #[serde(rename = "OperatingSystem")]
    pub operating_system: String,
    /// The kernel's version.
    #[serde(rename = "KernelVersion")]
    pub kernel_version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_metadata_without_a_key_that_aws_tools_need() {
        let error = serde_json::from_str::<Metadata>(r#"{"ImageName":"a","ImageVersion":"1"}"#).unwrap_err();
        assert!(error.to_string().contains("BuildMetadata"), "{error}");
    }
}
