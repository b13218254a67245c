//! The activity of each connection: a full server closes the connection with the longest wait.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, header};
use futures::future::BoxFuture;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::Service;
use tokio::time::Instant;

/// What a connection does; the first is closed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// The client has not sent the whole head of a request, or has not read the end of the last answer.
    Head,
    /// An answer is made, or the client reads it.
    Answer,
    /// The client reads events. The number of streams has a limit of its own.
    Stream,
}

/// What a connection does, and since when.
#[derive(Debug)]
pub(super) struct Activity(Mutex<(Doing, Instant)>);

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((Doing::Head, Instant::now()))))
    }

    fn begin(&self, doing: Doing) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (doing, Instant::now());
    }

    /// Returns the rank of the connection among those to be closed, least first; `None` for a stream, which is not
    /// closed.
    pub(super) fn rank(&self) -> Option<impl Ord + use<>> {
        let activity = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (activity.0 != Doing::Stream).then_some(activity)
    }
}

/// The service of one connection, which notes what the connection does.
pub(super) struct Watched<S> {
    pub(super) service: S,
    pub(super) activity: Arc<Activity>,
}

impl<S> Service<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<WatchedBody>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let activity = Arc::clone(&self.activity);
        activity.begin(Doing::Answer);
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let kind = answer.headers().get(header::CONTENT_TYPE);
            if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
                activity.begin(Doing::Stream);
            }
            Ok(answer.map(|body| WatchedBody { body, activity }))
        })
    }
}

/// The body of an answer. The connection waits for the next head when the body has ended.
pub(super) struct WatchedBody {
    body: Body,
    activity: Arc<Activity>,
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.activity.begin(Doing::Head);
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
