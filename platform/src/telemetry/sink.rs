//! A log that tests read.
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests only")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// The bytes written, and whether the sink is full, so that writes fail.
#[derive(Clone, Default)]
pub struct Sink(Arc<Mutex<(Vec<u8>, bool)>>);

impl Sink {
    /// Sets whether writes fail from now on.
    pub fn fill(&self, full: bool) {
        self.0.lock().unwrap().1 = full;
    }

    /// All that was written.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
    }

    /// The lines written, which are JSON.
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The `event` of each line.
    pub fn events(&self) -> Vec<String> {
        self.lines().iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        if state.1 {
            return Err(io::Error::other("full"));
        }
        state.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
