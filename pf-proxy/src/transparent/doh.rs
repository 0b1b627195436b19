//! One question by DNS over HTTPS (RFC 8484), over a connection that is encrypted already.
//!
//! HTTP/2 where the server has it, as the RFC recommends, HTTP/1.1 where not. The question is the body of a POST: it is in
//! no URL that somebody may keep.

use std::future::Future;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

/// What a DNS message is called in HTTP.
const MESSAGE: &str = "application/dns-message";

/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = u16::MAX as usize;

/// What the server may speak, by preference (RFC 7301).
pub(super) fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

/// Where questions go.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Name or address, and the port if it is not the usual one.
    pub(super) authority: String,
    pub(super) path: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("HTTP failed")]
    Hyper(#[from] hyper::Error),
    #[error("the resolver's URL cannot be asked for")]
    Request(#[from] hyper::http::Error),
    #[error("the resolver answered with HTTP status {0}")]
    Status(u16),
    #[error("what the resolver answered is not {MESSAGE}")]
    ContentType,
    #[error("the answer is too long, or broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Puts one question. `is_http2` is what both ends agreed on.
pub(super) async fn exchange<S>(
    stream: S,
    is_http2: bool,
    place: &Place,
    question: &[u8],
) -> Result<Vec<u8>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let body = Full::new(Bytes::copy_from_slice(question));
    let post = Request::post(uri(is_http2, place)?).header(CONTENT_TYPE, MESSAGE).header(ACCEPT, MESSAGE);
    if is_http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        let request = post.body(body)?;
        beside(connection, async { read(sender.send_request(request).await?).await }).await
    } else {
        let (mut sender, connection) = http1::handshake(io).await?;
        let request = post.header(HOST, &place.authority).body(body)?;
        beside(connection, async { read(sender.send_request(request).await?).await }).await
    }
}

fn uri(is_http2: bool, place: &Place) -> Result<Uri, hyper::http::Error> {
    let Place { authority, path } = place;
    if !is_http2 {
        return Uri::builder().path_and_query(path.as_str()).build();
    }
    Uri::builder().scheme("https").authority(authority.as_str()).path_and_query(path.as_str()).build()
}

/// Waits for the answer, and keeps the connection going meanwhile.
async fn beside<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    tokio::pin!(connection, answer);
    let mut goes_on = true;
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            // The answer may have come with the end.
            ended = &mut connection, if goes_on => {
                ended?;
                goes_on = false;
            }
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<Vec<u8>, HttpError> {
    if response.status() != 200 {
        return Err(HttpError::Status(response.status().as_u16()));
    }
    if response.headers().get(CONTENT_TYPE).is_none_or(|found| found != MESSAGE) {
        return Err(HttpError::ContentType);
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    Ok(body.map_err(HttpError::Body)?.to_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use hyper::service::service_fn;
    use hyper_util::server::conn::auto;

    use super::*;

    /// A server that answers as the path asks it to.
    async fn ask(is_http2: bool, path: &str) -> Result<Vec<u8>, HttpError> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let serve = async |request: Request<Incoming>| {
            let path = request.uri().path().to_owned();
            let host = request.uri().host().map(str::to_owned);
            let host = host.or_else(|| request.headers().get(HOST).map(|h| h.to_str().unwrap().to_owned()));
            assert_eq!(host.as_deref(), Some("dns.test"));
            let question = request.into_body().collect().await.unwrap().to_bytes();
            let long = Bytes::from(vec![0; MAX_ANSWER_BYTES + 1]);
            let response = Response::builder();
            let response = match path.as_str() {
                "/gone" => response.status(404).body(Full::default()),
                "/page" => response.header(CONTENT_TYPE, "text/html").body(Full::new(question)),
                "/long" => response.header(CONTENT_TYPE, MESSAGE).body(Full::new(long)),
                _ => response.header(CONTENT_TYPE, MESSAGE).body(Full::new(question)),
            };
            Ok::<_, Infallible>(response.unwrap())
        };
        let server = async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            // Ends as the client does.
            let _ = builder.serve_connection(TokioIo::new(far), service_fn(serve)).await;
            std::future::pending::<()>().await;
        };
        let place = Place { authority: "dns.test".into(), path: path.into() };
        let asking = tokio::time::timeout(
            Duration::from_secs(60),
            exchange(near, is_http2, &place, b"a question of some length"),
        );
        tokio::select! { answer = asking => answer.unwrap(), () = server => unreachable!() }
    }

    #[tokio::test]
    async fn a_question_is_answered_over_both_versions() {
        for is_http2 in [false, true] {
            let answer = ask(is_http2, "/dns-query").await.unwrap();
            assert_eq!(answer, b"a question of some length", "HTTP/2: {is_http2}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for is_http2 in [false, true] {
            assert!(matches!(ask(is_http2, "/gone").await, Err(HttpError::Status(404))));
            assert!(matches!(ask(is_http2, "/page").await, Err(HttpError::ContentType)));
            assert!(matches!(ask(is_http2, "/long").await, Err(HttpError::Body(_))));
        }
    }
}
