//! The log: lines leave the process at once where the output takes them, and otherwise through one thread.
//!
//! A caller waits for a line that must not be lost, such as an audit event ([`Log::write`]): it writes the line itself if
//! nothing is queued and the output does not block. Diagnostic lines are queued without waiting. The queue is bounded: if
//! the output's reader stops, diagnostics are lost, but memory does not grow and no token is issued without an audit event.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::fmt::MakeWriter;

use super::immediate::Immediate;
use super::line::Line;
use super::output::{self, AtOnce, Condition};

/// Lines waiting for the output; a full queue drops diagnostics.
const QUEUE_CAPACITY: usize = 4096;

/// How long an audit line may take to reach the output.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the thread tries again to write to an output that would block and cannot be waited for.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, for programs.
    Json,
    /// Plain text, for people.
    Text,
}

/// A line was not written, so what it records must not take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be written")]
pub struct LogError;

/// A handle to the output; clones share it.
#[derive(Debug, Clone)]
pub struct Log {
    queue: mpsc::Sender<Queued>,
    format: Format,
    condition: Condition,
    /// Absent if writing to the output may block.
    immediate: Option<Arc<Immediate>>,
}

#[derive(Debug)]
struct Queued {
    text: Vec<u8>,
    written: Option<oneshot::Sender<()>>,
}

impl Log {
    /// Starts the thread that writes to `output`.
    pub fn start(format: Format, output: impl Write + Send + 'static) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_CAPACITY);
        let condition = Condition::default();
        let written = condition.clone();
        std::thread::spawn(move || write_queued(queue, output, &written));
        Self { queue: sender, format, condition, immediate: None }
    }

    /// As [`Log::start`], for an output that is monitored as long as the process runs: its failure and its recovery are
    /// noticed even while no line is to be written.
    ///
    /// # Errors
    /// [`io::Error`]: the file descriptor cannot be duplicated.
    pub fn start_monitored(format: Format, output: impl AsFd) -> io::Result<Self> {
        let (file, monitored) = output::unbuffered(output)?;
        let immediate = Immediate::of(&monitored)?.map(Arc::new);
        let log = Self { immediate, ..Self::start(format, file) };
        let queue = log.queue.clone();
        // If the queue is full, the lines in it serve as a probe.
        let probe = move || drop(queue.try_send(Queued { text: Vec::new(), written: None }));
        log.condition.clone().monitor(monitored, probe);
        Ok(log)
    }

    /// Fails at once if the output is known to fail.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn check(&self) -> Result<(), LogError> {
        if self.condition.is_failing() { Err(LogError) } else { Ok(()) }
    }

    /// The format of all lines, audit lines included.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes one line; when this returns, it has left the process.
    ///
    /// # Errors
    /// [`LogError`] if the line could not be written within five seconds.
    pub async fn write(&self, line: Line) -> Result<(), LogError> {
        let text = line.into_bytes();
        match self.write_at_once(&text) {
            AtOnce::Written => Ok(()),
            AtOnce::Begun => self.flush().await,
            AtOnce::NotBegun => self.send(text).await,
        }
    }

    /// Writes `text` without waiting, if no line is before it.
    fn write_at_once(&self, text: &[u8]) -> AtOnce {
        let Some(immediate) = &self.immediate else { return AtOnce::NotBegun };
        if self.queue.capacity() < self.queue.max_capacity() {
            return AtOnce::NotBegun;
        }
        self.condition.write_at_once(text, |bytes| immediate.write(bytes))
    }

    /// Waits until the lines before this moment have left the process.
    ///
    /// # Errors
    /// [`LogError`] if they could not be written within five seconds.
    pub async fn flush(&self) -> Result<(), LogError> {
        self.send(Vec::new()).await
    }

    async fn send(&self, text: Vec<u8>) -> Result<(), LogError> {
        let (written, done) = oneshot::channel();
        let line = Queued { text, written: Some(written) };
        let sending = async {
            self.queue.send(line).await.map_err(|_| LogError)?;
            done.await.map_err(|_| LogError)
        };
        tokio::time::timeout(WRITE_TIMEOUT, sending).await.map_err(|_| LogError)?
    }
}

/// Writes all queued lines at once. Failed lines are not acknowledged, and the next write begins a new line.
fn write_queued(mut queue: mpsc::Receiver<Queued>, mut output: impl Write, condition: &Condition) {
    let mut failed = false;
    while let Some(first) = queue.blocking_recv() {
        let mut lines = vec![first];
        while let Ok(line) = queue.try_recv() {
            lines.push(line);
        }
        let mut bytes = condition.begin_write();
        if failed {
            bytes.push(b'\n');
        }
        for line in &lines {
            bytes.extend_from_slice(&line.text);
        }
        let outcome = write_all(&mut output, &bytes).and_then(|()| output.flush());
        condition.end_write(&outcome, lines.iter().filter(|line| !line.text.is_empty()).count());
        failed = outcome.is_err();
        if !failed {
            for written in lines.into_iter().filter_map(|line| line.written) {
                // The sender may have given up waiting.
                let _ = written.send(());
            }
        }
    }
}

/// As [`Write::write_all`], but waits where the output would block: another process that shares it can have set
/// `O_NONBLOCK`.
fn write_all(output: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_INTERVAL),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Diagnostic lines are dropped when the queue is full; audit lines wait for a place.
impl<'a> MakeWriter<'a> for Log {
    type Writer = Diagnostic<'a>;

    fn make_writer(&'a self) -> Diagnostic<'a> {
        Diagnostic { log: self, text: Vec::new() }
    }
}

/// A diagnostic line being formatted; sent when dropped.
#[derive(Debug)]
pub struct Diagnostic<'a> {
    log: &'a Log,
    text: Vec<u8>,
}

impl Write for Diagnostic<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Diagnostic<'_> {
    fn drop(&mut self) {
        let text = Line::escaped(&String::from_utf8_lossy(&self.text)).into_bytes();
        if self.log.queue.try_send(Queued { text, written: None }).is_err() {
            self.log.condition.count_lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::super::sink::Sink;
    use super::*;

    ///
    #[tokio::test]
    async fn a_failed_line_is_not_acknowledged_and_the_log_recovers() {
        let sink = Sink::default();
        let log = Log::start(Format::Json, sink.clone());
        log.write(Line::escaped("one")).await.unwrap();
        sink.fill(true);
        assert_eq!(log.write(Line::escaped("two")).await, Err(LogError));
        sink.fill(false);
        log.write(Line::escaped("three")).await.unwrap();
        log.flush().await.unwrap();
        assert_eq!(sink.text(), "one\n\nthree\n");
    }

    /// More than a pipe holds: the worker writes the beginning, the thread the rest, and nothing comes in between.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_line_that_does_not_fit_at_once_stays_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = Log::start_monitored(Format::Json, &writer).unwrap();
        let text = "x".repeat(200_000);
        let sent = tokio::join!(log.write(Line::escaped(&text)), log.write(Line::escaped("after")), async {
            let mut read = vec![0; text.len() + "\nafter\n".len()];
            tokio::task::spawn_blocking(move || reader.read_exact(&mut read).map(|()| read)).await.unwrap()
        });
        assert_eq!((sent.0, sent.1), (Ok(()), Ok(())));
        assert_eq!(String::from_utf8(sent.2.unwrap()).unwrap(), format!("{text}\nafter\n"));
    }

    /// Another process that shares the output may have set `O_NONBLOCK`.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_output_that_would_block_is_waited_for() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let log = Log::start(Format::Json, writer);
        let text = "x".repeat(1 << 20);
        let read = tokio::task::spawn_blocking(move || {
            let mut read = vec![0; (1 << 20) + 1];
            reader.read_exact(&mut read).map(|()| read)
        });
        log.write(Line::escaped(&text)).await.unwrap();
        assert_eq!(String::from_utf8(read.await.unwrap().unwrap()).unwrap(), format!("{text}\n"));
    }

    /// Without waiting for the thread: it is never woken.
    #[tokio::test]
    async fn a_line_is_written_at_once_where_the_output_takes_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = Log::start_monitored(Format::Json, &writer).unwrap();
        assert_eq!(log.write_at_once(b"one\n"), AtOnce::Written);
        let mut text = [0; 4];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"one\n");
        drop(reader);
        assert_eq!(log.write_at_once(b"two\n"), AtOnce::NotBegun, "the reader is gone");
    }
}
