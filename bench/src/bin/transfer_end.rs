//! One end of the transfers that `bench/transfer` measures: a server and a client over the attested channel, each a
//! process, with everything that the pipeline's own have but a document to sign and to appraise.
//!
//! Usage: transfer_end serve SOCKET ROOT
//!        transfer_end send-file|recv-file|send-dir|recv-dir SOCKET LOCAL REMOTE

use std::{convert::Infallible, env, error::Error, path::Path, time::Duration};

use channel::{
    Challenge,
    io::{ClientConfig, Denied, Gate, Peer, ServerConfig, accept, connect},
};
use pipeline::{
    frame::{FrameReader, FrameWriter, Kind},
    request::{RecvDir, RecvFile, Request, SendDir, SendFile},
    serve::{Session, Verbs},
    transfer::{
        Excludes, Meter, Place, ReceiveOptions, RemotePath, Source, Target, TransferVerbs,
        client::{download, upload},
        local_directory, local_file,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    runtime::Builder,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const IDLE: Duration = Duration::from_secs(30);

/// Lets everybody in, with something in the place of a document.
struct Open;

impl Gate for Open {
    type Admitted = ();

    async fn attest(&self, _: Challenge) -> std::result::Result<Vec<u8>, Denied> {
        Ok(vec![0; 4600])
    }

    async fn authorize(&self, _: &Peer) -> std::result::Result<(), Denied> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let words: Vec<_> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", socket, root] => {
            Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(listen(socket, root))
        }
        [verb, socket, local, remote] => {
            Builder::new_current_thread().enable_all().build()?.block_on(ask(verb, socket, local, remote))
        }
        _ => Err("usage: transfer_end serve SOCKET ROOT | VERB SOCKET LOCAL REMOTE".into()),
    }
}

async fn listen(socket: &str, root: &str) -> Result<()> {
    // As the pipeline's server does.
    sys::allocator::map_from(pipeline::server::GIVEN_BACK_BYTES);
    let listener = UnixListener::bind(socket)?;
    let (config, verbs) = (ServerConfig::generate()?, TransferVerbs::new(IDLE));
    loop {
        let (stream, _) = listener.accept().await?;
        let (config, root, verbs) = (config.clone(), root.to_owned(), verbs.clone());
        tokio::spawn(async move {
            if let Err(error) = serve(stream, &config, &root, &verbs).await {
                eprintln!("server: {error}");
            }
        });
    }
}

async fn serve(stream: UnixStream, config: &ServerConfig, root: &str, verbs: &TransferVerbs) -> Result<()> {
    let (session, _, ()) = accept(stream, config, &Open).await?;
    let (reader, writer) = tokio::io::split(session);
    let mut input = FrameReader::new(Box::new(reader) as Box<_>);
    let request = Request::decode(&input.next().await?.ok_or("no request")?.payload)?;
    let output = FrameWriter::new(Box::new(writer) as Box<_>);
    let reach = vec![RemotePath::parse(b"/")?];
    let mut session = Session { request, root: root.into(), reach, input, output };
    let done = verbs.serve(&mut session).await?;
    session.output.send(Kind::Exit, &done.exit.encode()).await?;
    session.output.shutdown().await?;
    Ok(())
}

async fn ask(verb: &str, socket: &str, local: &str, remote: &str) -> Result<()> {
    let stream = UnixStream::connect(socket).await?;
    let (mut session, ()) = connect(stream, ClientConfig::default(), |_| Ok::<_, Infallible>(())).await?;
    let (path, resume) = (remote.as_bytes().to_vec(), true);
    let (meter, options, local) = (Meter::default(), ReceiveOptions::default(), Path::new(local));
    let shown = local.as_os_str().as_encoded_bytes().to_vec();
    match verb {
        "send-file" => {
            let request = Request::SendFile(SendFile { path, mode: None, size: None, resume });
            upload(&mut session, &request, Source::File { file: local_file(local)?, shown }, meter, IDLE)
                .await?
        }
        "send-dir" => {
            let request = Request::SendDir(SendDir { path, size: None, resume });
            let (directory, excludes) = (local_directory(local)?, Excludes::default());
            upload(&mut session, &request, Source::Tree { directory, shown, excludes }, meter, IDLE).await?
        }
        "recv-file" => {
            let request = Request::RecvFile(RecvFile { path, resume });
            let target = Target::File { place: Place::local(local)?, mode: None };
            download(&mut session, &request, target, options, meter, IDLE).await?
        }
        "recv-dir" => {
            let request = Request::RecvDir(RecvDir { path, excludes: Vec::new(), resume });
            let target = Target::Tree(Place::local(local)?);
            download(&mut session, &request, target, options, meter, IDLE).await?
        }
        _ => return Err("no such verb".into()),
    };
    // The server's farewell. It may be gone before it reads this side's.
    session.read_to_end(&mut Vec::new()).await?;
    let _ = session.shutdown().await;
    Ok(())
}
