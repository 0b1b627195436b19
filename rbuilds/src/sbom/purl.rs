//! Package URLs: one name for a package across tools.
//!
//! As <https://github.com/package-url/purl-spec> (ECMA-427) writes them, with the rules of the types that builds find.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

/// A package URL in its canonical form when displayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Purl {
    kind: &'static str,
    namespace: Vec<String>,
    name: String,
    version: Option<String>,
    /// In ascending order of their keys.
    qualifiers: Vec<(&'static str, String)>,
}

impl Purl {
    /// `deb`: vendor and name are lower case. `upstream` is what scanners look advisories up by: the source package.
    pub(crate) fn deb(vendor: &str, name: &str, version: &str, qualifiers: Distribution<'_>) -> Self {
        Self::of_distribution("deb", vendor, name, version, qualifiers)
    }

    /// `apk`: vendor and name are lower case.
    pub(crate) fn apk(vendor: &str, name: &str, version: &str, qualifiers: Distribution<'_>) -> Self {
        Self::of_distribution("apk", vendor, name, version, qualifiers)
    }

    /// `rpm`: the vendor is lower case, the name as it is. The epoch is a qualifier, not part of the version.
    pub(crate) fn rpm(
        vendor: &str,
        name: &str,
        version: &str,
        epoch: Option<u32>,
        qualifiers: Distribution<'_>,
    ) -> Self {
        let mut purl = Self::of_distribution("rpm", vendor, name, version, qualifiers);
        name.clone_into(&mut purl.name);
        purl.qualifiers.extend(epoch.map(|epoch| ("epoch", epoch.to_string())));
        purl.qualifiers.sort_unstable();
        purl
    }

    /// `pypi`: the name is normalised as the packaging guide says, lower case with single dashes.
    pub(crate) fn pypi(name: &str, version: &str) -> Self {
        let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
        Self::plain("pypi", &[], &parts.join("-").to_lowercase(), Some(&version.to_lowercase()))
    }

    /// `npm`: a scope, with its `@`, is the namespace.
    pub(crate) fn npm(name: &str, version: &str) -> Self {
        let name = name.to_lowercase();
        match name.split_once('/') {
            Some((scope, name)) => Self::plain("npm", &[scope], name, Some(version)),
            None => Self::plain("npm", &[], &name, Some(version)),
        }
    }

    /// `golang`: a module's path in lower case, its last component being the name.
    pub(crate) fn golang(module: &str, version: Option<&str>) -> Self {
        let module = module.to_lowercase();
        let mut namespace: Vec<&str> = module.split('/').filter(|part| !part.is_empty()).collect();
        let name = namespace.pop().unwrap_or_default();
        Self::plain("golang", &namespace, name, version)
    }

    /// `cargo`: as crates are named.
    pub(crate) fn cargo(name: &str, version: &str) -> Self {
        Self::plain("cargo", &[], name, Some(version))
    }

    fn of_distribution(
        kind: &'static str,
        vendor: &str,
        name: &str,
        version: &str,
        qualifiers: Distribution<'_>,
    ) -> Self {
        let vendor = vendor.to_lowercase();
        let mut purl = Self::plain(kind, &[&vendor], &name.to_lowercase(), Some(version));
        let all =
            [("arch", qualifiers.arch), ("distro", qualifiers.distro), ("upstream", qualifiers.upstream)];
        let given = all.into_iter().filter_map(|(key, value)| Some((key, value?.to_owned())));
        purl.qualifiers = given.filter(|(_, value)| !value.is_empty()).collect();
        purl
    }

    fn plain(kind: &'static str, namespace: &[&str], name: &str, version: Option<&str>) -> Self {
        Self {
            kind,
            namespace: namespace.iter().map(|&part| part.to_owned()).collect(),
            name: name.to_owned(),
            version: version.filter(|version| !version.is_empty()).map(str::to_owned),
            qualifiers: Vec::new(),
        }
    }
}

/// What a distribution's package URL says beside name and version.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Distribution<'a> {
    /// The architecture, in the distribution's word.
    pub(crate) arch: Option<&'a str>,
    /// The distribution and its version, as in `debian-12`.
    pub(crate) distro: Option<&'a str>,
    /// The source package if its name or version is another; with `@` and the version if that is.
    pub(crate) upstream: Option<&'a str>,
}

impl fmt::Display for Purl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkg:{}", self.kind)?;
        for part in self.namespace.iter().chain([&self.name]) {
            write!(f, "/{}", Encoded(part))?;
        }
        if let Some(version) = &self.version {
            write!(f, "@{}", Encoded(version))?;
        }
        for (place, (key, value)) in self.qualifiers.iter().enumerate() {
            let before = if place == 0 { '?' } else { '&' };
            write!(f, "{before}{key}={}", Encoded(value))?;
        }
        Ok(())
    }
}

/// Text with all but unreserved characters and colons percent-encoded.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                    write!(f, "{}", char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Examples and tests of the specification, the version being what its rules make of it.
    #[test]
    fn writes_the_specifications_examples() {
        let arch = |arch, distro| Distribution { arch: Some(arch), distro, upstream: None };
        let cases = [
            (
                Purl::deb("debian", "curl", "7.50.3-1", arch("i386", Some("jessie"))),
                "pkg:deb/debian/curl@7.50.3-1?arch=i386&distro=jessie",
            ),
            (
                Purl::deb("Debian", "Attr", "1:2.4.47-2+b1", arch("amd64", None)),
                "pkg:deb/debian/attr@1:2.4.47-2%2Bb1?arch=amd64",
            ),
            (
                Purl::apk("alpine", "curl", "7.83.0-r0", arch("x86", None)),
                "pkg:apk/alpine/curl@7.83.0-r0?arch=x86",
            ),
            (Purl::pypi("Django_allauth", "12.23"), "pkg:pypi/django-allauth@12.23"),
            (Purl::pypi("zope.__interface", "5.0"), "pkg:pypi/zope-interface@5.0"),
            (Purl::npm("@angular/animation", "12.3.1"), "pkg:npm/%40angular/animation@12.3.1"),
            (Purl::npm("foobar", "12.3.1"), "pkg:npm/foobar@12.3.1"),
            (
                Purl::golang("github.com/Gorilla/context", Some("234fd47e07d1004f0aed9c")),
                "pkg:golang/github.com/gorilla/context@234fd47e07d1004f0aed9c",
            ),
            (
                Purl::golang("gopkg.in/yaml.v3", Some("v3.0.1+incompatible")),
                "pkg:golang/gopkg.in/yaml.v3@v3.0.1%2Bincompatible",
            ),
            (Purl::cargo("rand", "0.7.2"), "pkg:cargo/rand@0.7.2"),
        ];
        for (purl, expected) in cases {
            assert_eq!(purl.to_string(), expected);
        }
    }

    /// From the specification's examples, but for the source package.
    #[test]
    fn an_epoch_stands_in_order_of_keys_and_the_name_of_an_rpm_as_it_is() {
        let qualifiers = |distro, upstream| Distribution { arch: Some("i386"), distro, upstream };
        let curl = Purl::rpm("Fedora", "curl", "7.50.3-1.fc25", None, qualifiers(Some("fedora-25"), None));
        assert_eq!(curl.to_string(), "pkg:rpm/fedora/curl@7.50.3-1.fc25?arch=i386&distro=fedora-25");
        let source = Some("Perl-1-1.src.rpm");
        let perl = Purl::rpm("opensuse", "Perl", "1-1", Some(4), qualifiers(None, source));
        assert_eq!(perl.to_string(), "pkg:rpm/opensuse/Perl@1-1?arch=i386&epoch=4&upstream=Perl-1-1.src.rpm");
    }

    #[test]
    fn names_the_source_package_in_order_of_keys() {
        let qualifiers = Distribution {
            arch: Some("amd64"),
            distro: Some("debian-12"),
            upstream: Some("gcc-12@12.2.0-14"),
        };
        let purl = Purl::deb("debian", "libgcc-s1", "12.2.0-14", qualifiers).to_string();
        let expected =
            "pkg:deb/debian/libgcc-s1@12.2.0-14?arch=amd64&distro=debian-12&upstream=gcc-12%4012.2.0-14";
        assert_eq!(purl, expected);
    }

    proptest! {
        #[test]
        fn any_name_stays_one_component(name in "\\PC{1,20}", version in "\\PC{1,20}") {
            let text = Purl::cargo(&name, &version).to_string();
            prop_assert!(text.is_ascii());
            prop_assert_eq!(text.matches('/').count(), 1);
            prop_assert_eq!(text.matches('@').count(), 1);
            prop_assert!(!text.contains(['?', '#', '&', ' ']));
        }
    }
}
