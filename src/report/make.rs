//! From evidence to a report: reads, adds up, sets beside 6ND, assesses.

use std::path::PathBuf;

use thiserror::Error;

use super::json::{Report, report};
use crate::{
    evidence::read::{self, ReadError},
    ledger::{FileTotal, Ledger, RunTotal},
    reconcile::{self, compute, declared::Told},
    rule::{self, Component, Guidelines, Origin, Statement},
};

/// What is asked besides the evidence.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Parameters, for 6ND.
    pub parameters: Option<u64>,
    /// Tokens, for 6ND.
    pub tokens: Option<u64>,
    /// What the model was made from.
    pub origin: Origin,
    /// Parts of the measured operations that were something else than training.
    pub parts: Vec<Component>,
    /// Compute that was spent elsewhere.
    pub besides: Vec<Component>,
    /// What was assumed on the way here, for the reader.
    pub notes: Vec<String>,
    /// The rules.
    pub rules: &'static Guidelines,
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum MakeError {
    /// There is no evidence, or none that can be read.
    #[error(transparent)]
    Evidence(#[from] ReadError),
    /// What was said of the model contradicts the evidence, or itself.
    #[error(transparent)]
    Rule(#[from] rule::Error),
    /// Tokens were given for several models.
    #[error(
        "--tokens: the program declared several models, and nobody says how many of the tokens each saw: leave it out, or give --params too"
    )]
    WhoseTokens,
}

/// Adds up the evidence in folders and files. In a folder a file without evidence is one whose process was killed before its first line was whole: it is named in
/// the total. One that was given by its name is an error.
///
/// # Errors
/// [`ReadError`] when there is no evidence, or some of a newer format.
pub fn total(runs: &[PathBuf]) -> Result<RunTotal, ReadError> {
    total_and_told(runs).map(|(total, _)| total)
}

/// The same, with what the program said of its model and its rows.
fn total_and_told(runs: &[PathBuf]) -> Result<(RunTotal, Told), ReadError> {
    let mut files = Vec::new();
    for run in runs {
        files.extend(read::files(run)?);
    }
    files.sort();
    let mut ledger = Ledger::default();
    let (mut unreadable, mut added, mut error) = (Vec::new(), 0, None);
    let mut told = Told::default();
    let of = |file| (FileTotal::of(&file), Told::of(&file));
    read::each_file(&files, of, |result| match result {
        Ok((file, said)) => {
            added += 1;
            if ledger.add(file) {
                told.add(said);
            }
        }
        Err(ReadError::NotEvidence { path, why }) if !runs.contains(&path) => {
            unreadable.push((path.display().to_string(), why));
        }
        Err(e) => error = error.take().or(Some(e)),
    });
    if let Some(e) = error {
        return Err(e);
    }
    if added == 0 {
        let (path, why) = unreadable.into_iter().next().unwrap_or_default();
        return Err(ReadError::NotEvidence { path: path.into(), why });
    }
    let mut total = ledger.total();
    total.unreadable = unreadable.into_iter().map(|(path, why)| format!("{path}: {why}")).collect();
    Ok((total, told))
}

/// Makes the report.
///
/// # Errors
/// [`MakeError`] when there is no evidence, or what was asked contradicts it.
pub fn make(runs: &[PathBuf], asked: &Asked) -> Result<Report, MakeError> {
    let (total, told) = total_and_told(runs)?;
    if asked.tokens.is_some() && asked.parameters.is_none() && reconcile::trained(&total).len() > 1 {
        return Err(MakeError::WhoseTokens);
    }
    Ok(made(&total, &told, asked)?)
}

/// What [`make`] makes of a run that has been added up.
///
/// # Errors
/// [`rule::Error`] when what was asked contradicts it.
pub fn made(total: &RunTotal, told: &Told, asked: &Asked) -> Result<Report, rule::Error> {
    let input = compute::executed(total).input(asked.origin.clone(), asked.parts.clone(), asked.besides.clone())?;
    let mut assessment = rule::assess(&input, asked.rules)?;
    assessment.assumptions.push(compute::assumption());
    assessment.assumptions.extend(asked.notes.iter().map(|text| Statement { text: text.clone(), citation: None }));
    Ok(report(total, reconcile::six_nd(total, asked.parameters, asked.tokens)).assessed(assessment).reconciled(total, told))
}
