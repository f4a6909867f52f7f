//! The CUDA driver's entry points that are probed, and whether a probe there is cheap.

/// What an entry point does, as far as the witness cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Called now and then: always probed.
    Rare,
    /// Launches: a probe there costs every launch something.
    Launch,
}

use Class::{Launch, Rare};

/// All of them; the place in the list is the number in a probe's cookie, and the name is what stands in the evidence. `_ptsz` is the same function for programs
/// whose default stream is one a thread. Of a function in several versions the driver keeps all of them.
pub const ENTRIES: &[(&str, Class)] = &[
    ("cuInit", Rare),
    ("cuDevicePrimaryCtxRetain", Rare),
    ("cuDevicePrimaryCtxRelease", Rare),
    ("cuDevicePrimaryCtxRelease_v2", Rare),
    ("cuDevicePrimaryCtxReset", Rare),
    ("cuDevicePrimaryCtxReset_v2", Rare),
    ("cuCtxCreate", Rare),
    ("cuCtxCreate_v2", Rare),
    ("cuCtxCreate_v3", Rare),
    ("cuCtxCreate_v4", Rare),
    ("cuCtxDestroy", Rare),
    ("cuCtxDestroy_v2", Rare),
    ("cuGreenCtxCreate", Rare),
    ("cuGreenCtxDestroy", Rare),
    ("cuModuleLoad", Rare),
    ("cuModuleLoadData", Rare),
    ("cuModuleLoadDataEx", Rare),
    ("cuModuleLoadFatBinary", Rare),
    ("cuModuleUnload", Rare),
    ("cuLibraryLoadData", Rare),
    ("cuLibraryLoadFromFile", Rare),
    ("cuLibraryUnload", Rare),
    ("cuGraphInstantiate", Rare),
    ("cuGraphInstantiate_v2", Rare),
    ("cuGraphInstantiateWithFlags", Rare),
    ("cuGraphInstantiateWithParams", Rare),
    ("cuGraphInstantiateWithParams_ptsz", Rare),
    ("cuLaunchKernel", Launch),
    ("cuLaunchKernel_ptsz", Launch),
    ("cuLaunchKernelEx", Launch),
    ("cuLaunchKernelEx_ptsz", Launch),
    ("cuLaunchCooperativeKernel", Launch),
    ("cuLaunchCooperativeKernel_ptsz", Launch),
    ("cuLaunchCooperativeKernelMultiDevice", Launch),
    ("cuGraphLaunch", Launch),
    ("cuGraphLaunch_ptsz", Launch),
    ("cuLaunch", Launch),
    ("cuLaunchGrid", Launch),
    ("cuLaunchGridAsync", Launch),
];

/// The name and class of a number; none for one that no probe has.
#[must_use]
pub fn entry(number: u32) -> Option<(&'static str, Class)> {
    ENTRIES.get(usize::try_from(number).ok()?).copied()
}

/// Whether a function of this name launches.
#[must_use]
pub fn launches(name: &str) -> bool {
    ENTRIES.iter().any(|(n, class)| *n == name && *class == Launch)
}

/// Where in a function a probe goes, as an offset into it, and whether it is cheap there. By the first instruction: one that the kernel imitates costs a call
/// 0.8 us, one that it has to step through 11 us (measured, Linux 6.18).
#[must_use]
pub fn place(code: &[u8]) -> (u64, bool) {
    if !cfg!(target_arch = "x86_64") {
        return (0, true);
    }
    /// `endbr64`, which has to be stepped through: the probe goes behind it.
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let (skip, code) = code.strip_prefix(&ENDBR64).map_or((0, code), |rest| (4, rest));
    let cheap = match code {
        // A push of a register, the one-byte nop.
        [0x50..=0x57 | 0x90, ..] | [0x41, 0x50..=0x57, ..] => true,
        // The five-byte nop: only as the very first instruction, where newer kernels put a call in its place.
        [0x0f, 0x1f, 0x44, 0x00, 0x00, ..] => skip == 0,
        _ => false,
    };
    (skip, cheap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_first_instruction_decides() {
        assert_eq!(place(&[0x55, 0x48, 0x89, 0xe5]), (0, true), "push %rbp");
        assert_eq!(place(&[0x41, 0x57]), (0, true), "push %r15");
        assert_eq!(place(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55]), (4, true), "endbr64; push %rbp");
        assert_eq!(place(&[0x48, 0x83, 0xec, 0x08]), (0, false), "sub $8, %rsp");
        assert_eq!(place(&[0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0, 0]), (4, false), "a long nop inside a function");
        assert_eq!(place(&[]), (0, false));
    }

    #[test]
    fn names_are_there_once() {
        let names: std::collections::BTreeSet<_> = ENTRIES.iter().map(|(n, _)| n).collect();
        assert_eq!(names.len(), ENTRIES.len());
        assert!(launches("cuGraphLaunch") && !launches("cuInit"));
    }
}
