//! `flopsprof plan`: the groups of counters that the planner finds for a chip.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use cupti_sys::raw::{self, Params};
use flopsprof::counter::{find, host::Host, plan};
use serde::Serialize;

/// Show which counters are read together on a chip.
///
/// Needs libcupti with its libnvperf_host, no GPU: the planner asks NVIDIA's own library about the chip by name. Paths that stand in every group are
/// counted all the time; the others take turns.
///
/// Exit status: 0; 1 if libcupti or the chip is unknown.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  flopsprof plan --chip GH100")]
pub(crate) struct Args {
    /// CUPTI's name of the chip: GH100 is H100 and H200, GB100 is B200, GA100 is A100; without it, the chips that this libcupti knows are listed
    #[arg(long)]
    chip: Option<String>,
    /// The libcupti to ask [default: FLOPSPROF_CUPTI, else the one the meter would take]
    #[arg(long, value_name = "FILE")]
    cupti: Option<PathBuf>,
    /// JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Output<'a> {
    chip: &'a str,
    libcupti: String,
    cupti_version: u32,
    simulated: bool,
    groups: &'a [Vec<String>],
    always: Vec<&'a str>,
    uncovered: &'a [String],
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let named = args.cupti.or_else(|| std::env::var_os(flopsprof::inject::config::CUPTI).map(PathBuf::from));
    let found = find::find(named.as_deref(), &|name| std::env::var_os(name))?;
    // 999 without a GPU; the host functions work all the same.
    // SAFETY: nothing goes in but the size.
    let _ = unsafe { found.cupti.profiler_initialize(&mut raw::ProfilerInitialize::sized()) };
    let chips = Host::chips(found.cupti).with_context(|| format!("{}: is libnvperf_host.so beside it?", found.path.display()))?;
    let Some(chip) = args.chip else {
        println!("{}", chips.join("\n"));
        return Ok(ExitCode::SUCCESS);
    };
    if !chips.contains(&chip) {
        bail!("{} does not know the chip {chip}; it knows {}", found.path.display(), chips.join(", "));
    }
    let host = Host::open(found.cupti, &chip)?;
    let plan = plan::of_chip(&host)?;
    let output = Output {
        chip: &chip,
        libcupti: found.path.display().to_string(),
        cupti_version: found.version,
        simulated: find::is_stand_in(&found),
        groups: &plan.groups,
        always: plan.always().into_iter().collect(),
        uncovered: &plan.uncovered,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&output)?);
    } else {
        print_text(&output, &plan);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_text(output: &Output, plan: &plan::Plan) {
    let short = |m: &str| m.strip_prefix(plan::PREFIX).unwrap_or(m).to_owned();
    let mark = if output.simulated { " (simulated)" } else { "" };
    println!("{}{mark}: {} group(s), by {} (CUPTI API {})", output.chip, plan.groups.len(), output.libcupti, output.cupti_version);
    println!("\ncounted all the time:");
    output.always.iter().for_each(|m| println!("  {}", short(m)));
    for (i, turns) in plan.turns().iter().enumerate() {
        println!("\ngroup {i} adds:");
        turns.iter().for_each(|m| println!("  {}", short(m)));
    }
    if !plan.uncovered.is_empty() {
        println!("\nnot countable in one pass, so not counted:");
        plan.uncovered.iter().for_each(|m| println!("  {}", short(m)));
    }
}
