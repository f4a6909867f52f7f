//! A training recipe of the AWS toolkit: one flag, `compute_flops: true`, and what follows from it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use flopsprof::{
    report::{
        aws, file,
        make::{Asked, make},
    },
    rule::{Origin, guidelines::CURRENT},
};
use serde_json::Value;

use super::base::BaseArgs;

/// Where the toolkit writes, in its variable.
const OUT: &str = "FLOPS_METER_OUT";
/// Where SageMaker keeps what it says of a job, and what of it is uploaded.
const OPT_ML: &str = "/opt/ml";
const UPLOADED: &str = "/opt/ml/output/data";

/// A recipe.
pub(crate) struct Recipe {
    path: PathBuf,
    details: Value,
    /// Whether it wants its operations counted.
    pub(crate) compute_flops: bool,
}

impl Recipe {
    /// Reads a recipe.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("the recipe {name}"))?;
        let (details, compute_flops) = aws::recipe(&text).map_err(|why| anyhow!("the recipe {name}: {why}"))?;
        Ok(Self { path: path.to_owned(), details, compute_flops })
    }

    /// Writes `flops_meter.json` of what was measured.
    pub(crate) fn finish(self, evidence: &Path) -> Result<PathBuf> {
        // What PRETRAIN_FLOPS says wrongly must not cost the file.
        let (origin, notes) = match BaseArgs::default().origin(CURRENT) {
            Ok(origin) => (origin, Vec::new()),
            Err(e) => (Origin::NotStated, vec![format!("the base model counts as not stated: {e:#}")]),
        };
        let asked = Asked { parameters: None, tokens: None, origin, parts: Vec::new(), besides: Vec::new(), notes, rules: CURRENT };
        let path = std::env::var_os(OUT).filter(|v| !v.is_empty()).map_or_else(default_path, PathBuf::from);
        let report = if evidence.exists() { Some(make(&[evidence.to_owned()], &asked)?) } else { None };
        // A witness leaves evidence where no process was metered, too.
        let Some(report) = report.filter(|r| !r.processes.is_empty()) else {
            let there = if path.exists() { "; the one that is there is not of this run's measurement" } else { "" };
            bail!("nothing was metered, because no process of the command used CUDA: {} is not written{there}", path.display());
        };
        let mut job = aws::Job::read(Path::new(OPT_ML));
        job.recipe = self.path.display().to_string();
        job.recipe_details = Some(self.details);
        let text = format!("{}\n", serde_json::to_string_pretty(&aws::flops_meter(&report, &job))?);
        file::replace(&path, text.as_bytes()).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

fn default_path() -> PathBuf {
    let uploaded = Path::new(UPLOADED);
    if uploaded.is_dir() { uploaded.join(aws::FILE) } else { PathBuf::from(aws::FILE) }
}
