//! Evidence of jobs with thousands of ranks: one rank is written by the library's writer, the others are that one with another name and a chain of their own.

use std::{fs, path::Path, thread};

use flopsprof::evidence::{CHAIN_START, line_hash};

use crate::synthetic::{Evidence, FP64, WINDOW_NS, nvml};

/// Further metrics of an H100: the first three stand in every group, the others take turns.
const ALWAYS: [&str; 3] =
    ["sm__ops_path_tensor_op_hgmma_src_fp16", "sm__ops_path_tensor_op_hgmma_src_tf32_dst_fp32", "sm__ops_path_tensor_src_fp8"];
const TURNS: [&str; 4] = [
    "sm__ops_path_tensor_op_hmma_src_bf16_dst_fp32",
    "sm__ops_path_tensor_op_hmma_src_fp16_dst_fp16",
    "sm__ops_path_tensor_op_hmma_src_fp16_dst_fp32",
    "sm__ops_path_tensor_op_hmma_src_tf32_dst_fp32",
];

/// A rank of a long job, as the meter writes it: windows of a minute, NVML every 10 s in between, paths that take turns.
fn rank(hours: u64) -> Evidence {
    let mut evidence = Evidence::counted("node-0", 0, 1, hours * 60);
    evidence.start.job.insert("SLURM_JOB_ID".to_owned(), "4096".to_owned());
    for window in &mut evidence.windows {
        let i = window.index;
        window.start_ns = evidence.at_ns + i * 6 * WINDOW_NS;
        window.end_ns = window.start_ns + 6 * WINDOW_NS;
        let most = window.counts.values().max().copied().unwrap_or(0);
        window.counts.extend(ALWAYS.map(|m| (m.to_owned(), most / 7)));
        if i % 16 != 0 {
            window.counts.remove(FP64);
            window.counts.insert(TURNS[usize::try_from(i % 4).expect("small")].to_owned(), most / 100 + u128::from(i));
        }
        window.nvml = Some(nvml(6 * i + 6));
        for k in 1..6 {
            evidence.readings.push((window.start_ns + k * WINDOW_NS, nvml(6 * i + k)));
        }
    }
    evidence
}

/// What stands between the hash of the line before and the line's own.
fn between(line: &str) -> &str {
    let (_, rest) = line.split_once(",\"seq\"").expect("a line of evidence");
    rest.rsplit_once(",\"sha256\":").expect("a line with its own hash").0
}

/// Writes the evidence of a job, eight ranks a node, into a folder; returns its bytes.
pub(crate) fn write_job(folder: &Path, ranks: u64, hours: u64) -> u64 {
    fs::create_dir_all(folder).expect("a folder");
    let one = tempfile::tempdir().expect("a temporary folder");
    let text = fs::read_to_string(rank(hours).write(one.path())).expect("evidence");
    let bodies: Vec<&str> = text.lines().map(between).collect();
    let write = |rank: u64| {
        let (node, pid) = (rank / 8, 1000 + rank);
        let (mut prev, mut bytes) = (CHAIN_START.to_owned(), Vec::with_capacity(text.len() + 1000));
        for body in &bodies[..] {
            let own = |body: &str| {
                body.replacen(
                    "\"hostname\":\"node-0\",\"boot_id\":\"boot-of-node-0\"",
                    &format!("\"hostname\":\"node-{node}\",\"boot_id\":\"boot-of-node-{node}\""),
                    1,
                )
                .replacen("\"pid\":1000", &format!("\"pid\":{pid}"), 1)
                .replacen("\"RANK\":\"0\"", &format!("\"RANK\":\"{rank}\""), 1)
                .replacen("\"WORLD_SIZE\":\"1\"", &format!("\"WORLD_SIZE\":\"{ranks}\""), 1)
                .replacen("0000-000000000000\"", &format!("0000-{rank:012x}\""), 1)
            };
            // Only the first lines name the process and the device.
            let body =
                if body.contains("\"type\":\"start\"") || body.contains("\"type\":\"device\"") { own(body) } else { (*body).to_owned() };
            let line = format!("{{\"prev\":\"{prev}\",\"seq\"{body}");
            let line = format!("{line},\"sha256\":\"{}\"}}", line_hash(line.as_bytes()));
            prev = line_hash(line.as_bytes());
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        fs::write(folder.join(format!("node-{node}-{pid}-77.jsonl")), &bytes).expect("writing evidence");
        bytes.len() as u64
    };
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    thread::scope(|scope| {
        let write = &write;
        let parts: Vec<_> = (0..threads)
            .map(|t| scope.spawn(move || (t..ranks).step_by(usize::try_from(threads).expect("few")).map(write).sum::<u64>()))
            .collect();
        parts.into_iter().map(|p| p.join().expect("writing evidence")).sum()
    })
}
