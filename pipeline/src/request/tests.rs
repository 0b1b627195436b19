#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use proptest::{collection::vec, option::of, prelude::*};

use super::*;

fn word() -> impl Strategy<Value = Vec<u8>> {
    vec(1_u8..=255, 1..20)
}

fn program() -> impl Strategy<Value = Program> {
    prop_oneof![vec(word(), 1..5).prop_map(Program::Words), word().prop_map(Program::Script)]
}

fn setting() -> impl Strategy<Value = Setting> {
    let variable = ("[A-Z]{1,5}", word()).prop_map(|(name, value)| [name.as_bytes(), b"=", &value].concat());
    let cwd = word().prop_map(|word| [b"/", &word[..]].concat());
    (vec(variable, 0..4), of(cwd), of("[a-z0-9:]{1,12}")).prop_map(|(env, cwd, user)| Setting {
        env,
        cwd,
        user,
    })
}

fn terminal() -> impl Strategy<Value = Terminal> {
    ("[a-z0-9-]{1,20}", any::<(u16, u16)>())
        .prop_map(|(term, (columns, rows))| Terminal { term, size: WindowSize { columns, rows } })
}

fn request() -> impl Strategy<Value = Request> {
    let run = (program(), setting(), any::<Option<NonZeroU64>>(), of(terminal()), any::<bool>()).prop_map(
        |(program, setting, timeout_ms, terminal, no_wait)| {
            let no_wait = no_wait && terminal.is_none();
            Request::Run(Run { program, setting, timeout_ms, terminal, no_wait })
        },
    );
    let shell = (of(program()), setting(), terminal())
        .prop_map(|(program, setting, terminal)| Request::Shell(Shell { program, setting, terminal }));
    let id = || any::<u64>().prop_map(RunId);
    let service = "[a-z@][a-z0-9-]{0,20}";
    prop_oneof![
        run,
        shell,
        (word(), of(0_u32..=0o7777), any::<Option<u64>>(), any::<bool>())
            .prop_map(|(path, mode, size, resume)| Request::SendFile(SendFile { path, mode, size, resume })),
        (word(), any::<bool>()).prop_map(|(path, resume)| Request::RecvFile(RecvFile { path, resume })),
        (word(), any::<Option<u64>>(), any::<bool>())
            .prop_map(|(path, size, resume)| Request::SendDir(SendDir { path, size, resume })),
        (word(), vec(word(), 0..4), any::<bool>())
            .prop_map(|(path, excludes, resume)| Request::RecvDir(RecvDir { path, excludes, resume })),
        Just(Request::Services),
        service.prop_map(|service| Request::ServiceRestart { service }),
        service.prop_map(|service| Request::ServiceLogs { service }),
        of(id()).prop_map(|id| Request::Status { id }),
        (id(), any::<bool>()).prop_map(|(id, follow)| Request::Logs { id, follow }),
        (id(), 1_u8..=64).prop_map(|(id, signal)| Request::Kill { id, signal }),
        (1_u64..).prop_map(|from| Request::Transcript { from }),
        Just(Request::Seal),
        Just(Request::Secrets),
        "[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}".prop_map(|secret| Request::SecretSet { secret }),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(request in request()) {
        prop_assert_eq!(Request::decode(&request.encode().unwrap()).unwrap(), request);
    }

    #[test]
    fn what_is_decoded_has_one_encoding(bytes: Vec<u8>) {
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn a_changed_byte_is_another_request_or_none(request in request(), at: prop::sample::Index, bit in 0_u8..8) {
        let mut bytes = request.encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Request::decode(&bytes) {
            prop_assert_ne!(&other, &request);
            prop_assert_eq!(other.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn a_part_is_no_request(request in request(), cut: prop::sample::Index) {
        let bytes = request.encode().unwrap();
        prop_assert!(Request::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

fn run(words: &[&[u8]]) -> Run {
    Run {
        program: Program::Words(words.iter().map(|word| word.to_vec()).collect()),
        setting: Setting::default(),
        timeout_ms: None,
        terminal: None,
        no_wait: false,
    }
}

fn field_of(refused: Result<Vec<u8>, RequestError>) -> &'static str {
    match refused {
        Err(RequestError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_that_the_kernel_would_cut_short_are_refused() {
    assert_eq!(field_of(Request::Run(run(&[])).encode()), "argv");
    assert_eq!(field_of(Request::Run(run(&[b""])).encode()), "argv");
    assert_eq!(field_of(Request::Run(run(&[b"ls", b"a\0b"])).encode()), "argv");
    for variable in [&b"noequals"[..], b"=x", b"A=\0"] {
        let setting = Setting { env: vec![variable.to_vec()], ..Setting::default() };
        assert_eq!(field_of(Request::Run(Run { setting, ..run(&[b"ls"]) }).encode()), "env");
    }
    let setting = Setting { cwd: Some(b"relative".to_vec()), ..Setting::default() };
    assert_eq!(field_of(Request::Run(Run { setting, ..run(&[b"ls"]) }).encode()), "cwd");
    let long = RecvFile { path: vec![b'a'; MAX_PATH_BYTES + 1], resume: false };
    assert_eq!(field_of(Request::RecvFile(long).encode()), "path");
    assert_eq!(field_of(Request::Kill { id: RunId(1), signal: 65 }.encode()), "signal");
}

#[test]
fn a_terminal_needs_somebody_before_it() {
    let terminal = Terminal { term: "xterm".into(), size: WindowSize { columns: 80, rows: 24 } };
    let request = Request::Run(Run { terminal: Some(terminal), no_wait: true, ..run(&[b"ls"]) });
    assert_eq!(field_of(request.encode()), "terminal");
}

#[test]
fn a_request_over_the_limit_is_not_made() {
    let word = vec![b'a'; MAX_REQUEST_BYTES];
    assert!(matches!(Request::Run(run(&[&word])).encode(), Err(RequestError::TooLong { .. })));
}

/// A list that claims 2^60 items must not be given room for them.
#[test]
fn a_claimed_length_is_not_believed() {
    let bytes = [0xa3, 0, 1, 1, 0x63, b'r', b'u', b'n', 2, 0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0];
    assert!(matches!(Request::decode(&bytes), Err(RequestError::Cbor(_))));
}

#[test]
fn fields_of_other_verbs_are_refused() {
    // {0: 1, 1: "seal", 15: 1}
    let bytes = [0xa3, 0, 1, 1, 0x64, b's', b'e', b'a', b'l', 15, 1];
    assert!(matches!(Request::decode(&bytes), Err(RequestError::NotCanonical)));
}
