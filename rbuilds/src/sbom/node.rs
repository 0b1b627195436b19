//! Packages of Node: the `package.json` of each directory that is installed in a `node_modules`.

use serde::Deserialize;
use serde_json::Value;

use super::{Item, Malformed, purl::Purl};

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    #[serde(default)]
    license: Value,
}

/// Reads a `package.json` (<https://docs.npmjs.com/cli/configuring-npm/package-json>).
pub(crate) fn read(json: &[u8]) -> Result<Item, Malformed> {
    let package: Package = serde_json::from_slice(json)
        .map_err(|_| Malformed("not a package.json with the package's name and version"))?;
    // Old packages have an object with `type` and `url`.
    let licence = package.license.as_str().or_else(|| package.license.get("type").and_then(Value::as_str));
    let purl = Purl::npm(&package.name, &package.version);
    Item::new(&package.name, Some(&package.version), &purl, licence)
}

/// Whether a path is that of a package's own `package.json`, not of one that it carries deeper inside.
pub(crate) fn is_package(path: &[u8]) -> bool {
    let mut upwards = path.rsplit(|b| *b == b'/');
    if upwards.next() != Some(b"package.json") || upwards.next().is_none() {
        return false;
    }
    match upwards.next() {
        Some(b"node_modules") => true,
        Some(scope) => scope.starts_with(b"@") && upwards.next() == Some(b"node_modules"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_version_and_both_forms_of_licence() {
        let item =
            read(br#"{"name":"@babel/core","version":"7.23.0","license":"MIT","main":"x.js"}"#).unwrap();
        assert_eq!(
            (item.purl.as_str(), item.licence.as_deref()),
            ("pkg:npm/%40babel/core@7.23.0", Some("MIT"))
        );
        let old = read(br#"{"name":"a","version":"1.0.0","license":{"type":"ISC","url":"x"}}"#).unwrap();
        assert_eq!(old.licence.as_deref(), Some("ISC"));
    }

    #[test]
    fn refuses_what_names_no_package() {
        for json in [&b""[..], b"{}", b"[1]", br#"{"name":"x"}"#, br#"{"name":"","version":"1"}"#, b"\xff"] {
            assert!(read(json).is_err());
        }
    }

    #[test]
    fn knows_a_packages_own_file() {
        for path in ["app/node_modules/a/package.json", "node_modules/@s/a/package.json"] {
            assert!(is_package(path.as_bytes()), "{path}");
        }
        let others = [
            "package.json",
            "app/package.json",
            "node_modules/package.json",
            "node_modules/a/dist/package.json",
            "node_modules/a/node_modules.json",
            "node_modules/a/b/c/package.json",
        ];
        for path in others {
            assert!(!is_package(path.as_bytes()), "{path}");
        }
    }
}
