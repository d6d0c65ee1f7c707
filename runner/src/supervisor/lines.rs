//! Reads the output of child processes line by line. The processes run untrusted code, so lines can be of any length
//! and need not be text. The pipe is always drained, because a full pipe would block its process.

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// The lines of a pipe, each truncated to a limit.
pub(crate) struct Lines<R> {
    pipe: BufReader<R>,
    /// Bytes.
    limit: usize,
    /// The part of the current line that has been read. It is kept here so that `next` is cancel safe.
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(pipe: R, limit: usize) -> Self {
        Self { pipe: BufReader::new(pipe), limit, line: Vec::new() }
    }

    /// Returns the next line, truncated to the limit, with invalid UTF-8 replaced. Returns `None` at the end of the
    /// pipe. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            // A read error counts as the end of the pipe.
            let bytes = self.pipe.fill_buf().await.unwrap_or_default();
            let (ends_line, content, used) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(at) => (true, &bytes[..at], at + 1),
                None => (bytes.is_empty(), bytes, bytes.len()),
            };
            let room = self.limit - self.line.len();
            self.line.extend_from_slice(&content[..content.len().min(room)]);
            self.pipe.consume(used);
            if ends_line {
                let line = std::mem::take(&mut self.line);
                return (used > 0 || !line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn truncates_long_lines_and_replaces_invalid_utf8() {
        let output = [b"one\n\n\xffno text\xc3\n".as_slice(), &vec![b'x'; 100_000], b"\nafter it\nunfinished"].concat();
        let mut lines = Lines::new(output.as_slice(), 8);
        for line in ["one", "", "\u{fffd}no text", "xxxxxxxx", "after it", "unfinish"] {
            assert_eq!(lines.next().await.as_deref(), Some(line));
        }
        assert_eq!(lines.next().await, None);
    }

    #[tokio::test]
    async fn keeps_a_partial_line_when_next_is_cancelled() {
        let (mut process, pipe) = tokio::io::duplex(64);
        let mut lines = Lines::new(pipe, 64);
        process.write_all(b"half a ").await.unwrap();
        assert_eq!(lines.next().now_or_never(), None);
        process.write_all(b"line\n").await.unwrap();
        assert_eq!(lines.next().await.as_deref(), Some("half a line"));
    }
}
