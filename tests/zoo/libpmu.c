/* A CPU's counters where there are none: stands between the witness and the kernel. Events of the hardware and raw ones open, and each has counted 1,000,000 (5,000,000 cycles) in half of the
 * time in which it was to count. PMU_CPUINFO is read in the place of /proc/cpuinfo; PMU_LOG gets a line for each event: type and code. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST = 4096 };
static struct {
    int used;
    uint64_t count, format;
} events[MOST];

#define REAL(name, ...) ((long (*)())dlsym(RTLD_NEXT, name))(__VA_ARGS__)
#pragma GCC diagnostic ignored "-Wstrict-prototypes"

long syscall(long number, ...) {
    va_list list;
    va_start(list, number);
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_perf_event_open) {
        const struct perf_event_attr *attr = (const struct perf_event_attr *)a[0];
        if (attr->type == PERF_TYPE_HARDWARE || attr->type == PERF_TYPE_RAW) {
            int fd = memfd_create("event", MFD_CLOEXEC);
            if (fd < 0 || fd >= MOST) return -1;
            events[fd].used = 1;
            events[fd].count = attr->type == PERF_TYPE_RAW ? 1000000 : 5000000;
            events[fd].format = attr->read_format;
            int log = getenv("PMU_LOG") ? open(getenv("PMU_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
            if (log >= 0) {
                dprintf(log, "%u %#llx\n", attr->type, (unsigned long long)attr->config);
                close(log);
            }
            return fd;
        }
    }
    return REAL("syscall", number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static int ours(int fd) { return fd >= 0 && fd < MOST && events[fd].used; }

ssize_t read(int fd, void *to, size_t length) {
    if (!ours(fd)) return REAL("read", fd, to, length);
    uint64_t values[4] = {events[fd].count, 0, 0, 0};
    int n = 1;
    if (events[fd].format & PERF_FORMAT_TOTAL_TIME_ENABLED) values[n++] = 2000000;
    if (events[fd].format & PERF_FORMAT_TOTAL_TIME_RUNNING) values[n++] = 1000000;
    if (events[fd].format & PERF_FORMAT_ID) values[n++] = (uint64_t)fd;
    size_t size = n * sizeof *values < length ? n * sizeof *values : length;
    memcpy(to, values, size);
    return (ssize_t)size;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (!ours(fd)) return (int)REAL("ioctl", fd, request, argument);
    if (request == PERF_EVENT_IOC_ID) *(uint64_t *)argument = (uint64_t)fd;
    return 0;
}

int close(int fd) {
    if (ours(fd)) events[fd].used = 0;
    return (int)REAL("close", fd);
}

int statx(int folder, const char *restrict path, int flags, unsigned mask, struct statx *restrict to) {
    /* Rust asks with none whether there is such a call. */
    const char *volatile asked = path;
    if (asked != NULL && strcmp(path, "/sys/bus/event_source/devices/cpu") == 0) path = "/";
    return (int)REAL("statx", folder, path, flags, mask, to);
}

int open64(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    int mode = va_arg(list, int);
    va_end(list);
    if (strcmp(path, "/proc/cpuinfo") == 0 && getenv("PMU_CPUINFO")) path = getenv("PMU_CPUINFO");
    return (int)REAL("open64", path, flags, mode);
}
