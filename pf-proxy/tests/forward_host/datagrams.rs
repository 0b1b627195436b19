//! Associations for datagrams.

use egress::wire::{DatagramHead, MAX_DATAGRAM_BYTES};
use tokio::net::UdpSocket;

use super::*;

async fn send(stream: &mut Stream, datagram: &[u8]) {
    let head = DatagramHead::Datagram(datagram.len()).encode().unwrap();
    stream.write_all(&[&head, datagram].concat()).await.unwrap();
}

async fn receive(stream: &mut Stream) -> Option<Vec<u8>> {
    let mut head = [0; 2];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().unwrap();
    let DatagramHead::Datagram(length) = DatagramHead::decode(head).unwrap() else { return None };
    let mut datagram = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut datagram)).await.unwrap().unwrap();
    Some(datagram)
}

#[tokio::test]
async fn datagrams_keep_their_borders() {
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = format!("udp:{}", peer.local_addr().unwrap());
    let host = start(&["udp:127.0.0.1:*"], &[]).await;
    let (mut stream, reply) = ask(&host, &request(&target)).await;
    assert_eq!(reply, Reply { status: Status::Connected, address: ip("127.0.0.1") });
    for datagram in [b"one".to_vec(), Vec::new(), vec![7; 1200], vec![9; MAX_DATAGRAM_BYTES]] {
        send(&mut stream, &datagram).await;
        let mut arrived = vec![0; 1 << 16];
        let (length, from) = timeout(PATIENCE, peer.recv_from(&mut arrived)).await.unwrap().unwrap();
        assert_eq!(arrived[..length], datagram);
        peer.send_to(&arrived[..length], from).await.unwrap();
        assert_eq!(receive(&mut stream).await, Some(datagram));
    }
}

#[tokio::test]
async fn only_the_peer_is_heard() {
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let host = start(&["udp:127.0.0.1:*"], &[]).await;
    let (mut stream, _) = ask(&host, &request(&format!("udp:{}", peer.local_addr().unwrap()))).await;
    send(&mut stream, b"hello").await;
    let (_, from) = timeout(PATIENCE, peer.recv_from(&mut [0; 16])).await.unwrap().unwrap();
    stranger.send_to(b"forged", from).await.unwrap();
    peer.send_to(b"true", from).await.unwrap();
    assert_eq!(receive(&mut stream).await.as_deref(), Some(&b"true"[..]));
}

#[tokio::test]
async fn a_port_that_nobody_has_is_told() {
    let closed = deaf().await;
    let target = format!("udp:{}", closed.local_addr().unwrap());
    let host = start(&["udp:127.0.0.1:*"], &[]).await;
    let (mut stream, _) = ask(&host, &request(&target)).await;
    send(&mut stream, b"anybody?").await;
    assert_eq!(receive(&mut stream).await, None);
}

#[tokio::test]
async fn an_association_ends_with_its_stream_and_with_silence() {
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = format!("udp:{}", peer.local_addr().unwrap());
    let options =
        HostOptions { udp_idle: Duration::from_millis(200), max_associations: 1, ..HostOptions::default() };
    let host = serve(&unused_address(), guard(&["udp:127.0.0.1:*"]), options, None).await;
    let (mut silent, _) = ask(&host, &request(&target)).await;
    let mut rest = Vec::new();
    timeout(PATIENCE, silent.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());

    let place = async {
        while status(&host, &target).await.0 == Status::Busy {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, place).await.expect("the silent one's place is free");
    let host = start(&["udp:127.0.0.1:*"], &[]).await;
    let (mut nonsense, reply) = ask(&host, &request(&target)).await;
    assert_eq!(reply.status, Status::Connected);
    nonsense.write_all(&[0xff, 0xff]).await.unwrap();
    timeout(PATIENCE, nonsense.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
}
