//! Censuses: every launch of a burst counted by itself, and nothing lost for it.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use flopsprof::evidence::{
    read,
    record::{Kernel, Kernels, Kind, Record, RollCall, Tier, Window},
};

use crate::harness::{BF16, Bench, FP64, Outcome};

const FP8: &str = "sm__ops_path_tensor_src_fp8";
/// FLOP of a block in one launch of a zoo's kernel: 4 warps, 100 iterations.
const BLOCK: u128 = 4 * 65536 * 100;

fn kernels(outcome: &Outcome) -> Vec<Kernels> {
    let lines = outcome.evidence().into_iter().flat_map(|f| f.lines);
    lines.filter_map(|l| if let Record::Kernels(k) = l.record { Some(*k) } else { None }).collect()
}

fn roll_calls(outcome: &Outcome) -> Vec<RollCall> {
    let lines = outcome.evidence().into_iter().flat_map(|f| f.lines);
    lines.filter_map(|l| if let Record::RollCall(r) = l.record { Some(*r) } else { None }).collect()
}

/// The one census of a run, checked against its window: as many ranges as launches, and the sum over the launches is the window's count.
fn census(outcome: &Outcome) -> Kernels {
    let mut all = kernels(outcome);
    assert_eq!(all.len(), 1, "{all:#?}");
    let census = all.remove(0);
    meets_its_window(outcome, &census);
    census
}

fn meets_its_window(outcome: &Outcome, census: &Kernels) {
    let windows = outcome.windows();
    let window = windows.iter().find(|w| Some(w.index) == census.window).expect("the census's window");
    assert_eq!((window.tier, window.opened.gated), (Tier::Counted, true), "{window:#?}");
    let mut sum = BTreeMap::new();
    for (path, flop) in census.kernels.iter().flat_map(|k| &k.counts) {
        *sum.entry(path.clone()).or_insert(0) += flop;
    }
    let counted: BTreeMap<String, u128> = window.counts.clone().into_iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(sum, counted);
    assert!(census.kernels.iter().all(|k| k.durations_ns.len() as u64 == k.launches), "{census:#?}");
}

fn row<'a>(census: &'a Kernels, name: &str, blocks: u32) -> &'a Kernel {
    let found: Vec<&Kernel> = census.kernels.iter().filter(|k| k.name == name && k.grid == [blocks, 1, 1]).collect();
    assert_eq!(found.len(), 1, "{name} on {blocks} blocks: {census:#?}");
    found[0]
}

/// All of the always-counted paths is in the windows.
fn assert_always_exact(outcome: &Outcome) {
    let (mut truth, mut counted) = (outcome.truth(), outcome.counted());
    truth.remove(FP64);
    counted.remove(FP64);
    assert_eq!(counted, truth, "{}", outcome.course());
    assert_eq!((outcome.said.clone(), outcome.faults()), (vec![], vec![]));
}

#[test]
fn every_launch_of_a_burst_has_its_name_its_grid_and_its_operations() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.3:70").run("steps", &["500", "1000"]);
    assert_always_exact(&outcome);
    let census = census(&outcome);
    assert_eq!((census.launches, census.ranges, census.why.as_str()), (70, 70, ""));
    for (name, path, blocks, launches) in [("zoo_bf16", BF16, 132, 20), ("zoo_bf16", BF16, 64, 10), ("zoo_fp8", FP8, 132, 10)] {
        let row = row(&census, name, blocks);
        assert_eq!((row.launches, row.block, row.kind), (launches, [128, 1, 1], Kind::Kernel));
        assert_eq!(row.counts, [(path.to_owned(), u128::from(launches) * u128::from(blocks) * BLOCK)].into());
        assert!(row.durations_ns.iter().all(|ns| *ns > 1000), "{row:?}");
    }
    assert_eq!(row(&census, "zoo_idle", 16).launches, 20);
    // What the burst cost stands in the windows after it.
    let spent = outcome.windows().last().and_then(|w| w.spent.clone()).expect("what was spent");
    assert!(spent.census_ns > 0 && spent.windows_ns > 0 && spent.rotation_ns > 0, "{spent:?}");
}

/// Where the program marks its steps, a census is of whole ones, whatever their lengths: it begins after a mark, and ends at the one by which nearly as many launches are through as were
/// asked for.
#[test]
fn a_census_is_of_whole_steps_where_they_are_marked() {
    for (asked, steps, each) in [("0.4:11", 1, None), ("0.4:33", 3, Some(11))] {
        let outcome = Bench::new().env("FLOPSPROF_CENSUS", asked).run("marked_steps", &["120", "1000"]);
        assert_always_exact(&outcome);
        let census = census(&outcome);
        let launches = |name: &str| census.kernels.iter().filter(|k| k.name == name).map(|k| k.launches).sum::<u64>();
        assert_eq!((launches("zoo_fp8"), census.why.as_str()), (steps, ""), "{census:#?}");
        assert!(launches("zoo_bf16").is_multiple_of(2) && (8 * steps..=12 * steps).contains(&launches("zoo_bf16")), "{census:#?}");
        assert_eq!(census.step, Some(each.unwrap_or(census.launches)));
        // Which batches these were.
        let bf16: u64 = census.batches.iter().map(|[_, length, _]| 8 + 2 * (length - 100)).sum();
        assert!(bf16 == launches("zoo_bf16") && census.batches.iter().all(|[rows, _, decoder]| (*rows, *decoder) == (2, 0)), "{census:#?}");
    }
}

/// A program that has marked steps and marks no more is counted as one that marks none.
#[test]
fn a_census_waits_for_no_mark_that_does_not_come() {
    let bench = Bench::new().env("FLOPSPROF_CENSUS", "0.4:11");
    let metered = bench.command(true, "marked_steps", &["1", "1000", "13"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let bare = bench.command(false, "marked_steps", &["1", "0", "13"]).output().expect("starting a program");
    let outcome = bench.compare(&bare, metered.expect("starting a program").wait_with_output().expect("its end"));
    assert_always_exact(&outcome);
    let census = census(&outcome);
    assert_eq!((census.launches, census.step, census.batches.len(), census.why.as_str()), (11, None, 0, ""));
}

/// What the command says of it: the table of kernels adds up to the run's total, and says that it is simulated.
#[test]
fn the_command_shows_the_kernels_of_a_run() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.3:70").run("steps", &["500", "1000"]);
    let table = outcome.command(&["report", "--kernels"]);
    for part in ["SIMULATED", "zoo_bf16", "zoo_fp8", "132x1x1", "1 census(es)"] {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    let kernels = &outcome.ledger().kernels;
    assert_eq!(kernels.total(), flopsprof::ledger::sum(&outcome.ledger().paths).total());
    let bf16 = &kernels.rows[&(Kind::Kernel, "zoo_bf16".to_owned())];
    assert_eq!(bf16.flop[BF16], outcome.ledger().paths[BF16].total(), "the one kernel of its path");
    let top = outcome.command(&["top", "--once"]);
    assert!(top.contains("zoo_bf16") && top.contains("simulated"), "{top}");
}

#[test]
fn a_burst_longer_than_a_session_goes_on_in_the_next() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.2:1500").run("steps", &["800", "500"]);
    assert_always_exact(&outcome);
    let census = census(&outcome);
    assert_eq!((census.launches, census.ranges, census.why.as_str()), (1500, 1500, ""));
}

#[test]
fn bursts_again_and_again_lose_nothing() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0:100:0.05").run("steps", &["900", "1000"]);
    assert_always_exact(&outcome);
    let all = kernels(&outcome);
    assert!(all.len() > 3, "{}", all.len());
    all.iter().for_each(|census| meets_its_window(&outcome, census));
}

/// Ranges come in the order of the launches, whichever threads and streams they are from: else a kernel would have another's operations.
#[test]
fn launches_of_several_threads_keep_their_names() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.2:400").run("steps", &["800", "500", "threads"]);
    assert_always_exact(&outcome);
    let census = census(&outcome);
    for (name, path, blocks) in [("zoo_bf16", BF16, 132), ("zoo_bf16", BF16, 64), ("zoo_fp8", FP8, 132)] {
        let row = row(&census, name, blocks);
        assert_eq!(row.counts, [(path.to_owned(), u128::from(row.launches) * u128::from(blocks) * BLOCK)].into());
    }
    let streams: Vec<u32> = census.kernels.iter().map(|k| k.stream).collect();
    assert_eq!(BTreeMap::from_iter(streams.iter().map(|s| (s, ()))).len(), 4, "{streams:?}");
    assert_eq!(row(&census, "zoo_idle", 16).counts, [].into());
}

#[test]
fn a_graph_is_one_row() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.2:80").run("steps", &["500", "1000", "graph"]);
    assert_always_exact(&outcome);
    let census = census(&outcome);
    let graphs: Vec<&Kernel> = census.kernels.iter().filter(|k| k.kind == Kind::Graph).collect();
    assert_eq!((graphs.len(), graphs[0].launches), (1, 20), "{census:#?}");
    assert_eq!(graphs[0].counts, [(BF16.to_owned(), 20 * (132 + 132 + 64) * BLOCK), (FP8.to_owned(), 20 * 132 * BLOCK)].into());
}

/// A census begins at any of a program's graphs, and each keeps its row: else one graph would have the other's operations.
#[test]
fn graphs_keep_their_rows_from_one_census_to_the_next() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.2:23:0.05").run("steps", &["2500", "1000", "graphs"]);
    assert_always_exact(&outcome);
    let first = |c: &Kernels| c.kernels.iter().find(|k| k.kind == Kind::Graph).map(|k| k.name.clone());
    let begun: BTreeMap<_, ()> = kernels(&outcome).iter().map(|c| (first(c), ())).collect();
    assert_eq!(begun.len(), 2, "censuses that begin with either: {begun:?}");
    let ledger = outcome.ledger().kernels;
    let graphs: Vec<_> = ledger.rows.iter().filter(|((kind, _), _)| *kind == Kind::Graph).collect();
    assert_eq!(graphs.len(), 2);
    let mut of_bf16: Vec<f64> = graphs.iter().map(|(_, row)| row.seen.get(BF16).map_or(0.0, |s| s.per_launch())).collect();
    of_bf16.sort_by(f64::total_cmp);
    assert_eq!(of_bf16, [0.0, ((132 + 132 + 64) * BLOCK) as f64], "{graphs:#?}");
    for (_, row) in graphs {
        assert_eq!(row.seen[FP8].per_launch(), (132 * BLOCK) as f64);
    }
}

/// A launch into a stream that captures runs nothing, and makes no range.
#[test]
fn captured_launches_are_not_launches() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.2:70").run("steps", &["500", "1000", "capture"]);
    assert_always_exact(&outcome);
    assert_eq!((census(&outcome).launches, census(&outcome).ranges, census(&outcome).why.as_str()), (70, 70, ""));
}

/// Steps of other lengths come up as the program goes on. The first launch that no census knows begins one; between censuses it is heard which launches come, and those that
/// look alike and execute more are told apart by what came before them.
#[test]
fn launches_are_heard_between_censuses_and_unknown_ones_begin_one() {
    let outcome =
        Bench::new().env("FLOPSPROF_CENSUS", "0.2:40:roll").env("FLOPSPROF_WINDOW", "60").run("steps", &["2400", "1000", "lengths"]);
    assert_always_exact(&outcome);
    let censuses = kernels(&outcome);
    assert!(censuses.len() >= 4, "one for each length: {censuses:#?} {:#?}\n{}", roll_calls(&outcome), outcome.course());
    censuses.iter().filter(|c| c.window.is_some()).for_each(|census| meets_its_window(&outcome, census));
    let calls = roll_calls(&outcome);
    let launches: u64 = calls.iter().map(|c| c.launches).sum();
    assert!(launches > 8000, "most of the 24000 launches: {launches} in {} roll calls", calls.len());
    // By length: launches of the kernel whose grid says the length, and of the one whose operations do.
    let (mut by_grid, mut by_work) = (BTreeMap::new(), BTreeMap::new());
    let mut unsure = 0;
    for called in calls.iter().flat_map(|c| &c.rows) {
        let census = censuses.iter().find(|c| c.window == Some(called.window)).expect("the census that it names");
        let kernel = &census.kernels[called.row as usize];
        if kernel.name == "zoo_bf16" {
            let each = kernel.counts[BF16] / u128::from(kernel.launches);
            let (into, length) =
                if kernel.grid == [64, 1, 1] { (&mut by_work, each / 64 / BLOCK) } else { (&mut by_grid, each / 132 / BLOCK) };
            *into.entry(length).or_insert(0) += called.launches;
            unsure += if called.unsure { called.launches } else { 0 };
        }
    }
    assert_eq!(by_grid.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
    let heard: u64 = by_grid.values().sum();
    for (length, n) in &by_grid {
        // A roll call that begins in the midst of a step does not know its length.
        let other = by_work.get(length).copied().unwrap_or(0);
        assert!(n.abs_diff(other) <= 3 * (calls.len() as u64 + unsure), "{by_grid:?} {by_work:?}, {unsure} of {heard} unsure");
    }
    assert!(unsure * 20 < heard, "{unsure} of {heard}");
    // The table rests on them.
    let table = outcome.command(&["report", "--kernels"]);
    assert!(table.contains("roll call(s)") && table.contains("SIMULATED"), "{table}");
}

/// The CUDA cores have a burst of their own, in which the tensor operations are not counted; they are those of the same launches in the census before it.
#[test]
fn what_the_cuda_cores_execute_is_sampled_beside_the_total() {
    const FFMA: &str = "smsp__sass_thread_inst_executed_op_ffma_pred_on";
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.3:70:cores").run("steps", &["500", "1000"]);
    let all = kernels(&outcome);
    assert_eq!((all.len(), all[0].cores, all[1].cores), (2, false, true), "{all:#?}");
    meets_its_window(&outcome, &all[0]);
    let cores = &all[1];
    assert_eq!((cores.launches, cores.ranges, cores.why.as_str()), (70, 70, ""));
    let idle = row(cores, "zoo_idle", 16);
    // A fused multiply-add of each of 2048 threads, 100 times, in 20 launches.
    assert_eq!((idle.launches, idle.counts[FFMA]), (20, 20 * 2048 * 100));
    assert!(cores.kernels.iter().filter(|k| k.name != "zoo_idle").all(|k| k.counts.is_empty()), "{cores:#?}");
    let windows = outcome.windows();
    let window = |index| windows.iter().find(|w| Some(w.index) == index).expect("a window");
    let (census, own) = (window(all[0].window), window(cores.window));
    let executed = |w: &Window| -> BTreeMap<String, u128> { w.counts.clone().into_iter().filter(|(_, n)| *n > 0).collect() };
    assert_eq!((own.tier, executed(own)), (Tier::Sampled, executed(census)));
    // Nothing is lost, and nothing that was not counted is called so.
    let ledger = outcome.ledger();
    let truth = outcome.truth();
    assert_eq!(ledger.paths[BF16].total(), truth[BF16]);
    assert_eq!(ledger.paths[BF16].interpolated, own.counts[BF16]);
    assert_eq!(ledger.paths[FP8].total(), truth[FP8]);
    // The whole run's: 1,000 launches, by the ratio to its tensor operations, of which fp64's is interpolated.
    let (flop, error) = ledger.cores.total["fp32"];
    let exact = 2.0 * 1000.0 * 2048.0 * 100.0;
    assert!(
        (flop / exact - 1.0).abs() < 0.02 && error.is_none(),
        "{flop} for {exact}: {:#?} {truth:?}\n{}",
        ledger.paths,
        outcome.course()
    );
    let report = outcome.command(&["report"]);
    assert!(report.contains("CUDA cores fp32") && report.contains("sampled: 1 census(es), 70 launches"), "{report}");
    assert_eq!(outcome.faults(), vec![]);
}

/// Bursts that are not of whole steps begin at the same place in a step, where the program pauses: they agree with each other better than with the whole. So no error is
/// claimed.
#[test]
fn bursts_of_parts_of_steps_give_the_cuda_cores_no_error() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.2:30:0.05:cores").run("steps", &["1500", "1000"]);
    let bursts = kernels(&outcome).iter().filter(|k| k.cores).count();
    assert!(bursts >= 4, "{bursts}");
    let report: serde_json::Value = serde_json::from_str(&outcome.command(&["report", "--json"])).expect("JSON");
    let formats = report["cuda_cores"]["formats"].as_array().expect("formats");
    let fp32 = formats.iter().find(|f| f["format"] == "fp32").expect("fp32");
    let flop = fp32["flop"].as_f64().expect("FLOP");
    // Two launches of a step, a fused multiply-add of each of 2048 threads, 100 times. Four steps and two launches of thirty: what is missing is at most their part.
    let truth = 1500.0 * 2.0 * 2.0 * 2048.0 * 100.0;
    assert!((flop / truth - 1.0).abs() < 0.2 && fp32["standard_error"].is_null(), "{fp32} of {truth}");
    assert!(outcome.command(&["report"]).contains("standard error unknown"));
}

#[test]
fn a_burst_that_the_programs_end_cuts_short_is_kept() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.2:100000").run("steps", &["300", "1000"]);
    assert_always_exact(&outcome);
    let census = census(&outcome);
    assert!(census.launches > 0 && census.launches == census.ranges, "{census:#?}");
    assert!(census.why.contains("ended"), "{}", census.why);
    let table = outcome.command(&["report", "--kernels"]);
    assert!(table.contains("censuses that were not taken, or not whole:\n  - the program ended in it"), "{table}");
    assert!(outcome.ended().ended);
}

/// `kill -9` in a census costs the census: the window before it is in the file by then.
#[test]
fn a_kill_in_a_census_does_not_cost_the_window_before_it() {
    let bench = Bench::new().env("FLOPSPROF_CENSUS", "1:100000").env("FLOPSPROF_WINDOW", "60");
    let mut child = bench.command(true, "steps", &["5000", "1000"]).stdout(Stdio::null()).spawn().expect("a program");
    std::thread::sleep(Duration::from_millis(2000));
    child.kill().expect("killing it");
    child.wait().expect("its end");
    let files = read::read_run(&bench.out()).expect("evidence");
    let windows: Vec<&Window> =
        files[0].lines.iter().filter_map(|l| if let Record::Window(w) = &l.record { Some(&**w) } else { None }).collect();
    let last = windows.last().expect("windows");
    assert!(!files[0].ended && files[0].breaks.is_empty());
    // The census begins a second after the program's first context, and ends the window that was open.
    let seconds = last.end_ns.saturating_sub(windows[0].start_ns) as f64 / 1e9;
    assert!((0.99..1.8).contains(&seconds), "{seconds} s in {} windows", windows.len());
}

#[test]
fn kernels_without_names_keep_their_operations() {
    let outcome = Bench::new().env("FLOPSPROF_CENSUS", "0.2:70").env("FLOPSPROF_SIM_NAMELESS", "1").run("steps", &["500", "1000"]);
    assert_always_exact(&outcome);
    let census = census(&outcome);
    assert!(census.kernels.iter().all(|k| k.kind == Kind::Unnamed && k.name.is_empty()), "{census:#?}");
    // Grid and block are known all the same.
    assert_eq!(row(&census, "", 64).launches, 10);
}

/// Launches for which a session had no room are not counted, and the window does not claim to have counted them.
#[test]
fn more_ranges_than_room_cost_the_window_and_are_not_tried_again() {
    let bench = Bench::new().env("FLOPSPROF_CENSUS", "0.3:70:0.1").env("FLOPSPROF_SIM_RANGES_PER_LAUNCH", "2");
    let outcome = bench.run("steps", &["900", "1000"]);
    let all = kernels(&outcome);
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(all[0].why.contains("found no room") && all[0].kernels.is_empty(), "{all:#?}");
    let windows = outcome.windows();
    let window = windows.iter().find(|w| Some(w.index) == all[0].window).expect("the census's window");
    assert!(window.tier > Tier::Sampled && window.counts.is_empty() && !window.why.is_empty(), "{window:#?}");
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    assert_eq!(counted, truth - u128::from(2 * 132 + 64u32) * 10 * BLOCK, "all but the burst is counted");
    // The ledger puts in what the neighbours did.
    let path = &outcome.ledger().paths[BF16];
    assert!(path.total() > counted && path.total().abs_diff(truth) < truth / 5, "{path:?} of {truth}");
}

#[test]
fn while_another_tool_is_subscribed_there_is_no_census_and_the_evidence_says_so() {
    let bench = Bench::new();
    let bench = bench.env("FLOPSPROF_CENSUS", "0.05:50");
    let cupti = bench.lib("libcupti.so.13");
    let outcome = bench.env("ZOO_CUPTI", cupti).run("subscriber", &["start"]);
    let all = kernels(&outcome);
    assert!(all[0].why.contains("another tool has CUPTI's subscription") && all[0].window.is_none(), "{all:#?}");
    // It is taken when the tool is done.
    assert!(all.last().is_some_and(|c| c.launches == 50 && c.why.is_empty()), "{all:#?}");
    assert_eq!(outcome.said, [] as [&str; 0]);
}

/// A tool that is linked with libcupti, as torch is, is let in at once: it misses nothing, and the burst ends.
#[test]
fn a_tool_that_subscribes_in_a_burst_gets_the_subscription() {
    let bench = Bench::new();
    let bench = bench.env("FLOPSPROF_CENSUS", "0.1:100000");
    let cupti = bench.lib("libcupti.so.13");
    let outcome = bench.env("ZOO_CUPTI", cupti).run("subscriber", &["linked"]);
    assert!(outcome.stdout.contains("400 launches seen"), "{}", outcome.stdout);
    let all = kernels(&outcome);
    assert!(all[0].why.contains("asked for CUPTI's subscription"), "{all:#?}");
    assert!(all[0].launches > 0 && all[0].launches == all[0].ranges, "{all:#?}");
    meets_its_window(&outcome, &all[0]);
    assert_eq!(outcome.said, [] as [&str; 0]);
}

/// Whatever call fails in a census: the program is as ever, nothing is counted twice, and the evidence says why.
#[test]
fn a_census_that_fails_leaves_plain_windows() {
    for fault in [
        "cuptiRangeProfilerStart=999@4",
        "cuptiRangeProfilerEnable=999@2+",
        "cuptiRangeProfilerStop=999@4",
        "cuptiRangeProfilerDecodeData=999@4",
        "cuptiRangeProfilerSetConfig=999@4",
        "cuptiRangeProfilerGetCounterDataSize=8@2",
        "cuptiRangeProfilerGetCounterDataInfo=999",
    ] {
        let bench = Bench::new().env("FLOPSPROF_CENSUS", "0.15:40").env("FLOPSPROF_WINDOW", "1").fault(fault);
        let outcome = bench.run("steps", &["700", "1000"]);
        let (truth, counted) = (outcome.truth()[BF16], outcome.counted().get(BF16).copied().unwrap_or(0));
        assert!(counted <= truth, "{fault}: {counted} of {truth}");
        let told = kernels(&outcome).iter().any(|c| !c.why.is_empty()) || !outcome.faults().is_empty();
        let sound = counted == truth && kernels(&outcome).iter().all(|c| c.launches == c.ranges);
        assert!(told || sound, "{fault}: {counted} of {truth} and nothing is said:\n{}", outcome.course());
    }
}

/// By default a young program is let alone, and without a budget so is an old one.
#[test]
fn a_young_program_has_no_census() {
    for bench in [Bench::new(), Bench::new().env("FLOPSPROF_OVERHEAD", "0"), Bench::new().env("FLOPSPROF_OVERHEAD", "100")] {
        let outcome = bench.run("steps", &["300", "1000"]);
        assert_eq!(kernels(&outcome), []);
        assert_always_exact(&outcome);
    }
}

/// After a minute, when the budget pays: a whole step of the program, or as many of them as are worth a Start. A job of several processes has none, and says so.
#[test]
fn an_older_program_has_a_census_of_whole_steps() {
    let bench = || Bench::new().env("FLOPSPROF_OVERHEAD", "5").env("FLOPSPROF_WINDOW", "2");
    let (alone, job) = (bench(), bench().env("WORLD_SIZE", "2"));
    let start = |bench: &Bench| {
        bench.command(true, "steps", &["16000", "5000"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program")
    };
    let children = [start(&alone), start(&job)];
    let bare = alone.command(false, "steps", &["16000", "0"]).output().expect("starting a program");
    let [one, two] = children.map(|c| c.wait_with_output().expect("its end"));

    let outcome = alone.compare(&bare, one);
    let census = census(&outcome);
    assert_always_exact(&outcome);
    assert_eq!((census.step, census.launches), (Some(7), 133), "{census:#?}");
    assert_eq!(row(&census, "zoo_bf16", 132).launches, 38);
    let (first, windows) = (outcome.windows()[0].start_ns, outcome.windows());
    let window = windows.iter().find(|w| Some(w.index) == census.window).expect("its window");
    assert!(window.start_ns - first > 59_000_000_000, "not before the program was a minute old");

    let outcome = job.compare(&bare, two);
    let all = kernels(&outcome);
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(all[0].why.contains("job of 2 processes") && all[0].window.is_none(), "{all:#?}");
    assert_always_exact(&outcome);
}
