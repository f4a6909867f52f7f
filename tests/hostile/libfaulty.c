/* Stands between the meter and the C library, and makes what it calls there fail on demand; what everybody else calls goes through.
 *
 * FAULTY is `<function>=<errno>`, `<function>=hang:<ms>` or `<function>=short` (a write of one byte), each with `@<n>` for the n-th call alone or `@<n>+` from
 * then on; with FAULTY_TEXT only writes of lines of JSON that have this text in them count. FAULTY_CALLS names a file that gets the name of each function when the meter calls it for the first time. CLOCK makes the C library's clocks
 * strange, for everybody: frozen, backwards, forwards, jumps, fails. */
#include <elf.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>

#pragma GCC diagnostic ignored "-Wbuiltin-declaration-mismatch"

extern int *__errno_location(void);
extern char *getenv(const char *);
extern long strtol(const char *, char **, int);
extern int strcmp(const char *, const char *);
extern int strncmp(const char *, const char *, unsigned long);
extern unsigned long strlen(const char *);
extern char *strstr(const char *, const char *);
/* The headers' declarations of these would be in the way of ours. */
struct dl_phdr_info {
    Elf64_Addr dlpi_addr;
    const char *dlpi_name;
    const Elf64_Phdr *dlpi_phdr;
    Elf64_Half dlpi_phnum;
};
extern int dl_iterate_phdr(int (*)(struct dl_phdr_info *, size_t, void *), void *);
extern void *dlsym(void *, const char *);
#define RTLD_NEXT ((void *)-1l)
extern void *__libc_malloc(unsigned long), *__libc_calloc(unsigned long, unsigned long), *__libc_realloc(void *, unsigned long);

/* What a failed call answers: -1, null, the number of the error, or nothing at all. */
enum answer { MINUS, ZERO, NUMBER };

#define FUNCTIONS(X)                                                                                                                              \
    X(access, MINUS) X(chdir, MINUS) X(chmod, MINUS) X(clock_gettime, MINUS) X(clone, MINUS) X(close, MINUS) X(closedir, MINUS) X(dirfd, MINUS)  \
    X(dladdr, ZERO) X(dlopen, ZERO) X(dup2, MINUS) X(execve, MINUS) X(fchmod, MINUS) X(fcntl, MINUS) X(flock, MINUS) X(fstat, MINUS)              \
    X(fstat64, MINUS) X(getauxval, ZERO) X(getcwd, ZERO) X(getrandom, MINUS) X(getrlimit, MINUS) X(lseek64, MINUS) X(lstat64, MINUS)              \
    X(mkdir, MINUS) X(mmap64, MINUS) X(mprotect, MINUS) X(munmap, MINUS) X(open, MINUS) X(open64, MINUS) X(opendir, ZERO) X(pipe2, MINUS)         \
    X(poll, MINUS) X(prctl, MINUS) X(pthread_create, NUMBER) X(pthread_getattr_np, NUMBER) X(pthread_join, NUMBER) X(pthread_setname_np, NUMBER)  \
    X(pthread_sigmask, NUMBER) X(read, MINUS) X(readdir64, ZERO) X(readlink, MINUS) X(realpath, ZERO) X(setenv, MINUS) X(setsid, MINUS)           \
    X(sigaction, MINUS) X(sigaltstack, MINUS) X(sigpending, MINUS) X(sigtimedwait, MINUS) X(stat64, MINUS) X(statx, MINUS) X(sysconf, MINUS)      \
    X(uname, MINUS) X(unshare, MINUS) X(waitpid, MINUS) X(write, MINUS) X(writev, MINUS)

typedef long (*function)(long, long, long, long, long, long, long);
enum { MOST = 80 };
static struct {
    const char *name;
    enum answer answer;
    function real;
    atomic_int calls;
} all[MOST];
static int count;

static unsigned long from, to;
static const char *target, *calls;
static long code, hang_ms, first, last;
static int cut;
static int here(const void *caller) { return (unsigned long)caller >= from && (unsigned long)caller < to; }

static function raw;

static int find(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size;
    (void)unused;
    if (strstr(info->dlpi_name, "/libflopsprof.so") == NULL) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const Elf64_Phdr *header = &info->dlpi_phdr[i];
        if (header->p_type != PT_LOAD) continue;
        unsigned long start = info->dlpi_addr + header->p_vaddr, end = start + header->p_memsz;
        if (from == 0 || start < from) from = start;
        if (end > to) to = end;
    }
    return 1;
}

/* Counts a call of the meter's; says whether it must fail. */
static int fails(int i) {
    int n = atomic_fetch_add(&all[i].calls, 1) + 1;
    if (n == 1 && calls != NULL) {
        long fd = raw(SYS_openat, -100, (long)calls, 02002101 /* append, create, close on exec */, 0600, 0, 0);
        raw(SYS_write, fd, (long)all[i].name, (long)strlen(all[i].name), 0, 0, 0);
        raw(SYS_write, fd, (long)"\n", 1, 0, 0, 0);
        raw(SYS_close, fd, 0, 0, 0, 0, 0);
    }
    if (target == NULL || n < first || n > last || strncmp(target, all[i].name, strlen(all[i].name)) != 0 || target[strlen(all[i].name)] != '=') return 0;
    if (hang_ms > 0) {
        struct {
            long seconds, nanoseconds;
        } time = {hang_ms / 1000, hang_ms % 1000 * 1000000};
        raw(SYS_nanosleep, (long)&time, 0, 0, 0, 0, 0);
        return 0;
    }
    return 1;
}

static long answer(int i) {
    if (all[i].answer == NUMBER) return code;
    *__errno_location() = (int)code;
    return all[i].answer == ZERO ? 0 : -1;
}

#define INDEX(name, kind) index_##name,
enum { FUNCTIONS(INDEX) index_syscall, index_malloc, index_calloc, index_realloc, index_clock };

struct times {
    long seconds, nanoseconds;
};
static const char *strange_clock;

struct caller {
    unsigned long at;
    int gpu;
};

static int is_gpu(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    struct caller *caller = data;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const Elf64_Phdr *header = &info->dlpi_phdr[i];
        unsigned long start = info->dlpi_addr + header->p_vaddr;
        if (header->p_type != PT_LOAD || caller->at < start || caller->at >= start + header->p_memsz) continue;
        const char *libraries[] = {"/libcuda.so", "/libcupti.so", "/libnvidia-ml.so"};
        for (int l = 0; l < 3; l++) caller->gpu |= strstr(info->dlpi_name, libraries[l]) != NULL;
        return 1;
    }
    return 0;
}

/* Whether a call is the stand-in GPU's: a GPU has a clock of its own. */
static int gpu(const void *at) {
    struct caller caller = {(unsigned long)at, 0};
    dl_iterate_phdr(is_gpu, &caller);
    return caller.gpu;
}

/* A clock that nobody should trust. */
static long strange(long clock, struct times *time) {
    static atomic_long asked;
    long n = atomic_fetch_add(&asked, 1), answer = all[index_clock_gettime].real(clock, (long)time, 0, 0, 0, 0, 0);
    if (strcmp(strange_clock, "fails") == 0) {
        *__errno_location() = 22;
        return -1;
    }
    if (strcmp(strange_clock, "frozen") == 0) *time = (struct times){1000000, 0};
    if (strcmp(strange_clock, "backwards") == 0) time->seconds = 2000000000 - n;
    if (strcmp(strange_clock, "forwards") == 0) time->seconds += 10l * 365 * 86400;
    if (strcmp(strange_clock, "jumps") == 0) time->seconds += n % 2 == 0 ? 86400 * 365 : 0;
    return answer;
}

static const char *text;

/* Whether a call is one of those that are meant. */
static int meant(int i, const char *bytes, unsigned long length) {
    if (text == NULL || i != index_write) return 1;
    unsigned long n = strlen(text);
    /* The variable itself may be written too. */
    if (length == 0 || bytes[0] != '{') return 0;
    for (unsigned long at = 0; at + n <= length; at++)
        if (strncmp(bytes + at, text, n) == 0) return 1;
    return 0;
}

#define WRAP(name, kind)                                                                                                                          \
    long name(long a, long b, long c, long d, long e, long f) {                                                                                   \
        if (here(__builtin_return_address(0)) && meant(index_##name, (const char *)b, c) && fails(index_##name)) {                                                                           \
            if (cut) return all[index_##name].real(a, b, c > 1 ? 1 : c, d, e, f, 0);                                                              \
            if (index_##name == index_close) all[index_##name].real(a, b, c, d, e, f, 0);                                                         \
            return answer(index_##name);                                                                                                          \
        }                                                                                                                                         \
        if (index_##name == index_clock_gettime && strange_clock != NULL && !gpu(__builtin_return_address(0))) return strange(a, (void *)b);                                   \
        return all[index_##name].real(a, b, c, d, e, f, 0);                                                                                       \
    }

FUNCTIONS(WRAP)

long syscall(long number, long a, long b, long c, long d, long e, long f) {
    if (here(__builtin_return_address(0)) && fails(index_syscall)) return answer(index_syscall);
    /* The clocks, which are asked for so: `clock=`. */
    if (number == SYS_clock_gettime && here(__builtin_return_address(0)) && fails(index_clock)) return answer(index_clock);
    return raw(number, a, b, c, d, e, f);
}

void *malloc(unsigned long size) { return here(__builtin_return_address(0)) && fails(index_malloc) ? NULL : __libc_malloc(size); }
void *calloc(unsigned long n, unsigned long size) { return here(__builtin_return_address(0)) && fails(index_calloc) ? NULL : __libc_calloc(n, size); }
void *realloc(void *old, unsigned long size) { return here(__builtin_return_address(0)) && fails(index_realloc) ? NULL : __libc_realloc(old, size); }

__attribute__((constructor)) static void begin(void) {
#define RESOLVE(function_name, kind)                                                                                                              \
    all[count].name = #function_name;                                                                                                             \
    all[count].answer = kind;                                                                                                                     \
    *(void **)&all[count++].real = dlsym(RTLD_NEXT, #function_name);
    FUNCTIONS(RESOLVE)
    RESOLVE(syscall, MINUS)
    raw = all[count - 1].real;
    RESOLVE(malloc, ZERO)
    RESOLVE(calloc, ZERO)
    RESOLVE(realloc, ZERO)
    all[count].name = "clock";
    all[count++].answer = MINUS;
    calls = getenv("FAULTY_CALLS");
    strange_clock = getenv("CLOCK");
    text = getenv("FAULTY_TEXT");
    target = getenv("FAULTY");
    if (target != NULL) {
        const char *what = strstr(target, "=") + 1, *when = strstr(target, "@");
        first = when != NULL ? strtol(when + 1, NULL, 10) : 1;
        last = when == NULL || strstr(when, "+") != NULL ? 1l << 40 : first;
        cut = strncmp(what, "short", 5) == 0;
        if (strncmp(what, "hang:", 5) == 0) hang_ms = strtol(what + 5, NULL, 10);
        else code = strtol(what, NULL, 10);
    }
    dl_iterate_phdr(find, NULL);
}
