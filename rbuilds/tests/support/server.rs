//! A registry that misbehaves as a test wants it to.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use super::{LayoutDir, MANIFEST};

/// A request: its path and its headers, names in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.headers.get("authorization").map(String::as_str)
    }

    pub(crate) fn from(&self) -> usize {
        let range = self.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |from| from.parse().unwrap())
    }
}

/// What the server sends: everything, and then the connection ends.
pub(crate) type Answer = Vec<u8>;

pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Answer {
    let head =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A registry that serves a layout's blobs, unless its handler has something else to say.
pub(crate) struct Server {
    pub(crate) host: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// The handler is given the request and how many were made for the same path before.
    pub(crate) fn start(
        layout: &LayoutDir,
        handler: impl Fn(&Request, usize) -> Option<Answer> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let manifest = layout.index[0]["digest"].as_str().unwrap().to_owned();
        let blobs = layout.root.join("blobs/sha256");
        // Ends with the test program.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read_request(&stream) else { continue };
                let mut requests: std::sync::MutexGuard<'_, Vec<Request>> = seen.lock().unwrap();
                let before = requests.iter().filter(|other| other.path == request.path).count();
                requests.push(request.clone());
                drop(requests);
                let answer = handler(&request, before).unwrap_or_else(|| serve(&blobs, &manifest, &request));
                // A client that had enough goes away.
                let _ = stream.write_all(&answer);
            }
        });
        Self { host, requests }
    }

    pub(crate) fn image(&self) -> String {
        format!("{{ registry = \"{}/web:1\" }}", self.host)
    }

    pub(crate) fn requests(&self, part: &str) -> Vec<Request> {
        self.requests.lock().unwrap().iter().filter(|r| r.path.contains(part)).cloned().collect()
    }
}

pub(crate) fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    });
    Some(Request { headers: headers.collect(), path })
}

pub(crate) fn serve(blobs: &Path, manifest: &str, request: &Request) -> Answer {
    let name = request.path.rsplit('/').next().unwrap();
    let name = if name == "1" { manifest } else { name };
    let Ok(bytes) = fs::read(blobs.join(name.trim_start_matches("sha256:"))) else {
        return answer("404 Not Found", "", b"");
    };
    match request.from() {
        0 => answer("200 OK", &format!("content-type: {MANIFEST}\r\n"), &bytes),
        from => {
            let range = format!("content-range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            answer("206 Partial Content", &range, &bytes[from..])
        }
    }
}
