//! Generates the kernels' PTX.
//!
//! Every entry takes (`u32` iterations, `u64` address) and stores its accumulators only when asked for 2^32 - 1 iterations, which nobody does: the compiler
//! cannot know, so it keeps the arithmetic. Comment lines `//@sim …` tell the stand-in GPU, which cannot execute PTX, what a launch executes.

use std::fmt::Write;

use super::{Kernel, On, UNROLLED};

/// Bytes of shared memory that `wgmma`'s descriptors point into.
const SHARED: u64 = 16 * 1024;

/// A module's PTX with one kernel.
#[must_use]
pub fn module(kernel: &Kernel) -> String {
    let (version, target) = match kernel.on {
        On::Only(major, minor) => ("8.0", format!("sm_{major}{minor}a")),
        On::From(major, minor) => ("7.0", format!("sm_{major}{minor}")),
    };
    let body = if kernel.shape.warps == 4 { warpgroup(kernel) } else { warp(kernel) };
    format!(
        "//@sim kernel={name} metric={metric} flop_per_warp_iteration={flop} iterations_param=0\n\
         .version {version}\n.target {target}\n.address_size 64\n\n\
         .visible .entry {name}(.param .u32 iterations, .param .u64 sink)\n{{\n{body}}}\n",
        name = kernel.name,
        metric = kernel.metric,
        flop = kernel.flop_per_warp_iteration(),
    )
}

/// How registers of a format are declared and named.
struct Registers {
    class: &'static str,
    ty: &'static str,
    count: usize,
}

impl Registers {
    fn declare(&self, copies: usize) -> String {
        format!("\t.reg {} %{}<{}>;\n", self.ty, self.class, self.count * copies)
    }

    /// `{%f8, %f9, …}` of one copy.
    fn list(&self, copy: usize) -> String {
        let names: Vec<String> = (0..self.count).map(|i| format!("%{}{}", self.class, copy * self.count + i)).collect();
        format!("{{{}}}", names.join(", "))
    }
}

/// `mma.sync`: a warp, operands in registers, `UNROLLED` independent accumulators.
fn warp(kernel: &Kernel) -> String {
    let copies = usize::try_from(UNROLLED).unwrap_or(1);
    let (a, b, d, types) = match (kernel.source, kernel.accumulator) {
        ("bf16", _) => (4, 2, ("f", ".f32", 4), "f32.bf16.bf16.f32"),
        ("fp16", "fp32") => (4, 2, ("f", ".f32", 4), "f32.f16.f16.f32"),
        ("fp16", _) => (4, 2, ("h", ".b32", 2), "f16.f16.f16.f16"),
        ("tf32", _) => (4, 2, ("f", ".f32", 4), "f32.tf32.tf32.f32"),
        _ => (1, 1, ("d", ".f64", 2), "f64.f64.f64.f64"),
    };
    let operand = if kernel.source == "fp64" { ".f64" } else { ".b32" };
    let (a, b) = (Registers { class: "a", ty: operand, count: a }, Registers { class: "b", ty: operand, count: b });
    let d = Registers { class: d.0, ty: d.1, count: d.2 };
    let mut text = String::from("\t.reg .pred %p<2>;\n\t.reg .b32 %r<4>;\n\t.reg .b64 %rd<2>;\n");
    text += &(a.declare(1) + &b.declare(1) + &d.declare(copies));
    text += "\tld.param.u32 %r0, [iterations];\n\tld.param.u64 %rd0, [sink];\n\tmov.u32 %r1, %tid.x;\n\tmov.u32 %r2, %r0;\n";
    for (registers, n) in [(&a, a.count), (&b, b.count)] {
        for i in 0..n {
            let convert = if operand == ".f64" { "cvt.rn.f64.u32" } else { "mov.b32" };
            let _ = writeln!(text, "\t{convert} %{}{i}, %r1;", registers.class);
        }
    }
    for i in 0..d.count * copies {
        let zero = match d.ty {
            ".f32" => "mov.f32 %f{i}, 0f00000000",
            ".f64" => "mov.f64 %d{i}, 0d0000000000000000",
            _ => "mov.b32 %h{i}, 0",
        };
        let _ = writeln!(text, "\t{};", zero.replace("{i}", &i.to_string()));
    }
    text += "again:\n\t.pragma \"nounroll\";\n";
    let s = &kernel.shape;
    for copy in 0..copies {
        let (d, a, b) = (d.list(copy), a.list(0), b.list(0));
        let _ = writeln!(text, "\tmma.sync.aligned.m{}n{}k{}.row.col.{types} {d}, {a}, {b}, {d};", s.m, s.n, s.k);
    }
    text + &tail(&d, copies)
}

/// `wgmma`: four warps, operands in shared memory, one accumulator that all of the loop's instructions add to.
fn warpgroup(kernel: &Kernel) -> String {
    let s = &kernel.shape;
    let words = usize::try_from(s.m * s.n / 128).unwrap_or(0);
    let (types, d, transpose) = match (kernel.source, kernel.accumulator) {
        ("bf16", _) => ("f32.bf16.bf16", ("f", ".f32", words), ", 0, 0"),
        ("fp16", "fp32") => ("f32.f16.f16", ("f", ".f32", words), ", 0, 0"),
        ("fp16", _) => ("f16.f16.f16", ("h", ".b32", words / 2), ", 0, 0"),
        ("tf32", _) => ("f32.tf32.tf32", ("f", ".f32", words), ""),
        _ => ("f32.e4m3.e4m3", ("f", ".f32", words), ""),
    };
    let d = Registers { class: d.0, ty: d.1, count: d.2 };
    let mut text = format!("\t.reg .pred %p<2>;\n\t.reg .b32 %r<8>;\n\t.reg .b64 %rd<8>;\n{}", d.declare(1));
    let _ = writeln!(text, "\t.shared .align 128 .b8 operands[{SHARED}];");
    text += "\tld.param.u32 %r0, [iterations];\n\tld.param.u64 %rd0, [sink];\n\tmov.u32 %r1, %tid.x;\n\tmov.u32 %r2, %r0;\n";
    // Zeros for operands: 128 threads, 16 bytes each, until the memory is full.
    text += "\tmov.u32 %r3, operands;\n\tshl.b32 %r4, %r1, 4;\n\tadd.u32 %r4, %r4, %r3;\n\tmov.b32 %r5, 0;\n";
    for at in (0..SHARED).step_by(128 * 16) {
        let _ = writeln!(text, "\tst.shared.v4.b32 [%r4+{at}], {{%r5, %r5, %r5, %r5}};");
    }
    text += "\tfence.proxy.async;\n\tbar.sync 0;\n";
    // A descriptor without swizzle: address / 16 in bits 0 to 13, leading offset 128 / 16 in 16 to 29, stride 256 / 16 in 32 to 45. B lies behind A.
    text += "\tcvt.u64.u32 %rd1, %r3;\n\tshr.u64 %rd1, %rd1, 4;\n\tand.b64 %rd1, %rd1, 0x3fff;\n\tor.b64 %rd2, %rd1, 0x0000001000080000;\n\tadd.u64 %rd3, %rd2, 256;\n";
    for i in 0..d.count {
        let zero = if d.ty == ".f32" { "mov.f32 %f{i}, 0f00000000" } else { "mov.b32 %h{i}, 0" };
        let _ = writeln!(text, "\t{};", zero.replace("{i}", &i.to_string()));
    }
    text += "\tsetp.eq.u32 %p0, %r0, %r0;\nagain:\n\t.pragma \"nounroll\";\n\twgmma.fence.sync.aligned;\n";
    for _ in 0..UNROLLED {
        let _ = writeln!(
            text,
            "\twgmma.mma_async.sync.aligned.m{}n{}k{}.{types} {}, %rd2, %rd3, %p0, 1, 1{transpose};",
            s.m,
            s.n,
            s.k,
            d.list(0)
        );
    }
    text += "\twgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;\n";
    text + &tail(&d, 1)
}

/// The end of the loop, and the store that never happens.
fn tail(d: &Registers, copies: usize) -> String {
    let mut text = String::from(
        "\tsub.u32 %r2, %r2, 1;\n\tsetp.ne.u32 %p1, %r2, 0;\n\t@%p1 bra again;\n\tsetp.ne.u32 %p1, %r0, 0xffffffff;\n\t@%p1 bra done;\n",
    );
    let bytes = if d.ty == ".f64" { 8 } else { 4 };
    for i in 0..d.count * copies {
        let _ = writeln!(text, "\tst.global{} [%rd0+{}], %{}{i};", d.ty, i * bytes, d.class);
    }
    text + "done:\n\tret;\n"
}
