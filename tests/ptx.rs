//! The workload's PTX against NVIDIA's own assembler: it assembles, and the machine code holds the tensor instructions that the known
//! operation counts are made of, in one loop.

mod wheels;

use std::{fs, process::Command};

use flopsprof::workload::{KERNELS, On, UNROLLED, ptx};

#[test]
fn every_kernel_assembles_to_the_instructions_it_counts() {
    let assembler = wheels::find(&wheels::fetch("nvidia-cuda-nvcc==13.0.88"), "ptxas");
    let disassembler = wheels::find(&wheels::fetch("nvidia-cuda-nvdisasm==13.2.86"), "nvdisasm");
    for tool in [&assembler, &disassembler] {
        // The wheel's unpacking drops the mode.
        assert!(Command::new("chmod").arg("755").arg(tool).status().unwrap().success());
    }
    let folder = tempfile::tempdir().unwrap();
    for kernel in &KERNELS {
        let archs: &[&str] = match kernel.on {
            On::Only(..) => &["sm_90a"],
            On::From(..) => &["sm_80", "sm_89", "sm_90"],
        };
        for arch in archs {
            let (text, binary) = (folder.path().join("k.ptx"), folder.path().join("k.cubin"));
            fs::write(&text, ptx::module(kernel)).unwrap();
            let output = Command::new(&assembler).args(["-arch", arch, "-o"]).args([&binary, &text]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{} for {arch}: {said}\n{}", kernel.name, ptx::module(kernel));
            let code = Command::new(&disassembler).args(["-c"]).arg(&binary).output().unwrap();
            let code = String::from_utf8_lossy(&code.stdout).into_owned();
            let mnemonic = match (kernel.shape.warps, kernel.source) {
                (4, "fp8") => "QGMMA",
                (4, _) => "HGMMA",
                (_, "fp64") => "DMMA",
                _ => "HMMA",
            };
            let instructions: Vec<&str> = code.lines().filter(|l| l.contains(&format!(" {mnemonic}."))).collect();
            assert_eq!(instructions.len() as u64, UNROLLED, "{} for {arch}: {instructions:#?}", kernel.name);
            let s = kernel.shape;
            let shapes = if s.warps == 4 { format!(".{}x{}x{}", s.m, s.n, s.k) } else { format!(".{}{}{}", s.m, s.n, s.k) };
            let alternative = format!(".{}x{}x{}", s.m, s.n, s.k);
            assert!(
                instructions.iter().all(|i| i.contains(&shapes) || i.contains(&alternative)),
                "{} for {arch}: {shapes} {instructions:#?}",
                kernel.name
            );
        }
    }
}
