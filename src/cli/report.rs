//! `flopsprof report`: what a run's evidence adds up to.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Result;
use flopsprof::{
    evidence::read,
    ledger, reconcile,
    report::{json, text},
};

/// Evidence was changed after it was written; the report is printed all the same.
const DAMAGED: u8 = 1;
/// There is no evidence.
const NO_EVIDENCE: u8 = 3;

/// Say how many operations a run executed.
///
/// Ranks that wrote to one folder add up; several folders (of several nodes) may be given.
///
/// Exit status: 0; 1 if evidence was changed after it was written (the report is printed, and says where); 2 for wrong usage; 3 if there is no evidence.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flopsprof report flopsprof-1795519003-42\n  flopsprof report --params 8.03B --tokens 1.2e9 run7")]
pub(crate) struct Args {
    /// The run's folder, or folders, or single evidence files
    #[arg(required_unless_present = "schema", value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// JSON, by the schema report.schema.json
    #[arg(long)]
    json: bool,
    /// Print the schema of --json, and nothing else
    #[arg(long, exclusive = true)]
    schema: bool,
    /// Parameters of the model, for 6ND (8030261248, 8.03B, 8.03e9)
    #[arg(long, value_name = "N", value_parser = count)]
    params: Option<u64>,
    /// Tokens trained on, for 6ND
    #[arg(long, value_name = "D", value_parser = count)]
    tokens: Option<u64>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if args.schema {
        std::io::stdout().write_all(json::SCHEMA.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut files = Vec::new();
    for run in &args.runs {
        match read::read_run(run) {
            Ok(found) => files.extend(found),
            Err(e) => {
                eprintln!("flopsprof: {e}");
                return Ok(ExitCode::from(NO_EVIDENCE));
            }
        }
    }
    let total = ledger::run_total(&files);
    let report = json::report(&total, reconcile::six_nd(&total, args.params, args.tokens));
    let printed = if args.json { format!("{}\n", serde_json::to_string_pretty(&report)?) } else { text::text(&report) };
    std::io::stdout().write_all(printed.as_bytes())?;
    Ok(if total.breaks.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
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
