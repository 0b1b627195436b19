//! Names that lead where no public name should.

use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn a_name_does_not_rebind_to_a_special_address() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = trap.local_addr().unwrap().port();
    for address in [
        "127.0.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "10.0.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "::",
        "fd00:ec2::254",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:7f00:1::1",
    ] {
        let host = start(&["*:*"], &[("rebound.example", &[address])]).await;
        let expected = address.parse::<IpAddr>().unwrap().to_canonical();
        let found = status(&host, &format!("rebound.example:{port}")).await;
        assert_eq!(found, (Status::Denied, Some(expected)), "{address}");
        // The same when the enclave resolved it itself.
        let (_, reply) = ask(&host, &resolved("rebound.example", &expected.to_string(), port)).await;
        assert_eq!(reply.status, Status::Denied, "{address}");
    }
    let nobody = timeout(Duration::from_millis(100), trap.accept()).await;
    assert!(nobody.is_err(), "somebody came through: {nobody:?}");
}

#[tokio::test]
async fn of_several_addresses_only_those_that_are_allowed_are_tried() {
    let (trap, server, port) = loop {
        let trap = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = trap.local_addr().unwrap().port();
        // Somebody else may have it at that address.
        if let Ok(server) = TcpListener::bind(("127.0.0.1", port)).await {
            break (trap, server, port);
        }
    };
    let host =
        start(&["*:*", "127.0.0.1:*"], &[("mixed.example", &["127.0.0.2", "169.254.169.254", "127.0.0.1"])])
            .await;
    assert_eq!(status(&host, &format!("mixed.example:{port}")).await, (Status::Connected, ip("127.0.0.1")));
    timeout(PATIENCE, server.accept()).await.unwrap().unwrap();
    assert!(
        timeout(Duration::from_millis(400), trap.accept()).await.is_err(),
        "the forbidden address was tried"
    );
}

#[tokio::test]
async fn a_range_that_is_listed_opens_no_other() {
    let names: &[(&str, &[&str])] =
        &[("meta.example", &["169.254.169.254"]), ("link.example", &["169.254.7.7"])];
    let host = start(&["*:*", "0.0.0.0/0:*", "169.254.0.0/16:*"], names).await;
    assert_eq!(status(&host, "meta.example:80").await.0, Status::Denied);
    assert_eq!(status(&host, "169.254.169.254:80").await.0, Status::Denied);
    assert_ne!(status(&host, "link.example:80").await.0, Status::Denied);
}
