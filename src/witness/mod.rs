//! Witnesses: what others than the operation counters say of a GPU. None of them is required.
//!
//! [`nvml`] reads the device's identity, energy, clocks, GPM activity and processes; [`pm`] samples its tensor cycles instead of GPM, where that is asked for.
//! [`probe`] counts calls of the CUDA driver by process, with eBPF at the [`entry`] points of every copy of its [`library`] in use; [`identity`] says whose
//! process it is. [`cpu`] counts the CPUs' side. [`watch`] brings them together by [`table`] and [`device`], and appends what was seen to the run's folder;
//! [`metrics`] is what Prometheus is told, and [`serve`] tells it.

mod copies;
pub mod cpu;
pub mod device;
pub mod entry;
pub mod identity;
mod journal;
pub mod library;
pub mod metrics;
pub mod nvml;
pub mod pm;
pub mod probe;
pub mod serve;
pub mod table;
pub mod watch;
