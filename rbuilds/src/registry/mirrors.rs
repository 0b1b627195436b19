//! Other registries that hold the same images: asked first, believed only where a digest says what has to come.
//!
//! `registries.toml` in the user's configuration folder, or the file that `GLASSHOUSE_REGISTRIES` names, holds
//!
//! ```toml
//! [[mirror]]
//! of = "docker.io"                # a registry's name as images have it
//! at = "mirror.example:5000/hub"  # HOST, with a port and a path before the repository if need be
//! tags = false                    # whether it may also say what a tag names
//! ```

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use manifest::{ImageReference, ImageVersion};
use serde::Deserialize;

use super::error::RegistryError;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// An image as a mirror has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirrored {
    pub(super) image: ImageReference,
    /// Whether the mirror may say what a tag names.
    pub(super) tags: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mirror {
    of: String,
    at: String,
    #[serde(default)]
    tags: bool,
}

/// The mirrors of an image, in the order in which they are to be asked, as `file` has them, or the usual file if none
/// is given.
pub(super) fn of(image: &ImageReference, file: Option<&Path>) -> Result<Vec<Mirrored>, RegistryError> {
    let Some(path) = file.map(Path::to_owned).or_else(usual_file) else { return Ok(Vec::new()) };
    read(&path, image).map_err(|source| RegistryError::Mirrors { path, source })
}

fn usual_file() -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = || variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    variable("GLASSHOUSE_REGISTRIES").or_else(|| Some(folder()?.join("glasshouse/registries.toml")))
}

fn read(path: &Path, image: &ImageReference) -> io::Result<Vec<Mirrored>> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let text = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
        Ok(metadata) if metadata.len() > MAX_FILE_BYTES => return Err(invalid("it is too long".to_owned())),
        Ok(_) => fs::read_to_string(path)?,
    };
    let file: File = toml::from_str(&text).map_err(|e| {
        let before =
            e.span().and_then(|span| text.get(..span.start)).unwrap_or_default().matches('\n').count();
        let line = text.lines().nth(before).unwrap_or_default().trim();
        invalid(format!("line {}, `{line}`: {}", before + 1, e.message()))
    })?;
    let version = match image.version() {
        ImageVersion::Tag(tag) => format!(":{tag}"),
        ImageVersion::Digest(digest) => format!("@{digest}"),
    };
    file.mirror
        .iter()
        .filter(|mirror| mirror.of.eq_ignore_ascii_case(image.registry()))
        .map(|Mirror { at, tags, .. }| {
            // Without a dot, a port or `localhost`, engines take a name for a folder of the default registry.
            let host = at.split('/').next().unwrap_or_default();
            let is_host = host.contains(['.', ':']) || host == "localhost";
            let parsed = format!("{at}/{}{version}", image.repository()).parse().ok().filter(|_| is_host);
            let image =
                parsed.ok_or_else(|| invalid(format!("{at:?} is no HOST[:PORT][/PATH] of a mirror")))?;
            Ok(Mirrored { image, tags: *tags })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(text: &str, image: &str) -> io::Result<Vec<(String, bool)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let found = read(file.path(), &image.parse().unwrap())?;
        Ok(found
            .into_iter()
            .map(|m| (format!("{} {}", m.image.registry(), m.image.repository()), m.tags))
            .collect())
    }

    #[test]
    fn an_image_is_looked_for_at_the_mirrors_of_its_registry() {
        let text = "[[mirror]]\nof = \"docker.io\"\nat = \"m.example:5000/hub\"\n\
                    [[mirror]]\nof = \"other.example\"\nat = \"x.example\"\n\
                    [[mirror]]\nof = \"Docker.io\"\nat = \"localhost\"\ntags = true\n";
        let expected = [("m.example:5000 hub/library/nginx", false), ("localhost library/nginx", true)];
        let expected: Vec<_> = expected.iter().map(|(name, tags)| ((*name).to_owned(), *tags)).collect();
        assert_eq!(mirrors(text, "nginx:1").unwrap(), expected);
        assert_eq!(mirrors(text, "third.example/a:1").unwrap(), []);
        assert_eq!(mirrors("", "nginx").unwrap(), []);
        assert_eq!(read(Path::new("/nonexistent/registries.toml"), &"nginx".parse().unwrap()).unwrap(), []);
    }

    #[test]
    fn what_is_no_mirror_is_said() {
        for (text, expected) in [
            ("[[mirror]]\nof = \"docker.io\"\nat = \"hub\"\n", "\"hub\" is no HOST"),
            ("[[mirror]]\nof = \"docker.io\"\nat = \"https://m.example\"\n", "is no HOST"),
            ("[[mirror]]\nof = \"docker.io\"\nta = \"m.example\"\n", "ta"),
            ("mirror = 3\n", "mirror"),
        ] {
            let error = mirrors(text, "nginx").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
