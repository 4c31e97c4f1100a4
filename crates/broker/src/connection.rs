//! One client's connection: frames in, answers out in the order of the requests.
//!
//! Requests are worked on one after the other, as Apache Kafka does; only the
//! wait until produced records are durable does not hold up the next request,
//! so that several Produce requests share one sync.

use crate::api::{self, Refused, Reply};
use crate::state::State;
use bytes::{Bytes, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Answers of one connection that may wait for their turn; a client has five requests in flight.
const REPLIES_WAITING_MAX: usize = 64;

/// Memory taken at once for an announced request; the rest only as it arrives.
const FRAME_BYTES_AT_ONCE: usize = 64 * 1024;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Client {
    /// The address it comes from.
    pub peer: SocketAddr,
    /// Our address as it reached us: what it is told to come back to.
    pub reached: SocketAddr,
}

/// Serves a connection until the client, an error or `until` ends it.
pub async fn serve(state: Arc<State>, stream: TcpStream, peer: SocketAddr, until: impl Future<Output = ()>) {
    // Without it small answers wait for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let reached = stream.local_addr().unwrap_or(state.address);
    let (reader, writer) = stream.into_split();
    let (replies, waiting) = mpsc::channel(REPLIES_WAITING_MAX);
    let client = Client { peer, reached };
    let work = async {
        tokio::join!(take_requests(&state, &client, reader, replies), send_replies(writer, waiting))
    };
    tokio::select! {
        () = until => {}
        (taken, sent) = work => {
            for error in [taken.err(), sent.err()].into_iter().flatten() {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
    }
}

async fn take_requests(
    state: &Arc<State>,
    client: &Client,
    mut reader: OwnedReadHalf,
    replies: mpsc::Sender<Reply>,
) -> io::Result<()> {
    while let Some(frame) = read_frame(&mut reader, state.options.request_bytes_max).await? {
        let reply = {
            let gone = pin!(replies.closed());
            tokio::select! {
                reply = api::answer(state, client, frame) => reply,
                () = gone => return Ok(()),
            }
        };
        match reply {
            Ok(reply) => {
                if replies.send(reply).await.is_err() {
                    return Ok(());
                }
            }
            Err(Refused(why)) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        }
    }
    Ok(())
}

/// Reads one request; `None` when the client has ended the connection between two.
async fn read_frame(reader: &mut OwnedReadHalf, bytes_max: usize) -> io::Result<Option<Bytes>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let announced = i32::from_be_bytes(length);
    let length = usize::try_from(announced)
        .ok()
        .filter(|length| (8..=bytes_max).contains(length))
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("a request of {announced} bytes is not taken"))
        })?;
    let mut frame = BytesMut::with_capacity(length.min(FRAME_BYTES_AT_ONCE));
    while frame.len() < length {
        let left = length - frame.len();
        frame.reserve(left.min(frame.len().max(FRAME_BYTES_AT_ONCE)));
        let read = (&mut *reader).take(left as u64).read_buf(&mut frame).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(frame.freeze()))
}

async fn send_replies(mut writer: OwnedWriteHalf, mut waiting: mpsc::Receiver<Reply>) -> io::Result<()> {
    while let Some(reply) = waiting.recv().await {
        let mut answer = match reply {
            Reply::Now(answer) => answer,
            Reply::Later(answer) => answer.await,
            Reply::Nothing => continue,
            Reply::Close => return Ok(()),
        };
        writer.write_all_buf(&mut answer).await?;
    }
    Ok(())
}
