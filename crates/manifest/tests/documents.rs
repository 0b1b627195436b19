//! The manifests shown in the project's documents are manifests.

use std::{fs, path::Path};

use manifest::Manifest;

/// The `toml` blocks of a Markdown text, each with the line it begins on.
fn toml_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((_, line)) = lines.next() {
        if line == "```toml" {
            let begin = lines.clone().next().map_or(0, |(number, _)| number);
            let body = lines.by_ref().take_while(|(_, line)| *line != "```");
            blocks.push((begin, body.map(|(_, line)| format!("{line}\n")).collect()));
        }
    }
    blocks
}

#[test]
fn every_manifest_in_the_documents_is_accepted() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (document, least) in [("README.md", 1), ("docs/guide/manifest.md", 2)] {
        let blocks = toml_blocks(&fs::read_to_string(top.join(document)).unwrap());
        assert!(blocks.len() >= least, "{document} shows {} manifests, expected {least}", blocks.len());
        for (line, block) in blocks {
            if let Err(error) = Manifest::parse(&block) {
                panic!("{document}, block at line {line}: {error}");
            }
        }
    }
}

#[test]
fn blocks_are_found_with_their_lines() {
    let text = "a\n```toml\nx = 1\ny = 2\n```\n```sh\nno\n```\n```toml\nz = 3\n```\n";
    assert_eq!(toml_blocks(text), [(3, "x = 1\ny = 2\n".to_owned()), (10, "z = 3\n".to_owned())]);
}
