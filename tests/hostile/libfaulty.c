/* Stands between the meter and the C library, and makes what it calls there fail on demand; what everybody else calls goes through.
 *
 * FAULTY is `<function>=<errno>`, `<function>=hang:<ms>`, `<function>=short` (a write of one byte) or `<function>=garbage:<kind>` (what it answers beside its success), each with
 * `@<n>` for the n-th call alone or `@<n>+` from then on; with FAULTY_TEXT only writes of lines of JSON that have this text in them count, with FAULTY_FILE only reads of files
 * of this name, in which `#` stands for digits. FAULTY_FILES names a file that gets the name of each file that is read. With FAULTY_WHO=program the program itself is meant, not the
 * meter in it. FAULTY_CALLS names a file that gets the name of each function when the meter calls it for the first time. CLOCK makes the C library's clocks
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
    X(uname, MINUS) X(unlink, MINUS) X(unshare, MINUS) X(waitpid, MINUS) X(write, MINUS) X(writev, MINUS)

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
static const char *target, *calls, *files, *only_file;
static int of_program;
static long code, hang_ms, first, last;
static int cut;
static long garbage = -1;
static int here(const void *caller) { return (unsigned long)caller >= from && (unsigned long)caller < to; }

static function raw;

static int find(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size;
    (void)unused;
    if (of_program ? info->dlpi_name[0] != 0 : strstr(info->dlpi_name, "/libflopsprof.so") == NULL) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const Elf64_Phdr *header = &info->dlpi_phdr[i];
        if (header->p_type != PT_LOAD) continue;
        unsigned long start = info->dlpi_addr + header->p_vaddr, end = start + header->p_memsz;
        if (from == 0 || start < from) from = start;
        if (end > to) to = end;
    }
    return 1;
}

static void note(const char *to, const char *name);

/* Counts a call of the meter's; says whether it must fail. */
static int fails(int i) {
    int n = atomic_fetch_add(&all[i].calls, 1) + 1;
    if (n == 1 && calls != NULL) note(calls, all[i].name);
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
static int file_of(long fd, char *name), is_of(const char *name, const char *pattern);

/* Adds a line to a file, in one write: two threads may note at once, and a line must not end in the midst of another. */
static void note(const char *to, const char *name) {
    char line[4096];
    unsigned long n = 0;
    for (; name[n] != 0 && n < sizeof line - 1; n++) line[n] = name[n];
    line[n++] = '\n';
    long fd = raw(SYS_openat, -100, (long)to, 02002101 /* append, create, close on exec */, 0600, 0, 0);
    raw(SYS_write, fd, (long)line, (long)n, 0, 0, 0);
    raw(SYS_close, fd, 0, 0, 0, 0, 0);
}

/* Whether a call is one of those that are meant. */
static int meant(int i, long fd, const char *bytes, unsigned long length) {
    if (i == index_read && (files != NULL || only_file != NULL)) {
        char name[4096];
        if (!file_of(fd, name)) return only_file == NULL;
        if (files != NULL) note(files, name);
        return only_file == NULL || is_of(name, only_file);
    }
    if (text == NULL || i != index_write) return 1;
    unsigned long n = strlen(text);
    /* The variable itself may be written too. */
    if (length == 0 || bytes[0] != '{') return 0;
    for (unsigned long at = 0; at + n <= length; at++)
        if (strncmp(bytes + at, text, n) == 0) return 1;
    return 0;
}

/* Some bytes that are nothing: no text, no number, no end of a line where one should be. */
static void noise(unsigned char *to, unsigned long length) {
    static const char digits[] = "18446744073709551616 ";
    for (unsigned long i = 0; i < length; i++) {
        switch (garbage) {
        case 0: to[i] = (unsigned char)(i * 167 + 128 + i / 256); break;
        case 5: to[i] = (unsigned char)digits[i % (sizeof digits - 1)]; break;
        case 6: to[i] = '\n'; break;
        case 7: to[i] = i % 3 == 0 ? '"' : i % 3 == 1 ? '\\' : ')'; break;
        default: to[i] = 'A';
        }
    }
}

/* The name of a file of a descriptor, if it has one. */
static int file_of(long fd, char *name) {
    char link[64] = "/proc/thread-self/fd/", reversed[24];
    int n = 0, at = 21;
    do reversed[n++] = (char)('0' + fd % 10);
    while ((fd /= 10) > 0);
    while (n > 0) link[at++] = reversed[--n];
    long length = raw(SYS_readlink, (long)link, (long)name, 4095, 0, 0, 0);
    name[length > 0 ? length : 0] = 0;
    return name[0] == '/';
}

/* Whether a name is of a pattern, in which # stands for digits. */
static int is_of(const char *name, const char *pattern) {
    for (; *pattern != 0; pattern++) {
        if (*pattern != '#') {
            if (*name++ != *pattern) return 0;
        } else {
            if (*name < '0' || *name > '9') return 0;
            while (*name >= '0' && *name <= '9') name++;
        }
    }
    return *name == 0;
}

/* What a file says instead of what is in it. */
static long read_garbage(long fd, unsigned char *to, unsigned long length) {
    static atomic_long given;
    int first = raw(SYS_lseek, fd, 0, 1, 0, 0, 0) == 0;
    long n = raw(SYS_read, fd, (long)to, (long)length, 0, 0, 0);
    if (n < 0) return n;
    switch (garbage) {
    case 1: return 0;
    case 2: return first ? (n + 1) / 2 : 0;
    case 3: /* eight megabytes without an end of a line */
        if (first) given = 0;
        if (given >= 8 << 20) return 0;
        n = (long)length;
        given += n;
        break;
    case 4: n = (long)length; break; /* without end */
    }
    noise(to, (unsigned long)n);
    return n;
}

/* Puts garbage into what a call answered beside its success. */
static long spoil(int i, long answered, long a, long b, long c, long e) {
    struct entry {
        unsigned long inode, offset;
        unsigned short length;
        unsigned char type;
        char name[256];
    } *entry = (struct entry *)answered;
    if (i == index_readlink) {
        if (garbage == 1) return 0;
        long n = c < 3000 ? c - 1 : 3000;
        if (answered >= 0) noise((unsigned char *)b, (unsigned long)n);
        return answered >= 0 ? n : answered;
    }
    if (i == index_realpath && answered != 0) {
        unsigned char *path = __libc_calloc(1 << 16, 1);
        if (garbage != 1) noise(path, garbage == 3 ? (1 << 16) - 1 : 200);
        for (int k = 0; k < (1 << 16) - 1 && garbage != 1 && k < 200; k++)
            if (path[k] == 0) path[k] = 1;
        return (long)path;
    }
    if (i == index_readdir64 && answered != 0) {
        for (int k = 0; k < 255 && entry->name[k] != 0; k++) {
            unsigned char byte = 0;
            noise(&byte, 1);
            entry->name[k] = garbage == 1 ? 0 : (char)(garbage == 0 ? 128 + k : byte == '/' ? 1 : byte);
        }
        return answered;
    }
    if (i == index_getcwd && answered != 0) {
        unsigned long n = b < 100 ? (unsigned long)b - 1 : 99;
        noise((unsigned char *)a, n);
        ((char *)a)[n] = 0;
        return answered;
    }
    /* What a file is, how long, whose; what the machine is called. The structs are larger than that. */
    if (answered == 0 && i == index_statx) noise((unsigned char *)e, 200);
    if (answered == 0 && (i == index_fstat || i == index_fstat64 || i == index_stat64 || i == index_lstat64)) noise((unsigned char *)b, 120);
    if (answered == 0 && i == index_uname) noise((unsigned char *)a, 390);
    return answered;
}

#define WRAP(name, kind)                                                                                                                          \
    long name(long a, long b, long c, long d, long e, long f) {                                                                                   \
        if (here(__builtin_return_address(0)) && meant(index_##name, a, (const char *)b, c) && fails(index_##name)) {                                                                           \
            if (garbage >= 0 && index_##name == index_read) return read_garbage(a, (unsigned char *)b, c);                                         \
            if (garbage >= 0) return spoil(index_##name, all[index_##name].real(a, b, c, d, e, f, 0), a, b, c, e);                                   \
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
    files = getenv("FAULTY_FILES");
    only_file = getenv("FAULTY_FILE");
    of_program = getenv("FAULTY_WHO") != NULL;
    target = getenv("FAULTY");
    if (target != NULL) {
        const char *what = strstr(target, "=") + 1, *when = strstr(target, "@");
        first = when != NULL ? strtol(when + 1, NULL, 10) : 1;
        last = when == NULL || strstr(when, "+") != NULL ? 1l << 40 : first;
        cut = strncmp(what, "short", 5) == 0;
        if (strncmp(what, "garbage:", 8) == 0) garbage = strtol(what + 8, NULL, 10);
        else if (strncmp(what, "hang:", 5) == 0) hang_ms = strtol(what + 5, NULL, 10);
        else code = strtol(what, NULL, 10);
    }
    dl_iterate_phdr(find, NULL);
}
