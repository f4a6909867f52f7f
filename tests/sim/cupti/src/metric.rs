//! GH100's metrics, and how many passes a set of them takes, as NVIDIA's library answered (CUPTI 13.0.85).

use std::ffi::CString;

/// Base names behind `sm__ops_path_tensor_`; those marked take two passes.
const TENSOR: [(&str, bool); 24] = [
    ("op_bgmma_src_int1", false),
    ("op_hgmma_src_bf16_dst_fp32", false),
    ("op_hgmma_src_bf16_dst_fp32_sparsity_off", false),
    ("op_hgmma_src_bf16_dst_fp32_sparsity_on", false),
    ("op_hgmma_src_fp16", false),
    ("op_hgmma_src_tf32_dst_fp32", false),
    ("op_hmma_src_bf16_dst_fp32", false),
    ("op_hmma_src_bf16_dst_fp32_sparsity_on", false),
    ("op_hmma_src_fp16", true),
    ("op_hmma_src_fp16_dst_fp16", false),
    ("op_hmma_src_fp16_dst_fp32", false),
    ("op_hmma_src_tf32_dst_fp32", false),
    ("op_igmma_src_int8", false),
    ("op_imma_src_int8", true),
    ("op_imma_src_int8_sparsity_off", false),
    ("op_imma_src_int8_sparsity_on", false),
    ("src_bf16_dst_fp32", false),
    ("src_fp16", true),
    ("src_fp64", false),
    ("src_fp8", false),
    ("src_fp8_sparsity_off", false),
    ("src_int1", false),
    ("src_int8", true),
    ("src_tf32_dst_fp32", false),
];

/// Counters of the CUDA cores: they take a pass of their own. An FMA is in both of a format's.
const CORES: [&str; 6] = [
    "smsp__sass_thread_inst_executed_ops_fadd_fmul_ffma_pred_on",
    "smsp__sass_thread_inst_executed_op_ffma_pred_on",
    "smsp__sass_thread_inst_executed_ops_hadd_hmul_hfma_pred_on",
    "smsp__sass_thread_inst_executed_op_hfma_pred_on",
    "smsp__sass_thread_inst_executed_ops_dadd_dmul_dfma_pred_on",
    "smsp__sass_thread_inst_executed_op_dfma_pred_on",
];

/// What tensor paths are called.
pub(crate) const PREFIX: &str = "sm__ops_path_tensor_";

/// Cycles in which tensor cores were active, of which there are four in each of 132 multiprocessors.
pub(crate) const PIPE: &str = "sm__pipe_tensor_cycles_active";
pub(crate) const TENSOR_CORES: f64 = 132.0 * 4.0;
/// Operations in each of them, as was measured of wgmma bf16.
pub(crate) const FLOP_PER_TENSOR_CYCLE: u64 = 1024;

/// Every base metric.
pub(crate) fn base() -> Vec<CString> {
    let tensor = TENSOR.iter().map(|(m, _)| format!("{PREFIX}{m}"));
    let others = ["sm__cycles_elapsed", "sm__cycles_active", "gpu__time_duration", PIPE].iter().map(|m| (*m).to_owned());
    let cores = CORES.iter().map(|m| (*m).to_owned());
    tensor.chain(cores).chain(others).filter_map(|m| CString::new(m).ok()).collect()
}

/// The base name of a full one (`….sum`, `….max`, `….sum.peak_sustained`).
pub(crate) fn base_of(metric: &str) -> &str {
    metric.split('.').next().unwrap_or(metric)
}

/// Whether the chip has it.
pub(crate) fn exists(metric: &str) -> bool {
    base().iter().any(|b| b.to_str() == Ok(base_of(metric)))
}

/// Passes of a set.
pub(crate) fn passes(metrics: &[String]) -> usize {
    let short: Vec<&str> = metrics.iter().filter_map(|m| base_of(m).strip_prefix(PREFIX)).collect();
    let double = short.iter().filter(|m| TENSOR.iter().any(|(t, two)| t == *m && *two)).count();
    // Of those that take turns one goes, or fp16 -> fp16 with fp64.
    let family = |m: &str| match m {
        _ if m.starts_with("op_hmma_src_fp16_dst_fp16") || m.starts_with("src_fp64") => Some("fp16_fp64"),
        _ if m.starts_with("op_hmma_src_bf16") || m.starts_with("src_bf16") => Some("bf16"),
        _ if m.starts_with("op_hmma_src_tf32") || m.starts_with("src_tf32") => Some("tf32"),
        _ if m.starts_with("op_hmma_src_fp16_dst_fp32") => Some("fp16_fp32"),
        _ => None,
    };
    let mut families: Vec<&str> = short.iter().filter_map(|m| family(m)).collect();
    families.sort_unstable();
    families.dedup();
    let active = metrics.iter().any(|m| base_of(m) == "sm__cycles_active") && !short.is_empty();
    let cores = metrics.iter().any(|m| CORES.contains(&base_of(m)));
    families.len() + double + usize::from(active) + usize::from(cores || (families.is_empty() && double == 0))
}

/// Operations that a metric counts of those of a path.
pub(crate) fn counts(metric: &str, path: &str) -> bool {
    let (metric, path) = (base_of(metric), base_of(path));
    if let Some(op) = path.strip_prefix("smsp__sass_thread_inst_executed_op_") {
        let op = op.trim_end_matches("_pred_on");
        return metric == path || (metric.starts_with("smsp__sass_thread_inst_executed_ops_") && metric.contains(&format!("_{op}_")));
    }
    // A path counts its sparse operations too, and one over all instructions counts those of each.
    metric == path
        || path.strip_suffix("_sparsity_on") == Some(metric)
        || metric.strip_prefix(PREFIX).is_some_and(|m| m.starts_with("src_") && path.ends_with(&format!("_{m}")))
}
