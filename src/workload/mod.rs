//! A workload whose floating-point operations are known by construction.
//!
//! Each kernel repeats one tensor-core instruction a given number of times, so that
//!
//! ```text
//! FLOP = blocks x warps of a block x iterations x FLOP of a warp's iteration        (a multiply-add is two)
//! ```
//! holds to the last unit. What the counters say is compared with that. It needs the driver alone: the PTX is generated ([`ptx`]) and the driver
//! compiles it ([`run`]).

pub mod ptx;
pub mod run;

/// A kernel of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its entry's name.
    pub name: &'static str,
    /// The counter it lands in on GH100.
    pub metric: &'static str,
    /// Format of the sources.
    pub source: &'static str,
    /// Format of the accumulator.
    pub accumulator: &'static str,
    /// Compute capabilities that have it as an instruction of their own.
    pub on: On,
    /// The instruction and its shape.
    pub shape: Shape,
}

/// Where a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// From this compute capability on.
    From(u32, u32),
    /// On this one alone: `wgmma` is Hopper's.
    Only(u32, u32),
}

impl On {
    /// Whether a device has it.
    #[must_use]
    pub fn holds(self, capability: (u32, u32)) -> bool {
        match self {
            Self::From(major, minor) => capability >= (major, minor),
            Self::Only(major, minor) => capability == (major, minor),
        }
    }
}

/// An instruction: `m` x `n` x `k`, done by a warp (`mma.sync`) or by four together (`wgmma`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub m: u64,
    /// Columns.
    pub n: u64,
    /// Depth.
    pub k: u64,
    /// Warps that do one instruction together.
    pub warps: u64,
}

const fn mma(m: u64, n: u64, k: u64) -> Shape {
    Shape { m, n, k, warps: 1 }
}

const fn wgmma(k: u64) -> Shape {
    Shape { m: 64, n: 128, k, warps: 4 }
}

/// Instructions in one turn of a kernel's loop: enough that the loop's own work does not show, and that independent ones fill the pipe.
pub const UNROLLED: u64 = 8;

/// Every kernel.
pub const KERNELS: [Kernel; 10] = [
    Kernel {
        name: "wgmma_bf16",
        metric: "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32",
        source: "bf16",
        accumulator: "fp32",
        on: On::Only(9, 0),
        shape: wgmma(16),
    },
    Kernel {
        name: "wgmma_fp16",
        metric: "sm__ops_path_tensor_op_hgmma_src_fp16",
        source: "fp16",
        accumulator: "fp32",
        on: On::Only(9, 0),
        shape: wgmma(16),
    },
    Kernel {
        name: "wgmma_fp16_acc16",
        metric: "sm__ops_path_tensor_op_hgmma_src_fp16",
        source: "fp16",
        accumulator: "fp16",
        on: On::Only(9, 0),
        shape: wgmma(16),
    },
    Kernel {
        name: "wgmma_tf32",
        metric: "sm__ops_path_tensor_op_hgmma_src_tf32_dst_fp32",
        source: "tf32",
        accumulator: "fp32",
        on: On::Only(9, 0),
        shape: wgmma(8),
    },
    Kernel {
        name: "wgmma_fp8",
        metric: "sm__ops_path_tensor_src_fp8",
        source: "fp8",
        accumulator: "fp32",
        on: On::Only(9, 0),
        shape: wgmma(32),
    },
    Kernel {
        name: "mma_bf16",
        metric: "sm__ops_path_tensor_op_hmma_src_bf16_dst_fp32",
        source: "bf16",
        accumulator: "fp32",
        on: On::From(8, 0),
        shape: mma(16, 8, 16),
    },
    Kernel {
        name: "mma_fp16",
        metric: "sm__ops_path_tensor_op_hmma_src_fp16_dst_fp32",
        source: "fp16",
        accumulator: "fp32",
        on: On::From(8, 0),
        shape: mma(16, 8, 16),
    },
    Kernel {
        name: "mma_fp16_acc16",
        metric: "sm__ops_path_tensor_op_hmma_src_fp16_dst_fp16",
        source: "fp16",
        accumulator: "fp16",
        on: On::From(8, 0),
        shape: mma(16, 8, 16),
    },
    Kernel {
        name: "mma_tf32",
        metric: "sm__ops_path_tensor_op_hmma_src_tf32_dst_fp32",
        source: "tf32",
        accumulator: "fp32",
        on: On::From(8, 0),
        shape: mma(16, 8, 8),
    },
    Kernel {
        name: "mma_fp64",
        metric: "sm__ops_path_tensor_src_fp64",
        source: "fp64",
        accumulator: "fp64",
        on: On::From(8, 0),
        shape: mma(8, 8, 4),
    },
];

impl Kernel {
    /// The kernel of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KERNELS.iter().find(|k| k.name == name)
    }

    /// FLOP that one warp does in one iteration.
    #[must_use]
    pub const fn flop_per_warp_iteration(&self) -> u64 {
        2 * self.shape.m * self.shape.n * self.shape.k * UNROLLED / self.shape.warps
    }

    /// Threads of a block: four warps, which is what `wgmma` wants and what fills an SM's four partitions.
    #[must_use]
    pub const fn threads(&self) -> u32 {
        128
    }

    /// FLOP of one launch.
    #[must_use]
    pub fn flop(&self, blocks: u32, iterations: u32) -> u128 {
        u128::from(blocks) * u128::from(self.threads() / 32) * u128::from(iterations) * u128::from(self.flop_per_warp_iteration())
    }
}
