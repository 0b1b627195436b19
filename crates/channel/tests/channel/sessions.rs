//! Open channels: what is written arrives, once, in order, and whole, or the reader is told.

use std::io::{ErrorKind, IoSlice};

use channel::io::Session;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::enclave::{Enclave, soon};

/// A channel whose stream holds at most `room` bytes each way.
async fn open(room: usize) -> (Session<DuplexStream>, Session<DuplexStream>) {
    let enclave = Enclave::new(1, None);
    let (near, far) = duplex(room);
    let (client, server) = soon(async { tokio::join!(enclave.enter(near, None), enclave.serve(far)) }).await;
    (client.unwrap(), server.unwrap().0)
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect()
}

#[tokio::test]
async fn megabytes_arrive_through_a_narrow_stream_both_ways_at_once() {
    let sent = data(3_000_000);
    for room in [100, 70_000] {
        let (client, server) = open(room).await;
        let copies = [client, server].map(|session| async {
            let (mut reader, mut writer) = tokio::io::split(session);
            let send = async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut heard = Vec::new();
            let receive = async { reader.read_to_end(&mut heard).await.unwrap() };
            tokio::join!(send, receive);
            heard
        });
        let [first, second] = copies;
        let (first, second) = soon(async { tokio::join!(first, second) }).await;
        assert!(first == sent && second == sent);
    }
}

#[tokio::test]
async fn slices_are_written_in_order_and_small_ones_together() {
    let (mut client, mut server) = open(1 << 20).await;
    let whole = data(50_000);
    let slices = [&whole[..5], &[], &whole[5..9], &whole[9..40_000], &whole[40_000..]].map(IoSlice::new);
    assert_eq!(client.write_vectored(&slices).await.unwrap(), whole.len());
    client.flush().await.unwrap();
    let mut heard = vec![0; whole.len()];
    soon(server.read_exact(&mut heard)).await.unwrap();
    assert!(heard == whole);
}

#[tokio::test]
async fn one_write_takes_at_most_a_quarter_of_a_mebibyte() {
    let (mut client, _server) = open(1 << 20).await;
    let whole = data(300_000);
    assert_eq!(client.write(&whole).await.unwrap(), 256 * 1024);
    client.flush().await.unwrap();
    let slices = [IoSlice::new(&whole[..7]), IoSlice::new(&whole)];
    assert_eq!(client.write_vectored(&slices).await.unwrap(), 256 * 1024);
}

/// Somebody who cuts the stream between two records takes away nothing that he forged, and could make half a file look whole.
#[tokio::test]
async fn a_stream_that_ends_without_saying_so_is_an_error() {
    let (mut client, mut server) = open(1 << 20).await;
    client.write_all(b"half of it").await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let mut heard = Vec::new();
    let error = soon(server.read_to_end(&mut heard)).await.unwrap_err();
    assert_eq!((error.kind(), &heard[..]), (ErrorKind::UnexpectedEof, &b"half of it"[..]));
    let error = soon(server.read_to_end(&mut heard)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "it stays one");
}

#[tokio::test]
async fn nothing_is_read_after_the_peer_has_ended() {
    let (mut client, mut server) = open(1 << 20).await;
    client.write_all(b"all").await.unwrap();
    client.shutdown().await.unwrap();
    drop(client);
    let mut heard = Vec::new();
    for expected in [3, 0, 0] {
        assert_eq!(soon(server.read_to_end(&mut heard)).await.unwrap(), expected);
    }
}

/// What arrives when the bytes of a session are `change`d on their way: the data, and how reading ended.
async fn through(length: usize, change: impl FnOnce(&mut Vec<u8>)) -> (Vec<u8>, Option<ErrorKind>) {
    let enclave = Enclave::new(1, None);
    let ((near, mut tap), (mut retap, far)) = (duplex(1 << 20), duplex(1 << 20));
    let both = async { tokio::join!(enclave.enter(near, None), enclave.serve(far)) };
    let relay = tokio::io::copy_bidirectional(&mut tap, &mut retap);
    let (mut client, mut server) = tokio::select! {
        (client, server) = both => (client.unwrap(), server.unwrap().0),
        _ = relay => panic!("nobody closes"),
    };
    client.write_all(&data(length)).await.unwrap();
    client.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    tap.read_to_end(&mut bytes).await.unwrap();
    change(&mut bytes);
    retap.write_all(&bytes).await.unwrap();
    retap.shutdown().await.unwrap();
    let mut heard = Vec::new();
    let error = server.read_to_end(&mut heard).await.err().map(|error| error.kind());
    (heard, error)
}

#[tokio::test]
async fn records_that_are_repeated_dropped_or_exchanged_are_noticed() {
    const RECORD: usize = 16_384 + 22;
    let whole = through(50_000, |_| {}).await;
    assert!(whole == (data(50_000), None));
    let twice = through(50_000, |bytes| bytes.extend_from_within(..RECORD)).await;
    assert!(twice == (data(50_000), None), "nothing is read behind the end");
    let dropped = through(50_000, |bytes| drop(bytes.drain(..RECORD))).await;
    assert_eq!(dropped, (Vec::new(), Some(ErrorKind::InvalidData)));
    let repeated = through(50_000, |bytes| {
        let first = bytes[..RECORD].to_vec();
        bytes.splice(RECORD..2 * RECORD, first);
    })
    .await;
    assert!(repeated == (data(16_384), Some(ErrorKind::InvalidData)));
    let exchanged = through(50_000, |bytes| bytes[..2 * RECORD].rotate_left(RECORD)).await;
    assert_eq!(exchanged, (Vec::new(), Some(ErrorKind::InvalidData)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_changed_or_missing_byte_never_gives_other_data(
        length in 0_usize..40_000,
        at in any::<prop::sample::Index>(),
        bit in 0..8,
        cut: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (heard, error) = runtime.block_on(soon(through(length, |bytes| {
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1_u8 << bit;
            }
        })));
        prop_assert!(error.is_some(), "the end was reached");
        prop_assert!(data(length).starts_with(&heard));
    }
}
