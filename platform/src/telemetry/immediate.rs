//! Writing to the output without waiting.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::{FileType, OFlags, fstat};
use rustix::net::{SendFlags, send};

/// An output that takes lines at once, or says that it would block.
#[derive(Debug)]
pub(super) enum Immediate {
    /// A device such as `/dev/null`.
    Device(std::fs::File),
    /// A pipe, opened a second time for writes that do not block: `O_NONBLOCK` on the first opening would also apply to
    /// other processes that share it.
    Pipe(std::fs::File),
    /// A socket, as journald's.
    Socket(OwnedFd),
}

impl Immediate {
    /// `None` if a write to `output` may block: a file, whose file system can hang or be frozen; a terminal; a pipe that
    /// this process may not open.
    ///
    /// # Errors
    /// [`io::Error`]: the file descriptor cannot be duplicated.
    pub(super) fn of(output: &OwnedFd) -> io::Result<Option<Self>> {
        let same = || output.try_clone();
        Ok(match fstat(output).map(|file| FileType::from_raw_mode(file.st_mode)) {
            Ok(FileType::CharacterDevice) if !output.is_terminal() => Some(Self::Device(same()?.into())),
            Ok(FileType::Fifo) => {
                let path = format!("/proc/self/fd/{}", output.as_raw_fd());
                let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
                OpenOptions::new().write(true).custom_flags(flags).open(path).ok().map(Self::Pipe)
            }
            Ok(FileType::Socket) => Some(Self::Socket(same()?)),
            _ => None,
        })
    }

    /// Writes what the output takes at once; returns how many bytes.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Device(file) | Self::Pipe(file) => (&mut &*file).write(bytes),
            Self::Socket(socket) => Ok(send(socket.as_fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// where a write can hang, no worker may write.
    #[test]
    fn a_file_is_never_written_at_once_and_a_pipe_is() {
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(Immediate::of(&file).unwrap().is_none());
        let (_reader, writer) = io::pipe().unwrap();
        assert!(Immediate::of(&OwnedFd::from(writer)).unwrap().is_some());
    }
}
