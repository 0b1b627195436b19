//! What a session holds in memory, which nobody outside can see.

use std::convert::Infallible;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::Challenge;
use crate::io::{ClientConfig, Denied, Gate, Peer, ServerConfig, accept, connect};

struct Anybody;

impl Gate for Anybody {
    type Admitted = ();

    async fn attest(&self, _: Challenge) -> Result<Vec<u8>, Denied> {
        Ok(vec![7])
    }

    async fn authorize(&self, _: &Peer) -> Result<(), Denied> {
        Ok(())
    }
}

async fn open(room: usize) -> (Session<DuplexStream>, Session<DuplexStream>) {
    let (near, far) = duplex(room);
    let config = ServerConfig::generate().unwrap();
    let client = connect(near, ClientConfig::default(), |_| Ok::<_, Infallible>(()));
    let (client, server) = tokio::join!(client, accept(far, &config, &Anybody));
    (client.unwrap().0, server.unwrap().0)
}

fn held(session: &Session<DuplexStream>) -> usize {
    let Incoming { early, buffer, kept, .. } = &session.incoming;
    early.0.capacity() + kept.capacity() + buffer.held() + session.outgoing.held()
}

/// 118 KiB for each idle connection is what plain copying loops hold; hundreds of them fill an enclave.
#[tokio::test]
async fn an_idle_session_holds_no_buffer() {
    let (mut client, mut server) = open(1 << 20).await;
    let mut data = vec![0; 200_000];
    client.write_all(&data).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(held(&client), 0);
    server.read_exact(&mut data).await.unwrap();
    // A reader that waits has nothing either.
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(10), server.read_u8()).await;
    assert!(waiting.is_err());
    assert_eq!(held(&server), 0);
}

#[tokio::test]
async fn half_a_record_is_kept_in_as_much_memory_as_it_takes() {
    let (mut client, mut server) = open(100).await;
    let sending = async {
        client.write_all(&[1; 16_000]).await.unwrap();
        client.flush().await.unwrap();
    };
    let mut heard = [0; 16_000];
    let receiving = async {
        let mut first = true;
        std::future::poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut heard);
            let poll = Pin::new(&mut server).poll_read(cx, &mut buf);
            if poll.is_pending() && !std::mem::take(&mut first) {
                assert!((1..17_000).contains(&held(&server)), "{} bytes", held(&server));
            }
            poll
        })
        .await
        .unwrap();
    };
    tokio::join!(sending, receiving);
    assert!(heard.iter().all(|byte| *byte == 1));
}
