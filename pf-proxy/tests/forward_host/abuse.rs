//! Enclaves that do not do as they should.

use tokio::net::TcpListener;

use super::*;

/// A client that sends the header one byte a minute keeps a place for nothing; here in a shorter time.
#[tokio::test]
async fn a_request_that_trickles_in_is_cut_off() {
    let options = HostOptions { request_timeout: Duration::from_millis(300), ..HostOptions::default() };
    let host = serve(&unused_address(), guard(&["*:*"]), options, None).await;
    let mut stream = Stream::connect(&host.addr, PATIENCE).await.unwrap();
    let trickle = async {
        for byte in request("a.example:443").encode() {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut answer = Vec::new();
        // Whatever ends it, it is no reply.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "the host waited and answered {answer:?}");
    };
    timeout(PATIENCE, trickle).await.unwrap();
}

#[tokio::test]
async fn nonsense_is_answered_and_closed() {
    let host = start(&["*:*"], &[]).await;
    let mut unknown = request("a.example:443").encode();
    unknown[4] = 9;
    for nonsense in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), unknown, vec![0xff; 300]] {
        let mut stream = Stream::connect(&host.addr, PATIENCE).await.unwrap();
        stream.write_all(&nonsense).await.unwrap();
        assert_eq!(reply(&mut stream).await.status, Status::BadRequest);
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty());
    }
    // An enclave that is gone before it has asked leaves the host as it was.
    drop(Stream::connect(&host.addr, PATIENCE).await.unwrap());
    assert_eq!(status(&host, "a.example:443").await.0, Status::NameNotFound);
}

#[tokio::test]
async fn beyond_the_limit_the_host_is_busy_and_later_not() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = server.local_addr().unwrap().to_string();
    let options = HostOptions { max_connections: 1, ..HostOptions::default() };
    let host = serve(&unused_address(), guard(&["127.0.0.1:*"]), options, None).await;
    let (first, reply) = ask(&host, &request(&target)).await;
    assert_eq!(reply.status, Status::Connected);
    assert_eq!(status(&host, &target).await.0, Status::Busy);
    let (served, _) = server.accept().await.unwrap();
    drop((first, served));
    let again = async {
        while status(&host, &target).await.0 == Status::Busy {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn associations_have_a_limit_of_their_own() {
    let options = HostOptions { max_associations: 1, ..HostOptions::default() };
    let host = serve(&unused_address(), guard(&["udp:127.0.0.1:*"]), options, None).await;
    let (_first, reply) = ask(&host, &request("udp:127.0.0.1:9")).await;
    assert_eq!(reply.status, Status::Connected);
    assert_eq!(status(&host, "udp:127.0.0.1:9").await.0, Status::Busy);
}

/// An enclave that dials its own way out would go round in circles until every place is taken.
#[tokio::test]
async fn the_way_out_does_not_lead_to_itself() {
    let listen = Addr::Tcp("127.0.0.1:0".to_owned());
    let names: &[(&str, &[&str])] = &[("self.example", &["127.0.0.1"])];
    let host =
        serve(&listen, guard(&["*:*", "127.0.0.0/8:*"]), HostOptions::default(), Some(fixed(names))).await;
    let Addr::Tcp(own) = &host.addr else { panic!("{}", host.addr) };
    let port = own.rsplit_once(':').unwrap().1;
    for target in [own.clone(), format!("self.example:{port}")] {
        assert_eq!(status(&host, &target).await.0, Status::Denied, "{target}");
    }
}

#[tokio::test]
async fn open_connections_have_a_time_of_grace_at_the_end() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = server.local_addr().unwrap().to_string();
    let options = HostOptions { grace: Duration::from_millis(200), ..HostOptions::default() };
    let host = Host::bind(&unused_address(), guard(&["127.0.0.1:*"]), options).await.unwrap();
    let addr = host.local_addr().clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(host.run(async move { drop(stopped.await) }));
    let mut stream = Stream::connect(&addr, PATIENCE).await.unwrap();
    stream.write_all(&request(&target).encode()).await.unwrap();
    assert_eq!(reply(&mut stream).await.status, Status::Connected);
    stop.send(()).unwrap();
    let summary = timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    assert_eq!((summary.requests, summary.connected, summary.denied), (1, 1, 0));
}
