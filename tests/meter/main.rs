//! The meter inside host programs, on the stand-in GPU: what each program does with and without it, and what it counted.

mod built;
mod census;
mod context;
mod count;
mod disk;
mod exports;
mod harness;
mod library;
mod look;
mod memcheck;
mod process;
mod report;
mod soak;
