//! Whether the monitor would have seen a file.

use attestation::bundle::Name;
use fs_monitor::patterns::Patterns;
use manifest::{Measured, Monitor};

/// Longest path that a program can name, and that is ever recorded.
const MAX_WATCHED_BYTES: usize = 4095;

/// What is not watched leaves no record when it appears, so that no record of it says nothing.
pub(in crate::verify) fn watched(manifest: Option<&Measured>, path: &Name) -> Result<(), String> {
    let monitor = manifest.and_then(|manifest| manifest.monitor.as_ref());
    let Some(Monitor { roots, ignore, .. }) = monitor else {
        return Err("no measured manifest that says what is watched".to_owned());
    };
    let within = |place: &str| {
        let rest = path.0.strip_prefix(place.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let root = roots.iter().map(|root| root.trim_end_matches('/')).find(|root| within(root));
    let Some(root) = root.filter(|_| path.0.len() <= MAX_WATCHED_BYTES) else {
        return Err(format!("it is below none of the watched: {}", roots.join(", ")));
    };
    if let Some(place) = manifest::NEVER_WATCHED.iter().find(|place| within(place)) {
        return Err(format!("{place} is never watched"));
    }
    let patterns = Patterns::new(ignore).map_err(|error| error.to_string())?;
    // As a directory it could be ignored where it is not as a file.
    let is_ignored = |is_directory| patterns.ignores_within(root.as_bytes(), &path.0, is_directory);
    match path.0 != root.as_bytes() && (is_ignored(false) || is_ignored(true)) {
        true => Err("the manifest has it ignored".to_owned()),
        false => Ok(()),
    }
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
        // The monitor never looks into an ignored directory, whatever a later pattern says of what is in it.
        assert!(is(&some, "/app/cache/keep.log").unwrap_err().contains("ignored"));
        assert!(is(&plain, &format!("/app/{}", "x".repeat(4091))).is_err());
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
