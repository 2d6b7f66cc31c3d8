//! Where the log goes: when that takes no more lines, no token leaves, and the service says that it is not ready
//! (CONTRACT 2, 10; A-132).

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::OFlags;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::scene::{MAILER, PURGE, delayed};
use crate::support::eventually;
use crate::support::workload::{Form, Workload};
use crate::support::writ::{Setup, Site};

/// The log is a sparse file of this length, so that a file size limit affects it before the files of the store.
const LONG: u64 = 1 << 30;

/// A service whose standard output is a file of the test.
struct Served {
    setup: Setup,
    child: Child,
    errors: Arc<Mutex<String>>,
    site: Arc<Site>,
}

impl Served {
    fn start(setup: Setup, output: File, ready: impl FnOnce() -> Value) -> Self {
        let mut serve = setup.command(&["serve"]);
        let mut child = serve.stdout(output).stderr(Stdio::piped()).spawn().expect("the executable starts");
        let errors = Arc::new(Mutex::new(String::new()));
        let (written, stderr) = (Arc::clone(&errors), child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                written.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let site = Site::of(&ready(), &setup.ca);
        Self { setup, child, errors, site }
    }

    fn workload(&self, id: &str) -> Workload {
        Workload::new(&self.site, Some(&self.setup.credentials(id)))
    }

    fn health(&self) -> (u16, Value) {
        let response = self.site.ops("/readyz");
        (response.status, response.json())
    }

    fn becomes_unready(&self) {
        let unready = (503, json!({"status": "unavailable", "failing": ["audit"]}));
        eventually("it is not ready", || (self.health() == unready).then_some(()));
        assert_eq!(self.site.ops("/livez").status, 200);
        self.complains("the log cannot be written");
    }

    fn becomes_ready(&self) {
        eventually("it is ready", || (self.health().0 == 200).then_some(()));
        self.complains("the log can be written again");
    }

    fn complains(&self, words: &str) {
        eventually(words, || self.errors.lock().unwrap().contains(words).then_some(()));
    }

    /// Limits the size of its files, or removes the limit.
    fn limit_files(&self, length: Option<u64>) {
        let maximum = getrlimit(Resource::Fsize).maximum;
        let limit = Rlimit { current: length.or(maximum), maximum };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit).expect("a child of ours");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ready_in(text: &str) -> Option<Value> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.into_iter().find(|line| line["event"] == "ready")
}

fn fifo(setup: &Setup) -> PathBuf {
    let path = setup.path("log.fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Opens it without waiting for the other side.
fn open(path: &Path, write: bool) -> File {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(!write).write(write).custom_flags(flags).open(path).unwrap()
}

fn writing_end(path: &Path) -> File {
    let file = open(path, true);
    // The service writes without O_NONBLOCK.
    rustix::fs::fcntl_setfl(&file, OFlags::empty()).unwrap();
    file
}

/// What can be read now.
fn drain(reader: &mut File) -> String {
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = reader.read(&mut chunk) {
        text.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn ready_through(reader: &mut File) -> Value {
    let mut text = String::new();
    eventually("the service is ready", || {
        text.push_str(&drain(reader));
        ready_in(&text)
    })
}

/// and no use of a stored token is spent on an answer that cannot leave.
#[test]
fn a_full_disk_makes_it_unready_until_there_is_space() {
    let setup = delayed("max_uses = 1");
    let path = setup.path("writ.log");
    let output = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    output.set_len(LONG).unwrap();
    let text = || {
        let mut text = Vec::new();
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(LONG)).and_then(|_| file.read_to_end(&mut text)).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    };
    let served = Served::start(setup, output, || eventually("it is ready", || ready_in(&text())));
    let purge = Form::client_credentials(PURGE);
    let original = served.workload("accounts").token(&purge).issued();
    assert_eq!(served.health().0, 200);

    // One more line may still be begun, and is cut off.
    served.limit_files(Some(LONG + text().len() as u64 + 20));
    let unrecorded = |form: &Form, client: &str| {
        served.workload(client).token(form).refused(503, "temporarily_unavailable", "audit_unavailable");
    };
    unrecorded(&purge, "accounts");
    served.becomes_unready();
    original.wait_until_expired();
    let redemption = Form::redeem(&original.token, PURGE);
    (0..3).for_each(|_| unrecorded(&redemption, "batch"));

    served.limit_files(None);
    served.becomes_ready();
    assert_eq!(served.workload("batch").token(&redemption).issued().use_number(), Some(1));
    let lost = eventually("what is missing is told", || {
        let lines: Vec<Value> = text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines.into_iter().find_map(|line| line["lost"].as_u64())
    });
    assert!(lost >= 4, "{lost}");
}

/// even while nothing is to be written.
#[test]
fn a_log_without_a_reader_makes_it_unready_until_there_is_one() {
    let setup = Setup::new().client("mailer", MAILER);
    let path = fifo(&setup);
    let mut reader = open(&path, false);
    let served = Served::start(setup, writing_end(&path), || ready_through(&mut reader));
    assert_eq!(served.health().0, 200);
    drop(reader);
    served.becomes_unready();
    let deliver = Form::client_credentials("mailbox.deliver");
    served.workload("mailer").token(&deliver).refused(503, "temporarily_unavailable", "audit_unavailable");
    let mut reader = open(&path, false);
    served.becomes_ready();
    served.workload("mailer").token(&deliver).issued();
    assert!(drain(&mut reader).contains("token_issued"));
}

///
#[test]
fn a_log_whose_reader_has_stopped_makes_it_unready_until_it_goes_on() {
    let setup = Setup::new().client("mailer", MAILER);
    let path = fifo(&setup);
    let mut reader = open(&path, false);
    let served = Served::start(setup, writing_end(&path), || ready_through(&mut reader));
    let mut other = open(&path, true);
    while other.write(&[b'\n'; 512]).is_ok() {}
    served.becomes_unready();
    let deliver = Form::client_credentials("mailbox.deliver");
    served.workload("mailer").token(&deliver).refused(503, "temporarily_unavailable", "audit_unavailable");
    drain(&mut reader);
    served.becomes_ready();
    served.workload("mailer").token(&deliver).issued();
    assert!(drain(&mut reader).contains("token_issued"));
}
