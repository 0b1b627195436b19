//! Packages of Debian and its descendants: `/var/lib/dpkg/status`, and the files of `status.d` in images without dpkg.

use std::io::{self, BufRead};

use super::{
    Item, Malformed, Os,
    fields::Stanza,
    purl::{Distribution, Purl},
};

const FIELDS: &[&str] = &["Package", "Status", "Version", "Architecture", "Source"];

/// Reads a database (`dpkg-query(1)`, `deb-control(5)`), giving each installed package to `each`.
pub(crate) fn read(
    mut database: impl BufRead,
    os: &Os,
    each: &mut dyn FnMut(Result<Item, Malformed>),
) -> io::Result<()> {
    while let Some(stanza) = Stanza::read(&mut database, FIELDS)? {
        if is_installed(&stanza) {
            each(item(&stanza, os));
        }
    }
    Ok(())
}

/// Whether the package's files are there. Without a status they are: `status.d` has only installed packages.
fn is_installed(stanza: &Stanza) -> bool {
    let state = stanza.value("Status").and_then(|status| status.split_ascii_whitespace().nth(2));
    !matches!(state, Some("not-installed" | "config-files"))
}

fn item(stanza: &Stanza, os: &Os) -> Result<Item, Malformed> {
    let (Some(name), Some(version)) = (stanza.value("Package"), stanza.value("Version")) else {
        return Err(Malformed("a package without name or version"));
    };
    let upstream = stanza.value("Source").map(|source| match source.split_once(" (") {
        Some((source, version)) => format!("{source}@{}", version.trim_end_matches(')')),
        None => source.to_owned(),
    });
    let distro = os.distro();
    let qualifiers = Distribution {
        arch: stanza.value("Architecture"),
        distro: distro.as_deref(),
        upstream: upstream.as_deref(),
    };
    let purl = Purl::deb(os.id_or("debian"), name, version, qualifiers);
    Item::new(name, Some(version), &purl, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::tests::{debian, purls};

    #[test]
    fn lists_installed_packages_with_their_source() {
        let status = "\
Package: libc6
Status: install ok installed
Priority: optional
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9+deb12u10
Depends: libgcc-s1, libcrypt1 (>= 1:4.4.10-10~)
Conffiles:
 /etc/ld.so.conf.d/x86_64-linux-gnu.conf d4e7a7b88a71b5ffd9e2644e71a0cfab
Description: GNU C Library: Shared libraries
 Contains the standard libraries.
 .
 Package: not-a-package

Package: gone
Status: deinstall ok config-files
Version: 1

Package: libgcc-s1
Status: install ok installed
Architecture: amd64
Source: gcc-12 (12.2.0-14)
Version: 12.2.0-14+b1
";
        let found = purls(|each| read(status.as_bytes(), &debian(), each));
        let expected = [
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12&upstream=glibc",
            "pkg:deb/debian/libgcc-s1@12.2.0-14%2Bb1?arch=amd64&distro=debian-12&upstream=gcc-12%4012.2.0-14",
        ];
        assert_eq!(found, (expected.map(String::from).to_vec(), vec![]));
    }

    #[test]
    fn a_package_without_version_is_said_and_the_next_one_read() {
        let status = "Package: a\n\nPackage: b\nVersion: 1\n";
        let (found, malformed) = purls(|each| read(status.as_bytes(), &Os::default(), each));
        assert_eq!(found, ["pkg:deb/debian/b@1"]);
        assert_eq!(malformed.len(), 1);
    }
}
