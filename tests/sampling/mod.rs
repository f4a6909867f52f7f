//! What PM sampling needs, by the word of one of NVIDIA's libraries. One in a process: a second would get the first one's libnvperf_host.

use std::{ffi::CString, path::Path};

use cupti_sys::{
    Cupti,
    raw::{self, Params},
};
use flopsprof::counter::{
    host::Host,
    plan,
    sampling::{Sampler, TENSOR},
};

use crate::wheels;

/// Tensor cycles and SM cycles can be sampled together on these chips, where a witness is asked for that; and without a GPU that is an error, and no crash.
pub(crate) fn in_one_pass(wheel: &str, name: &str, chips: &[&str]) {
    let cupti = Cupti::open(&wheels::find(&wheels::fetch(wheel), name)).unwrap();
    // SAFETY: nothing goes in but the size.
    let _ = unsafe { cupti.profiler_initialize(&mut raw::ProfilerInitialize::sized()) };
    let metrics = [TENSOR, plan::CYCLES].map(|m| CString::new(m).unwrap());
    for chip in chips {
        let host = Host::sampling(cupti, chip).unwrap();
        assert_eq!(host.config(&metrics).unwrap().passes, 1, "{wheel}: {chip}");
    }
    // Turing takes two passes for it: it is said, and GPM goes on.
    let host = Host::sampling(cupti, "TU102").unwrap();
    assert_eq!(host.config(&metrics).unwrap().passes, 2, "{wheel}");
    assert!(Path::new("/dev/nvidiactl").exists() || Sampler::begin(cupti, 0).is_err(), "{wheel}: there is no GPU here");
}
