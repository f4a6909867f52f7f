//! cupti-sys against NVIDIA's own headers, of every version it claims to speak.
//!
//! The headers come with the wheels `nvidia-cuda-cupti` and `nvidia-cuda-cupti-cu12`, fetched once into `target/`. A C++ program (12.6's header needs
//! it) is compiled against each version and prints what the compiler makes of it. Every offset must be ours, and our `STRUCT_SIZE` must be
//! one that the version takes: equal to 12.6's, and never larger than a newer one's. No GPU and no CUDA toolkit.

mod wheels;

use std::{fmt::Write as _, fs, path::Path, process::Command};

/// CUPTI, and the CUDA runtime whose `cuda.h` goes with it.
const VERSIONS: [(&str, &str); 5] = [
    ("nvidia-cuda-cupti-cu12==12.6.80", "nvidia-cuda-runtime-cu12==12.6.77"),
    ("nvidia-cuda-cupti-cu12==12.9.79", "nvidia-cuda-runtime-cu12==12.9.79"),
    ("nvidia-cuda-cupti==13.0.85", "nvidia-cuda-runtime==13.0.96"),
    ("nvidia-cuda-cupti==13.2.75", "nvidia-cuda-runtime==13.2.75"),
    ("nvidia-cuda-cupti==13.5.25", "nvidia-cuda-runtime==13.5.37"),
];

/// Stands in for nvcc's `crt/host_defines.h`.
const DECORATIONS: &str = "#pragma once\n#define __device_builtin__\n#define __device_builtin_texture_type__\n#define __device_builtin_surface_type__\n\
     #define __cudart_builtin__\n#define __builtin_align__(n) __attribute__((aligned(n)))\n#define __align__(n) __attribute__((aligned(n)))\n\
     #define __host__\n#define __device__\n#define __forceinline__ inline\n#define CUDARTAPI\n#define CUDARTAPI_CDECL\n#define CUDA_CB\n";

/// Every struct that CUPTI is handed.
fn layouts() -> impl Iterator<Item = (&'static str, usize, &'static [(&'static str, usize)])> {
    cupti_sys::layouts().into_iter().chain(cupti_sys::sampling::layouts())
}

/// The C program: a line for each size and offset.
fn probe() -> String {
    let mut c = String::from(
        "#include <cstdio>\n#include <cstddef>\n#include <cuda.h>\n#include <cupti.h>\n#include <cupti_profiler_host.h>\n\
         #include <cupti_range_profiler.h>\n#include <cupti_pmsampling.h>\n#include <cupti_profiler_target.h>\n#include <cupti_target.h>\nint main() {\n",
    );
    for (name, _, fields) in layouts() {
        writeln!(c, "printf(\"{name} %zu\\n\", (size_t){name}_STRUCT_SIZE);").unwrap();
        for (field, _) in fields {
            writeln!(c, "printf(\"{name}.{field} %zu\\n\", offsetof({name}, {field}));").unwrap();
        }
    }
    for (name, _) in launches() {
        let (of, field) = name.split_once('.').unwrap();
        writeln!(c, "printf(\"{name} %zu\\n\", offsetof({of}, {field}));").unwrap();
    }
    for (name, _) in callback_data() {
        writeln!(c, "printf(\"CUpti_CallbackData.{name} %zu\\n\", offsetof(CUpti_CallbackData, {name}));").unwrap();
    }
    for (name, _) in constants() {
        writeln!(c, "printf(\"{name} %zu\\n\", (size_t){name});").unwrap();
    }
    c.push_str("return 0; }\n");
    c
}

fn callback_data() -> Vec<(&'static str, usize)> {
    use cupti_sys::raw::CallbackData;
    vec![
        ("callbackSite", std::mem::offset_of!(CallbackData, callback_site)),
        ("functionName", std::mem::offset_of!(CallbackData, function_name)),
        ("functionParams", std::mem::offset_of!(CallbackData, function_params)),
        ("functionReturnValue", std::mem::offset_of!(CallbackData, function_return_value)),
        ("symbolName", std::mem::offset_of!(CallbackData, symbol_name)),
        ("context", std::mem::offset_of!(CallbackData, context)),
        ("contextUid", std::mem::offset_of!(CallbackData, context_uid)),
        ("correlationData", std::mem::offset_of!(CallbackData, correlation_data)),
        ("correlationId", std::mem::offset_of!(CallbackData, correlation_id)),
    ]
}

/// What launch callbacks are given: the driver's parameters in CUPTI's words.
fn launches() -> Vec<(&'static str, usize)> {
    use cupti_sys::launch::{GraphLaunch, LaunchConfig, LaunchKernel, LaunchKernelEx};
    let mut fields = vec![
        ("cuLaunchKernelEx_params.config", std::mem::offset_of!(LaunchKernelEx, config)),
        ("cuLaunchKernelEx_params.f", std::mem::offset_of!(LaunchKernelEx, function)),
        ("CUlaunchConfig.gridDimX", std::mem::offset_of!(LaunchConfig, grid)),
        ("CUlaunchConfig.blockDimX", std::mem::offset_of!(LaunchConfig, block)),
        ("CUlaunchConfig.hStream", std::mem::offset_of!(LaunchConfig, stream)),
        ("cuGraphLaunch_params.hGraph", std::mem::offset_of!(GraphLaunch, graph)),
        ("cuGraphLaunch_params.hStream", std::mem::offset_of!(GraphLaunch, stream)),
    ];
    for (name, offset) in [
        ("f", std::mem::offset_of!(LaunchKernel, function)),
        ("gridDimX", std::mem::offset_of!(LaunchKernel, grid)),
        ("blockDimX", std::mem::offset_of!(LaunchKernel, block)),
        ("sharedMemBytes", std::mem::offset_of!(LaunchKernel, shared_bytes)),
        ("hStream", std::mem::offset_of!(LaunchKernel, stream)),
    ] {
        for of in ["cuLaunchKernel_params", "cuLaunchKernel_ptsz_params", "cuLaunchCooperativeKernel_params"] {
            fields.push((format!("{of}.{name}").leak(), offset));
        }
    }
    fields
}

fn constants() -> Vec<(&'static str, usize)> {
    use cupti_sys::raw;
    let result = |r: raw::CuptiResult| r.0 as usize;
    let mut constants = vec![
        ("CUPTI_ERROR_HARDWARE_BUSY", result(raw::CuptiResult::HARDWARE_BUSY)),
        ("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES", result(raw::CuptiResult::INSUFFICIENT_PRIVILEGES)),
        ("CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED", result(raw::CuptiResult::MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED)),
        ("CUPTI_ERROR_CONFIDENTIAL_COMPUTING_NOT_SUPPORTED", result(raw::CuptiResult::CONFIDENTIAL_COMPUTING_NOT_SUPPORTED)),
        ("CUPTI_ERROR_INVALID_PARAMETER", result(raw::CuptiResult::INVALID_PARAMETER)),
        ("CUPTI_ERROR_NOT_SUPPORTED", result(raw::CuptiResult::NOT_SUPPORTED)),
        ("CUPTI_CB_DOMAIN_DRIVER_API", raw::CallbackDomain::DRIVER_API.0 as usize),
        ("CUPTI_API_ENTER", raw::API_ENTER as usize),
        ("CUPTI_API_EXIT", raw::API_EXIT as usize),
        ("CUPTI_ERROR_OUT_OF_MEMORY", result(raw::CuptiResult::OUT_OF_MEMORY)),
        ("CUPTI_PROFILER_TYPE_RANGE_PROFILER", raw::PROFILER_TYPE_RANGE as usize),
        ("CUPTI_PROFILER_TYPE_PM_SAMPLING", raw::PROFILER_TYPE_PM_SAMPLING as usize),
        ("CUPTI_PM_SAMPLING_TRIGGER_MODE_GPU_SYSCLK_INTERVAL", raw::TRIGGER_SYSCLK as usize),
        ("CUPTI_PM_SAMPLING_TRIGGER_MODE_GPU_TIME_INTERVAL", raw::TRIGGER_TIME as usize),
        ("CUPTI_PM_SAMPLING_DECODE_STOP_REASON_COUNTER_DATA_FULL", raw::DECODE_IMAGE_FULL as usize),
        ("CUPTI_PM_SAMPLING_DECODE_STOP_REASON_END_OF_RECORDS", raw::DECODE_END as usize),
        ("CUPTI_METRIC_TYPE_COUNTER", raw::METRIC_TYPE_COUNTER as usize),
        ("CUPTI_AutoRange", raw::AUTO_RANGE as usize),
        ("CUPTI_UserRange", raw::USER_RANGE as usize),
        ("CUPTI_UserReplay", raw::USER_REPLAY as usize),
    ];
    let launches = [
        "cuLaunchKernel",
        "cuLaunchKernel_ptsz",
        "cuLaunchCooperativeKernel",
        "cuLaunchCooperativeKernel_ptsz",
        "cuLaunchCooperativeKernelMultiDevice",
        "cuGraphLaunch",
        "cuGraphLaunch_ptsz",
        "cuLaunchKernelEx",
        "cuLaunchKernelEx_ptsz",
    ];
    constants.extend(launches.iter().zip(raw::LAUNCH_CBIDS).map(|(name, cbid)| {
        let name: &'static str = format!("CUPTI_DRIVER_TRACE_CBID_{name}").leak();
        (name, cbid as usize)
    }));
    constants
}

/// Compiles the probe against one version and returns what it prints, by name.
fn ask(cupti: &str, cuda: &str) -> std::collections::BTreeMap<String, usize> {
    let (cupti_dir, cuda_dir) = (wheels::fetch(cupti), wheels::fetch(cuda));
    let include = |dir: &Path, header: &str| wheels::find(dir, header).parent().unwrap().to_owned();
    let (source, program) = (cupti_dir.join("probe.cpp"), cupti_dir.join("probe"));
    fs::write(&source, probe()).unwrap();
    // The compiler's own header comes with nvcc, which is large and not needed: it only decorates vector types that no CUPTI struct holds.
    fs::create_dir_all(cupti_dir.join("crt")).unwrap();
    fs::write(cupti_dir.join("crt/host_defines.h"), DECORATIONS).unwrap();
    let output = Command::new("c++")
        .arg("-I")
        .arg(&cupti_dir)
        .arg("-I")
        .arg(include(&cupti_dir, "cupti.h"))
        .arg("-I")
        .arg(include(&cuda_dir, "cuda.h"))
        .arg("-o")
        .args([&program, &source])
        .output()
        .expect("a C++ compiler, as `c++`");
    assert!(output.status.success(), "{cupti}: {}", String::from_utf8_lossy(&output.stderr));
    let printed = Command::new(&program).output().unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    text.lines().map(|l| l.split_once(' ').unwrap()).map(|(name, n)| (name.to_owned(), n.parse().unwrap())).collect()
}

#[test]
fn layouts_are_those_of_nvidias_headers() {
    for (cupti, cuda) in VERSIONS {
        let theirs = ask(cupti, cuda);
        let mut compared = 0;
        for (name, size, fields) in layouts() {
            let newest_we_know = theirs[name];
            assert!(size <= newest_we_know, "{cupti}: {name} is {newest_we_know} bytes, ours claims {size}");
            if cupti.contains("12.6") {
                assert_eq!(size, newest_we_know, "{cupti}: STRUCT_SIZE of {name}");
            }
            for (field, offset) in fields {
                assert_eq!(*offset, theirs[&format!("{name}.{field}")], "{cupti}: {name}.{field}");
                compared += 1;
            }
        }
        for (field, offset) in launches() {
            assert_eq!(offset, theirs[field], "{cupti}: {field}");
        }
        for (field, offset) in callback_data() {
            assert_eq!(offset, theirs[&format!("CUpti_CallbackData.{field}")], "{cupti}: CUpti_CallbackData.{field}");
        }
        for (name, value) in constants() {
            assert_eq!(value, theirs[name], "{cupti}: {name}");
        }
        assert!(compared > 150, "only {compared} fields compared");
        // It grew once, into what was padding.
        let set_config = cupti_sys::raw::PmSamplingSetConfig::STRUCT_SIZE_12_8;
        let theirs = theirs["CUpti_PmSampling_SetConfig_Params"];
        assert_eq!(theirs, if cupti.contains("12.6") { 60 } else { set_config }, "{cupti}");
    }
}

/// What is asked of PM sampling is in every version.
#[test]
fn real_libraries_have_pm_sampling() {
    for (cupti, _) in VERSIONS {
        let folder = wheels::fetch(cupti);
        let name = if cupti.contains("cu12") { "libcupti.so.12" } else { "libcupti.so.13" };
        let cupti = cupti_sys::Cupti::open(&wheels::find(&folder, name)).unwrap();
        let symbols = cupti.sampling().symbols();
        assert!(symbols.len() == 10 && symbols.iter().all(|(_, there)| *there), "{}: {symbols:?}", folder.display());
    }
}

#[test]
fn a_library_that_is_not_there_and_one_without_symbols_are_errors() {
    use cupti_sys::{Cupti, Error, raw, raw::Params as _};
    let missing = Cupti::open(Path::new("/nonexistent/libcupti.so.13")).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/libcupti.so.13"), "{missing}");
    // libc is a library, and not CUPTI.
    let libc = Cupti::open(Path::new("libc.so.6")).unwrap();
    assert_eq!(libc.version(), Err(Error::Absent { call: "cuptiGetVersion" }));
    // SAFETY: the function is absent, so nothing is called.
    let answer = unsafe { libc.profiler_initialize(&mut raw::ProfilerInitialize::sized()) };
    assert_eq!(answer, Err(Error::Absent { call: "cuptiProfilerInitialize" }));
    assert!(libc.symbols().iter().all(|(_, there)| !there));
    let sampling = libc.sampling();
    // SAFETY: as above.
    let answer = unsafe { sampling.enable(&mut raw::PmSamplingEnable::sized()) };
    assert_eq!(answer, Err(Error::Absent { call: "cuptiPmSamplingEnable" }));
    assert!(sampling.symbols().iter().all(|(_, there)| !there));
}
