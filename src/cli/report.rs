//! `flopsprof report`: what a run's evidence adds up to.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use flopsprof::{
    ledger::RunTotal,
    report::{
        aws, file, html, json, kernel,
        make::{Asked, MakeError, make, total},
        text, watch,
    },
    rule::{Origin, guidelines::CURRENT},
};

use super::{
    base::{BaseArgs, UseArgs},
    count::count,
};

/// Evidence was changed after it was written; the report is made all the same.
const DAMAGED: u8 = 1;
/// What was said contradicts itself, or the evidence.
const CONTRADICTION: u8 = 2;
/// There is no evidence.
const NO_EVIDENCE: u8 = 3;
/// Say how many operations a run executed, and what follows from it.
///
/// Ranks that wrote to one folder add up; several folders (of several nodes) may be given. Without an option that names a file the report goes to
/// stdout, as text or with --json as JSON.
///
/// Exit status: 0; 1 if evidence was changed after it was written (the report is made, and says where), or a file cannot be written; 2 for wrong usage
/// and for contradictions; 3 if there is no evidence.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  flopsprof report flopsprof-1795519003-42\n  flopsprof report --html report.html --base meta-llama/Llama-3.1-8B run7\n  \
                        flopsprof report --kernels run7\n  flopsprof report --params 8.03B --tokens 1.2e9 run7-node0 run7-node1"
)]
pub(crate) struct Args {
    /// The run's folder, or folders, or single evidence files
    #[arg(required_unless_present = "schema", value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// JSON, by the schema that --schema prints
    #[arg(long)]
    json: bool,
    /// Print the schema of --json, and nothing else
    #[arg(long, exclusive = true)]
    schema: bool,
    /// Write the report as one HTML file, for reading and printing
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write flops_meter.json as the AWS Fine-Tuning FLOPs Meter does, with corrected values
    #[arg(long, value_name = "FILE")]
    aws: Option<PathBuf>,
    /// The kernels that executed the operations instead of the report: the N largest [default: 20]; as text, or with --json or --csv
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "20", conflicts_with_all = ["html", "aws", "write"])]
    kernels: Option<usize>,
    /// The kernels as CSV, all of them unless --kernels=N says how many
    #[arg(long, conflicts_with_all = ["json", "html", "aws", "write"])]
    csv: bool,
    /// Write report.json, report.html and flops_meter.json into the run's folder (the first of several); on SageMaker into /opt/ml/output/data, which is
    /// uploaded. FLOPS_METER_OUT names another place for flops_meter.json
    #[arg(long, conflicts_with_all = ["json", "html", "aws"])]
    write: bool,
    /// Write again now and then, and for the last time when this process has ended (the library starts the command so)
    #[arg(long, value_name = "PID", requires = "write", hide = true)]
    watch: Option<i32>,
    /// Nobody reads what is wrong: write what can be written (the library starts the command so)
    #[arg(long, requires = "write", hide = true)]
    unattended: bool,
    /// Parameters of the model, for 6ND (8030261248, 8.03B, 8.03e9)
    #[arg(long, value_name = "N", value_parser = count)]
    params: Option<u64>,
    /// Tokens trained on, for 6ND
    #[arg(long, value_name = "D", value_parser = count)]
    tokens: Option<u64>,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    uses: UseArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if args.schema {
        std::io::stdout().write_all(json::SCHEMA.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let refused = |e: &dyn std::fmt::Display, code| {
        eprintln!("flopsprof: {e:#}");
        Ok(ExitCode::from(code))
    };
    if args.csv || args.kernels.is_some() {
        return match total(&args.runs) {
            Ok(total) => kernels(&args, &total),
            Err(e) => refused(&e, NO_EVIDENCE),
        };
    }
    let asked = match asked(&args) {
        Ok(asked) => asked,
        Err(e) => return refused(&e, CONTRADICTION),
    };
    if args.write {
        return match args.watch {
            Some(pid) => watch::watch(&args.runs[0], pid, || write(&args, &asked)).map(|code| code.unwrap_or(ExitCode::SUCCESS)),
            None => write(&args, &asked),
        };
    }
    let report = match make(&args.runs, &asked) {
        Ok(report) => report,
        Err(e @ MakeError::Evidence(_)) => return refused(&e, NO_EVIDENCE),
        Err(e @ (MakeError::Rule(_) | MakeError::WhoseTokens)) => return refused(&e, CONTRADICTION),
    };
    if let Some(path) = &args.html {
        file::replace(path, html::page(&report).as_bytes())?;
    }
    if let Some(path) = &args.aws {
        let meter = aws::flops_meter(&report, &aws::Job::read(Path::new(file::OPT_ML)));
        file::replace(path, format!("{}\n", serde_json::to_string_pretty(&meter)?).as_bytes())?;
    }
    if args.json || (args.html.is_none() && args.aws.is_none()) {
        let printed = if args.json { format!("{}\n", serde_json::to_string_pretty(&report)?) } else { text::text(&report) };
        std::io::stdout().write_all(printed.as_bytes())?;
    }
    Ok(if report.not_metered.breaks.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

/// The table of kernels.
fn kernels(args: &Args, total: &RunTotal) -> Result<ExitCode> {
    let report = kernel::kernels(total, args.kernels.unwrap_or(usize::MAX));
    if args.csv {
        kernel::csv(&report, std::io::stdout().lock())?;
    } else {
        let printed = if args.json { format!("{}\n", serde_json::to_string_pretty(&report)?) } else { kernel::text(&report) };
        std::io::stdout().write_all(printed.as_bytes())?;
    }
    Ok(if total.breaks.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

fn asked(args: &Args) -> Result<Asked> {
    let (parts, besides) = (args.uses.parts(CURRENT), args.uses.besides(CURRENT));
    let mut notes = Vec::new();
    let origin = args.base.origin(CURRENT).or_else(|e| {
        // A report is better than none, where nobody reads an error.
        notes.push(format!("the base model counts as not stated: {e:#}"));
        if args.unattended { Ok(Origin::NotStated) } else { Err(e) }
    })?;
    Ok(Asked { parameters: args.params, tokens: args.tokens, origin, parts, besides, notes, rules: CURRENT })
}

/// Writes the report's files, or leaves that to the process that does it at the moment.
fn write(args: &Args, asked: &Asked) -> Result<ExitCode> {
    let run = &args.runs[0];
    let folder = if run.is_file() { run.parent().unwrap_or(run) } else { run };
    if !folder.is_dir() {
        eprintln!("flopsprof: {}: no such folder", folder.display());
        return Ok(ExitCode::from(NO_EVIDENCE));
    }
    let written = file::in_turn(folder, || {
        let report = make(&args.runs, asked)?;
        let place = file::write_all(&report, folder, Path::new(file::OPT_ML))?;
        anyhow::Ok((place, report.not_metered.breaks.is_empty()))
    });
    match written {
        Ok(Some((place, whole))) => {
            eprintln!("flopsprof: report.json, report.html and flops_meter.json are in {}", place.display());
            Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
        }
        Ok(None) => {
            eprintln!("flopsprof: another flopsprof writes this report at the moment, and will write it again for this one");
            Ok(ExitCode::SUCCESS)
        }
        Err(e) => {
            eprintln!("flopsprof: {e:#}");
            Ok(ExitCode::from(match e.downcast_ref::<MakeError>() {
                Some(MakeError::Evidence(_)) => NO_EVIDENCE,
                Some(MakeError::Rule(_) | MakeError::WhoseTokens) => CONTRADICTION,
                None => DAMAGED,
            }))
        }
    }
}
