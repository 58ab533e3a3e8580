/* Lets the n-th system call of a kind fail: for LD_PRELOAD, since SQLite and the interpreter call libc, not Python.

   FAULTS="KIND NUMBER ERRNO LASTING": of the calls of this kind, from 1, the NUMBER-th fails with ERRNO; LASTING 1: and all
   that follow. FAULTS_UNDER: only what concerns files below this folder, and sockets, counts. FAULTS_COUNTS: a file of two
   numbers, shared by all processes that run under the shim: how many calls there were, and how many failed. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static struct { _Atomic long reached, failed; } *counts;
static char kind[32];
static const char *under;
static long number;
static int error, lasting;

__attribute__((constructor)) static void begin(void) {
    const char *faults = getenv("FAULTS"), *file = getenv("FAULTS_COUNTS");
    under = getenv("FAULTS_UNDER");
    if (!faults || !file || !under || sscanf(faults, "%31s %ld %d %d", kind, &number, &error, &lasting) != 4) return;
    int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDWR, 0);
    if (fd < 0) return;
    void *mapped = (void *)syscall(SYS_mmap, NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (mapped != MAP_FAILED) counts = mapped;
}

static int fails(const char *what) {
    if (!counts || strcmp(what, kind)) return 0;
    long now = atomic_fetch_add(&counts->reached, 1) + 1;
    if (now != number && !(lasting && now > number)) return 0;
    atomic_fetch_add(&counts->failed, 1);
    errno = error;
    return 1;
}

static int ours(const char *path) { return !strncmp(path, under, strlen(under)) || !strncmp(path, "/proc/", 6); }

static int of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

/* Whether a call about an open file fails. */
static int fd_fails(const char *what, int fd) {
    char path[PATH_MAX];
    return counts && !strcmp(what, kind) && of_fd(fd, path) && ours(path) && fails(what);
}

/* Whether a call about a path does. */
static int at_fails(const char *what, int fd, const char *path) {
    char folder[PATH_MAX];
    if (!counts || strcmp(what, kind)) return 0;
    if (path[0] == '/') return ours(path) && fails(what);
    if (fd == AT_FDCWD) return 0;
    return of_fd(fd, folder) && ours(folder) && fails(what);
}

#define KEEP(type, name, arguments, call, condition) \
    type name arguments { \
        static type(*real) arguments; \
        if (!real) real = (type(*) arguments)dlsym(RTLD_NEXT, #name); \
        if (condition) return (type)-1; \
        return real call; \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        static int (*real)(const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        if (at_fails("open", AT_FDCWD, path)) return -1; \
        return real(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int fd, const char *path, int flags, ...) { \
        static int (*real)(int, const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        if (at_fails("open", fd, path)) return -1; \
        return real(fd, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* Not the pair of sockets by which an event loop wakes itself. */
static int far_fails(const char *what, int fd) {
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    if (!counts || strcmp(what, kind) || getsockname(fd, (struct sockaddr *)&name, &length)) return 0;
    return name.ss_family != AF_UNIX && fails(what);
}

KEEP(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), fd_fails("write", fd))
KEEP(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), fd_fails("write", fd))
KEEP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), fd_fails("write", fd))
KEEP(ssize_t, read, (int fd, void *data, size_t size), (fd, data, size), fd_fails("read", fd))
KEEP(ssize_t, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at), fd_fails("read", fd))
KEEP(ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at), fd_fails("read", fd))
KEEP(int, fsync, (int fd), (fd), fd_fails("sync", fd))
KEEP(int, fdatasync, (int fd), (fd), fd_fails("sync", fd))
KEEP(int, ftruncate, (int fd, off_t size), (fd, size), fd_fails("allocate", fd))
KEEP(int, ftruncate64, (int fd, off64_t size), (fd, size), fd_fails("allocate", fd))
KEEP(int, flock, (int fd, int how), (fd, how), fd_fails("lock", fd))
KEEP(int, rename, (const char *from, const char *to), (from, to), at_fails("rename", AT_FDCWD, from))
KEEP(int, renameat, (int f, const char *from, int t, const char *to), (f, from, t, to), at_fails("rename", f, from))
KEEP(int, unlink, (const char *path), (path), at_fails("unlink", AT_FDCWD, path))
KEEP(int, unlinkat, (int fd, const char *path, int how), (fd, path, how), at_fails("unlink", fd, path))
KEEP(int, rmdir, (const char *path), (path), at_fails("unlink", AT_FDCWD, path))
KEEP(int, mkdir, (const char *path, mode_t mode), (path, mode), at_fails("mkdir", AT_FDCWD, path))
KEEP(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), at_fails("mkdir", fd, path))
KEEP(int, mkfifo, (const char *path, mode_t mode), (path, mode), at_fails("mkdir", AT_FDCWD, path))
KEEP(int, mkfifoat, (int fd, const char *path, mode_t mode), (fd, path, mode), at_fails("mkdir", fd, path))
KEEP(int, socket, (int domain, int type, int protocol), (domain, type, protocol), fails("descriptor"))
KEEP(int, socketpair, (int domain, int type, int protocol, int two[2]), (domain, type, protocol, two), fails("descriptor"))
KEEP(int, pipe2, (int two[2], int flags), (two, flags), fails("descriptor"))
KEEP(int, epoll_create1, (int flags), (flags), fails("descriptor"))
KEEP(ssize_t, send, (int fd, const void *data, size_t size, int how), (fd, data, size, how), far_fails("send", fd))
KEEP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int how), (fd, message, how), far_fails("send", fd))
KEEP(ssize_t, recv, (int fd, void *data, size_t size, int how), (fd, data, size, how), far_fails("recv", fd))

int connect(int fd, const struct sockaddr *to, socklen_t length) {
    static int (*real)(int, const struct sockaddr *, socklen_t);
    if (!real) real = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    if (far_fails("connect", fd)) return -1;
    return real(fd, to, length);
}

DIR *opendir(const char *path) {
    static DIR *(*real)(const char *);
    if (!real) real = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    return at_fails("open", AT_FDCWD, path) ? NULL : real(path);
}

#define ALLOCATE(name, offset) \
    int name(int fd, offset at, offset size) { /* returns the error itself */ \
        static int (*real)(int, offset, offset); \
        if (!real) real = (int (*)(int, offset, offset))dlsym(RTLD_NEXT, #name); \
        return fd_fails("allocate", fd) ? error : real(fd, at, size); \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define MMAP(name, offset) \
    void *name(void *at, size_t size, int access, int how, int fd, offset from) { \
        static void *(*real)(void *, size_t, int, int, int, offset); \
        if (!real) real = (void *(*)(void *, size_t, int, int, int, offset))dlsym(RTLD_NEXT, #name); \
        if (!(how & MAP_ANONYMOUS) && fd_fails("mmap", fd)) return MAP_FAILED; \
        return real(at, size, access, how, fd, from); \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

#define FCNTL(name) \
    int name(int fd, int command, ...) { \
        static int (*real)(int, int, ...); \
        va_list more; va_start(more, command); void *argument = va_arg(more, void *); va_end(more); \
        if (!real) real = (int (*)(int, int, ...))dlsym(RTLD_NEXT, #name); \
        if ((command == F_SETLK || command == F_SETLKW) && fd_fails("lock", fd)) return -1; \
        return real(fd, command, argument); \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

int pthread_create(void *id, const void *how, void *(*run)(void *), void *argument) {
    static int (*real)(void *, const void *, void *(*)(void *), void *);
    if (!real) real = (int (*)(void *, const void *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
    return fails("thread") ? error : real(id, how, run, argument);
}

/* What a subprocess is started by. The real vfork would come back into a frame that is gone: a fork does the same. */
pid_t vfork(void) { return fails("fork") ? -1 : fork(); }
