/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The layout that the probes and their reader share; `src/lib.rs` has the same in Rust, and both sides check sizes and places when they are compiled. */
#pragma once

#include "kernel.h"

/* What happened. */
enum kind { FORKED = 1, EXECUTED = 2, ENDED = 3, CALLED = 4 };

/* One event of the ring buffer. */
struct event {
    u64 ns;         /* CLOCK_MONOTONIC */
    u64 started_ns; /* the process's start, since boot: with its id it names the process for ever */
    u64 cgroup;     /* inode of its version 2 control group */
    u32 pid;
    u32 parent;
    u32 uid;
    u32 kind;
    u32 entry; /* of CALLED: which entry point */
    u32 status; /* of ENDED: as wait() has it */
    char comm[16];
};

/* Who called what; the value is a u64, calls on one CPU. */
struct caller {
    u64 started_ns;
    u32 pid;
    u32 entry;
};

/* A probe's cookie: the entry point's number, and what kind it is of. */
#define COOKIE_ENTRY 0xffffffffull
#define COOKIE_LAUNCH (1ull << 32)

/* What could not be told, by place in LOST. */
enum lost { LOST_EVENTS = 0, LOST_CALLS = 1, LOST_KINDS = 2 };

_Static_assert(sizeof(struct event) == 64, "the reader's layout");
_Static_assert(__builtin_offsetof(struct event, pid) == 24, "the reader's layout");
_Static_assert(__builtin_offsetof(struct event, comm) == 48, "the reader's layout");
_Static_assert(sizeof(struct caller) == 16, "the reader's layout");
