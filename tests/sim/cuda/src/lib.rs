//! The stand-in GPU's `libcuda.so.1`: the driver API's real ABI over a GPU that only counts.
//!
//! A kernel executes what its PTX declares in a line `//@sim kernel=<entry> metric=<name> flop_per_warp_iteration=<n> iterations_param=<i>`: blocks x warps x
//! iterations x n operations; none without such a line. A device executes `FLOPSPROF_SIM_FLOPS` operations a second (1e15 by default) and takes 2 us a launch;
//! launches queue, 1024 at most. While each launch is counted by itself they run one after the other and take 1.1 ms more. What a stream captures becomes a
//! graph, which is one launch and one range. `FLOPSPROF_SIM_NAMELESS` takes the kernels' names away, `FLOPSPROF_SIM_RANGES_PER_LAUNCH` makes launches
//! count as several ranges. `cuInit` honours `CUDA_INJECTION64_PATH` as the driver does. [`fault`] makes functions fail. The symbol
//! `flopsprof_stand_in` tells the meter that nothing here is a measurement.
#![allow(
    non_snake_case,
    clippy::cast_possible_wrap,
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    missing_docs,
    unreachable_pub,
    reason = "the names and contracts are CUDA's"
)]

mod capture;
mod context;
mod device;
mod fault;
mod garbage;
mod hooks;
mod launch;
mod memory;
mod shared;
mod state;

/// Marks the stand-in.
#[unsafe(no_mangle)]
pub static flopsprof_stand_in: u32 = 1;

/// `CUresult`.
pub(crate) type R = u32;
pub(crate) const OK: R = 0;
pub(crate) const INVALID_VALUE: R = 1;
pub(crate) const NOT_INITIALIZED: R = 3;
pub(crate) const INVALID_DEVICE: R = 101;
pub(crate) const INVALID_CONTEXT: R = 201;
pub(crate) const NOT_FOUND: R = 500;

/// An exported function: answers with the fault that was asked for, else, before `cuInit`, that the driver is not initialised, else runs.
#[macro_export]
macro_rules! cuda {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $(#[unsafe(no_mangle)]
        #[allow(unsafe_op_in_unsafe_fn, clippy::redundant_closure_call, clippy::cast_sign_loss, reason = "pointers are what CUDA's header asks for, by the caller's promise")]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $crate::R {
            if let Some(code) = $crate::fault::call(stringify!($name)) {
                return code;
            }
            let garbage = $crate::fault::garbage();
            if !$crate::state::initialised() {
                return $crate::NOT_INITIALIZED;
            }
            let work = || $body;
            let answer = work();
            if let (Some(kind), $crate::OK) = (garbage, answer) {
                $crate::garbage::spoil(stringify!($name), &[$($arg as usize),*], kind);
            }
            answer
        })*
    };
}
