//! What a kernel is for, by its name.
//!
//! Names are all there is to go by: a library's kernel says in its name what it does, a compiler's generated one what it fuses. The patterns are those of the
//! libraries that frameworks use (cuBLAS and its nvjet, CUTLASS, cuDNN, FlashAttention, xFormers, NCCL, ATen, Triton through Inductor, XLA, Apex);
//! a kernel that none of them fits is `other`, never guessed.

use serde::Serialize;

/// What a kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Matrix products.
    Gemm,
    /// Attention, forward.
    AttentionForward,
    /// Attention, backward.
    AttentionBackward,
    /// Convolutions.
    Convolution,
    /// Optimizer steps and what belongs to them.
    Optimizer,
    /// Layer, batch, group and RMS norms.
    Normalisation,
    /// One result for each element.
    Elementwise,
    /// Collectives.
    Communication,
    /// A CUDA graph: its kernels cannot be told apart.
    Graph,
    /// Everything else.
    Other,
}

/// The first category whose word a name holds has it. Order matters: attention kernels are named after the products in them, optimizers after the
/// elementwise machinery that runs them.
const WORDS: [(Category, &[&str]); 8] = [
    (
        Category::Communication,
        &["nccl", "nvshmem", "allreduce", "all_reduce", "allgather", "all_gather", "reducescatter", "reduce_scatter", "multimem"],
    ),
    (Category::Optimizer, &["multi_tensor_apply", "multitensorapply", "adam", "optimizer", "fused_sgd", "fusedsgd", "lamb", "adafactor"]),
    (Category::AttentionForward, &["flash", "fmha", "attention", "sdpa", "attn", "_mha_", "dot_do_o", "cast_dq"]),
    (
        Category::Normalisation,
        &[
            "layernorm",
            "layer_norm",
            "rmsnorm",
            "rms_norm",
            "batchnorm",
            "batch_norm",
            "groupnorm",
            "group_norm",
            "bn_fw",
            "bn_bw",
            "gammabeta",
        ],
    ),
    (Category::Convolution, &["conv", "winograd", "fprop", "dgrad", "wgrad", "cudnn_infer"]),
    (Category::Gemm, &["gemm", "nvjet", "cutlass", "matmul", "cublas", "gemv", "_mm_", "triton_mm", "triton_tem", "s16816", "xmma"]),
    (Category::Elementwise, &["elementwise", "element_wise", "triton_poi", "pointwise", "loop_", "copy", "fill", "catarray", "foreach"]),
    (Category::Other, &[]),
];

/// Words that say nothing and hold another that does: C++ has lambdas in the names of most elementwise kernels, and LAMB is an optimizer.
const IDLE: [(&str, &str); 3] = [("lambda", ""), ("convert", "cast"), ("conversion", "cast")];

/// Words of kernels that serve products and attention and multiply nothing on the tensor cores: they add up parts, convert, prepare, or multiply on the CUDA cores.
const BESIDE: [&str; 13] = [
    "_simt_",
    "opclasssimt",
    "splitkreduce",
    "reducesplitk",
    "reduce_head",
    "splitkv_combine",
    "dot_do_o",
    "cast_dq",
    "prepare_",
    "elementwise",
    "triton_poi",
    "triton_red",
    "triton_per",
];

/// Words that make an attention kernel one of the backward pass.
const BACKWARD: [&str; 6] = ["bwd", "backward", "bprop", "dot_do_o", "cast_dq", "fmha_cutlassb"];

impl Category {
    /// The category of a demangled name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let name = telling(name);
        let found = WORDS.iter().find(|(_, words)| words.iter().any(|w| name.contains(w))).map_or(Self::Other, |(category, _)| *category);
        match found {
            Self::AttentionForward if BACKWARD.iter().any(|w| name.contains(w)) => Self::AttentionBackward,
            found => found,
        }
    }

    /// Whether a kernel of this name, mangled or not, makes matrix products, as tensor cores do: that it executed nothing there wants a reason.
    #[must_use]
    pub fn multiplies(name: &str) -> bool {
        let products = matches!(Self::of(name), Self::Gemm | Self::AttentionForward | Self::AttentionBackward | Self::Convolution);
        let name = telling(name);
        products && !BESIDE.iter().any(|w| name.contains(w))
    }

    /// As a report has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gemm => "GEMM",
            Self::AttentionForward => "attention forward",
            Self::AttentionBackward => "attention backward",
            Self::Convolution => "convolution",
            Self::Optimizer => "optimizer",
            Self::Normalisation => "normalisation",
            Self::Elementwise => "elementwise",
            Self::Communication => "communication",
            Self::Graph => "CUDA graph",
            Self::Other => "other",
        }
    }
}

/// What of a name says something, in small letters.
fn telling(name: &str) -> String {
    IDLE.iter().fold(name.to_ascii_lowercase(), |name, (word, other)| name.replace(word, other))
}

/// A name as its author wrote it, without what a linker added. A name that is not mangled is itself.
#[must_use]
pub fn demangle(name: &str) -> String {
    cpp_demangle::Symbol::new(name).ok().and_then(|s| s.demangle().ok()).unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_the_libraries_are_told_apart() {
        use Category::*;
        for (name, category) in [
            ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", Gemm),
            ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_32x3_tn_align8>(...)", Gemm),
            (
                "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas",
                Gemm,
            ),
            (
                "void flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4, false, false, cutlass::bfloat16_t>>(Flash_fwd_params)",
                AttentionForward,
            ),
            ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>(pytorch_flash::Flash_bwd_params)", AttentionBackward),
            ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<...>::Params)", AttentionForward),
            ("fmha_cutlassB_bf16_aligned_64x64_k64_sm80(...)", AttentionBackward),
            ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_7_64x128x64_4x1x1_kernel0_0", AttentionBackward),
            ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<..., FusedAdamMathFunctor<float, 4, ...>>", Optimizer),
            ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul> >", Elementwise),
            ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>", Normalisation),
            ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", Communication),
            ("void implicit_convolve_sgemm<float, float, 128, 5, 5, 3, 3, 3, 1, true, false, true>(...)", Convolution),
            ("triton_poi_fused_mul_silu_1", Elementwise),
            (
                "void at::native::vectorized_elementwise_kernel<8, at::native::(anonymous namespace)::silu_kernel(at::TensorIteratorBase&)::{lambda()#1}>",
                Elementwise,
            ),
            ("void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernelTemplate<float, float, 32u, 32u, 256u>", Normalisation),
            ("void cudnn::fusion::convert_dq_to_16bits<true>(void const*)", AttentionBackward),
            ("void cudnn::fusion::compute_dot_do_o_specialized<true, 64>(void const*)", AttentionBackward),
            ("void convert_fp8_kernel<float>(float const*)", Other),
            ("void convertTensor_kernel<float, __half, float>(float, float const*, float, __half*)", Other),
            ("lamb_cuda_kernel_part1", Optimizer),
            ("_causal_conv1d_fwd_kernel", Convolution),
            ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, ...>>", Other),
            ("products(int, float*)", Other),
        ] {
            assert_eq!(Category::of(name), category, "{name}");
        }
    }

    /// Names of kernels in recorded censuses, as the library has them.
    #[test]
    fn what_serves_a_product_is_none() {
        for (name, multiplies) in [
            ("_ZN7cutlass7Kernel2I64cutlass_75_tensorop_bf16_s1688gemm_bf16_128x128_tn_align1EEvNT_6ParamsE", true),
            ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", true),
            ("ampere_sgemm_128x64_nn", true),
            ("_ZN7cutlass7Kernel2I42cutlass_80_simt_sgemm_128x32_8x5_nn_align1EEvNT_6ParamsE", false),
            ("_ZN8cublasLt19splitKreduce_kernelILi32ELi16EifvfvLb0EfvvLb1ELb0ELb0EEEvNS_18cublasSplitKParamsE", false),
            ("_ZN5cudnn6fusion28compute_dot_do_o_specializedILb1ELi64EEEvPKv", false),
            ("_ZN5cudnn6fusion20convert_dq_to_16bitsILb1EEEvPKv", false),
            ("_ZN5cudnn6fusion16fmha_reduce_headILb1EEEvPKv", false),
            ("_ZN2at4cuda6detail25prepare_grouped_gemm_dataIN7cutlass10bfloat16_tEEEvPT_", false),
            ("triton_poi_fused__scaled_dot_product_flash_attention_3", false),
            ("_ZN2at6native29vectorized_elementwise_kernelILi4EEEvi", false),
        ] {
            assert_eq!(Category::multiplies(name), multiplies, "{name}");
        }
    }

    #[test]
    fn mangled_names_become_readable_and_others_stay() {
        assert_eq!(demangle("_Z8productsiPf"), "products(int, float*)");
        assert_eq!(demangle("zoo_bf16"), "zoo_bf16");
        assert_eq!(demangle("_Z"), "_Z");
        assert_eq!(demangle(""), "");
    }
}
