//! `flopsprof report`: what a run's evidence adds up to.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use flopsprof::{
    report::{
        aws, file, html, json,
        make::{Asked, MakeError, make},
        text,
    },
    rule::guidelines::CURRENT,
};

use super::base::{BaseArgs, UseArgs};

/// Evidence was changed after it was written; the report is made all the same.
const DAMAGED: u8 = 1;
/// What was said contradicts itself, or the evidence.
const CONTRADICTION: u8 = 2;
/// There is no evidence.
const NO_EVIDENCE: u8 = 3;
/// Where SageMaker keeps what it says of a job.
const OPT_ML: &str = "/opt/ml";

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
                        flopsprof report --params 8.03B --tokens 1.2e9 run7-node0 run7-node1"
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
    let origin = match args.base.origin(CURRENT) {
        Ok(origin) => origin,
        Err(e) => return refused(&e, CONTRADICTION),
    };
    let (parts, besides) = (args.uses.parts(CURRENT), args.uses.besides(CURRENT));
    let asked = Asked { parameters: args.params, tokens: args.tokens, origin, parts, besides, rules: CURRENT };
    let report = match make(&args.runs, &asked) {
        Ok(report) => report,
        Err(e @ MakeError::Evidence(_)) => return refused(&e, NO_EVIDENCE),
        Err(e @ MakeError::Rule(_)) => return refused(&e, CONTRADICTION),
    };
    if let Some(path) = &args.html {
        file::replace(path, html::page(&report).as_bytes())?;
    }
    if let Some(path) = &args.aws {
        let meter = aws::flops_meter(&report, &aws::Job::read(Path::new(OPT_ML)));
        file::replace(path, format!("{}\n", serde_json::to_string_pretty(&meter)?).as_bytes())?;
    }
    if args.json || (args.html.is_none() && args.aws.is_none()) {
        let printed = if args.json { format!("{}\n", serde_json::to_string_pretty(&report)?) } else { text::text(&report) };
        std::io::stdout().write_all(printed.as_bytes())?;
    }
    Ok(if report.not_metered.breaks.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

/// A count: digits, a number with K, M, B or T behind it, or with an exponent.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a positive whole number (8030261248, 8.03B, 8.03e9)");
    if let Ok(n) = text.parse::<u64>() {
        return if n > 0 { Ok(n) } else { Err(wrong()) };
    }
    let (digits, scale) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1e3),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1e6),
        Some(b'B' | b'b' | b'G' | b'g') => (&text[..text.len() - 1], 1e9),
        Some(b'T' | b't') => (&text[..text.len() - 1], 1e12),
        _ => (text, 1.0),
    };
    let value = digits.parse::<f64>().map_err(|_| wrong())? * scale;
    if !(1.0..9.2e18).contains(&value) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above")]
    Ok(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn counts_are_read_as_people_write_them() {
        assert_eq!(count("8030261248"), Ok(8_030_261_248));
        assert_eq!(count("8.03B"), Ok(8_030_000_000));
        assert_eq!(count("1e9"), Ok(1_000_000_000));
        assert_eq!(count("70b"), Ok(70_000_000_000));
        for wrong in ["0", "-5", "", "B", "1e30", "NaN", "ten", "99999999999999999999"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
    }
}
