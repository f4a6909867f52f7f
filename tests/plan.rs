//! The planner against NVIDIA's real profiler host library, which needs no GPU.

mod sampling;
mod wheels;

use std::thread;

use cupti_sys::{
    Cupti,
    raw::{self, Params},
};
use flopsprof::counter::{host::Host, plan};

/// The groups that GH100 needs, and what it counts all the time, were read off this library and checked on an H200.
#[test]
fn real_chips_are_planned_by_nvidias_library() {
    let cupti = Cupti::open(&wheels::find(&wheels::fetch("nvidia-cuda-cupti==13.0.85"), "libcupti.so.13")).unwrap();
    // 999 without a GPU, and the host functions work.
    // SAFETY: nothing goes in but the size.
    let _ = unsafe { cupti.profiler_initialize(&mut raw::ProfilerInitialize::sized()) };
    let chips = Host::chips(cupti).unwrap();
    // Chip, groups at most, paths that stand in all of them.
    for (chip, most, always) in
        [("TU102", 1, 2), ("GA100", 4, 0), ("GA102", 4, 0), ("AD102", 5, 0), ("GH100", 4, 4), ("GB100", 9, 0), ("GB202", 9, 0)]
    {
        assert!(chips.iter().any(|c| c == chip), "{chip} is not in {chips:?}");
        let host = Host::open(cupti, chip).unwrap();
        let plan = plan::of_chip(&host).unwrap();
        println!("{chip}: {} groups, always {:?}, uncovered {:?}", plan.groups.len(), plan.always(), plan.uncovered);
        assert!(plan.groups.len() <= most, "{chip}: {:#?}", plan.groups);
        assert_eq!(plan.always().len(), always, "{chip}");
        assert!(plan.uncovered.is_empty(), "{chip}");
        // Every group is one pass by the library's own word, and every path stands somewhere.
        for group in &plan.groups {
            let names: Vec<_> = group.iter().map(|m| std::ffi::CString::new(format!("{m}.sum")).unwrap()).collect();
            assert_eq!(host.config(&names).unwrap().passes, 1, "{chip}: {group:?}");
        }
        for format in ["fp16", "fp64", "bf16"].iter().filter(|f| !(chip == "TU102" && **f == "fp64")) {
            assert!(plan.groups.iter().flatten().any(|m| m.contains(format)), "{chip}: no {format}");
        }
    }
}

#[test]
fn real_chips_sample_tensor_cycles_in_one_pass() {
    let chips = ["GA100", "GA102", "AD102", "GH100", "GB100", "GB110", "GB202"];
    sampling::in_one_pass("nvidia-cuda-cupti==13.0.85", "libcupti.so.13", &chips);
}

/// A process with GPUs of two chips plans one while another thread has the other: their groups come out as if each was alone.
#[test]
fn two_threads_plan_two_chips() {
    let cupti = Cupti::open(&wheels::find(&wheels::fetch("nvidia-cuda-cupti==13.0.85"), "libcupti.so.13")).unwrap();
    let plan = |chip: &str| plan::of_chip(&Host::open(cupti, chip).unwrap()).unwrap();
    let alone = ["GH100", "GB202"].map(|chip| (chip, plan(chip)));
    thread::scope(|scope| {
        for (chip, expected) in &alone {
            scope.spawn(move || (0..3).for_each(|_| assert_eq!(plan(chip), *expected, "{chip}")));
        }
    });
}
