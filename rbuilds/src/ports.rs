//! What becomes of the ports that a container image exposes: nothing, and the report says so.

use std::num::NonZeroU16;

use manifest::Protocol;

use crate::notes::{NoteKind, Notes};

/// Notes the `exposed` ports, each `80`, `80/tcp` or `53/udp`, that are not `published`.
pub(crate) fn note(exposed: &[String], published: &[(NonZeroU16, Protocol)], notes: &mut Notes) {
    for name in exposed {
        let (port, protocol) = name.split_once('/').unwrap_or((name, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => {
                notes.add_text(NoteKind::PortNotCarried, name);
                continue;
            }
        };
        if !port.parse().is_ok_and(|port| published.contains(&(port, protocol))) {
            notes.add_text(NoteKind::PortNotPublished, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposed_ports_that_nobody_can_reach_are_noted() {
        let mut notes = Notes::default();
        let exposed = ["53/udp", "80/tcp", "443", "443/udp", "8080/tcp", "5000/sctp"].map(str::to_owned);
        note(
            &exposed,
            &[(80.try_into().unwrap(), Protocol::Tcp), (443.try_into().unwrap(), Protocol::Udp)],
            &mut notes,
        );
        let found: Vec<_> =
            notes.into_vec().into_iter().map(|note| (note.kind, note.examples.join(" "))).collect();
        let expected = [
            (NoteKind::PortNotPublished, "53/udp 443 8080/tcp".to_owned()),
            (NoteKind::PortNotCarried, "5000/sctp".to_owned()),
        ];
        assert_eq!(found, expected);
    }
}
