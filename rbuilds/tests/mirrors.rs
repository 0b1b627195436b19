//! Mirrors of registries: asked first, and never believed without a digest unless the user says so.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::fs;

use rbuilds::{Error, RegistryError};
use support::{
    Compression, LayoutDir, Tar, Workshop, chain,
    server::{Server, answer},
    simple_layout,
};

/// The layer is short, and the manifest is not: what is damaged below is any answer that is not a document.
fn layout(workshop: &Workshop) -> LayoutDir {
    simple_layout(workshop, &[Tar::default().file("mark", b"here").end()], Compression::Gzip)
}

fn digest(layout: &LayoutDir) -> &str {
    layout.index[0]["digest"].as_str().unwrap()
}

fn mirror(workshop: &Workshop, of: &str, at: &str, tags: bool) {
    let text = format!("[[mirror]]\nof = \"{of}\"\nat = \"{at}\"\ntags = {tags}\n");
    fs::write(workshop.path("registries.toml"), text).unwrap();
}

#[test]
fn a_mirror_stands_in_for_a_registry_that_cannot_be_reached() {
    let workshop = Workshop::new();
    let layout = layout(&workshop);
    let server = Server::start(&layout, |_, _| None);
    mirror(&workshop, "registry.invalid", &format!("{}/copies", server.host), false);
    let image = format!("{{ registry = \"registry.invalid/web@{}\" }}", digest(&layout));
    let report = workshop.build(&image).unwrap();
    assert_eq!(report.image_manifest.unwrap().to_string(), digest(&layout));
    assert!(server.requests("").iter().all(|request| request.path.starts_with("/v2/copies/web/")));
}

#[test]
fn what_a_tag_names_is_asked_of_the_registry_unless_the_mirror_may_say() {
    let workshop = Workshop::new();
    let layout = layout(&workshop);
    let (home, copy) = (Server::start(&layout, |_, _| None), Server::start(&layout, |_, _| None));
    mirror(&workshop, &home.host, &copy.host, false);
    workshop.build(&home.image()).unwrap();
    assert_eq!((home.requests("manifests").len(), copy.requests("manifests").len()), (1, 0));
    assert_eq!((home.requests("blobs").len(), copy.requests("blobs").len()), (0, 2));
    fs::remove_file(workshop.path("glasshouse.lock")).unwrap();
    fs::remove_dir_all(workshop.path("cache")).unwrap();
    mirror(&workshop, &home.host, &copy.host, true);
    workshop.build(&home.image()).unwrap();
    assert_eq!((home.requests("manifests").len(), copy.requests("manifests").len()), (1, 1));
}

#[test]
fn a_mirror_that_sends_something_else_or_nothing_is_passed_over() {
    let workshop = Workshop::new();
    let layout = layout(&workshop);
    let home = Server::start(&layout, |_, _| None);
    for handler in [
        |path: &str| path.contains("/blobs/").then(|| answer("200 OK", "", b"something else")),
        |path: &str| path.contains("/manifests/").then(|| answer("200 OK", "", b"{}")),
        |_: &str| Some(answer("404 Not Found", "", b"")),
        |_: &str| Some(answer("403 Forbidden", "", b"")),
    ] {
        let copy = Server::start(&layout, move |request, _| handler(&request.path));
        mirror(&workshop, &home.host, &copy.host, true);
        let image = format!("{{ registry = \"{}/web@{}\" }}", home.host, digest(&layout));
        workshop.build(&image).unwrap();
        assert!(!copy.requests("").is_empty());
        fs::remove_dir_all(workshop.path("cache")).unwrap();
    }
}

#[test]
fn a_malformed_file_of_mirrors_is_said() {
    let workshop = Workshop::new();
    fs::write(workshop.path("registries.toml"), "[[mirror]]\nof = 3\n").unwrap();
    let error = workshop.refuse("{ registry = \"registry.invalid/web:1\" }");
    let Error::Registry { source, .. } = &error else { panic!("{}", chain(&error)) };
    assert!(matches!(**source, RegistryError::Mirrors { .. }), "{}", chain(&error));
}
