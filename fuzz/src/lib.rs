//! A build whose application is the fuzzer's: everything from the file that was given to the image that is written.

#![cfg(feature = "rbuilds")]

use std::{fs, path::Path};

use manifest::Manifest;
use rbuilds::{BuildInput, BuildReport, Error, Kernel, Limits, RegistryOptions, build};

/// Enough for any input that is worth growing, and little enough that a bomb ends at once.
const LIMITS: Limits = Limits { unpacked_bytes: 4 << 20, entries: 10_000, name_bytes: 1 << 20 };

/// Gives `bytes` to a build as the file `input` of `image`, as in `archive = "input"`, and checks that what is refused
/// leaves no image behind.
pub fn build_from(bytes: &[u8], image: &str) -> Result<BuildReport, Error> {
    let folder = tempfile::tempdir().expect("a folder for one input");
    let write = |name: &str, content: &[u8]| {
        fs::write(folder.path().join(name), content).expect("the folder can be written");
    };
    write("input", bytes);
    write("part", b"kernel and init");
    let text = format!("name = \"fuzz\"\nimage = {{ {image} }}\n[app]\ncommand = [\"/app\"]\n");
    let manifest = Manifest::parse(&text).expect("the manifest is our own");
    let (part, output) = (folder.path().join("part"), folder.path().join("out.eif"));
    let built = build(&input(&manifest, folder.path(), &part, &output), &|_| {});
    assert_eq!(built.is_ok(), output.exists(), "an image is there if, and only if, it was built");
    built
}

fn input<'a>(manifest: &'a Manifest, folder: &'a Path, part: &'a Path, output: &'a Path) -> BuildInput<'a> {
    BuildInput {
        manifest,
        base_dir: folder,
        guest_binary: part,
        kernel: Kernel::new(part, None),
        output,
        limits: LIMITS,
        registry: RegistryOptions { cache_limit_bytes: 0, ..RegistryOptions::default() },
        build_time: 0,
        signer: None,
    }
}
