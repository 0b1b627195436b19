//! The server name in the first message of a TLS client (RFC 8446 section 4.1.2, RFC 6066 section 3).
//!
//! Only looked at: nothing is decrypted or answered, and the bytes go on as they came. The message may be spread over
//! records in any way. It is no proof of anything: a client may name one server and mean another.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

/// The longest first message that is looked at.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;

const RECORD_HANDSHAKE: u8 = 22;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_HOST: u8 = 0;
/// Of a record's content without protection (RFC 8446 section 5.1).
const MAX_RECORD_BYTES: usize = 1 << 14;

/// What the first bytes of a client have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed.
    Incomplete,
    /// The name of the server that the client asks for, in lower case, or none.
    Server(Option<String>),
    /// This is not TLS, or is broken.
    NotTls,
}

/// Looks for the server name in all that a client has sent so far.
pub fn server_name(bytes: &[u8]) -> Hello {
    match message(bytes) {
        Ok(Some(body)) => hello(&body).map_or(Hello::NotTls, Hello::Server),
        Ok(None) => Hello::Incomplete,
        Err(Broken) => Hello::NotTls,
    }
}

struct Broken;

/// Puts the first message together from its records, without its header. `None` while something is missing.
fn message(bytes: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
    let mut gathered = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some((header, body)) = gathered.split_first_chunk::<4>() {
            let [kind, high, middle, low] = *header;
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if kind != MESSAGE_CLIENT_HELLO || length > MAX_MESSAGE_BYTES {
                return Err(Broken);
            }
            if let Some(body) = body.get(..length) {
                return Ok(Some(body.to_vec()));
            }
        }
        let Some((header, behind)) = rest.split_first_chunk::<5>() else {
            let is_record = rest.first().is_none_or(|kind| *kind == RECORD_HANDSHAKE)
                && rest.get(1).is_none_or(|major| *major == 3);
            return if is_record { Ok(None) } else { Err(Broken) };
        };
        let [kind, major, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != RECORD_HANDSHAKE || major != 3 || length == 0 || length > MAX_RECORD_BYTES {
            return Err(Broken);
        }
        let content = behind.get(..length).unwrap_or(behind);
        gathered.extend_from_slice(content);
        rest = behind.get(content.len()..).unwrap_or_default();
        if content.len() < length && gathered.len() < 4 {
            return Ok(None);
        }
    }
}

/// The server name of a whole message. `None` if the message is broken.
#[expect(clippy::option_option, reason = "broken and nameless are not the same")]
fn hello(body: &[u8]) -> Option<Option<String>> {
    let mut body = Reader(body);
    body.take(2 + 32)?;
    body.short_vector()?;
    body.long_vector()?;
    body.short_vector()?;
    if body.0.is_empty() {
        // TLS 1.2 clients may have no extensions at all.
        return Some(None);
    }
    let mut extensions = Reader(body.long_vector()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.long_vector()?;
        if kind == EXTENSION_SERVER_NAME {
            return name(content).map(Some);
        }
    }
    Some(None)
}

/// The one host name of a server name extension.
fn name(extension: &[u8]) -> Option<String> {
    let mut list = Reader(Reader(extension).long_vector()?);
    while !list.0.is_empty() {
        let [kind] = *list.take(1)?.first_chunk()?;
        let name = list.long_vector()?;
        if kind == NAME_HOST {
            let good = !name.is_empty() && name.len() <= 255 && name.iter().all(u8::is_ascii_graphic);
            return good.then(|| String::from_utf8_lossy(name).to_ascii_lowercase());
        }
    }
    None
}

/// Takes vectors off the front; nothing once something is missing.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(length.into())
    }

    fn long_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_length(bytes: &[u8], width: usize) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[4 - width..], bytes].concat()
    }

    /// A message with this name, among other extensions.
    fn message(name: Option<&str>) -> Vec<u8> {
        let mut extensions = [&[0, 43][..], &with_length(&[2, 3, 4], 2)].concat();
        if let Some(name) = name {
            let entry = [&[0][..], &with_length(name.as_bytes(), 2)].concat();
            extensions.extend([&[0, 0][..], &with_length(&with_length(&entry, 2), 2)].concat());
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &with_length(&[9; 32], 1),
            &with_length(&[0x13, 0x01], 2),
            &with_length(&[0], 1),
            &with_length(&extensions, 2),
        ];
        [&[1][..], &with_length(&body.concat(), 3)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &with_length(part, 2)].concat()).collect()
    }

    #[test]
    fn name_is_found_however_the_message_is_cut_and_not_before_it_is_there() {
        for size in [1, 2, 3, 5, 40, 16384] {
            let bytes = records(&message(Some("API.Example.org")), size);
            assert_eq!(server_name(&bytes), Hello::Server(Some("api.example.org".into())), "{size}");
            for cut in 0..bytes.len() {
                assert_eq!(server_name(&bytes[..cut]), Hello::Incomplete, "{size}: {cut}");
            }
        }
        assert_eq!(server_name(&records(&message(None), 100)), Hello::Server(None));
    }

    #[test]
    fn other_protocols_and_oversized_messages_are_told_at_once() {
        assert_eq!(server_name(b"GET / HTTP/1.1\r\n"), Hello::NotTls);
        assert_eq!(server_name(b"\x16\x02"), Hello::NotTls);
        assert_eq!(server_name(&[22, 3, 1, 0, 0]), Hello::NotTls);
        assert_eq!(server_name(&[22, 3, 1, 0xff, 0xff]), Hello::NotTls);
        assert_eq!(server_name(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Hello::NotTls, "not a client's");
        assert_eq!(server_name(&[22, 3, 1, 0, 4, 1, 1, 0, 0]), Hello::NotTls, "64 KiB");
    }

    proptest! {
        #[test]
        fn every_name_of_a_host_comes_back(name in "[a-z0-9.-]{1,255}", size in 1..400_usize) {
            prop_assert_eq!(server_name(&records(&message(Some(&name)), size)), Hello::Server(Some(name)));
        }

        #[test]
        fn looking_never_panics(bytes in any::<Vec<u8>>(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let _ = server_name(&bytes);
            let mut hello = records(&message(Some("a.example")), 60);
            let at = at.index(hello.len());
            hello[at] = to;
            let _ = server_name(&hello);
            let _ = server_name(&[&hello[..at], &bytes].concat());
        }
    }
}
