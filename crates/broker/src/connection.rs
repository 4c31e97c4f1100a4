//! One client's connection: frames in, answers out in the order of the requests.
//!
//! Requests are worked on one after the other, as Apache Kafka does; only the
//! wait until produced records are durable does not hold up the next request,
//! so that several Produce requests share one sync.
//!
//! Nobody holds a connection for nothing. It ends when no request comes for
//! `idle_timeout` (`first_request_timeout` before the first one), when a
//! request that has begun or an answer goes slower than 16 KiB/s for longer than
//! `transfer_timeout`, and when its place is needed ([`crate::connections`]).
//! A client that asks without reading is not answered further than
//! [`REPLY_BYTES_MAX`]; its next requests stay in its own socket.

use crate::api::{self, Refused, Reply};
use crate::connections::Seat;
use crate::frame::Frame;
use crate::options::BrokerOptions;
use crate::state::State;
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

/// Answers of one connection that may wait for their turn; a client has five requests in flight.
const REPLIES_WAITING_MAX: usize = 64;

/// Bytes of answers of one connection that may wait for their turn; the next one waits outside.
const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What an answer counts as whose size is not known yet: those are small.
const LATER_REPLY_BYTES: usize = 1024;

/// Memory taken at once for an announced request; the rest only as it arrives.
const FRAME_BYTES_AT_ONCE: usize = 64 * 1024;

/// What does not go this fast, beyond `transfer_timeout`, is somebody who wants to hold us up.
const BYTES_PER_SECOND_MIN: u64 = 16 * 1024;

/// After so long without a word the system asks whether the other side is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Client {
    /// The address it comes from.
    pub peer: SocketAddr,
    /// Our address as it reached us: what it is told to come back to.
    pub reached: SocketAddr,
}

/// An answer on its way out, with its share of what may wait.
struct Queued {
    reply: Reply,
    bytes: usize,
    _room: OwnedSemaphorePermit,
}

/// Serves a connection until the client, an error, the need for its place or `until` ends it.
pub async fn serve(
    state: Arc<State>,
    stream: TcpStream,
    peer: SocketAddr,
    seat: Seat,
    until: impl Future<Output = ()>,
) {
    prepare(&stream, peer);
    let reached = stream.local_addr().unwrap_or(state.address);
    let (reader, writer) = stream.into_split();
    let (replies, waiting) = mpsc::channel(REPLIES_WAITING_MAX);
    let client = Client { peer, reached };
    let work = async {
        tokio::join!(
            take_requests(&state, &client, &seat, reader, replies),
            send_replies(&state.options, &seat, writer, waiting)
        )
    };
    tokio::select! {
        () = until => {}
        () = seat.ended() => tracing::debug!(%peer, "connection ended to make room"),
        (taken, sent) = work => {
            for error in [taken.err(), sent.err()].into_iter().flatten() {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
    }
}

fn prepare(stream: &TcpStream, peer: SocketAddr) {
    // Without it small answers wait for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%peer, %error, "cannot set SO_KEEPALIVE");
    }
}

async fn take_requests(
    state: &Arc<State>,
    client: &Client,
    seat: &Seat,
    reader: OwnedReadHalf,
    replies: mpsc::Sender<Queued>,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(REPLY_BYTES_MAX));
    let mut requests =
        Requests { reader, options: &state.options, seat, patience: state.options.first_request_timeout };
    let gone = pin!(replies.closed());
    let work = async {
        while let Some(frame) = requests.next().await? {
            let held = frame.len();
            seat.asked();
            let reply = api::answer(state, client, frame).await;
            seat.release(held);
            let reply = reply.map_err(|Refused(why)| io::Error::new(io::ErrorKind::InvalidData, why))?;
            let bytes = match &reply {
                Reply::Now(answer) => answer.remaining(),
                Reply::Later(_) | Reply::Nothing | Reply::Close => LATER_REPLY_BYTES,
            };
            seat.hold(bytes);
            let share = u32::try_from(bytes.min(REPLY_BYTES_MAX)).unwrap_or(u32::MAX);
            let Ok(share) = Arc::clone(&room).acquire_many_owned(share).await else { return Ok(()) };
            if replies.send(Queued { reply, bytes, _room: share }).await.is_err() {
                return Ok(());
            }
            requests.patience = state.options.idle_timeout;
        }
        Ok(())
    };
    tokio::select! {
        done = work => done,
        () = gone => Ok(()),
    }
}

/// What comes from a client, request by request.
struct Requests<'a> {
    reader: OwnedReadHalf,
    options: &'a BrokerOptions,
    seat: &'a Seat,
    /// How long it may be silent before the next one.
    patience: Duration,
}

impl Requests<'_> {
    /// Reads one request; `None` when the client has ended the connection between two. Its bytes
    /// are held in the seat's account.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut length = [0; 4];
        let silent_until = Instant::now() + self.patience;
        let first = timeout_at(silent_until, self.reader.read(&mut length)).await;
        let mut read = first.map_err(|_| timed_out("no request came"))??;
        if read == 0 {
            return Ok(None);
        }
        let began = Instant::now();
        while read < length.len() {
            let due = due(self.options, began, read);
            let more = timeout_at(due, self.reader.read(&mut length[read..])).await;
            let more = more.map_err(|_| timed_out("half a request"))??;
            if more == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read += more;
        }
        let announced = i32::from_be_bytes(length);
        let length = usize::try_from(announced)
            .ok()
            .filter(|length| (8..=self.options.request_bytes_max).contains(length))
            .ok_or_else(|| {
                let what = format!("a request of {announced} bytes is not taken");
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
        self.body(length, began).await.map(Some)
    }

    async fn body(&mut self, length: usize, began: Instant) -> io::Result<Bytes> {
        let mut frame = BytesMut::with_capacity(length.min(FRAME_BYTES_AT_ONCE));
        while frame.len() < length {
            self.seat.room().await;
            let left = length - frame.len();
            frame.reserve(left.min(frame.len().max(FRAME_BYTES_AT_ONCE)));
            let due = due(self.options, began, frame.len());
            let mut limited = (&mut self.reader).take(left as u64);
            let read = timeout_at(due, limited.read_buf(&mut frame)).await;
            let read = read.map_err(|_| timed_out("half a request"))??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.seat.hold(read);
        }
        Ok(frame.freeze())
    }
}

/// When a transfer that began then and has come so far must have gone further.
fn due(options: &BrokerOptions, began: Instant, bytes: usize) -> Instant {
    began + options.transfer_timeout + Duration::from_secs(bytes as u64 / BYTES_PER_SECOND_MIN)
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

async fn send_replies(
    options: &BrokerOptions,
    seat: &Seat,
    mut writer: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<Queued>,
) -> io::Result<()> {
    while let Some(Queued { reply, bytes, _room }) = waiting.recv().await {
        match reply {
            Reply::Now(answer) => send(options, seat, &mut writer, answer).await?,
            Reply::Later(answer) => send(options, seat, &mut writer, answer.await).await?,
            Reply::Nothing => {}
            Reply::Close => return Ok(()),
        }
        seat.release(bytes);
        seat.answered();
    }
    Ok(())
}

async fn send(
    options: &BrokerOptions,
    seat: &Seat,
    writer: &mut OwnedWriteHalf,
    mut answer: Frame,
) -> io::Result<()> {
    let began = Instant::now();
    let mut sent = 0;
    while answer.has_remaining() {
        let written = timeout_at(due(options, began, sent), writer.write_buf(&mut answer)).await;
        let written = written.map_err(|_| timed_out("nobody reads the answer"))??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        sent += written;
        // It moves; what it holds is given back at the end.
        seat.release(0);
    }
    Ok(())
}
