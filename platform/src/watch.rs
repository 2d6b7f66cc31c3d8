//! Tells whether files may have changed (inotify), so that they need not be read over and over.
//!
//! Folders are watched, not files: each one in which a part of a path is looked up, links followed. So a file that is
//! replaced, a link that is turned elsewhere, and a folder that is removed and created again are all noticed. Changes that
//! another host makes on a network file system are not noticed, so callers must also read the files from time to time.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf, absolute};

use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Everything that can change the content of a file, or which file a path leads to; no reading.
const CHANGES: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVE);

/// The links that are followed on one path, as the kernel does (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Bytes for the events of one read.
const BUFFER_SIZE: usize = 16 * 1024;

/// Watches files and folders for changes.
#[derive(Debug)]
pub struct FileWatch {
    inotify: OwnedFd,
    watched: HashMap<i32, Watched>,
}

/// What counts in one watched folder.
#[derive(Debug, Default)]
struct Watched {
    is_whole: bool,
    names: HashSet<OsString>,
}

impl FileWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// [`io::Error`] if the system has no inotify, or the user has no instance left.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self { inotify, watched: HashMap::new() })
    }

    /// Whether something has changed since the last call, or events were lost. Does not wait.
    pub fn changed(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_SIZE];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        let mut changed = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    changed |= lost || concerns(&self.watched, event.wd(), event.file_name());
                }
                Err(Errno::AGAIN) => return changed,
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    /// Watches these files, and everything in these folders, instead of those before. Call it again after a change: a path
    /// may lead elsewhere then.
    ///
    /// True if something is watched that was not before: what was read earlier may have changed unnoticed.
    ///
    /// # Errors
    /// [`io::Error`] if the system does not allow more watches; some of the paths are not watched then. A path without a
    /// file, and a folder that may not be read, are no errors.
    pub fn follow<'a>(
        &mut self,
        files: impl IntoIterator<Item = &'a Path>,
        folders: impl IntoIterator<Item = &'a Path>,
    ) -> io::Result<bool> {
        let mut walk = Walk::new(&self.inotify);
        for file in files {
            walk.follow(file);
        }
        for folder in folders {
            let real = walk.follow(folder);
            walk.watch(&real, |watched| watched.is_whole = true);
        }
        walk.watch_mounted_files();
        let Walk { watched, fault, .. } = walk;
        let is_new = watched.keys().any(|id| !self.watched.contains_key(id));
        for id in self.watched.keys().filter(|id| !watched.contains_key(*id)) {
            // A folder that was removed is not watched any more anyway.
            let _ = inotify::remove_watch(&self.inotify, *id);
        }
        self.watched = watched;
        fault.map_or(Ok(is_new), |fault| Err(fault.into()))
    }
}

/// Whether an event counts: one of the folder itself has no name.
fn concerns(watched: &HashMap<i32, Watched>, id: i32, name: Option<&CStr>) -> bool {
    let Some(watched) = watched.get(&id) else { return false };
    watched.is_whole || name.is_none_or(|name| watched.names.contains(OsStr::from_bytes(name.to_bytes())))
}

/// One walk along all paths.
struct Walk<'a> {
    inotify: &'a OwnedFd,
    watched: HashMap<i32, Watched>,
    /// The watch of each folder; `None` if it cannot be watched.
    ids: HashMap<PathBuf, Option<i32>>,
    /// Where each path leads to.
    real: HashMap<PathBuf, PathBuf>,
    fault: Option<Errno>,
}

impl<'a> Walk<'a> {
    fn new(inotify: &'a OwnedFd) -> Self {
        Self { inotify, watched: HashMap::new(), ids: HashMap::new(), real: HashMap::new(), fault: None }
    }

    /// Watches every folder on the way of `path`; returns where it leads to.
    fn follow(&mut self, path: &Path) -> PathBuf {
        let mut links = MAX_LINKS;
        let path = absolute(path).unwrap_or_else(|_| path.to_owned());
        self.resolve(&path, &mut links)
    }

    fn resolve(&mut self, path: &Path, links: &mut usize) -> PathBuf {
        if let Some(real) = self.real.get(path) {
            return real.clone();
        }
        let (Some(parent), Some(last)) = (path.parent(), path.components().next_back()) else {
            return path.to_owned();
        };
        let folder = self.resolve(parent, links);
        let real = match last {
            Component::Normal(name) => self.look_up(&folder, name, links),
            Component::ParentDir => folder.parent().unwrap_or(&folder).to_owned(),
            _ => folder,
        };
        self.real.insert(path.to_owned(), real.clone());
        real
    }

    fn look_up(&mut self, folder: &Path, name: &OsStr, links: &mut usize) -> PathBuf {
        // Watched before it is read, so that no change is missed in between.
        self.watch(folder, |watched| {
            watched.names.insert(name.to_owned());
        });
        let real = folder.join(name);
        match fs::read_link(&real) {
            Ok(target) if *links > 0 => {
                *links -= 1;
                self.resolve(&folder.join(target), links)
            }
            _ => real,
        }
    }

    fn watch(&mut self, path: &Path, note: impl FnOnce(&mut Watched)) {
        let id = match self.ids.get(path) {
            Some(id) => *id,
            None => self.add(path),
        };
        if let Some(id) = id {
            note(self.watched.entry(id).or_default());
        }
    }

    fn add(&mut self, path: &Path) -> Option<i32> {
        let id = inotify::add_watch(self.inotify, path, CHANGES);
        if let Err(fault @ (Errno::NOSPC | Errno::NOMEM)) = id {
            self.fault = Some(fault);
        }
        let id = id.ok();
        self.ids.insert(path.to_owned(), id);
        id
    }

    /// A file that is mounted on its own changes in the folder that it is mounted from, which may be out of sight.
    fn watch_mounted_files(&mut self) {
        for path in mount_points() {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let Some(Some(id)) = self.ids.get(folder) else { continue };
            let counts = self.watched.get(id).is_some_and(|in_it| in_it.is_whole || in_it.names.contains(name));
            if counts && path.is_file() {
                self.watch(&path, |watched| watched.is_whole = true);
            }
        }
    }
}

/// Where file systems are mounted; empty if that cannot be read.
fn mount_points() -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let point = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescape);
    table.split(|byte| *byte == b'\n').filter_map(point).map(|path| OsString::from_vec(path).into()).collect()
}

/// `proc_pid_mountinfo(5)` writes a space as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal =
            tail.first_chunk::<3>().filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            plain.push(byte);
            rest = &tail[3..];
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        watch: FileWatch,
    }

    impl Scene {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), watch: FileWatch::new().unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str) {
            fs::write(self.path(name), name).unwrap();
        }

        /// Watches these, and reads what came until then.
        fn follow(&mut self, files: &[&str], folders: &[&str]) -> bool {
            let [files, folders] =
                [files, folders].map(|all| all.iter().map(|name| self.path(name)).collect::<Vec<_>>());
            self.watch.follow(files.iter().map(PathBuf::as_path), folders.iter().map(PathBuf::as_path)).unwrap()
        }
    }

    #[test]
    fn each_way_to_change_a_watched_file_is_noticed() {
        let mut scene = Scene::new();
        scene.write("a.pem");
        assert!(scene.follow(&["a.pem"], &[]));
        assert!(!scene.follow(&["a.pem"], &[]), "nothing new is watched");
        assert!(!scene.watch.changed());
        fs::read(scene.path("a.pem")).unwrap();
        scene.write("other");
        assert!(!scene.watch.changed(), "reading it, and another file, are no changes");
        scene.write("a.pem");
        assert!(scene.watch.changed() && !scene.watch.changed());
        fs::rename(scene.path("other"), scene.path("a.pem")).unwrap();
        assert!(scene.watch.changed());
        fs::remove_file(scene.path("a.pem")).unwrap();
        assert!(scene.watch.changed());
        scene.write("a.pem");
        assert!(scene.watch.changed());
    }

    /// Kubernetes replaces the files of a volume by turning the link `..data` elsewhere.
    #[test]
    fn a_link_on_the_way_that_is_turned_elsewhere_is_noticed() {
        let mut scene = Scene::new();
        for version in ["..1", "..2"] {
            fs::create_dir(scene.path(version)).unwrap();
            scene.write(&format!("{version}/a.pem"));
        }
        symlink("..1", scene.path("..data")).unwrap();
        symlink("..data/a.pem", scene.path("a.pem")).unwrap();
        scene.follow(&["a.pem"], &[]);
        scene.write("..2/a.pem");
        assert!(!scene.watch.changed(), "not there yet");
        symlink("..2", scene.path("..data_tmp")).unwrap();
        fs::rename(scene.path("..data_tmp"), scene.path("..data")).unwrap();
        assert!(scene.watch.changed());
        assert!(scene.follow(&["a.pem"], &[]));
        scene.write("..1/a.pem");
        assert!(!scene.watch.changed(), "no longer there");
        scene.write("..2/a.pem");
        assert!(scene.watch.changed());
    }

    #[test]
    fn a_folder_that_is_removed_and_created_again_is_noticed() {
        let mut scene = Scene::new();
        fs::create_dir_all(scene.path("etc/policies")).unwrap();
        scene.follow(&["etc/keys/a.pem"], &["etc/policies"]);
        scene.write("etc/policies/any");
        assert!(scene.watch.changed());
        fs::remove_dir_all(scene.path("etc")).unwrap();
        assert!(scene.watch.changed());
        scene.follow(&["etc/keys/a.pem"], &["etc/policies"]);
        for path in ["etc", "etc/policies"] {
            fs::create_dir(scene.path(path)).unwrap();
            assert!(scene.watch.changed());
            assert!(scene.follow(&["etc/keys/a.pem"], &["etc/policies"]));
        }
        scene.write("etc/policies/any");
        assert!(scene.watch.changed());
        fs::create_dir(scene.path("etc/keys")).unwrap();
        assert!(scene.watch.changed(), "a folder on the way to a file that was not there");
    }

    #[test]
    fn links_in_a_circle_end() {
        let mut scene = Scene::new();
        symlink("b", scene.path("a")).unwrap();
        symlink("a", scene.path("b")).unwrap();
        scene.follow(&["a/x"], &["b"]);
        fs::remove_file(scene.path("a")).unwrap();
        assert!(scene.watch.changed());
    }

    #[test]
    fn lost_events_count_as_a_change() {
        let mut scene = Scene::new();
        scene.follow(&["a"], &[]);
        let queue: usize =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        let other = [scene.path("b"), scene.path("c")];
        for path in &other {
            fs::write(path, "").unwrap();
        }
        for _ in 0..=queue / 2 {
            // Neighbouring events that are equal are merged.
            for path in &other {
                fs::set_permissions(path, fs::metadata(path).unwrap().permissions()).unwrap();
            }
        }
        assert!(scene.watch.changed());
    }

    #[test]
    fn escapes_in_the_table_of_mounts_are_read() {
        assert_eq!(unescape(br"/a\040b\134\"), br"/a b\\");
        assert!(mount_points().contains(&PathBuf::from("/")));
    }
}
