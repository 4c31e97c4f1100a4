//! One connection to a broker, for what client libraries keep to themselves.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Larger answers are not read: nothing the harness asks comes near.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A plaintext connection; one request at a time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    /// Connects; `patience` also bounds each wait for an answer.
    ///
    /// # Errors
    /// When nobody answers there in time.
    pub fn open(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Sends `request` in the given version of its API and waits for the answer.
    ///
    /// # Errors
    /// When the connection breaks, the answer is late or cannot be understood.
    /// The request may have been carried out then.
    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("homing-lab")));
        let mut body = BytesMut::new();
        header.encode(&mut body, R::header_version(version)).map_err(malformed)?;
        request.encode(&mut body, version).map_err(malformed)?;
        let mut frame = BytesMut::with_capacity(body.len() + 4);
        frame.put_u32(u32::try_from(body.len()).map_err(malformed)?);
        frame.put_slice(&body);
        self.stream.write_all(&frame)?;
        let mut answer = self.read_frame()?;
        let header =
            ResponseHeader::decode(&mut answer, R::Response::header_version(version)).map_err(malformed)?;
        if header.correlation_id != self.correlation {
            return Err(malformed("an answer to another request"));
        }
        R::Response::decode(&mut answer, version).map_err(malformed)
    }

    fn read_frame(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(malformed)?;
        if length > ANSWER_BYTES_MAX {
            return Err(malformed(format!("an answer of {length} bytes")));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body.into())
    }
}

fn malformed(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
