//! Record layouts shared by flopsprof's eBPF probes and their reader.
//!
//! No probe is loaded yet: the witness by eBPF is a later part of the road. The crate exists so that the layout both sides share has
//! one place from the first probe on.
#![no_std]
