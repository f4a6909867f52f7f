//! Which counters stand in which group.
//!
//! A counter can be read beside the running program only when its whole group fits one pass. The planner takes the floating-point tensor
//! paths from the chip's own list of metrics at their finest split, and covers them with as few one-pass groups as it can, each filled up
//! with every other path that still fits: what fits everywhere is counted all the time, and only the rest takes turns. Whether a set fits is
//! CUPTI's word (`cuptiProfilerHostGetNumOfPasses`), so there is no table of chips here.

use std::{collections::BTreeSet, ffi::CString};

use cupti_sys::Error;

use super::host::{Host, c_string};

/// What the names of all tensor-path operation counters begin with.
pub const PREFIX: &str = "sm__ops_path_tensor_";
/// SM cycles that pass in a range: fits beside every group on every chip looked at, and says how long a window was in the clock that
/// the tensor cores run on.
pub const CYCLES: &str = "sm__cycles_elapsed.max";

/// Time that passes in a range: what a launch took, in a census.
pub const DURATION: &str = "gpu__time_duration.sum";

/// What the CUDA cores execute, by counters that are patched into the code (base names): thread instructions, those of an FMA again. An FMA is in both of a format's
/// two, so FLOP are their sum. Exact in a kernel of known adds on an H200. They fit one pass together, and none beside a tensor path.
pub const CORES: [(&str, &str); 6] = [
    ("smsp__sass_thread_inst_executed_ops_fadd_fmul_ffma_pred_on", "fp32"),
    ("smsp__sass_thread_inst_executed_op_ffma_pred_on", "fp32"),
    ("smsp__sass_thread_inst_executed_ops_hadd_hmul_hfma_pred_on", "fp16"),
    ("smsp__sass_thread_inst_executed_op_hfma_pred_on", "fp16"),
    ("smsp__sass_thread_inst_executed_ops_dadd_dmul_dfma_pred_on", "fp64"),
    ("smsp__sass_thread_inst_executed_op_dfma_pred_on", "fp64"),
];

/// What is added to a path's name for its 2:4 sparse operations alone.
pub const SPARSE: &str = "_sparsity_on";

/// A plan: groups of path metrics (base names, without `.sum`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The groups, each readable in one pass.
    pub groups: Vec<Vec<String>>,
    /// Paths that no group can hold in one pass.
    pub uncovered: Vec<String>,
}

impl Plan {
    /// Paths that stand in every group: counted all the time.
    #[must_use]
    pub fn always(&self) -> BTreeSet<&str> {
        let Some((first, rest)) = self.groups.split_first() else { return BTreeSet::new() };
        first.iter().filter(|m| rest.iter().all(|g| g.contains(m))).map(String::as_str).collect()
    }

    /// Per group, the paths of it that take turns.
    #[must_use]
    pub fn turns(&self) -> Vec<Vec<&str>> {
        let always = self.always();
        self.groups.iter().map(|g| g.iter().map(String::as_str).filter(|m| !always.contains(m)).collect()).collect()
    }
}

/// Plans the groups of a chip. `base_metrics` is its list of counters; `passes` says how many passes a set of full metric names (`….sum`) needs.
///
/// # Errors
/// The first error of `passes`.
pub fn plan<E>(base_metrics: &[String], mut passes: impl FnMut(&[&str]) -> Result<usize, E>) -> Result<Plan, E> {
    let mut fits = |set: &[&str]| -> Result<bool, E> {
        let full: Vec<String> = set.iter().map(|m| format!("{m}.sum")).collect();
        let names: Vec<&str> = full.iter().map(String::as_str).collect();
        Ok(passes(&names)? == 1)
    };
    let mut single = Vec::new();
    let mut uncovered = Vec::new();
    for path in finest(base_metrics) {
        if fits(&[path])? {
            single.push(path);
            continue;
        }
        // Two passes for a path that has no finer split by format: dense and sparse operations are counted apart then.
        let parts: Vec<&str> = base_metrics
            .iter()
            .map(String::as_str)
            .filter(|m| m.strip_prefix(path).is_some_and(|s| matches!(s, "_sparsity_off" | "_sparsity_on")))
            .collect();
        let mut all_fit = parts.len() == 2;
        for part in &parts {
            all_fit = all_fit && fits(&[part])?;
        }
        if all_fit {
            single.extend(parts);
        } else {
            uncovered.push(path.to_owned());
        }
    }

    let constant = pack(&single, true, &mut fits)?;
    let plan = Plan { groups: owned(&constant), uncovered: uncovered.clone() };
    if plan.groups.len() <= 1 || !plan.always().is_empty() {
        return Ok(plan);
    }
    // Nothing stands in every group of this chip: then the fewest groups are best, so that each has more of the time.
    let few = pack(&single, false, &mut fits)?;
    Ok(if few.len() < constant.len() { Plan { groups: owned(&few), uncovered } } else { plan })
}

/// Covers the paths with groups that fit. What is tried first beside a group's seed is what stood in every group so far (`constant`: likely to fit here too, and
/// then counted all the time), or what stands in none yet.
fn pack<'a, E>(paths: &[&'a str], constant: bool, fits: &mut impl FnMut(&[&str]) -> Result<bool, E>) -> Result<Vec<Vec<&'a str>>, E> {
    let mut groups: Vec<Vec<&str>> = Vec::new();
    while let Some(seed) = paths.iter().copied().find(|p| !groups.iter().flatten().any(|m| m == p)) {
        let mut rest: Vec<&str> = paths.iter().copied().filter(|p| *p != seed).collect();
        rest.sort_by_key(|p| if constant { !groups.iter().all(|g| g.contains(p)) } else { groups.iter().any(|g| g.contains(p)) });
        let mut group = vec![seed];
        for path in rest {
            group.push(path);
            if !fits(&group)? {
                group.pop();
            }
        }
        group.sort_unstable();
        groups.push(group);
    }
    Ok(groups)
}

fn owned(groups: &[Vec<&str>]) -> Vec<Vec<String>> {
    groups.iter().map(|g| g.iter().map(|m| (*m).to_owned()).collect()).collect()
}

/// Plans the groups of a chip by its own lists.
///
/// # Errors
/// CUPTI's answer.
pub fn of_chip(host: &Host) -> Result<Plan, Error> {
    plan(host.base_metrics()?, |set| {
        let names: Vec<CString> = set.iter().map(|m| c_string(m)).collect();
        Ok(host.config(&names)?.passes)
    })
}

/// A tensor path's metric name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name<'a> {
    /// The instruction family: `hmma`, `hgmma`, `utchmma`, … None for a metric over all of them.
    op: Option<&'a str>,
    /// The source format: `bf16`, `fp4_fp6_fp8`.
    source: &'a str,
    /// The accumulator's format; none for a metric over all of them.
    accumulator: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// Takes the name of a floating-point path apart; none for integer paths and for variants (`_sparsity_…`, `_realtime`).
    fn parse(metric: &'a str) -> Option<Self> {
        let rest = metric.strip_prefix(PREFIX)?;
        if rest.contains("_sparsity_") || rest.ends_with("_realtime") {
            return None;
        }
        let (op, rest) = match rest.strip_prefix("op_") {
            Some(rest) => {
                let (op, rest) = rest.split_once("_src_")?;
                (Some(op), rest)
            }
            None => (None, rest.strip_prefix("src_")?),
        };
        let (source, accumulator) = rest.split_once("_dst_").map_or((rest, None), |(s, d)| (s, Some(d)));
        (!source.starts_with("int") && source != "b1").then_some(Self { op, source, accumulator })
    }

    /// Whether `self` is a sum that `finer` is a part of.
    fn holds(&self, finer: &Self) -> bool {
        self != finer
            && self.source == finer.source
            && (self.op.is_none() || self.op == finer.op)
            && (self.accumulator.is_none() || self.accumulator == finer.accumulator)
    }
}

/// The floating-point tensor paths of a chip, without those that are sums of others.
fn finest(base_metrics: &[String]) -> Vec<&str> {
    let names: Vec<(&str, Name)> = base_metrics.iter().filter_map(|m| Some((m.as_str(), Name::parse(m)?))).collect();
    let mut paths: Vec<&str> = names.iter().filter(|(_, n)| !names.iter().any(|(_, other)| n.holds(other))).map(|(m, _)| *m).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| format!("{PREFIX}{s}")).collect()
    }

    /// GH100's floating-point list, with some of what must be left out.
    fn gh100() -> Vec<String> {
        names(&[
            "op_hgmma_src_bf16_dst_fp32",
            "op_hgmma_src_bf16_dst_fp32_sparsity_off",
            "op_hgmma_src_fp16",
            "op_hgmma_src_tf32_dst_fp32",
            "op_hmma_src_bf16_dst_fp32",
            "op_hmma_src_fp16",
            "op_hmma_src_fp16_dst_fp16",
            "op_hmma_src_fp16_dst_fp32",
            "op_hmma_src_tf32_dst_fp32",
            "op_igmma_src_int8",
            "src_bf16_dst_fp32",
            "src_fp16",
            "src_fp64",
            "src_fp8",
            "src_int8",
            "src_tf32_dst_fp32",
        ])
    }

    /// The rule measured on GH100: of the turn-taking paths one goes, or fp16->fp16 with fp64.
    fn gh100_passes(set: &[&str]) -> Result<usize, Infallible> {
        let turn = |m: &&&str| m.contains("op_hmma_") || m.contains("fp64");
        let turns: Vec<_> = set.iter().filter(turn).collect();
        let pair = turns.iter().all(|m| m.contains("fp16_dst_fp16") || m.contains("fp64"));
        Ok(if turns.len() <= 1 || pair { 1 } else { 2 })
    }

    #[test]
    fn gh100_needs_four_groups_and_counts_wgmma_all_the_time() {
        let plan = plan(&gh100(), gh100_passes).unwrap();
        assert_eq!(plan.groups.len(), 4);
        assert!(plan.uncovered.is_empty());
        let always: Vec<String> = plan.always().into_iter().map(str::to_owned).collect();
        assert_eq!(always, names(&["op_hgmma_src_bf16_dst_fp32", "op_hgmma_src_fp16", "op_hgmma_src_tf32_dst_fp32", "src_fp8"]));
    }

    #[test]
    fn sums_of_finer_paths_are_left_out() {
        let metrics = gh100();
        let paths = finest(&metrics);
        assert!(!paths.contains(&"sm__ops_path_tensor_src_bf16_dst_fp32"));
        assert!(!paths.contains(&"sm__ops_path_tensor_op_hmma_src_fp16"));
        assert!(paths.contains(&"sm__ops_path_tensor_src_fp64"));
        assert!(!paths.iter().any(|p| p.contains("int8")));
    }

    #[test]
    fn a_path_of_two_passes_is_split_by_sparsity_or_named_as_uncovered() {
        let two =
            |set: &[&str]| Ok::<_, Infallible>(if set.iter().any(|m| m.ends_with("fp16.sum") || m.ends_with("fp64.sum")) { 2 } else { 1 });
        let plan = plan(&names(&["src_fp16", "src_fp16_sparsity_off", "src_fp16_sparsity_on", "src_fp64"]), two).unwrap();
        assert_eq!(plan.groups, vec![names(&["src_fp16_sparsity_off", "src_fp16_sparsity_on"])]);
        assert_eq!(plan.uncovered, names(&["src_fp64"]));
    }

    #[test]
    fn a_chip_without_tensor_cores_has_no_groups() {
        let plan = plan(&["sm__cycles_elapsed".to_owned()], |_| Ok::<_, Infallible>(1)).unwrap();
        assert_eq!(plan, Plan::default());
        assert!(plan.always().is_empty());
    }
}
