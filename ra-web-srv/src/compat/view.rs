//! How `/doc/` shows a document.

use attestation::Document;
use attestation::binding::Statement;
use serde_json::{Value, json};

use super::file::{ProofData, one_line};
use crate::error::ApiError;

/// What `view` may be, for the message of a refusal.
const VIEWS: &[&str] = &[
    "bin_hex",
    "bin",
    "hex",
    "cose_doc",
    "att_doc",
    "att_doc_user_data",
    "pcrs",
    "pcr",
    "json_hex",
    "json_str",
    "json_debug",
    "debug",
    "debug_pretty_print",
];

/// A way to show a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// The whole COSE_Sign1 message in hex.
    Cose,
    /// Its payload in hex.
    Payload,
    /// What `/verify_proof/` takes.
    UserData,
    /// The PCRs alone.
    Pcrs,
    /// Its members, bytes in hex.
    Json,
    /// The same as a text.
    JsonText,
    /// For people, on one line.
    Debug,
    /// For people.
    Pretty,
}

impl View {
    /// The view of this name; [`View::Json`] without one.
    pub(super) fn parse(name: Option<&[u8]>) -> Result<Self, ApiError> {
        Ok(match name.unwrap_or(b"json_hex") {
            b"bin_hex" | b"bin" | b"hex" | b"cose_doc" => Self::Cose,
            b"att_doc" => Self::Payload,
            b"att_doc_user_data" => Self::UserData,
            b"pcrs" | b"pcr" => Self::Pcrs,
            b"json_hex" => Self::Json,
            b"json_str" => Self::JsonText,
            b"json_debug" | b"debug" => Self::Debug,
            b"debug_pretty_print" => Self::Pretty,
            _ => return Err(ApiError::Choice { name: "view", known: VIEWS }),
        })
    }

    /// `document` in this view.
    pub(super) fn show(
        self,
        document: &[u8],
        proof: &ProofData,
        statement: &Statement,
    ) -> Result<Value, ApiError> {
        let decoded = || Document::decode(document).map_err(ApiError::Document);
        Ok(match self {
            Self::Cose => hex::encode(document).into(),
            Self::Payload => hex::encode(payload(document).ok_or(ApiError::DocumentPayload)?).into(),
            Self::UserData => json!({
                "user_data": hex::encode(one_line(proof)),
                "public_key": statement.ledger().map(|ledger| hex::encode(ledger.vrf_key)),
            }),
            Self::Pcrs => pcrs(&decoded()?),
            Self::Json => members(&decoded()?),
            Self::JsonText => members(&decoded()?).to_string().into(),
            Self::Debug => format!("{:?}", decoded()?).into(),
            Self::Pretty => format!("{:#?}", decoded()?).into(),
        })
    }
}

/// The payload of a COSE_Sign1: the third of its four elements (RFC 9052, section 4.2).
fn payload(document: &[u8]) -> Option<&[u8]> {
    let mut decoder = minicbor::Decoder::new(document);
    decoder.array().ok()?;
    decoder.bytes().ok()?;
    decoder.skip().ok()?;
    decoder.bytes().ok()
}

fn pcrs(document: &Document) -> Value {
    let pcrs = document.pcrs.iter().map(|(index, pcr)| (index.number().to_string(), pcr.to_string().into()));
    Value::Object(pcrs.collect())
}

fn members(document: &Document) -> Value {
    let hex_of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(hex::encode);
    json!({
        "module_id": document.module_id,
        "digest": "SHA384",
        "timestamp": document.timestamp_ms,
        "pcrs": pcrs(document),
        "certificate": hex::encode(&document.certificate),
        "cabundle": document.cabundle.iter().map(hex::encode).collect::<Vec<_>>(),
        "public_key": hex_of(&document.public_key),
        "user_data": hex_of(&document.user_data),
        "nonce": hex_of(&document.nonce),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_that_a_refusal_names_is_one() {
        for name in VIEWS {
            View::parse(Some(name.as_bytes())).unwrap();
        }
        assert!(matches!(View::parse(Some(b"JSON_HEX")), Err(ApiError::Choice { .. })));
        assert_eq!(View::parse(None).unwrap(), View::Json);
    }
}
