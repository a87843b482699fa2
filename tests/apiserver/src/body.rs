//! Response bodies: whole, or streamed and able to break off.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Response,
    body::{Body, Bytes, Frame},
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::status::{self, Failure};

pub(crate) type Answer = Response<BoxBody<Bytes, io::Error>>;

/// A body fed through a channel; an error in it breaks the connection off without a last chunk.
struct Streamed(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|part| part.map(|bytes| bytes.map(Frame::data)))
    }
}

fn full(bytes: impl Into<Bytes>) -> BoxBody<Bytes, io::Error> {
    let never = |never: Infallible| match never {};
    Full::new(bytes.into()).map_err(never).boxed()
}

pub(crate) fn json(code: u16, value: &Value) -> Answer {
    let mut answer = Response::new(full(value.to_string()));
    *answer.status_mut() = code.try_into().unwrap_or_default();
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Discovery: clients know the aggregated kind by the type that it is sent as.
pub(crate) fn discovery(document: &Value) -> Answer {
    let mut answer = json(200, document);
    if document["kind"] == "APIGroupDiscoveryList" {
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(aggregated));
    }
    answer
}

pub(crate) fn empty(code: u16) -> Answer {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = code.try_into().unwrap_or_default();
    answer
}

pub(crate) fn failure(failure: &Failure) -> Answer {
    let mut answer = match &failure.body {
        status::Body::Status(status) => json(failure.code, status),
        status::Body::Text(text) => {
            let mut answer = Response::new(full(text.clone()));
            *answer.status_mut() = failure.code.try_into().unwrap_or_default();
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            answer.headers_mut().insert(CONTENT_TYPE, plain);
            answer
        }
    };
    if let Some(seconds) = failure.retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

pub(crate) fn streamed(parts: mpsc::Receiver<io::Result<Bytes>>) -> Answer {
    let mut answer = Response::new(Streamed(parts).boxed());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
