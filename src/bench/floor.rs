//! The floor of every measurement: a relay that moves bytes between two sockets and does nothing else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::Context as _;
use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::app::Signals;
use crate::shutdown::Tasks;

/// What one read may bring: as much as the bridge reads from a model.
const READ_BYTES: usize = 4 * 1024;

const AFTER_HELP: &str = "\
Examples:
  voicebridge relay --listen 127.0.0.1:7070 --to 127.0.0.1:9090
  voicebridge bench --url ws://127.0.0.1:7070/floor --name relay
      (the path /floor tells the model's end that a caller is at the other end, not a bridge)";

/// Options of `relay`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RelayOptions {
    /// Address to listen on; the real one is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Where every connection is passed on to.
    #[arg(long)]
    pub to: SocketAddr,
}

/// Moves bytes until a signal comes.
pub async fn relay(options: RelayOptions, mut signals: Signals) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--listen)", options.listen))?;
    println!("{}", listener.local_addr().context("cannot tell the address that is listened on")?);
    let tasks = Tasks::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (near, _) = accepted.context("cannot accept a connection")?;
                tasks.spawn(async move {
                    if let Err(error) = pass_on(near, options.to).await {
                        tracing::debug!(%error, "a connection ended");
                    }
                });
            }
            _ = signals.next() => return Ok(()),
        }
    }
}

async fn pass_on(near: TcpStream, to: SocketAddr) -> io::Result<()> {
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (mut near, mut far) = (near, far);
    let (mut up, mut down) = (Way::new(), Way::new());
    std::future::poll_fn(|cx| {
        let up = up.poll(cx, &mut near, &mut far)?;
        let down = down.poll(cx, &mut far, &mut near)?;
        if up.is_ready() || down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction: what was read and could not be written yet.
struct Way {
    buffer: Box<[u8]>,
    from: usize,
    until: usize,
}

impl Way {
    fn new() -> Self {
        Self { buffer: vec![0; READ_BYTES].into(), from: 0, until: 0 }
    }

    /// Ready when this direction is over.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.from < self.until {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.from..self.until]))?;
                self.from += written;
            }
            let mut buffer = ReadBuf::new(&mut self.buffer);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
            (self.from, self.until) = (0, buffer.filled().len());
            if self.until == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn bytes_arrive_as_they_were_sent_and_the_end_too() {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = far.local_addr().unwrap();
        let mut client = TcpStream::connect(near.local_addr().unwrap()).await.unwrap();
        let relayed = async { pass_on(near.accept().await.unwrap().0, to).await.unwrap() };
        let talked = async {
            let mut server = far.accept().await.unwrap().0;
            let long = vec![7; 100_000];
            let (sent, received) = tokio::join!(client.write_all(&long), async {
                let mut received = vec![0; long.len()];
                server.read_exact(&mut received).await.map(|_| received)
            });
            sent.unwrap();
            assert_eq!(received.unwrap(), long);
            server.write_all(b"back").await.unwrap();
            let mut back = [0; 4];
            client.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"back");
            drop(client);
            assert_eq!(server.read(&mut back).await.unwrap(), 0);
        };
        tokio::join!(relayed, talked);
    }
}
