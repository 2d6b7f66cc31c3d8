/*
 * Fails or cuts off the system calls of a process that touch one folder. Preloaded (LD_PRELOAD) by tests/store_faults.rs.
 *
 * WRIT_FAULT_FOLDER  the folder, an absolute path; calls on anything else pass
 * WRIT_FAULT_AT      the number of the call that is hit, from 1; 0: none
 * WRIT_FAULT_KIND    kill  the process is killed in place of the call
 *                    torn  the same, but the first half of a write is carried out
 *                    eio   the call fails with EIO
 *                    full  this and all later calls that may need space fail with ENOSPC
 *                    short a write carries out its first half only, and the next fails with ENOSPC
 * WRIT_FAULT_FULL    as long as this file exists, which is outside the folder, the disk is full: calls that need space fail
 * WRIT_FAULT_HANG    as long as this file exists, which is outside the folder, calls on the folder's working copy do not return
 * WRIT_FAULT_COUNT   a file that gets a line for each call
 * WRIT_FAULT_IMAGE   a folder that keeps what would survive a power cut: data.INODE, a file's content when it was last
 *                    synced, and names.INODE, a folder's entries when it was last synced (NAME INODE, a line each)
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What is written over needs none, unless the file system keeps both. */
enum need { NO_SPACE, OVERWRITES, SPACE };
enum verdict { PASS, FAIL, HALF };

static const char *folder, *kind, *full_file, *hang_file, *count_file, *image;
static size_t folder_len;
static long hit_at;
static atomic_long calls;
static atomic_int next_fails;
static pthread_mutex_t image_lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    const char *at = getenv("WRIT_FAULT_AT");
    folder = getenv("WRIT_FAULT_FOLDER");
    kind = getenv("WRIT_FAULT_KIND");
    full_file = getenv("WRIT_FAULT_FULL");
    hang_file = getenv("WRIT_FAULT_HANG");
    count_file = getenv("WRIT_FAULT_COUNT");
    image = getenv("WRIT_FAULT_IMAGE");
    hit_at = at ? atol(at) : 0;
    folder_len = folder ? strlen(folder) : 0;
    kind = kind ? kind : "";
}

/* The real calls, past every interposed name. */
static int raw_open(const char *path, int flags, mode_t mode) { return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode); }
static ssize_t raw_write(int fd, const void *bytes, size_t len) { return syscall(SYS_write, fd, bytes, len); }

static int inside(const char *path) {
    return folder && strncmp(path, folder, folder_len) == 0 && (path[folder_len] == '/' || path[folder_len] == 0);
}

static int path_of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[len < 0 ? 0 : len] = 0;
    return len >= 0;
}

static int fd_inside(int fd, char *path) { return folder && path_of_fd(fd, path) && inside(path); }

static int path_inside(int dir, const char *name, char *path) {
    if (!folder || !name) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else if (dir == AT_FDCWD) {
        return 0; /* the tests give absolute paths */
    } else {
        char base[PATH_MAX];
        if (!path_of_fd(dir, base)) return 0;
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return inside(path);
}

static enum verdict judge(const char *call, const char *path, enum need need) {
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (count_file) {
        char line[PATH_MAX + 64];
        int len = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path + folder_len);
        int fd = raw_open(count_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd >= 0) { raw_write(fd, line, (size_t)len); syscall(SYS_close, fd); }
    }
    while (hang_file && strstr(path + folder_len, "/.opening/") && syscall(SYS_faccessat, AT_FDCWD, hang_file, F_OK) == 0)
        usleep(10000);
    int is_full = full_file && syscall(SYS_faccessat, AT_FDCWD, full_file, F_OK) == 0;
    int fails = hit_at != 0 && number >= hit_at && strcmp(kind, "full") == 0 && need != NO_SPACE;
    if (fails || (is_full && need == SPACE)) {
        errno = ENOSPC;
        return FAIL;
    }
    if (hit_at == 0 || number < hit_at) return PASS;
    if (atomic_load(&next_fails) && need != NO_SPACE) {
        atomic_store(&next_fails, 0);
        errno = ENOSPC;
        return FAIL;
    }
    if (number != hit_at) return PASS;
    if (strcmp(kind, "kill") == 0) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }
    if (strcmp(kind, "torn") == 0 || strcmp(kind, "short") == 0) return HALF;
    if (strcmp(kind, "eio") == 0) { errno = EIO; return FAIL; }
    return PASS;
}

/* The end of a call of which the first half was carried out. */
static ssize_t half_done(ssize_t done) {
    if (strcmp(kind, "torn") == 0) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }
    atomic_store(&next_fails, 1);
    return done;
}

/* Where a call cannot be carried out by half, it is cut off before it or passes. */
static int passes(enum verdict verdict) {
    if (verdict == HALF && strcmp(kind, "torn") == 0) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }
    return verdict != FAIL;
}

/* Inodes must not be given to other files as long as this process lives. */
static void hold(int fd) {
    static ino_t held[4096];
    static int count;
    struct stat about;
    char link[64];
    if (!image || fstat(fd, &about) != 0) return;
    pthread_mutex_lock(&image_lock);
    int known = 0;
    for (int i = 0; i < count; i++) known |= held[i] == about.st_ino;
    if (!known && count < 4096) {
        held[count++] = about.st_ino;
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        raw_open(link, O_PATH | O_CLOEXEC, 0);
    }
    pthread_mutex_unlock(&image_lock);
}

static void keep_names(int fd, const char *to) {
    char buffer[8192];
    int dir = (int)syscall(SYS_openat, fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    int out = raw_open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (;;) {
        long len = syscall(SYS_getdents64, dir, buffer, sizeof buffer);
        if (len <= 0) break;
        for (long at = 0; at < len;) {
            struct dirent64 *entry = (struct dirent64 *)(buffer + at);
            char line[300];
            int size = snprintf(line, sizeof line, "%s %llu\n", entry->d_name, (unsigned long long)entry->d_ino);
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) raw_write(out, line, (size_t)size);
            at += entry->d_reclen;
        }
    }
    syscall(SYS_close, dir);
    syscall(SYS_close, out);
}

static void keep_data(int fd, const char *to) {
    static char buffer[1 << 16];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int in = raw_open(link, O_RDONLY | O_CLOEXEC, 0);
    int out = raw_open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (;;) {
        long len = syscall(SYS_read, in, buffer, sizeof buffer);
        if (len <= 0) break;
        raw_write(out, buffer, (size_t)len);
    }
    syscall(SYS_close, in);
    syscall(SYS_close, out);
}

/* What was synced survives: into a file of its own first, which then takes the name, as this may be cut off too. */
static void keep(int fd) {
    char draft[PATH_MAX], to[PATH_MAX];
    struct stat about;
    if (!image || fstat(fd, &about) != 0) return;
    pthread_mutex_lock(&image_lock);
    int is_folder = S_ISDIR(about.st_mode);
    snprintf(draft, sizeof draft, "%s/draft", image);
    snprintf(to, sizeof to, "%s/%s.%llu", image, is_folder ? "names" : "data", (unsigned long long)about.st_ino);
    if (is_folder) keep_names(fd, draft); else keep_data(fd, draft);
    syscall(SYS_renameat2, AT_FDCWD, draft, AT_FDCWD, to, 0);
    pthread_mutex_unlock(&image_lock);
}

static enum need need_of_write(int fd, off_t at, size_t len) {
    struct stat about;
    if (at < 0) at = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    return fstat(fd, &about) == 0 && at >= 0 && at + (off_t)len <= about.st_size ? OVERWRITES : SPACE;
}

static int do_open(int dir, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    int is_ours = path_inside(dir, name, path);
    if (is_ours) {
        int is_there = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
        enum need need = !(flags & O_CREAT) ? NO_SPACE : is_there ? OVERWRITES : SPACE;
        if (!passes(judge((flags & O_CREAT) ? "create" : "open", path, need))) return -1;
    }
    int fd = (int)syscall(SYS_openat, dir, name, flags, mode);
    if (is_ours && fd >= 0) hold(fd);
    return fd;
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *name, int flags, ...) { MODE return do_open(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return do_open(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int dir, const char *name, int flags, ...) { MODE return do_open(dir, name, flags, mode); }
int openat64(int dir, const char *name, int flags, ...) { MODE return do_open(dir, name, flags | O_LARGEFILE, mode); }

#define ON_FD(call, need, failed) \
    char path[PATH_MAX]; \
    enum verdict verdict = PASS; \
    if (fd_inside(fd, path)) verdict = judge(call, path, need); \
    if (verdict == FAIL) return failed;

ssize_t write(int fd, const void *bytes, size_t len) {
    ON_FD("write", need_of_write(fd, -1, len), -1)
    if (verdict == HALF) return half_done(raw_write(fd, bytes, (len + 1) / 2));
    return raw_write(fd, bytes, len);
}

static ssize_t do_pwrite(int fd, const void *bytes, size_t len, off_t at) {
    ON_FD("pwrite", need_of_write(fd, at, len), -1)
    if (verdict == HALF) return half_done(syscall(SYS_pwrite64, fd, bytes, (len + 1) / 2, at));
    return syscall(SYS_pwrite64, fd, bytes, len, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return do_pwrite(fd, bytes, len, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) { return do_pwrite(fd, bytes, len, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ON_FD("writev", SPACE, -1)
    if (!passes(verdict)) return -1;
    return syscall(SYS_writev, fd, parts, count);
}

ssize_t read(int fd, void *bytes, size_t len) {
    ON_FD("read", NO_SPACE, -1)
    if (!passes(verdict)) return -1;
    return syscall(SYS_read, fd, bytes, len);
}

static ssize_t do_pread(int fd, void *bytes, size_t len, off_t at) {
    ON_FD("pread", NO_SPACE, -1)
    if (!passes(verdict)) return -1;
    return syscall(SYS_pread64, fd, bytes, len, at);
}
ssize_t pread(int fd, void *bytes, size_t len, off_t at) { return do_pread(fd, bytes, len, at); }
ssize_t pread64(int fd, void *bytes, size_t len, off64_t at) { return do_pread(fd, bytes, len, at); }

ssize_t copy_file_range(int in, off64_t *from, int fd, off64_t *to, size_t len, unsigned flags) {
    ON_FD("copy_file_range", SPACE, -1)
    if (verdict == HALF) return half_done(syscall(SYS_copy_file_range, in, from, fd, to, len > 65536 ? 65536 : len, flags));
    return syscall(SYS_copy_file_range, in, from, fd, to, len, flags);
}

ssize_t sendfile64(int fd, int in, off64_t *from, size_t len) {
    ON_FD("sendfile", SPACE, -1)
    if (!passes(verdict)) return -1;
    return syscall(SYS_sendfile, fd, in, from, len);
}

int fsync(int fd) {
    ON_FD("fsync", NO_SPACE, -1)
    if (!passes(verdict)) return -1;
    int done = (int)syscall(SYS_fsync, fd);
    if (done == 0 && fd_inside(fd, path)) keep(fd);
    return done;
}

int fdatasync(int fd) {
    ON_FD("fdatasync", NO_SPACE, -1)
    if (!passes(verdict)) return -1;
    int done = (int)syscall(SYS_fdatasync, fd);
    if (done == 0 && fd_inside(fd, path)) keep(fd);
    return done;
}

/* Promises nothing about a power cut: neither the disk's cache nor the file's length are written. */
int sync_file_range(int fd, off64_t at, off64_t len, unsigned flags) {
    ON_FD("sync_file_range", NO_SPACE, -1)
    if (!passes(verdict)) return -1;
    return (int)syscall(SYS_sync_file_range, fd, at, len, flags);
}

static int do_ftruncate(int fd, off_t len) {
    ON_FD("ftruncate", SPACE, -1)
    if (!passes(verdict)) return -1;
    return (int)syscall(SYS_ftruncate, fd, len);
}
int ftruncate(int fd, off_t len) { return do_ftruncate(fd, len); }
int ftruncate64(int fd, off64_t len) { return do_ftruncate(fd, len); }

int fchmod(int fd, mode_t mode) {
    ON_FD("fchmod", NO_SPACE, -1)
    if (!passes(verdict)) return -1;
    return (int)syscall(SYS_fchmod, fd, mode);
}

int flock(int fd, int operation) {
    ON_FD("flock", NO_SPACE, -1)
    if (!passes(verdict)) return -1;
    return (int)syscall(SYS_flock, fd, operation);
}

#define ON_PATH(call, dir, name, need, failed) \
    char path[PATH_MAX]; \
    if (path_inside(dir, name, path) && !passes(judge(call, path, need))) return failed;

int chmod(const char *name, mode_t mode) {
    ON_PATH("chmod", AT_FDCWD, name, NO_SPACE, -1)
    return (int)syscall(SYS_fchmodat, AT_FDCWD, name, mode);
}

int mkdir(const char *name, mode_t mode) {
    ON_PATH("mkdir", AT_FDCWD, name, SPACE, -1)
    return (int)syscall(SYS_mkdirat, AT_FDCWD, name, mode);
}

int rmdir(const char *name) {
    ON_PATH("rmdir", AT_FDCWD, name, NO_SPACE, -1)
    return (int)syscall(SYS_unlinkat, AT_FDCWD, name, AT_REMOVEDIR);
}

int unlink(const char *name) {
    ON_PATH("unlink", AT_FDCWD, name, NO_SPACE, -1)
    return (int)syscall(SYS_unlinkat, AT_FDCWD, name, 0);
}

int unlinkat(int dir, const char *name, int flags) {
    ON_PATH("unlinkat", dir, name, NO_SPACE, -1)
    return (int)syscall(SYS_unlinkat, dir, name, flags);
}

int rename(const char *from, const char *to) {
    ON_PATH("rename", AT_FDCWD, to, SPACE, -1)
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int link(const char *from, const char *to) {
    ON_PATH("link", AT_FDCWD, to, SPACE, -1)
    return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_dir, const char *from, int dir, const char *to, int flags) {
    ON_PATH("linkat", dir, to, SPACE, -1)
    return (int)syscall(SYS_linkat, from_dir, from, dir, to, flags);
}
