/* Another tool's preloaded library: it stands in the way of the process's ends and of its writes, and must go on to do so. */
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long writes;

static void says(const char *text) { syscall(SYS_write, 1, text, strlen(text)); }

__attribute__((constructor)) static void begin(void) { says("the other library is here\n"); }
__attribute__((destructor)) static void end(void) { says("the other library's destructor\n"); }

ssize_t write(int fd, const void *from, size_t n) {
    writes++;
    return syscall(SYS_write, fd, from, n);
}

void _exit(int status) {
    says("the other library's _exit\n");
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}

void _Exit(int status) {
    says("the other library's _Exit\n");
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}
