//! The log: one thread owns its output.
//!
//! Diagnostic lines are queued without waiting. A caller waits for a line that must not be lost, such as an audit event
//! ([`Log::write`]). The queue is bounded: if the output's reader stops, diagnostics are lost, but memory does not grow and
//! no token is issued without an audit event.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::fmt::MakeWriter;

use super::output::{self, Condition};

/// Lines waiting for the output; a full queue drops diagnostics.
const QUEUE_CAPACITY: usize = 4096;

/// How long an audit line may take to reach the output.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

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
    lines: mpsc::Sender<Line>,
    format: Format,
    condition: Condition,
}

#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    written: Option<oneshot::Sender<()>>,
}

impl Log {
    /// Starts the thread that writes to `output`.
    pub fn start(format: Format, output: impl Write + Send + 'static) -> Self {
        let (lines, queue) = mpsc::channel(QUEUE_CAPACITY);
        let condition = Condition::default();
        let written = condition.clone();
        std::thread::spawn(move || write_lines(queue, output, &written));
        Self { lines, format, condition }
    }

    /// As [`Log::start`], for an output that is monitored as long as the process runs: its failure and its recovery are
    /// noticed even while no line is to be written.
    ///
    /// # Errors
    /// [`io::Error`]: the file descriptor cannot be duplicated.
    pub fn start_monitored(format: Format, output: impl AsFd) -> io::Result<Self> {
        let (file, monitored) = output::unbuffered(output)?;
        let log = Self::start(format, file);
        let lines = log.lines.clone();
        // If the queue is full, the lines in it serve as a probe.
        let probe = move || drop(lines.try_send(Line { text: Vec::new(), written: None }));
        log.condition.clone().monitor(monitored, probe);
        Ok(log)
    }

    /// Fails at once if the output is known to fail.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn check(&self) -> Result<(), LogError> {
        self.condition.failure().map_or(Ok(()), |_| Err(LogError))
    }

    /// The format of all lines, audit lines included.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes one line; when this returns, it has left the process.
    ///
    /// # Errors
    /// [`LogError`] if the line could not be written within five seconds.
    pub async fn write(&self, text: String) -> Result<(), LogError> {
        self.send(one_line(&text)).await
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
        let line = Line { text, written: Some(written) };
        let sending = async {
            self.lines.send(line).await.map_err(|_| LogError)?;
            done.await.map_err(|_| LogError)
        };
        tokio::time::timeout(WRITE_TIMEOUT, sending).await.map_err(|_| LogError)?
    }
}

/// Writes all queued lines at once. Failed lines are not acknowledged, and the next write begins a new line.
fn write_lines(mut queue: mpsc::Receiver<Line>, mut output: impl Write, condition: &Condition) {
    let mut failed = false;
    while let Some(first) = queue.blocking_recv() {
        let mut lines = vec![first];
        while let Ok(line) = queue.try_recv() {
            lines.push(line);
        }
        let mut bytes = if failed { vec![b'\n'] } else { Vec::new() };
        for line in &lines {
            bytes.extend_from_slice(&line.text);
        }
        condition.begin_write();
        let outcome = output.write_all(&bytes).and_then(|()| output.flush());
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

/// Escapes everything but printable ASCII, so that logged input can neither end a line nor control a terminal.
fn one_line(text: &str) -> Vec<u8> {
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.trim_end_matches('\n').chars() {
        if c == ' ' || c.is_ascii_graphic() {
            line.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
        }
    }
    line.push('\n');
    line.into_bytes()
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
        let line = Line { text: one_line(&String::from_utf8_lossy(&self.text)), written: None };
        if self.log.lines.try_send(line).is_err() {
            self.log.condition.count_lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sink::Sink;
    use super::*;

    ///
    #[test]
    fn a_line_is_one_line_of_printable_ascii() {
        assert_eq!(one_line("a\"\n\u{1b}[31m\u{202e}\u{1f600}\n"), b"a\"\\u000a\\u001b[31m\\u202e\\ud83d\\ude00\n");
    }

    ///
    #[tokio::test]
    async fn a_failed_line_is_not_acknowledged_and_the_log_recovers() {
        let sink = Sink::default();
        let log = Log::start(Format::Json, sink.clone());
        log.write("one".into()).await.unwrap();
        sink.fill(true);
        assert_eq!(log.write("two".into()).await, Err(LogError));
        sink.fill(false);
        log.write("three".into()).await.unwrap();
        log.flush().await.unwrap();
        assert_eq!(sink.text(), "one\n\nthree\n");
    }
}
