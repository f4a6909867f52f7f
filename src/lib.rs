//! flopsprof counts, from the GPU's own counters, the floating-point operations a training job really executed.
//!
//! One package, two things. As `libflopsprof.so` it is preloaded into a job, counts and appends evidence, and does nothing else. As the
//! command `flopsprof` it reads that evidence and says what follows from it. The modules lie on the road of the data:
//! [`inject`] → [`counter`] → [`window`] → [`evidence`] inside the job, [`ledger`] → [`reconcile`] → [`report`] outside it. Arrows never point back.

pub mod counter;
pub mod cumulative;
pub mod estimate;
pub mod evidence;
pub mod foreign;
pub mod inject;
pub mod ledger;
pub mod process;
pub mod reconcile;
pub mod report;
pub mod rule;
pub mod seal;
pub mod window;
pub mod witness;
pub mod workload;
