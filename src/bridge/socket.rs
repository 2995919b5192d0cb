//! One WebSocket, polled for reading and flushed for writing by the same task.
//!
//! Sending only fills the socket's own bounded buffer; the bytes leave when it is flushed, so that everything that one
//! wake-up brings about is one write. A peer that does not read is noticed by a full buffer.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::wire::websocket::{Message, ProtocolError, Reader, Role, Writer};

// RFC 6455, section 7.4.1.
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
/// Text that is not UTF-8.
const INVALID_TEXT: u16 = 1007;
const TOO_LARGE: u16 = 1009;

/// What came out of a socket. Text borrows from the socket's buffer.
#[derive(Debug)]
pub(super) enum Received<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message, which neither of our peers has a use for.
    Binary,
    /// The peer is gone: it closed, or the connection broke. Told once, and nothing comes after it.
    Closed {
        /// For logs: close code and reason, or the error.
        why: String,
        /// The peer sent a message larger than any that could be skipped.
        oversize: bool,
    },
}

/// The peer does not read and the buffer for it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not take what is sent to it")]
pub(super) struct Blocked;

/// Sizes of one side's socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// What one read may bring.
    pub(super) read_bytes: usize,
    /// The largest message that can be skipped; a larger one breaks the connection.
    pub(super) message_bytes: usize,
    /// What may wait to be written.
    pub(super) unsent_bytes: usize,
}

/// One side's connection, after its handshake.
pub(super) struct Socket<S> {
    io: S,
    limits: Limits,
    reader: Reader,
    writer: Writer,
    /// There may be a message among what was read.
    more: bool,
    /// How the connection ended, to be told after what came before.
    ended: Option<String>,
    closed: bool,
    /// The peer has answered a ping.
    ponged: bool,
}

impl Socket<TcpStream> {
    /// From now on the connection is watched by the runtime that this is called in. What was read and what is to be
    /// written stays.
    pub(super) fn moved_here(mut self) -> std::io::Result<Self> {
        self.io = TcpStream::from_std(self.io.into_std()?)?;
        // What has come may have been told to the other runtime only.
        self.more = true;
        Ok(self)
    }
}

impl<S> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// `leftover` is what came right after the handshake.
    pub(super) fn new(io: S, role: Role, limits: Limits, leftover: &[u8]) -> Self {
        let mut reader = Reader::new(role, limits.message_bytes);
        if !leftover.is_empty() {
            reader.room(leftover.len()).extend_from_slice(leftover);
        }
        let more = !leftover.is_empty();
        Self {
            io,
            limits,
            reader,
            writer: Writer::new(role),
            more,
            ended: None,
            closed: false,
            ponged: false,
        }
    }

    /// Puts a message into the socket's buffer.
    pub(super) fn send(&mut self, text: &str) -> Result<(), Blocked> {
        if self.closed {
            return Ok(()); // Its end has been reported, or soon will be.
        }
        if self.writer.unwritten().len() + text.len() > self.limits.unsent_bytes {
            return Err(Blocked);
        }
        self.writer.text(text);
        Ok(())
    }

    /// Asks the peer for a sign of life; see [`Self::take_pong`].
    pub(super) fn ping(&mut self) {
        // A peer that does not read is noticed by what is sent to it.
        if !self.closed && self.writer.unwritten().len() < self.limits.unsent_bytes {
            self.writer.ping();
        }
    }

    /// True when the peer has answered a ping since this was asked last.
    pub(super) const fn take_pong(&mut self) -> bool {
        std::mem::replace(&mut self.ponged, false)
    }

    /// Writes what can be written without waiting; the rest follows when [`Self::poll_readable`] is polled.
    pub(super) async fn flush_now(&mut self) {
        if !self.writer.unwritten().is_empty() {
            poll_fn(|cx| {
                self.flush(cx);
                Poll::Ready(())
            })
            .await;
        }
    }

    /// Waits until [`Self::next`] may have something. Cancel-safe. Waits for ever when the end has been told.
    pub(super) async fn readable(&mut self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.flush(cx);
        if self.closed {
            return Poll::Pending;
        }
        if self.more { Poll::Ready(()) } else { self.poll_read(cx) }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(poll_read_buf(Pin::new(&mut self.io), cx, self.reader.room(self.limits.read_bytes))) {
            Ok(0) => self.ended = Some("the connection ended without a close".to_owned()),
            Ok(_) => {}
            Err(error) => self.ended = Some(error.to_string()),
        }
        self.more = true;
        Poll::Ready(())
    }

    /// The next message of what was read; `None` when more has to be read first, and when the end has been told.
    pub(super) fn next(&mut self) -> Option<Received<'_>> {
        if self.closed {
            return None;
        }
        let found = loop {
            match self.reader.find() {
                Ok(Some(found)) if found.is_control() => {
                    let message = self.reader.message(found);
                    if let Ok(Message::Ping(payload)) = message {
                        // A peer that asks and does not read gets no more answers than there is room for.
                        if self.writer.unwritten().len() + payload.len() <= self.limits.unsent_bytes {
                            self.writer.pong(payload);
                        }
                    } else if let Ok(Message::Pong) = message {
                        self.ponged = true;
                    } else if let Ok(Message::Close { code, reason }) = message {
                        self.writer.close(NORMAL);
                        return Some(end(&mut self.closed, format!("close {code} {reason}")));
                    }
                }
                Ok(Some(found)) => break found,
                Ok(None) => {
                    self.more = false;
                    let why = self.ended.take()?;
                    return Some(end(&mut self.closed, why));
                }
                Err(error) => return Some(refuse(&mut self.writer, &mut self.closed, error)),
            }
        };
        Some(match self.reader.message(found) {
            Ok(Message::Text(text)) => Received::Text(text),
            Ok(_) => Received::Binary,
            Err(error) => refuse(&mut self.writer, &mut self.closed, error),
        })
    }

    /// Says goodbye. Waits until it is written and the peer has answered; give it a deadline.
    pub(super) async fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.writer.close(NORMAL);
            poll_fn(|cx| self.poll_flush(cx)).await;
            // What it still sends is read and dropped until it has answered: unread bytes would turn our goodbye into
            // a reset of the connection.
            while !self.has_answered() && self.ended.is_none() {
                self.more = false;
                poll_fn(|cx| self.poll_read(cx)).await;
            }
        }
    }

    /// Drops what was read; true when the peer's goodbye was among it, or nothing that could be read.
    fn has_answered(&mut self) -> bool {
        loop {
            match self.reader.find() {
                Ok(Some(found)) if matches!(self.reader.message(found), Ok(Message::Close { .. })) => {
                    return true;
                }
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        // What is left goes on when the socket can be written again, of which the task is told.
        let _ = self.poll_flush(cx).is_pending();
    }

    /// Ready when nothing is left, or nothing can be written any more.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.writer.unwritten().is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.writer.unwritten()));
            let Ok(bytes @ 1..) = written else {
                // A broken connection shows itself in reading too, where its end is reported.
                self.writer.wrote(self.writer.unwritten().len());
                return Poll::Ready(());
            };
            self.writer.wrote(bytes);
        }
        Pin::new(&mut self.io).poll_flush(cx).map(drop)
    }
}

fn end(closed: &mut bool, why: String) -> Received<'static> {
    *closed = true;
    Received::Closed { why, oversize: false }
}

/// The peer broke the protocol, and is told so.
fn refuse(writer: &mut Writer, closed: &mut bool, error: ProtocolError) -> Received<'static> {
    *closed = true;
    writer.close(match error {
        ProtocolError::TooLarge { .. } => TOO_LARGE,
        ProtocolError::NotUtf8 => INVALID_TEXT,
        ProtocolError::Masking | ProtocolError::Unknown | ProtocolError::Order => PROTOCOL_ERROR,
    });
    Received::Closed { why: error.to_string(), oversize: matches!(error, ProtocolError::TooLarge { .. }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::StreamSid;
    use crate::wire::twilio;
    use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
    use tokio::io::DuplexStream;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message as Theirs;
    use tokio_tungstenite::tungstenite::protocol;

    /// A socket with room for about this much that the peer has not read, and the peer's end.
    async fn socket(room_bytes: usize) -> (Socket<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (near, far) = tokio::io::duplex(1024);
        let limits = Limits { read_bytes: 256, message_bytes: 4096, unsent_bytes: room_bytes };
        let far = WebSocketStream::from_raw_socket(far, protocol::Role::Client, None).await;
        (Socket::new(near, Role::Server, limits, &[]), far)
    }

    async fn receive(socket: &mut Socket<DuplexStream>) -> String {
        loop {
            match socket.next() {
                Some(Received::Text(text)) => return text.to_owned(),
                Some(other) => return format!("{other:?}"),
                None => socket.readable().await,
            }
        }
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_noticed_and_costs_no_more_than_the_buffer() {
        let (mut near, far) = socket(8 * 1024).await;
        let mut taken = 0;
        while near.send(&"x".repeat(100)).is_ok() {
            near.flush_now().await;
            taken += 1;
            assert!(taken < 1000, "the buffer has no end");
        }
        assert!((80..=95).contains(&taken), "{taken} messages of 102 bytes in 1 + 8 KiB");
        drop(far);
    }

    #[tokio::test]
    async fn what_was_sent_leaves_whenever_the_peer_reads() {
        let (mut near, mut far) = socket(8 * 1024).await;
        for number in 0..50 {
            near.send(&format!("{number:0100}")).unwrap();
        }
        near.flush_now().await;
        for number in 0..50 {
            let message = tokio::select! {
                message = far.next() => message,
                received = receive(&mut near) => panic!("nobody said anything: {received:?}"),
            };
            assert_eq!(message.unwrap().unwrap().to_text().unwrap(), format!("{number:0100}"));
        }
    }

    /// Takes everything and counts how often it is written to.
    #[derive(Default)]
    struct Counting {
        writes: usize,
        bytes: usize,
    }

    impl AsyncWrite for Counting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            self.writes += 1;
            self.bytes += bytes.len();
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Counting {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_burst_of_32_agent_messages_leaves_with_one_write() {
        let mut socket = Socket::new(Counting::default(), Role::Server, crate::bridge::STREAM_LIMITS, &[]);
        let stream_sid = StreamSid::parse("MZ0123456789abcdef0123456789abcdef").unwrap();
        let mut sent = 0;
        for _ in 0..32 {
            let mut text = String::new();
            twilio::encode(twilio::Outbound::Media { ulaw: &[0x55; 160] }, &stream_sid, &mut text);
            sent += text.len();
            socket.send(&text).unwrap();
        }
        assert_eq!(socket.io.writes, 0, "nothing leaves before it is told to");
        socket.flush_now().await;
        let Counting { writes, bytes } = socket.io;
        assert_eq!(writes, 1);
        assert_eq!(bytes, sent + 32 * 4, "all of them, each behind four bytes of WebSocket");
    }

    #[tokio::test]
    async fn everything_the_peer_sent_comes_before_its_end_and_pings_are_answered() {
        let (mut near, mut far) = socket(1024).await;
        let talked = async {
            far.send(Theirs::text("one")).await.unwrap();
            far.send(Theirs::Ping("there?".into())).await.unwrap();
            far.send(Theirs::text("two")).await.unwrap();
            assert_eq!(far.next().await.unwrap().unwrap(), Theirs::Pong("there?".into()));
            far.close(None).await.unwrap();
            while let Some(Ok(_)) = far.next().await {}
        };
        let heard = async {
            assert_eq!(receive(&mut near).await, "one");
            assert_eq!(receive(&mut near).await, "two");
            assert!(receive(&mut near).await.contains("close 1005"));
            near.flush_now().await;
            drop(near);
        };
        tokio::join!(talked, heard);
    }

    #[tokio::test]
    async fn a_peer_that_is_there_answers_a_ping_and_nothing_else_is_heard_of_it() {
        let (mut near, mut far) = socket(1024).await;
        near.ping();
        near.flush_now().await;
        let answered = async {
            let theirs = far.next().await.unwrap().unwrap();
            assert!(matches!(theirs, Theirs::Ping(_)));
            far.flush().await.unwrap(); // The library has put its answer there.
        };
        let heard = async {
            near.readable().await;
            assert!(near.next().is_none());
            assert_eq!((near.take_pong(), near.take_pong()), (true, false));
        };
        tokio::join!(answered, heard);
    }

    #[tokio::test]
    async fn an_end_is_told_once_and_answered_once_whatever_comes_after_it() {
        for (last, code) in [
            (&b"\x88\x82\0\0\0\0\x03\xE8"[..], NORMAL),
            (b"\x81\xFF\0\0\0\0\0\x10\0\x01\0\0\0\0", TOO_LARGE),
            (b"\x81\x05Hello", PROTOCOL_ERROR),
            (b"\x81\x82\0\0\0\0\xC3\x28", INVALID_TEXT),
        ] {
            let more = b"\x81\x85\0\0\0\0Hello\x89\x80\0\0\0\0\x88\x80\0\0\0\0";
            let came = [last, more].concat();
            let mut socket =
                Socket::new(Counting::default(), Role::Server, crate::bridge::STREAM_LIMITS, &came);
            assert!(matches!(socket.next(), Some(Received::Closed { .. })), "{last:?}");
            for _ in 0..3 {
                assert!(socket.next().is_none(), "{last:?}");
            }
            socket.send("too late").unwrap();
            let [high, low] = code.to_be_bytes();
            assert_eq!(socket.writer.unwritten(), [0x88, 2, high, low], "{last:?}");
            assert!(socket.readable().now_or_never().is_none(), "there is nothing to wake up for");
            assert_eq!(socket.io.bytes, 4, "the answer leaves although nothing is read any more");
        }
    }

    #[tokio::test]
    async fn a_peer_that_asks_and_does_not_read_is_answered_no_further_than_the_buffer() {
        let limits = Limits { read_bytes: 256, message_bytes: 4096, unsent_bytes: 1024 };
        let pings = b"\x89\x84\0\0\0\0ping".repeat(10_000);
        let mut socket = Socket::new(Counting::default(), Role::Server, limits, &pings);
        assert!(socket.next().is_none());
        let unsent = socket.writer.unwritten().len();
        assert!((1000..=1100).contains(&unsent), "{unsent} bytes of answers");
    }

    #[tokio::test]
    async fn a_goodbye_is_over_when_the_peer_has_answered_although_it_stays() {
        let (mut near, mut far) = socket(1024).await;
        let answered = async {
            far.send(Theirs::text("still on its way")).await.unwrap();
            assert!(matches!(far.next().await, Some(Ok(Theirs::Close(_)))));
            far.flush().await.unwrap();
        };
        let within = std::time::Duration::from_secs(5);
        let (closed, ()) = tokio::join!(tokio::time::timeout(within, near.close()), answered);
        assert!(closed.is_ok(), "it waited for the connection to end");
        drop(far);
    }

    #[tokio::test]
    async fn what_came_with_the_handshake_is_not_lost() {
        let (near, _far) = tokio::io::duplex(1024);
        let limits = Limits { read_bytes: 64, message_bytes: 4096, unsent_bytes: 1024 };
        let mut near = Socket::new(near, Role::Client, limits, b"\x81\x05Hello\x81\x05agai");
        assert_eq!(receive(&mut near).await, "Hello");
        assert!(near.next().is_none(), "the second is not complete");
    }

    #[tokio::test]
    async fn a_message_too_large_to_be_skipped_is_told_from_a_broken_connection() {
        let (mut near, mut far) = socket(1024).await;
        let received = tokio::select! {
            received = receive(&mut near) => received,
            sent = far.send(Theirs::text("x".repeat(5000))) => panic!("all of it was read: {sent:?}"),
        };
        assert!(received.contains("oversize: true"), "{received}");
        let (mut near, far) = socket(1024).await;
        drop(far);
        assert!(receive(&mut near).await.contains("oversize: false"));
    }
}
