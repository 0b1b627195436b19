//! The agent over HTTP, on one thread as its program has it, beside a node and an enclave's server with a simulated module on theirs; clients are
//! threads of this process, each with a connection of its own. A path that does nothing shows what HTTP leaves.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use anyhow::Context as _;
use axum::{Json, Router, routing::post};
use nsm::{
    PcrIndex,
    sim::{DevelopmentRoot, SimulatedNsm},
};
use serde_json::{Value, json};
use tee_agent::{
    config::Config,
    eth::AgentKey,
    evidence::Enclave,
    log::{Kept, Log, Options},
    serve::serve,
    server::{Agent, router},
};
use tokio::{net::TcpListener, runtime::Builder};

use crate::{Result, folder, line, seconds};

const CLIENTS: usize = 16;
const GOAL: f64 = 2_000.0;

const CONFIG: &str = r#"
tee_name = "bench"
operator = "24653eac434488002cc06bbfb7f10fe18991e35f9fe4302dbea6d2353dc0ab1c119fc5009a032aa9fe47f5e149bb8442f71f884ccb516590686d8ff6ab91c613"
[transactions]
open = true
[[transactions.chain]]
id = 84532
rpc = ["NODE"]
max_gas_price = "2000000000"
per_transaction = "10000000000000000"
total = "1000000000000000000000000"
[[transactions.chain.destination]]
address = "0x86693CbE3f2581DF512635823F46f0d593D96dbA"
"#;

pub(crate) fn run() -> Result {
    let folder = folder()?;
    let api = folder.path().join("api.sock");
    enclave(folder.path(), &api)?;
    let node = node()?;
    let agent = agent(CONFIG.replace("NODE", &format!("http://{node}")), api, folder.path().join("log"))?;
    let transfer = json!({"to": "0x86693CbE3f2581DF512635823F46f0d593D96dbA", "value": 3});
    let mut whole = transfer.clone();
    for (name, value) in [("nonce", 1_u64), ("gas", 21_000), ("gas_price", 1_000_395)] {
        whole[name] = value.into();
    }
    let sign = |transaction: &Value| {
        Request::post("/api/v1/sign-transaction", &json!({"transaction": transaction, "broadcast": false}))
    };
    let nonce = Request::get("/api/v1/config?nonce=000102030405060708090a0b0c0d0e0f");
    println!("{CLIENTS} clients, each with one connection, on the agent's machine:");
    for (name, request, goal) in [
        ("a path that does nothing", Request::get("/healthz"), None),
        ("config", Request::get("/api/v1/config"), Some(GOAL)),
        ("config with a nonce: a document each, by a simulated module", nonce, None),
        ("sign-transaction, all of it given", sign(&whole), Some(GOAL)),
        ("sign-transaction, nonce and price asked of a node", sign(&transfer), None),
    ] {
        line(name, load(agent, &request)?, "a second", goal);
    }
    Ok(())
}

#[derive(Clone)]
struct Request(String);

impl Request {
    fn get(path: &str) -> Self {
        Self(format!("GET {path} HTTP/1.1\r\nhost: agent\r\n\r\n"))
    }

    fn post(path: &str, body: &Value) -> Self {
        let body = body.to_string();
        Self(format!("POST {path} HTTP/1.1\r\nhost: agent\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }
}

/// Answers with status 200 in a second.
fn load(agent: SocketAddr, request: &Request) -> Result<f64> {
    let begun = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let request = request.clone();
            thread::spawn(move || client(agent, &request))
        })
        .collect();
    let mut answers = 0;
    for client in clients {
        answers += client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    Ok(answers as f64 / begun.elapsed().as_secs_f64())
}

fn client(agent: SocketAddr, Request(request): &Request) -> Result<u64> {
    let stream = TcpStream::connect(agent)?;
    stream.set_nodelay(true)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let (begun, limit, mut count) = (Instant::now(), seconds(), 0);
    let mut body = Vec::new();
    while begun.elapsed() < limit {
        stream.write_all(request.as_bytes())?;
        let (mut status, mut length) = (String::new(), 0);
        answers.read_line(&mut status)?;
        let mut field = String::new();
        while answers.read_line(&mut field)? > 2 {
            if let Some(digits) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                length = digits.trim().parse()?;
            }
            field.clear();
        }
        body.resize(length, 0);
        answers.read_exact(&mut body)?;
        anyhow::ensure!(status.contains(" 200 "), "{status}{}", String::from_utf8_lossy(&body));
        count += 1;
    }
    Ok(count)
}

/// Runs a server on a thread of its own, for as long as the process; returns what it says once it serves.
fn on_a_thread<T: Send + 'static>(
    serve: impl AsyncFnOnce(mpsc::Sender<T>) -> Result + Send + 'static,
) -> Result<T> {
    let (sender, ready) = mpsc::channel();
    let _server = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(serve(sender))
    });
    ready.recv().context("a server did not start")
}

fn agent(config: String, api: std::path::PathBuf, log: std::path::PathBuf) -> Result<SocketAddr> {
    on_a_thread(async move |ready| {
        let config = Config::parse(&config)?;
        let enclave = Arc::new(Enclave::at(api));
        let kept = Some(Kept { file: log, key: None });
        let log = Log::open(&config.tee_name, &Options { kept, ..Options::default() }, &*enclave).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ready.send(listener.local_addr()?)?;
        serve(
            listener,
            router(Agent::new(config, AgentKey::generate()?, enclave, log)),
            std::future::pending(),
        )
        .await;
        Ok(())
    })
}

fn enclave(folder: &std::path::Path, api: &std::path::Path) -> Result {
    let root = DevelopmentRoot::load_or_create(folder)?;
    let pcr0 = (PcrIndex::new(0_u8).context("PCR0")?, [1; 48]);
    let module = SimulatedNsm::new(&root, "i-0-enc0", &[pcr0])?;
    let config = ra_web_srv::Config { api: Some(api.to_owned()), ..Default::default() };
    on_a_thread(async move |ready| {
        let server = ra_web_srv::Server::bind(config, Arc::new(module)).await?;
        ready.send(())?;
        server.run(std::future::pending()).await?;
        Ok(())
    })
}

fn node() -> Result<SocketAddr> {
    on_a_thread(async |ready| {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ready.send(listener.local_addr()?)?;
        let router =
            Router::new().route("/", post(async |Json(question): Json<Value>| Json(answer(&question))));
        axum::serve(listener, router).await?;
        Ok(())
    })
}

fn answer(question: &Value) -> Value {
    let result = match question["method"].as_str() {
        Some("eth_chainId") => "0x14a34",
        Some("eth_gasPrice") => "0xf43cb",
        _ => "0x80",
    };
    json!({"jsonrpc": "2.0", "id": question["id"], "result": result})
}
