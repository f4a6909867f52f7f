//! What CUPTI costs the thread that launches kernels, state by state: run on a machine with a GPU, once for each libcupti.
//!
//! ```text
//! cargo build --release --example launch_cost      # then, where the GPU is:
//! launch_cost /usr/local/cuda/lib64/libcupti.so.13
//! ```
//! A line a state: microseconds a launch, least and median, of handing it to the driver, and of a graph's kernels where each is one node. Nothing else runs: what a
//! state adds to `bare` is CUPTI's. The other processes of a machine show in the medians; the least of many is what the code takes.

use std::{ffi::c_void, path::Path, time::Instant};

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaGraph, CudaStream, LaunchConfig, PushKernelArg,
        sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
    },
    nvrtc::Ptx,
};
use cupti_sys::{
    Cupti,
    raw::{self, CallbackDomain, Params},
};
use flopsprof::counter::{
    host::{Host, chip_name},
    plan,
    session::{Group, RangeProfiler, Ranges},
};

const EMPTY: &str = ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry empty(.param .u32 n) { ret; }\n";
/// Launches that are handed over before the GPU is waited for: fewer than its queue holds, so that handing over never waits.
const BATCH: usize = 400;
const NODES: usize = 2000;

unsafe extern "C" fn nothing(_user: *mut c_void, _domain: CallbackDomain, _cbid: u32, _data: *const c_void) {}

struct Bench {
    stream: std::sync::Arc<CudaStream>,
    kernel: CudaFunction,
    graph: CudaGraph,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn launch(stream: &CudaStream, kernel: &CudaFunction) -> Result<()> {
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the kernel takes one integer and does nothing.
    unsafe { stream.launch_builder(kernel).arg(&0u32).launch(config) }?;
    Ok(())
}

fn least_and_median(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:7.3} {:7.3}", values[0], values[values.len() / 2])
}

impl Bench {
    fn measure(&self, state: &str) -> Result<()> {
        let (mut handed, mut nodes) = (Vec::new(), Vec::new());
        for _ in 0..120 {
            let start = Instant::now();
            (0..BATCH).try_for_each(|_| launch(&self.stream, &self.kernel))?;
            handed.push(start.elapsed().as_secs_f64() / BATCH as f64 * 1e6);
            self.stream.synchronize()?;
        }
        for _ in 0..30 {
            let start = Instant::now();
            self.graph.launch()?;
            self.stream.synchronize()?;
            nodes.push(start.elapsed().as_secs_f64() / NODES as f64 * 1e6);
        }
        println!("{state:<14} us a launch {}   us a node {}", least_and_median(handed), least_and_median(nodes));
        Ok(())
    }
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).ok_or("launch_cost LIBCUPTI")?;
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let kernel = context.load_module(Ptx::from_src(EMPTY))?.load_function("empty")?;
    launch(&stream, &kernel)?;
    stream.synchronize()?;
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    (0..NODES).try_for_each(|_| launch(&stream, &kernel))?;
    let graph = stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)?.ok_or("no graph")?;
    let bench = Bench { stream, kernel, graph };
    bench.measure("bare")?;

    let cupti = Cupti::open(Path::new(&path)).map_err(|e| e.to_string())?;
    // SAFETY: nothing goes in but the size.
    let _ = unsafe { cupti.profiler_initialize(&mut raw::ProfilerInitialize::sized()) };
    println!("CUPTI {:?} on {}", cupti.version(), context.name()?);
    bench.measure("loaded")?;
    let chip = chip_name(cupti, 0)?;
    let host = Host::open(cupti, &chip)?;
    let mut group = Group::new(&host, &plan::of_chip(&host)?.groups[0])?;
    // SAFETY: the context lives until the end of this function.
    let mut profiler = unsafe { RangeProfiler::enable(cupti, context.cu_ctx().cast(), Ranges::One) }?;
    bench.measure("enabled")?;
    profiler.start(&mut group)?;
    bench.measure("started")?;
    profiler.push()?;
    bench.measure("counting")?;
    profiler.close(&mut group).1?;
    bench.measure("stopped")?;
    profiler.disable()?;
    bench.measure("disabled")?;
    // SAFETY: the callback does nothing.
    let subscriber = unsafe { cupti.subscribe(nothing) }?;
    bench.measure("subscribed")?;
    // SAFETY: the subscription is live and given back once.
    unsafe { cupti.unsubscribe(subscriber) }?;
    bench.measure("unsubscribed")?;
    // The process ends here: nothing is gained by taking the graph apart.
    std::mem::forget(bench);
    Ok(())
}
