//! Whether the monitor would have seen a file.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use attestation::bundle::Name;
use ignore::gitignore::GitignoreBuilder;
use manifest::{Measured, Monitor};

/// What is not watched leaves no record when it appears, so that no record of it says nothing.
pub(super) fn watched(manifest: Option<&Measured>, path: &Name) -> Result<(), String> {
    let monitor = manifest.and_then(|manifest| manifest.monitor.as_ref());
    let Some(Monitor { roots, ignore, .. }) = monitor else {
        return Err("no measured manifest that says what is watched".to_owned());
    };
    let within = |root: &String| {
        let rest = path.0.strip_prefix(root.trim_end_matches('/').as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    if !roots.iter().any(within) {
        return Err(format!("it is below none of the watched: {}", roots.join(", ")));
    }
    let never = |place: &&&str| {
        path.0.strip_prefix(place.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    if let Some(place) = manifest::NEVER_WATCHED.iter().find(never) {
        return Err(format!("{place} is never watched"));
    }
    let mut builder = GitignoreBuilder::new("/");
    for line in ignore {
        builder.add_line(None, line).map_err(|error| error.to_string())?;
    }
    let patterns = builder.build().map_err(|error| error.to_string())?;
    let path = Path::new(OsStr::from_bytes(&path.0));
    // As a directory it could be ignored where it is not as a file.
    let ignored = [false, true].iter().find_map(|is_dir| {
        let matched = patterns.matched_path_or_any_parents(path, *is_dir);
        matched.inner().filter(|_| matched.is_ignore()).map(|pattern| pattern.original().to_owned())
    });
    ignored.map_or(Ok(()), |pattern| Err(format!("the manifest has it ignored: {pattern}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(ignore: &str) -> Measured {
        let text = format!(
            "name = \"x\"\nimage = {{ rootfs = \".\" }}\n[app]\ncommand = [\"/x\"]\n[monitor]\nroots = [\"/app\", \"/etc/x\"]\nignore = [{ignore}]\n"
        );
        manifest::Manifest::parse(&text).unwrap().resolve(&manifest::ImageConfig::default()).unwrap()
    }

    /// That nothing was recorded of a file which nobody watches is no evidence that it is not there.
    #[test]
    fn absence_is_said_only_of_what_is_watched() {
        let plain = manifest("");
        let is = |manifest: &Measured, path: &str| watched(Some(manifest), &Name(path.into()));
        for path in ["/app", "/app/a", "/app/a/b", "/etc/x"] {
            is(&plain, path).unwrap();
        }
        for path in ["/", "/apple", "/etc", "/etc/xy", "/tmp/app"] {
            assert!(is(&plain, path).unwrap_err().contains("none of the watched"), "{path}");
        }
        let some = manifest("\"*.log\", \"/app/cache/\", \"!/app/keep.log\"");
        for path in ["/app/x.log", "/app/cache", "/app/cache/a/b", "/app/d.log/e"] {
            assert!(is(&some, path).unwrap_err().contains("ignored"), "{path}");
        }
        is(&some, "/app/keep.log").unwrap();
        is(&some, "/app/x.logs").unwrap();
        assert!(watched(None, &Name(b"/app".to_vec())).is_err());
        let mut all = plain;
        all.monitor.as_mut().unwrap().roots = vec!["/".to_owned()];
        for path in ["/proc", "/proc/1", "/sys/x", "/run/glasshouse/secrets/app", "/dev/pts/0"] {
            assert!(is(&all, path).unwrap_err().contains("never watched"), "{path}");
        }
        for path in ["/process", "/run/glasshouse-x", "/dev/shm/x"] {
            is(&all, path).unwrap();
        }
    }
}
