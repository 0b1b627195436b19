//! Packages of Python: what installers leave as `*.dist-info/METADATA` and `*.egg-info`.

use std::io::BufRead;

use super::{Item, Malformed, fields::Stanza, purl::Purl};

const FIELDS: &[&str] = &["Name", "Version", "License", "License-Expression", "Classifier"];

/// Licences in the list of classifiers, below which nothing more is said.
const LICENCE_CLASSIFIER: &str = "License :: OSI Approved :: ";

/// Reads core metadata (<https://packaging.python.org/en/latest/specifications/core-metadata/>); the description
/// behind its header is not looked at.
pub(crate) fn read(mut metadata: impl BufRead) -> Result<Item, Malformed> {
    let header = Stanza::read(&mut metadata, FIELDS).map_err(|_| Malformed::UNREADABLE)?.unwrap_or_default();
    let (Some(name), Some(version)) = (header.value("Name"), header.value("Version")) else {
        return Err(Malformed("a Python package without name or version"));
    };
    Item::new(name, Some(version), &Purl::pypi(name, version), licence(&header))
}

/// The licence as it is stated. `License` may hold a whole licence text, which is no name.
fn licence(header: &Stanza) -> Option<&str> {
    let stated = header.line("License-Expression").or_else(|| header.line("License"));
    let classified = || header.values("Classifier").find_map(|c| c.strip_prefix(LICENCE_CLASSIFIER));
    stated.filter(|text| !text.is_empty() && *text != "UNKNOWN").or_else(classified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_version_and_licence() {
        let metadata = "Metadata-Version: 2.1\nName: typing_extensions\nVersion: 4.8.0\nLicense: Long text\n\
                        \x20goes on\nClassifier: Programming Language :: Python\n\
                        Classifier: License :: OSI Approved :: Python Software Foundation License\n\n\
                        Name: of the description\n";
        let item = read(metadata.as_bytes()).unwrap();
        assert_eq!(item.purl, "pkg:pypi/typing-extensions@4.8.0");
        assert_eq!(item.name, "typing_extensions");
        assert_eq!(item.licence.as_deref(), Some("Python Software Foundation License"));
        let stated = read(&b"Name: x\nVersion: 1\nLicense: MIT\nLicense-Expression: MIT OR Apache-2.0\n"[..]);
        assert_eq!(stated.unwrap().licence.as_deref(), Some("MIT OR Apache-2.0"));
    }

    #[test]
    fn refuses_metadata_without_a_version() {
        assert!(read(&b"Name: x\n\nVersion: 1\n"[..]).is_err());
        assert!(read(&b""[..]).is_err());
    }
}
