//! The stream under one connection: it ends clients that do not read, and keeps back what hyper says by itself.
//!
//! hyper answers a head that it cannot read by an empty 400 or 431 of its own, and there is no way to have it say
//! anything else. All that we answer begins with a request, so what hyper writes while no answer is under way can
//! only be such a refusal: it is dropped here, and the connection says it properly (`connection.rs`). Where an
//! earlier answer is not written yet (a client that pipelines and does not read) the refusal goes out as it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::link::Link;

/// Who takes so much within the write time limit reads fast enough.
const PROGRESS_BYTES: usize = 64 * 1024;
/// What the operating system keeps for a listener that does not read: events are small, and by itself it would take so
/// many of them that nobody noticed for hours. It may double this.
const LISTENER_BYTES: usize = 16 * 1024;

/// The stream.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    link: Arc<Link>,
    time_limit: Duration,
    /// The limit under way, from the first byte that was not taken, and what was taken since.
    stalled: Option<(Pin<Box<Sleep>>, usize)>,
    is_narrow: bool,
    facts: Facts,
}

/// What has happened to a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// The status of hyper's own refusal, which was kept back.
    pub refused: Option<u16>,
    /// The client will send nothing more.
    pub is_ended: bool,
    /// The client did not read in time.
    pub is_stuck: bool,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, link: Arc<Link>, time_limit: Duration) -> Self {
        Self { stream, link, time_limit, stalled: None, is_narrow: false, facts: Facts::default() }
    }

    pub(super) fn into_parts(self) -> (TcpStream, Facts) {
        (self.stream, self.facts)
    }

    /// Whether hyper is speaking for itself; notes what it says.
    fn keeps_back(&mut self, text: &[u8]) -> bool {
        if self.facts.refused.is_none() && self.link.is_quiet() {
            self.facts.refused = status_of(text);
        }
        self.facts.refused.is_some()
    }

    /// Writes by `write`, which was given `len` bytes.
    fn written(
        &mut self,
        context: &mut Context<'_>,
        len: usize,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if !self.is_narrow && self.link.is_listening() {
            self.is_narrow = true;
            if let Err(error) = set_socket_send_buffer_size(&self.stream, LISTENER_BYTES) {
                tracing::debug!(%error, "SO_SNDBUF was refused");
            }
        }
        let written = write(Pin::new(&mut self.stream), context);
        match written {
            Poll::Ready(Ok(count)) => {
                self.link.wrote(count == len);
                self.progress(count, count == len);
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => {
                self.link.stalls();
                let limit = self.time_limit;
                let (sleep, _) = self.stalled.get_or_insert_with(|| (Box::pin(tokio::time::sleep(limit)), 0));
                ready!(sleep.as_mut().poll(context));
                self.facts.is_stuck = true;
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
        }
    }

    fn progress(&mut self, count: usize, is_all: bool) {
        if is_all {
            self.stalled = None;
        } else if let Some((sleep, taken)) = &mut self.stalled {
            *taken += count;
            if *taken >= PROGRESS_BYTES {
                *taken = 0;
                sleep.as_mut().reset(Instant::now() + self.time_limit);
            }
        }
    }
}

/// The status of an answer's head that refuses.
fn status_of(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let status: u16 = std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()?;
    (400..500).contains(&status).then_some(status)
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(context, buffer));
        this.facts.is_ended |= read.is_err() || (buffer.filled().len() == before && buffer.remaining() > 0);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.keeps_back(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        this.written(context, bytes.len(), |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = slices.iter().map(|slice| slice.len()).sum();
        if this.keeps_back(slices.first().map_or(&[], |slice| slice)) {
            return Poll::Ready(Ok(len));
        }
        this.written(context, len, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.facts.refused.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_known_by_its_status() {
        assert_eq!(status_of(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"), Some(431));
        assert_eq!(status_of(b"HTTP/1.0 400 Bad Request\r\n"), Some(400));
        for other in [&b"HTTP/1.1 200 OK\r\n"[..], b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 4", b"", b"5\r\n12345\r\n"]
        {
            assert_eq!(status_of(other), None);
        }
    }
}
