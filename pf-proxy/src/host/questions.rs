//! DNS questions that the enclave's resolver does not answer itself, put to the servers that the host itself asks.
//!
//! A message is passed on as it is. Only so much is read of it that an answer can be told to be the question's, that the
//! policy can be asked about the name, and that a question nobody answers gets an answer that says so.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use egress::{
    Name,
    wire::{MIN_MESSAGE_BYTES, message_bytes},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{Guard, GuardSlot, datagrams::associate};

/// Questions of one stream that are under way at once; the next is read when one is answered.
const AT_ONCE: usize = 16;

/// How long a server has.
const PER_SERVER: Duration = Duration::from_secs(2);

/// Servers asked one after the other (resolv.conf(5) has as many).
const MAX_SERVERS: usize = 3;

/// Largest answer in one datagram (RFC 6891 section 6.2.5 leaves it to the asker).
const MAX_UDP_BYTES: usize = 4096;

/// The truncation bit, in the third byte of a message (RFC 1035 section 4.1.1).
const TC: u8 = 0x02;

const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// Answers the questions that come from `stream` until it ends or says nonsense, or is silent for `idle`.
pub(crate) async fn answer<S>(stream: S, guard: GuardSlot, servers: Vec<SocketAddr>, idle: Duration)
where
    S: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (sender, mut answers) = mpsc::channel::<Vec<u8>>(AT_ONCE);
    let servers: Arc<[SocketAddr]> = servers.into();
    let ask = async move {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        while let Ok(Ok(question)) = timeout(idle, read(&mut reader)).await {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            let (guard, servers, sender) = (guard.current(), Arc::clone(&servers), sender.clone());
            tokio::spawn(async move {
                // The stream may have ended meanwhile; then nobody wants the answer.
                let _ = sender.send(answer_one(&question, &guard, &servers).await).await;
                drop(place);
            });
        }
    };
    let tell = async move {
        while let Some(answer) = answers.recv().await {
            if write(&mut writer, &answer).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(ask, tell);
}

async fn answer_one(question: &[u8], guard: &Guard, servers: &[SocketAddr]) -> Vec<u8> {
    let Some(name) = asked(question) else {
        return refusal(question, FORMERR);
    };
    if !guard.permits_name(&name) {
        return refusal(question, REFUSED);
    }
    for server in servers.iter().take(MAX_SERVERS) {
        match timeout(PER_SERVER, ask(question, *server)).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => tracing::debug!(%server, %error, "a DNS server did not answer"),
            Err(_) => tracing::debug!(%server, "a DNS server did not answer in time"),
        }
    }
    refusal(question, SERVFAIL)
}

/// Asks one server: by a datagram, and by a stream where the answer does not fit into one.
async fn ask(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let socket = associate(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; MAX_UDP_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if !answers_to(question, answer) {
            continue;
        }
        if answer.get(2).is_some_and(|flags| flags & TC != 0) {
            break;
        }
        return Ok(answer.to_vec());
    }
    let mut stream = TcpStream::connect(server).await?;
    write(&mut stream, question).await?;
    let answer = read(&mut stream).await?;
    if answers_to(question, &answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Vec<u8>> {
    let mut head = [0; 2];
    reader.read_exact(&mut head).await?;
    let length = message_bytes(head).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut message = vec![0; length];
    reader.read_exact(&mut message).await?;
    Ok(message)
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    writer.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    writer.flush().await
}

/// The same number, marked as an answer, to the same question.
fn answers_to(question: &[u8], answer: &[u8]) -> bool {
    let Some(end) = question_end(question) else { return false };
    let same = |range: std::ops::Range<usize>| {
        let (ours, theirs) = (question.get(range.clone()), answer.get(range));
        matches!((ours, theirs), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b))
    };
    same(0..2) && answer.get(2).is_some_and(|flags| flags & 0x80 != 0) && same(MIN_MESSAGE_BYTES..end)
}

/// Where the only question of a message ends; nothing when it has not exactly one that can be read.
fn question_end(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = MIN_MESSAGE_BYTES;
    loop {
        match *message.get(at)? {
            0 => break,
            // Nothing stands before a question that it could point to.
            length @ 1..=63 => at = at.checked_add(usize::from(length))?.checked_add(1)?,
            _ => return None,
        }
    }
    let end = at.checked_add(5)?;
    (end <= message.len()).then_some(end)
}

/// The name that a message asks for, if it asks for one.
fn asked(message: &[u8]) -> Option<Name> {
    let end = question_end(message)?;
    let mut labels = message.get(MIN_MESSAGE_BYTES..end.checked_sub(5)?)?;
    let mut text = String::new();
    while let Some((length, rest)) = labels.split_first() {
        let (label, rest) = rest.split_at_checked((*length).into())?;
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(&std::str::from_utf8(label).ok()?.to_ascii_lowercase());
        labels = rest;
    }
    Name::from_normal(&text).ok()
}

/// The answer that there is none, and why.
fn refusal(question: &[u8], code: u8) -> Vec<u8> {
    let end = question_end(question);
    let mut answer = question.get(..end.unwrap_or(MIN_MESSAGE_BYTES)).unwrap_or_default().to_vec();
    if let Some([_, _, flags, code_byte, counts @ ..]) = answer.get_mut(..MIN_MESSAGE_BYTES) {
        // Keeps the kind of question and whether recursion was wanted.
        *flags = 0x80 | (*flags & 0x79);
        *code_byte = 0x80 | code;
        for (place, byte) in counts.iter_mut().zip([0, u8::from(end.is_some()), 0, 0, 0, 0, 0, 0]) {
            *place = byte;
        }
    }
    answer
}

/// The servers that the system asks, by the text of its `resolv.conf(5)`.
pub(crate) fn servers_in(resolv_conf: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = Vec::new();
    for line in resolv_conf.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else { continue };
        // The system's own form has no port; one behind the address, as in 127.0.0.1:5353, is for other files than its.
        let server = address.parse().map(|address| SocketAddr::new(address, 53));
        servers.extend(server.or_else(|_| address.parse()));
    }
    servers.truncate(MAX_SERVERS);
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(labels: &[&str]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 16, 0, 1]);
        message
    }

    #[test]
    fn the_name_asked_for_is_read() {
        assert_eq!(
            asked(&question(&["_Sip", "_tcp", "Example", "org"])).unwrap().as_str(),
            "_sip._tcp.example.org"
        );
        assert_eq!(asked(&question(&[])), None);
        assert_eq!(asked(&question(&["a.b"])).map(|name| name.to_string()).as_deref(), Some("a.b"));
        assert_eq!(asked(&question(&["*"])), None);
        let whole = question(&["example", "org"]);
        for length in 0..whole.len() {
            assert_eq!(asked(&whole[..length]), None);
        }
        let mut pointing = whole.clone();
        pointing[MIN_MESSAGE_BYTES] = 0xc0;
        assert_eq!(asked(&pointing), None);
    }

    #[test]
    fn only_an_answer_to_the_question_is_one() {
        let ours = question(&["example", "org"]);
        let mut answer = ours.clone();
        assert!(!answers_to(&ours, &answer), "it is the question");
        answer[2] |= 0x80;
        assert!(answers_to(&ours, &answer));
        let mut other = answer.clone();
        other[0] ^= 1;
        assert!(!answers_to(&ours, &other));
        let mut elsewhere = question(&["example", "net"]);
        elsewhere[2] |= 0x80;
        assert!(!answers_to(&ours, &elsewhere));
        assert!(!answers_to(&ours, &answer[..14]));
    }

    #[test]
    fn what_is_not_answered_is_refused_in_dns() {
        let ours = question(&["example", "org"]);
        let answer = refusal(&ours, SERVFAIL);
        assert!(answers_to(&ours, &answer));
        assert_eq!(answer[3] & 0x0f, SERVFAIL);
        assert_eq!(answer[4..12], [0, 1, 0, 0, 0, 0, 0, 0]);
        let nonsense = refusal(&[7; 20], FORMERR);
        assert_eq!((nonsense.len(), &nonsense[4..12]), (12, &[0; 8][..]));
    }

    #[test]
    fn servers_are_those_of_the_system() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver  ::1 \nnameserver x\nsearch a\nnameserver 1.1.1.1:5353\nnameserver 9.9.9.9\n";
        let servers: Vec<_> = servers_in(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[::1]:53", "1.1.1.1:5353"]);
    }
}
