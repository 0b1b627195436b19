#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "a test may stop"
)]

use proptest::prelude::*;

use super::*;

const ID: u16 = 0x1234;

fn name(text: &str) -> DomainName {
    DomainName::from_text(text).unwrap()
}

/// A question as a stub resolver sends it.
fn question(text: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    bytes.extend(name(text).wire());
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    if let Some(payload) = edns {
        bytes.extend([0, 0, 41]);
        bytes.extend(payload.to_be_bytes());
        // With a client's subnet, which must not get outside.
        bytes.extend([0, 0, 0x80, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2]);
    }
    bytes
}

fn query(text: &str, kind: u16) -> Query {
    Query::parse(&question(text, kind, Some(1232))).unwrap()
}

struct Read {
    flags: u16,
    counts: [u16; 4],
    records: Vec<(DomainName, u16, u32, Vec<u8>)>,
}

fn read(message: &[u8]) -> Read {
    let mut reader = message::Reader::new(message);
    let header = message::Header::read(&mut reader).unwrap();
    assert_eq!(header.id, ID);
    reader.question().unwrap();
    let count = header.counts[1] + header.counts[2] + header.counts[3];
    let records = (0..count)
        .map(|_| {
            let record = reader.record().unwrap();
            (record.owner, record.kind, record.ttl_s, message[record.data.0..record.data.1].to_vec())
        })
        .collect();
    assert_eq!(reader.at, message.len());
    Read { flags: header.flags, counts: header.counts, records }
}

/// A reply with one question and records, each given by its bytes.
fn reply(query: &Query, flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [7, 0x8180 | flags, 1, u16::try_from(records.len()).unwrap(), 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(query.name.wire());
    bytes.extend(query.kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(records.concat());
    bytes
}

fn record(owner: &[u8], kind: u16, ttl_s: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    [owner, &kind.to_be_bytes(), &[0, 1], &ttl_s.to_be_bytes(), &length, data].concat()
}

/// The name of the question, as replies refer to it.
const SAME: &[u8] = &[0xc0, 12];

#[test]
fn a_question_is_read_as_it_was_meant() {
    let query = query("WwW.Example.org", kind::AAAA);
    assert_eq!((query.id, query.kind, query.edns), (ID, kind::AAAA, Some(Edns { payload_bytes: 1232 })));
    assert_eq!(query.name.to_text().as_deref(), Some("www.example.org"));
    assert_eq!(query.name, name("www.EXAMPLE.org"));
    assert_eq!(query.about(), About::Addresses);
}

#[test]
fn what_is_no_question_is_answered_so_or_not_at_all() {
    let whole = question("example.org", kind::A, None);
    assert_eq!(Query::parse(&whole[..11]), Err(Rejected::Silently));
    let code = |bytes: &[u8]| match Query::parse(bytes) {
        Err(Rejected::With(answer)) => {
            assert_eq!((answer.len(), answer[2] & 0x80), (12, 0x80));
            answer[3] & 0x0f
        }
        other => panic!("{other:?}"),
    };
    let changed = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(code(&whole[..20]), 1);
    assert_eq!(code(&changed(5, 2)), 1);
    assert_eq!(code(&changed(7, 1)), 1);
    assert_eq!(code(&changed(2, 0x28)), 4);
    // Class CHAOS.
    assert_eq!(code(&changed(whole.len() - 1, 3)), 1);
    assert_eq!(Query::parse(&changed(2, 0x81)), Err(Rejected::Silently));
}

#[test]
fn names_that_lead_in_circles_are_refused() {
    let mut bytes = question("a", kind::A, None)[..12].to_vec();
    bytes.extend([0xc0, 12, 0, 1, 0, 1]);
    assert!(matches!(Query::parse(&bytes), Err(Rejected::With(_))));
    let mut reader = message::Reader::new(&[1, b'a', 0xc0, 0, 0]);
    assert_eq!(reader.name().unwrap_err(), FormError::Name);
    reader = message::Reader { bytes: &[1, b'a', 0, 1, b'b', 0xc0, 0], at: 3 };
    assert_eq!(reader.name().unwrap(), name("b.a"));
    assert_eq!(reader.at, 7);
    // 255 bytes are a name, 256 are none.
    let long = |last: usize| format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(last));
    assert!(DomainName::from_text(&long(61)).is_some());
    assert!(DomainName::from_text(&long(62)).is_none());
    assert!(DomainName::from_text("a..b").is_none());
}

#[test]
fn text_of_a_name_is_unambiguous() {
    let odd = DomainName::from_text("a b").unwrap();
    assert_eq!(odd.to_text(), None);
    let mut reader = message::Reader::new(b"\x0bexample.org\x00");
    assert_eq!(reader.name().unwrap().to_text(), None);
    reader = message::Reader::new(b"\x00");
    assert_eq!(reader.name().unwrap().to_text(), None);
}

#[test]
fn addresses_are_answered_by_type() {
    let both: [IpAddr; 2] = ["198.19.0.0".parse().unwrap(), "fd67:6c61:7373:1::".parse().unwrap()];
    let answer = Answer::Addresses(both.to_vec());
    for (kind, expected) in [(kind::A, vec![198, 19, 0, 0]), (kind::AAAA, vec![0xfd, 0x67, 0x6c, 0x61])] {
        let read = read(&query("example.org", kind).answer(&answer, true));
        assert_eq!((read.flags, read.counts), (0x8180, [1, 1, 0, 1]));
        assert_eq!(read.records[0].1, kind);
        assert!(read.records[0].3.starts_with(&expected));
    }
    assert_eq!(read(&query("example.org", kind::ANY).answer(&answer, true)).counts, [1, 2, 0, 1]);
    let only_v4 = Answer::Addresses(both[..1].to_vec());
    let read = read(&query("example.org", kind::AAAA).answer(&only_v4, true));
    assert_eq!((read.flags & 15, read.counts, read.records[0].1), (0, [1, 0, 1, 1], kind::SOA));
}

#[test]
fn a_forbidden_name_does_not_exist_and_says_why() {
    let forbidden = read(&query("evil.example", kind::A).answer(&Answer::Forbidden, true));
    assert_eq!((forbidden.flags & 15, forbidden.counts), (3, [1, 0, 1, 1]));
    assert_eq!((forbidden.records[0].1, forbidden.records[0].2), (kind::SOA, NEGATIVE_TTL_S));
    assert_eq!(forbidden.records[1].3, [0, 15, 0, 2, 0, 15]);
    let plain = Query::parse(&question("evil.example", kind::A, None)).unwrap();
    assert_eq!(read(&plain.answer(&Answer::Forbidden, true)).counts, [1, 0, 1, 0]);
    let failed = read(&plain.answer(&Answer::Failed, true));
    assert_eq!((failed.flags & 15, failed.counts), (2, [1, 0, 0, 0]));
}

#[test]
fn an_address_is_asked_back_for_its_name() {
    assert_eq!(
        query("1.0.19.198.in-addr.arpa", kind::PTR).about(),
        About::NameOf("198.19.0.1".parse().unwrap())
    );
    let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.3.7.3.7.1.6.c.6.7.6.d.f.ip6.arpa";
    assert_eq!(query(six, kind::PTR).about(), About::NameOf("fd67:6c61:7373:1::1".parse().unwrap()));
    for other in [
        "0.19.198.in-addr.arpa",
        "1.1.0.19.198.in-addr.arpa",
        "256.0.0.1.in-addr.arpa",
        "1.ip6.arpa",
        "x.org",
    ] {
        assert_eq!(query(other, kind::PTR).about(), About::Nothing, "{other}");
    }
    let back = query("1.0.19.198.in-addr.arpa", kind::PTR);
    let read = read(&back.answer(&Answer::Name(name("api.example.com")), true));
    assert_eq!((read.counts[1], &read.records[0].3[..]), (1, name("api.example.com").wire()));
}

#[test]
fn nothing_of_the_program_goes_outside_but_name_and_type() {
    let query = query("Mail.Example.org", kind::MX);
    let upstream = query.upstream(7);
    assert_eq!(upstream[..12], [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(upstream[12..30], *name("mail.example.org").wire());
    assert_eq!(upstream[30..], [0, 15, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_answer_is_written_anew_without_what_was_not_asked_for() {
    let query = query("example.org", kind::MX);
    let exchange = [&[0, 10, 4], &b"mail"[..], SAME].concat();
    let bytes = reply(
        &query,
        0,
        &[
            record(SAME, kind::MX, 999_999, &exchange),
            record(SAME, kind::A, 60, &[6, 6, 6, 6]),
            record(name("other.example").wire(), kind::MX, 60, &exchange),
        ],
    );
    let read = read(&query.relay(7, &bytes, true).unwrap());
    assert_eq!((read.flags, read.counts), (0x8180, [1, 1, 0, 1]));
    let (owner, kind, ttl, data) = &read.records[0];
    assert_eq!((owner, *kind, *ttl), (&name("example.org"), kind::MX, MAX_TTL));
    assert_eq!(data[..], [&[0, 10][..], name("mail.example.org").wire()].concat());
}

const MAX_TTL: u32 = 3600;

#[test]
fn chains_of_names_are_followed() {
    let query = query("a.example", kind::TXT);
    let (b, c) = (name("b.example"), name("c.example"));
    let bytes = reply(
        &query,
        0,
        &[
            record(SAME, kind::CNAME, 5, b.wire()),
            record(b.wire(), kind::CNAME, 5, c.wire()),
            record(SAME, kind::TXT, 5, b"\x04late"),
            record(c.wire(), kind::TXT, 5, b"\x02ok"),
        ],
    );
    let read = read(&query.relay(7, &bytes, true).unwrap());
    let texts: Vec<_> = read.records.iter().filter(|r| r.1 == kind::TXT).map(|r| &r.3[..]).collect();
    assert_eq!((read.counts[1], texts), (3, vec![&b"\x02ok"[..]]));
}

/// Programs connect to the addresses in these records without asking for the target's.
#[test]
fn address_hints_are_taken_out() {
    for kind in [kind::HTTPS, kind::SVCB] {
        let query = query("example.org", kind);
        let data = [
            &[0, 1, 0][..],
            &[0, 1, 0, 3, 2, b'h', b'2'],
            &[0, 4, 0, 4, 6, 6, 6, 6],
            &[0, 5, 0, 1, 9],
            &[0, 6, 0, 16],
            &[6; 16],
        ]
        .concat();
        let bytes = reply(&query, 0, &[record(SAME, kind, 5, &data)]);
        let read = read(&query.relay(7, &bytes, true).unwrap());
        assert_eq!(read.records[0].3, [0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2', 0, 5, 0, 1, 9]);
        let cut = reply(&query, 0, &[record(SAME, kind, 5, &data[..data.len() - 1])]);
        assert_eq!(query.relay(7, &cut, true), Err(FormError::Truncated));
    }
}

#[test]
fn answers_to_other_questions_are_refused() {
    let query = query("example.org", kind::TXT);
    let good = reply(&query, 0, &[record(SAME, kind::TXT, 5, b"\x02ok")]);
    assert!(query.relay(7, &good, true).is_ok());
    assert_eq!(query.relay(8, &good, true), Err(FormError::OtherQuestion));
    assert_eq!(self::query("example.com", kind::TXT).relay(7, &good, true), Err(FormError::OtherQuestion));
    assert_eq!(self::query("example.org", kind::MX).relay(7, &good, true), Err(FormError::OtherQuestion));
    assert_eq!(query.relay(7, &query.upstream(7), true), Err(FormError::OtherQuestion));
    assert_eq!(query.relay(7, &reply(&query, 0x200, &[]), true), Err(FormError::Cut));
    assert_eq!(query.relay(7, &reply(&query, 5, &[]), true), Err(FormError::Code(5)));
    let none = read(&query.relay(7, &reply(&query, 3, &[]), true).unwrap());
    assert_eq!((none.flags & 15, none.counts, none.records[0].1), (3, [1, 0, 1, 1], kind::SOA));
    for length in 0..good.len() {
        assert!(query.relay(7, &good[..length], true).is_err(), "{length}");
    }
}

#[test]
fn a_long_answer_is_cut_by_udp_and_whole_by_tcp() {
    let query = query("example.org", kind::TXT);
    let text = [&[200][..], &[b'x'; 200]].concat();
    let bytes = reply(&query, 0, &vec![record(SAME, kind::TXT, 5, &text); 10]);
    let cut = query.relay(7, &bytes, true).unwrap();
    let read_cut = read(&cut);
    assert_eq!((read_cut.flags & 0x0200, read_cut.counts), (0x0200, [1, 0, 0, 1]));
    let whole = read(&query.relay(7, &bytes, false).unwrap());
    assert_eq!((whole.flags & 0x0200, whole.counts[1]), (0, 10));
    let plain = Query::parse(&question("example.org", kind::TXT, None)).unwrap();
    assert_eq!(plain.udp_limit(), 512);
}

proptest! {
    #[test]
    fn any_bytes_are_a_question_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(query) = Query::parse(&bytes) {
            prop_assert!(query.answer(&Answer::Forbidden, true).len() <= query.udp_limit());
        }
    }

    #[test]
    fn any_reply_is_an_answer_or_not(
        records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        kind in prop_oneof![Just(kind::MX), Just(kind::SRV), Just(kind::HTTPS), Just(kind::TXT), Just(kind::CNAME)],
    ) {
        let query = query("example.org", kind);
        let records: Vec<_> = records.iter().map(|data| record(SAME, kind, 1, data)).collect();
        if let Ok(answer) = query.relay(7, &reply(&query, 0, &records), false) {
            prop_assert_eq!(usize::from(read(&answer).counts[1]), records.len());
        }
    }

    #[test]
    fn a_name_comes_back_from_the_wire(labels in proptest::collection::vec("[a-z0-9_-]{1,20}", 1..6)) {
        let text = labels.join(".");
        let query = query(&text, kind::A);
        prop_assert_eq!(query.name.to_text(), Some(text));
    }
}
