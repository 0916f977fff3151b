//! An origin that costs next to nothing: one thread, one read and one write per request, and an answer made beforehand.

use crate::error::BenchError;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

/// The longest request head that is understood.
const HEAD_LIMIT_BYTES: usize = 64 * 1024;

/// How to answer.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The bytes of an answer's body.
    #[arg(long, default_value_t = 1024)]
    size: usize,
}

/// Serves until it is killed.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let answer = answer_of(options.size);
    // Connections live as long as the process.
    let answer: &'static [u8] = Box::leak(answer.into_boxed_slice());
    let runtime = super::current_thread_runtime()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(options.listen)
            .await
            .map_err(BenchError::io(format!("bind {}", options.listen)))?;
        loop {
            let (stream, _) = listener.accept().await.map_err(BenchError::io("accept"))?;
            // A broken connection concerns nobody but its client, who counts it.
            tokio::task::spawn_local(serve(stream, answer));
        }
    })
}

fn answer_of(size: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n"
    );
    let mut answer = head.into_bytes();
    answer.extend((0..size).map(|index| b'a' + (index % 26) as u8));
    answer
}

async fn serve(mut stream: TcpStream, answer: &'static [u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; HEAD_LIMIT_BYTES];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut start = 0;
        while let Some(request) = Request::scan(&buffer[start..filled]) {
            if request.is_chunked {
                let body = &buffer[start + request.head_bytes..filled];
                discard_chunks(&mut stream, body).await?;
                start = filled;
                stream.write_all(answer).await?;
                continue;
            }
            let available = filled - start - request.head_bytes;
            if available < request.body_bytes {
                let missing = request.body_bytes - available;
                discard(&mut stream, missing).await?;
                start = filled;
            } else {
                start += request.head_bytes + request.body_bytes;
            }
            stream.write_all(answer).await?;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        if filled == buffer.len() {
            return Ok(());
        }
    }
}

async fn discard(stream: &mut TcpStream, mut missing: usize) -> std::io::Result<()> {
    let mut sink = [0; 16 * 1024];
    while missing > 0 {
        let wanted = missing.min(sink.len());
        let count = stream.read(&mut sink[..wanted]).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        missing -= count;
    }
    Ok(())
}

/// Reads to the end of a body in chunks, of which this much is there already. The bodies of this benchmark hold no digits, and
/// nothing comes behind one before its answer.
async fn discard_chunks(stream: &mut TcpStream, begun: &[u8]) -> std::io::Result<()> {
    const END: &[u8] = b"0\r\n\r\n";
    let mut tail = Vec::from(&begun[begun.len().saturating_sub(END.len())..]);
    let mut sink = [0; 16 * 1024];
    while !tail.ends_with(END) {
        let count = stream.read(&mut sink).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        tail.extend_from_slice(&sink[count.saturating_sub(END.len())..count]);
        tail.drain(..tail.len().saturating_sub(END.len()));
    }
    Ok(())
}

/// The borders of a request.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    head_bytes: usize,
    body_bytes: usize,
    is_chunked: bool,
}

impl Request {
    /// The first request in `bytes`; None as long as its head is not complete.
    fn scan(bytes: &[u8]) -> Option<Self> {
        let head_bytes = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
        let head = &bytes[..head_bytes];
        let body_bytes = if head.starts_with(b"GET ") {
            0
        } else {
            content_length(head)
        };
        Some(Self {
            head_bytes,
            body_bytes,
            is_chunked: memchr::memmem::find(head, b"\r\ntransfer-encoding: chunked\r\n").is_some()
                || memchr::memmem::find(head, b"\r\nTransfer-Encoding: chunked\r\n").is_some(),
        })
    }
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n')
        .filter(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))
        .find_map(|line| {
            str::from_utf8(&line[NAME.len()..])
                .ok()?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_of_requests() {
        for (text, expected) in [
            ("", None),
            ("GET / HTTP/1.1\r\nhost: a\r\n", None),
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Some((27, 0))),
            ("GET / HTTP/1.1\r\ncontent-length: 9\r\n\r\n", Some((37, 0))),
            (
                "POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\nabc",
                Some((39, 12)),
            ),
            ("POST / HTTP/1.1\r\nhost: a\r\n\r\n", Some((28, 0))),
        ] {
            let found = Request::scan(text.as_bytes())
                .map(|request| (request.head_bytes, request.body_bytes));
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn the_answer_says_its_length() {
        for size in [0, 1, 1024] {
            let answer = answer_of(size);
            let head = memchr::memmem::find(&answer, b"\r\n\r\n").unwrap() + 4;
            assert_eq!(answer.len() - head, size);
            assert_eq!(content_length(&answer[..head]), size);
        }
    }
}
