//! Packages of Alpine and its descendants: `/lib/apk/db/installed`.

use std::io::{self, BufRead};

use super::{
    Item, Malformed, Os,
    fields::Stanza,
    purl::{Distribution, Purl},
};

/// Package, version, architecture, licence, origin.
const FIELDS: &[&str] = &["P", "V", "A", "L", "o"];

/// Reads a database (Alpine wiki, "Apk spec", installed database v2), giving each package to `each`.
pub(crate) fn read(
    mut database: impl BufRead,
    os: &Os,
    each: &mut dyn FnMut(Result<Item, Malformed>),
) -> io::Result<()> {
    while let Some(stanza) = Stanza::read(&mut database, FIELDS)? {
        each(item(&stanza, os));
    }
    Ok(())
}

fn item(stanza: &Stanza, os: &Os) -> Result<Item, Malformed> {
    let (Some(name), Some(version)) = (stanza.value("P"), stanza.value("V")) else {
        return Err(Malformed("a package without name or version"));
    };
    let distro = os.distro();
    let qualifiers = Distribution {
        arch: stanza.value("A"),
        distro: distro.as_deref(),
        upstream: stanza.value("o").filter(|origin| *origin != name),
    };
    let purl = Purl::apk(os.id_or("alpine"), name, version, qualifiers);
    Item::new(name, Some(version), &purl, stanza.value("L"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::tests::purls;

    #[test]
    fn lists_packages_with_licence_and_origin() {
        let installed = "\
C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=
P:musl
V:1.2.4-r2
A:x86_64
S:389180
L:MIT
o:musl
p:so:libc.musl-x86_64.so.1=1
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755

P:ssl_client
V:1.36.1-r15
A:x86_64
L:GPL-2.0-only
o:busybox
";
        let os = Os::parse(b"ID=alpine\nVERSION_ID=3.18.6\n");
        let (found, malformed) = purls(|each| read(installed.as_bytes(), &os, each));
        let expected = [
            "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.18.6",
            "pkg:apk/alpine/ssl_client@1.36.1-r15?arch=x86_64&distro=alpine-3.18.6&upstream=busybox",
        ];
        assert_eq!(found, expected);
        assert_eq!(malformed, []);
        let mut licences = Vec::new();
        read(installed.as_bytes(), &os, &mut |item| licences.push(item.unwrap().licence.unwrap())).unwrap();
        assert_eq!(licences, ["MIT", "GPL-2.0-only"]);
    }
}
