//! One WebSocket, polled for reading and flushed for writing by the same task.
//!
//! Writing only fills the socket's own bounded buffer; the bytes leave when the socket is polled. So nothing is lost
//! when the future that polls is dropped, and a peer that does not read is noticed by a full buffer.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Sink, Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// What came out of a socket.
#[derive(Debug)]
pub(super) enum Received {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message, which neither of our peers has a use for.
    Binary,
    /// The peer is gone: it closed, or the connection broke.
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

/// One side's connection.
pub(super) struct Socket<S> {
    stream: WebSocketStream<S>,
    unflushed: bool,
    closed: bool,
}

impl<S> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(stream: WebSocketStream<S>) -> Self {
        Self { stream, unflushed: false, closed: false }
    }

    /// Puts a message into the socket's buffer.
    pub(super) fn send(&mut self, text: String) -> Result<(), Blocked> {
        if self.closed {
            return Ok(()); // Its end has been reported, or soon will be.
        }
        self.unflushed = true;
        match Pin::new(&mut self.stream).start_send(Message::Text(text.into())) {
            Err(Error::WriteBufferFull(_)) => Err(Blocked),
            // A broken connection shows itself in reading too, where its end is reported.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Writes what can be written without waiting; the rest follows when [`Self::receive`] is polled.
    pub(super) async fn flush_now(&mut self) {
        std::future::poll_fn(|cx| {
            self.poll_flush(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// The next message. Cancel-safe. Never ends: after `Closed` it waits for ever.
    pub(super) async fn receive(&mut self) -> Received {
        std::future::poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) {
        if self.unflushed && !self.closed {
            // An error shows itself in reading too, where it is reported.
            self.unflushed = Pin::new(&mut self.stream).poll_flush(cx).is_pending();
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if self.closed {
            return Poll::Pending;
        }
        self.poll_flush(cx);
        loop {
            let message = match std::task::ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(Ok(Message::Text(text))) => return Poll::Ready(Received::Text(text)),
                Some(Ok(Message::Binary(_))) => return Poll::Ready(Received::Binary),
                // The answer to a ping is queued by the library and leaves with the next flush.
                Some(Ok(Message::Ping(_))) => {
                    self.unflushed = true;
                    self.poll_flush(cx);
                    continue;
                }
                Some(Ok(Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(frame))) => Ok(frame),
                Some(Err(error)) => Err(error),
                None => Ok(None),
            };
            self.closed = true;
            let oversize = matches!(message, Err(Error::Capacity(CapacityError::MessageTooLong { .. })));
            let why = match message {
                Ok(Some(frame)) => format!("close {} {}", frame.code, frame.reason),
                Ok(None) => "closed".to_owned(),
                Err(error) => error.to_string(),
            };
            return Poll::Ready(Received::Closed { why, oversize });
        }
    }

    /// Says goodbye. Waits until it is written; give it a deadline.
    pub(super) async fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
            // A peer that is gone already needs no goodbye.
            let _ = self.stream.close(Some(frame)).await;
            // What it still sends is read and dropped until it has answered: unread bytes would turn our goodbye into
            // a reset of the connection.
            while let Some(Ok(_)) = self.stream.next().await {}
        }
    }
}

/// Limits of one side's socket.
pub(super) fn limits(
    read_buffer_bytes: usize,
    max_message_bytes: usize,
    max_unsent_bytes: usize,
) -> WebSocketConfig {
    // tungstenite zero-fills its read buffer before every read, so a large one costs more than it saves.
    WebSocketConfig::default()
        .read_buffer_size(read_buffer_bytes)
        .max_message_size(Some(max_message_bytes))
        .max_frame_size(Some(max_message_bytes))
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(max_unsent_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::{MAX_MESSAGE_BYTES, MAX_UNSENT_BYTES, READ_BUFFER_BYTES};
    use crate::ids::StreamSid;
    use crate::wire::twilio;
    use tokio_tungstenite::tungstenite::protocol::Role;

    /// A socket with room for about this much that the peer has not read, and the peer's end.
    async fn socket(
        room_bytes: usize,
    ) -> (Socket<tokio::io::DuplexStream>, WebSocketStream<tokio::io::DuplexStream>) {
        let (near, far) = tokio::io::duplex(1024);
        let limits = limits(1024, 4096, room_bytes).write_buffer_size(0);
        let near = WebSocketStream::from_raw_socket(near, Role::Server, Some(limits)).await;
        (Socket::new(near), WebSocketStream::from_raw_socket(far, Role::Client, None).await)
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_noticed_and_costs_no_more_than_the_buffer() {
        let (mut near, far) = socket(8 * 1024).await;
        let mut taken = 0;
        while near.send("x".repeat(100)).is_ok() {
            near.flush_now().await;
            taken += 1;
            assert!(taken < 1000, "the buffer has no end");
        }
        assert!((80..=95).contains(&taken), "{taken} messages of 102 bytes in 1 + 8 KiB");
        drop(far);
    }

    #[tokio::test]
    async fn what_was_sent_leaves_whenever_the_peer_reads() {
        use futures_util::StreamExt as _;
        let (mut near, mut far) = socket(8 * 1024).await;
        for number in 0..50 {
            near.send(format!("{number:0100}")).unwrap();
        }
        for number in 0..50 {
            let message = tokio::select! {
                message = far.next() => message,
                received = near.receive() => panic!("nobody said anything: {received:?}"),
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
        let limits = limits(READ_BUFFER_BYTES, MAX_MESSAGE_BYTES, MAX_UNSENT_BYTES);
        let stream = WebSocketStream::from_raw_socket(Counting::default(), Role::Server, Some(limits)).await;
        let mut socket = Socket::new(stream);
        let stream_sid = StreamSid::parse("MZ0123456789abcdef0123456789abcdef").unwrap();
        let mut sent = 0;
        for _ in 0..32 {
            let mut text = String::new();
            twilio::encode(twilio::Outbound::Media { ulaw: &[0x55; 160] }, &stream_sid, &mut text);
            sent += text.len();
            socket.send(text).unwrap();
        }
        assert_eq!(socket.stream.get_ref().writes, 0, "nothing leaves before it is told to");
        socket.flush_now().await;
        let Counting { writes, bytes } = *socket.stream.get_ref();
        assert_eq!(writes, 1);
        assert_eq!(bytes, sent + 32 * 4, "all of them, each behind four bytes of WebSocket");
    }

    #[tokio::test]
    async fn a_message_too_large_to_be_skipped_is_told_from_a_broken_connection() {
        use futures_util::SinkExt as _;
        let (mut near, mut far) = socket(1024).await;
        let received = tokio::select! {
            received = near.receive() => received,
            sent = far.send(Message::text("x".repeat(5000))) => panic!("all of it was read: {sent:?}"),
        };
        assert!(matches!(received, Received::Closed { oversize: true, .. }), "{received:?}");
        let (mut near, far) = socket(1024).await;
        drop(far);
        assert!(matches!(near.receive().await, Received::Closed { oversize: false, .. }));
    }
}
