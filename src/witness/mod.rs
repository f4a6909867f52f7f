//! Witnesses: what others than the operation counters say of a GPU. None of them is required.
//!
//! [`nvml`] reads the device's identity, energy, clocks and GPM activity.

pub mod nvml;
