//! The control channel's transcript: that it is all there is, and that the hardware saw its beginning
//! (`docs/spec/control-trace.md`, "How an auditor checks").

use attestation::{Pcr, Sha256, bundle::Base64};
use pipeline::trace::{
    chain::Chain,
    entry::{Entry, Event, Head, pcr17},
};
use serde::Serialize;

use super::{chain, verdict::Verdict};

const CHECK: &str = "control transcript";

/// Somebody who was in the enclave.
#[derive(Debug, Serialize)]
pub(crate) struct SessionClaim {
    /// The number of the entry that opened the session.
    pub(crate) number: u64,
    /// Milliseconds since 1970 by the enclave's clock, which the host sets.
    pub(crate) time_ms: u64,
    /// Who: the name in the measured manifest.
    pub(crate) operator: String,
    /// Who: the public key.
    pub(crate) key: String,
}

/// Checks `transcript` against the attested head of the chain and PCR17, `None` if that is not locked. Without a head anybody
/// could have written it.
pub(crate) fn judge(
    head: Option<Sha256>,
    register: Option<Pcr>,
    transcript: &[Base64],
    verdict: &mut Verdict,
) {
    let Some(head) = head else {
        return verdict.fail(CHECK, "a head of its chain in the binding statement", "none");
    };
    match sessions(Head(head.0), register, transcript) {
        Err(found) => verdict.fail(CHECK, "all entries up to the attested head", found),
        Ok((entries, sessions)) => {
            verdict.pass(CHECK, format!("{entries} entries, {} sessions, complete", sessions.len()));
            match sessions.len() {
                0 => verdict.proven("nobody has entered through the control channel"),
                count => verdict
                    .proven(format!("{count} sessions are all that entered through the control channel")),
            }
            verdict.sessions = sessions;
        }
    }
}

/// The number of entries up to the attested head, and the sessions that they open. What follows is younger than the document.
fn sessions(
    attested: Head,
    register: Option<Pcr>,
    transcript: &[Base64],
) -> Result<(u64, Vec<SessionClaim>), String> {
    let mut chain_so_far = Chain::default();
    let mut opened = Vec::new();
    let mut found = (attested == Head::empty()).then_some((0, 0));
    for bytes in transcript {
        let entry = chain_so_far.push(&bytes.0).map_err(|error| chain(&error))?;
        opened.extend(session(entry));
        if chain_so_far.head() == attested {
            found = Some((chain_so_far.count(), opened.len()));
        }
    }
    let (entries, sessions) = found.ok_or("entries that do not lead to it")?;
    match (register.filter(|value| *value != Pcr::ZERO), transcript.first()) {
        (Some(value), Some(first)) if pcr17(&first.0) == value.0 => {}
        (Some(_), _) => return Err("a first entry that PCR17 does not hold".to_owned()),
        (None, _) if entries == 0 => {}
        (None, _) => return Err("entries, although PCR17 says that nobody has entered".to_owned()),
    }
    opened.truncate(sessions);
    Ok((entries, opened))
}

fn session(Entry { number, time_ms, event }: Entry) -> Option<SessionClaim> {
    match event {
        Event::Open { operator, key, .. } => Some(SessionClaim { number, time_ms, operator, key }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, operator: &str) -> Base64 {
        let event = Event::Open {
            operator: operator.to_owned(),
            key: "ssh-ed25519 AAAA".to_owned(),
            request: vec![1],
        };
        Base64(Entry { number, time_ms: 7, event }.encode())
    }

    fn head(entries: &[Base64]) -> Head {
        entries.iter().fold(Head::empty(), |head, entry| head.after(&entry.0))
    }

    #[test]
    fn a_transcript_is_complete_up_to_the_attested_head() {
        let all = [entry(1, "ada"), entry(2, "grace"), entry(3, "late")];
        let register = Some(Pcr(pcr17(&all[0].0)));
        let names = |count: usize| -> Vec<_> {
            let (entries, sessions) = sessions(head(&all[..count]), register, &all).unwrap();
            assert_eq!(entries, count as u64);
            sessions.into_iter().map(|session| session.operator).collect()
        };
        assert_eq!(names(2), ["ada", "grace"]);
        assert_eq!(names(3), ["ada", "grace", "late"]);
        assert_eq!(sessions(Head::empty(), None, &[]).unwrap().0, 0);
        assert_eq!(sessions(Head::empty(), Some(Pcr::ZERO), &[]).unwrap().0, 0);
        // Somebody entered between the statement and the document.
        assert_eq!(sessions(Head::empty(), register, &all[..1]).unwrap().0, 0);
    }

    #[test]
    fn what_is_missing_changed_or_not_in_the_register_is_refused() {
        let all = [entry(1, "ada"), entry(2, "grace")];
        let (register, attested) = (Some(Pcr(pcr17(&all[0].0))), head(&all));
        let refused = |register, entries: &[Base64]| sessions(attested, register, entries).unwrap_err();
        assert!(refused(register, &all[..1]).contains("do not lead to it"));
        assert!(refused(register, &all[1..]).contains("entry 2"));
        assert!(refused(register, &[]).contains("do not lead to it"));
        assert!(refused(register, &[entry(1, "eve"), all[1].clone()]).contains("do not lead to it"));
        assert!(refused(None, &all).contains("nobody has entered"));
        assert!(refused(Some(Pcr::ZERO), &all).contains("nobody has entered"));
        assert!(refused(Some(Pcr([1; 48])), &all).contains("PCR17 does not hold"));
    }
}
