//! Which request needs which capability.
//!
//! A pure function of what the measured manifest says of an operator, and a request.

use manifest::{Capability, Operator};

use crate::{
    reply::{Code, Refusal},
    request::Request,
    transfer::RemotePath,
};

/// What an operator may do in answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// For a request with a path: the paths at or below which the operator may do it. Links must not lead out of them.
    pub reach: Vec<RemotePath>,
}

/// Says whether `operator` may do what `request` asks.
///
/// # Errors
/// [`Code::Denied`] when no capability allows it, [`Code::PathRefused`] for a path that is not absolute or has `..`.
pub fn check(operator: &Operator, request: &Request) -> Result<Grant, Refusal> {
    let anywhere = Grant { reach: Vec::new() };
    let needed = match request {
        Request::Run(_) | Request::Status { .. } | Request::Logs { .. } | Request::Kill { .. } => {
            Capability::Exec
        }
        Request::Shell(_) => Capability::Shell,
        Request::Services | Request::ServiceRestart { .. } | Request::ServiceLogs { .. } => {
            Capability::Services
        }
        Request::Seal => Capability::Seal,
        Request::Secrets | Request::SecretSet { .. } => Capability::Secrets,
        // Whoever is listed may see what all that are listed did.
        Request::Transcript { .. } => return Ok(anywhere),
        Request::SendFile(crate::request::SendFile { path, .. })
        | Request::SendDir(crate::request::SendDir { path, .. }) => return below(operator, "write", path),
        Request::RecvFile(crate::request::RecvFile { path, .. })
        | Request::RecvDir(crate::request::RecvDir { path, .. }) => return below(operator, "read", path),
    };
    if operator.may.contains(&needed) {
        return Ok(anywhere);
    }
    Err(denied(operator, &needed.to_string()))
}

fn denied(operator: &Operator, needed: &str) -> Refusal {
    let message = format!("{} may not do this: the image gives this key no \"{needed}\"", operator.name);
    Refusal::new(Code::Denied, message)
}

/// The paths of all capabilities for this verb, if one of them allows `path`.
fn below(operator: &Operator, verb: &str, path: &[u8]) -> Result<Grant, Refusal> {
    let wanted = components(path)?;
    let prefixes = operator.may.iter().filter_map(|capability| match capability {
        Capability::Read(path) if verb == "read" => Some(path.as_bytes()),
        Capability::Write(path) if verb == "write" => Some(path.as_bytes()),
        _ => None,
    });
    let prefixes: Vec<_> = prefixes.collect();
    if !prefixes.iter().any(|prefix| wanted.starts_with(&parts(prefix).collect::<Vec<_>>())) {
        return Err(denied(operator, &format!("{verb}:{}", String::from_utf8_lossy(path))));
    }
    let reach = prefixes.into_iter().map(RemotePath::parse).collect::<Result<_, _>>();
    let reach = reach.map_err(|error| Refusal::new(Code::PathRefused, error.to_string()))?;
    Ok(Grant { reach })
}

/// The names in an absolute path.
///
/// # Errors
/// [`Code::PathRefused`] when it is not absolute or has `..`.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>, Refusal> {
    let refused = |reason: &str| {
        Err(Refusal::new(Code::PathRefused, format!("{:?}: {reason}", String::from_utf8_lossy(path))))
    };
    if !path.starts_with(b"/") {
        return refused("a path in the enclave begins with \"/\"");
    }
    let names: Vec<_> = parts(path).collect();
    if names.contains(&&b".."[..]) {
        return refused("a path in the enclave has no \"..\"");
    }
    Ok(names)
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::request::{RecvFile, RunId, SendFile};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn operator(may: &[&str]) -> Operator {
        let may = may.iter().map(|text| text.parse().unwrap()).collect();
        Operator { key: KEY.parse().unwrap(), may, name: "alice".into() }
    }

    fn read(path: &str) -> Request {
        Request::RecvFile(RecvFile { path: path.into(), resume: false })
    }

    fn write(path: &str) -> Request {
        Request::SendFile(SendFile { path: path.into(), mode: None, size: None, resume: false })
    }

    fn code(refused: Result<Grant, Refusal>) -> Code {
        refused.unwrap_err().code
    }

    #[test]
    fn every_verb_needs_its_own_capability() {
        let requests = [
            ("exec", Request::Status { id: None }),
            ("exec", Request::Logs { id: RunId(1), follow: false }),
            ("exec", Request::Kill { id: RunId(1), signal: 9 }),
            ("services", Request::Services),
            ("services", Request::ServiceRestart { service: "web".into() }),
            ("seal", Request::Seal),
            ("secrets", Request::Secrets),
            ("secrets", Request::SecretSet { secret: "token".into() }),
            ("read:/", read("/etc/passwd")),
            ("write:/", write("/etc/passwd")),
        ];
        let all = ["exec", "read:/", "seal", "secrets", "services", "shell", "write:/"];
        for (needed, request) in &requests {
            check(&operator(&[needed]), request).unwrap();
            let others: Vec<_> = all.iter().copied().filter(|name| name != needed).collect();
            assert_eq!(code(check(&operator(&others), request)), Code::Denied, "{needed}");
        }
        check(&operator(&["seal"]), &Request::Transcript { from: 1 }).unwrap();
    }

    /// A prefix test on text lets `/srv/database` pass for `/srv/data`, and `/srv/data/../../etc` too.
    #[test]
    fn paths_are_compared_name_by_name() {
        let data = operator(&["read:/srv/data", "read:/srv/data/deeper", "write:/tmp"]);
        for inside in ["/srv/data", "/srv/data/", "/srv//data/x", "/./srv/data/deeper/y"] {
            assert_eq!(check(&data, &read(inside)).unwrap().reach.len(), 2, "{inside}");
        }
        for outside in ["/srv", "/srv/database", "/", "/tmp/x"] {
            assert_eq!(code(check(&data, &read(outside))), Code::Denied, "{outside}");
        }
        for wrong in ["srv/data", "/srv/data/../../etc", "/srv/data/.."] {
            assert_eq!(code(check(&data, &read(wrong))), Code::PathRefused, "{wrong}");
        }
        assert_eq!(code(check(&data, &write("/srv/data/x"))), Code::Denied);
    }

    proptest! {
        #[test]
        fn what_is_granted_is_above_what_is_asked(path in "[/a.]{0,12}", prefix in "(/a{1,2}){1,3}") {
            let operator = operator(&[&format!("read:{prefix}")]);
            if check(&operator, &read(&format!("/{path}"))).is_ok() {
                let names = format!("/{}", path.split('/').filter(|p| !matches!(*p, "" | ".")).collect::<Vec<_>>().join("/"));
                let below = format!("{prefix}/");
                prop_assert!(names == prefix || names.starts_with(&below));
            }
        }
    }
}
