//! `flops_meter.json` as the AWS Fine-Tuning FLOPs Meter writes it, with corrected values, so that a pipeline that reads it keeps working.
//!
//! The toolkit's keys, in its order and with its types, come first; what is ours stands under the one key `flopsprof` after them. Where a value is not what the toolkit
//! would have written, [`Correction`] says so and why. Its numbers are strings with two decimals and a space in front, and so are these.
//!
//! Form of the file: `flops_meter.py` of aws-samples/amazon-sagemaker-generativeai, as of 17.12.2025.

use std::{env, fs, path::Path};

use serde::Serialize;
use serde_json::Value;

use super::{figure::python, json::Report, verdict};
use crate::rule::{BaseSource, TestName, Verdict};

/// The file's name.
pub const FILE: &str = "flops_meter.json";

/// What the toolkit takes for a third of 10^23.
const TOOLKIT_DEFAULT: f64 = 3.3e22;
/// Above this it takes a base model's own compute.
const TOOLKIT_GENERAL_PURPOSE: f64 = 1e23;

/// A recipe of the toolkit: all that it says, and whether it wants the operations counted.
///
/// # Errors
/// In words, when it is no recipe.
pub fn recipe(text: &str) -> Result<(Value, bool), String> {
    let details: Value = serde_saphyr::from_str(text).map_err(|e| format!("it is not YAML: {e}"))?;
    if !details.is_object() {
        return Err("it is not YAML of names and values".to_owned());
    }
    let wanted = match details.get("compute_flops") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(wanted)) => *wanted,
        Some(other) => return Err(format!("compute_flops is {other}: true or false is expected")),
    };
    Ok((details, wanted))
}

/// What the file says of the job besides its compute: what the toolkit takes from SageMaker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Job {
    /// `TRAINING_JOB_NAME`.
    pub name: String,
    /// `TRAINING_INSTANCE_TYPE`.
    pub instance_type: Option<String>,
    /// `MODEL_PACKAGE_GROUP_NAME`.
    pub model_package_group: Option<String>,
    /// The hyperparameter `config`.
    pub recipe: String,
    /// What that file holds.
    pub recipe_details: Option<Value>,
}

impl Job {
    /// As this process's environment and SageMaker's folder (`/opt/ml`) say.
    #[must_use]
    pub fn read(opt_ml: &Path) -> Self {
        let set = |name: &str| env::var(name).ok();
        let hyperparameters: Option<Value> =
            fs::read(opt_ml.join("input/config/hyperparameters.json")).ok().and_then(|b| serde_json::from_slice(&b).ok());
        let recipe = hyperparameters.as_ref().and_then(|h| h["config"].as_str()).unwrap_or_default().to_owned();
        let file = recipe.trim_matches('"').trim_matches('\'');
        let read = |path: &Path| serde_saphyr::from_str(&fs::read_to_string(path).ok()?).ok();
        let recipe_details = (!file.is_empty()).then(|| read(&opt_ml.join("code").join(file)).or_else(|| read(Path::new(file)))).flatten();
        Self {
            name: set("TRAINING_JOB_NAME").unwrap_or_default(),
            instance_type: set("TRAINING_INSTANCE_TYPE"),
            model_package_group: set("MODEL_PACKAGE_GROUP_NAME"),
            recipe,
            recipe_details,
        }
    }

    fn recipe_says(&self, key: &str) -> Option<&Value> {
        self.recipe_details.as_ref()?.get(key)
    }
}

/// The file. The order of the fields is that of the toolkit's keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(non_snake_case, reason = "the toolkit's keys")]
pub struct FlopsMeter {
    /// Parameters; 0 where nobody said.
    pub N_total: u64,
    /// Those of them that are trained.
    pub N_trainable: u64,
    /// Tokens, without pads where the program said so.
    pub tokens_processed: u64,
    /// (4·N_total + 2·N_trainable)·tokens; the number 0.0 where that is not known.
    pub Flops_architecture: StringOrZero,
    /// Operations executed, measured; null where nothing was counted.
    pub Flops_hardware: Option<String>,
    /// Compute of the modification over that of the base model, or over the threshold where that stands in for it.
    pub pct_of_pretrain: Option<f64>,
    /// Above one third; null where it cannot be told, or the run was simulated.
    pub exceeds_30pct: Option<bool>,
    /// `model_name_or_path` of the recipe.
    pub model_name: String,
    /// `num_train_epochs` of the recipe.
    pub num_epochs: f64,
    /// Wall clock, seconds.
    pub training_duration_seconds: f64,
    /// Ranks.
    pub gpu_size: u64,
    /// Always 0.
    pub gpu_rank: u64,
    /// Training compute of the base model.
    pub Flops_original: Option<String>,
    /// The toolkit's two words for how the threshold was come by.
    pub threshold_type: &'static str,
    /// The threshold.
    pub threshold_value: Option<String>,
    /// Name of the job.
    pub training_job_name: String,
    /// What follows its last hyphen.
    pub training_id: String,
    /// Recipe.
    pub recipe_config: String,
    /// What it holds.
    pub recipe_config_details: Option<Value>,
    /// Exact product name.
    pub gpu_name: Option<String>,
    /// Instance type.
    pub instance_type: Option<String>,
    /// Model package group.
    pub model_package_group_name: Option<String>,
    /// What is ours.
    pub flopsprof: Ours,
}

/// The toolkit writes a string, but the number 0.0 where the product is zero.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum StringOrZero {
    /// As Python formats it.
    Text(String),
    /// 0.0
    Zero(f64),
}

/// What the toolkit has no key for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ours {
    /// Version of flopsprof.
    pub version: String,
    /// No number is a measurement.
    pub simulated: bool,
    /// `below`, `above`, `inconclusive`, `withheld`, `not applicable`; null where nothing was assessed.
    pub verdict: Option<&'static str>,
    /// FLOP executed, decimal.
    pub executed_flop: String,
    /// FLOP of the quantity that is compared, decimal.
    pub reported_flop: String,
    /// `direct` or `cumulative`.
    pub quantity: Option<&'static str>,
    /// The worst tier of what was executed.
    pub tier: &'static str,
    /// Something is missing in the total.
    pub lower_bound: bool,
    /// Values that are not what the toolkit would have written.
    pub corrections: Vec<Correction>,
}

/// A value that is not what the toolkit would have written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correction {
    /// The key.
    pub key: &'static str,
    /// What it would have written from the same inputs, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toolkit: Option<Value>,
    /// Why it is another.
    pub why: &'static str,
}

/// Writes the report in the toolkit's form.
#[must_use]
pub fn flops_meter(report: &Report, job: &Job) -> FlopsMeter {
    let (n_total, n_trainable) = parameters(report);
    let tokens = report.six_nd.as_ref().map_or(report.tokens, |s| s.tokens.value);
    let formula = |total: u64, trainable: u64, tokens: u64| (4.0 * total as f64 + 2.0 * trainable as f64) * tokens as f64;
    let several = report.six_nd.iter().flat_map(|s| &s.models).map(|m| formula(m.parameters, m.trainable, m.tokens));
    let architecture = several.reduce(|a, b| a + b).unwrap_or_else(|| formula(n_total, n_trainable, tokens));
    let (reported, lower_bound) = verdict::reported(report);
    let threshold = Threshold::of(report, reported as f64);
    let named = report.runs.iter().find(|r| r.named).map(|r| r.name.clone());
    let name = if job.name.is_empty() { named.unwrap_or_default() } else { job.name.clone() };
    let assessment = report.assessment.as_ref();
    FlopsMeter {
        N_total: n_total,
        N_trainable: n_trainable,
        tokens_processed: tokens,
        Flops_architecture: if architecture > 0.0 { StringOrZero::Text(python(architecture)) } else { StringOrZero::Zero(0.0) },
        Flops_hardware: (report.total.flop_float > 0.0).then(|| python(report.total.flop_float)),
        pct_of_pretrain: threshold.ratio,
        exceeds_30pct: threshold.exceeds,
        model_name: job.recipe_says("model_name_or_path").and_then(Value::as_str).unwrap_or_default().to_owned(),
        num_epochs: job.recipe_says("num_train_epochs").and_then(Value::as_f64).unwrap_or(0.0),
        training_duration_seconds: (report.wall_clock_s * 100.0).round() / 100.0,
        gpu_size: report.runs.iter().filter_map(|r| r.ranks).max().unwrap_or(report.devices.len() as u64),
        gpu_rank: 0,
        Flops_original: threshold.base.map(python),
        threshold_type: if threshold.base.is_some() { "30pct_of_actual_pretraining" } else { "default_3.3e22" },
        threshold_value: Some(python(threshold.value)),
        training_id: name.rsplit('-').next().unwrap_or_default().to_owned(),
        training_job_name: name,
        recipe_config: job.recipe.clone(),
        recipe_config_details: job.recipe_details.clone(),
        gpu_name: report.devices.first().map(|d| d.name.clone()),
        instance_type: job.instance_type.clone(),
        model_package_group_name: job.model_package_group.clone(),
        flopsprof: Ours {
            version: report.flopsprof.clone(),
            simulated: report.simulated,
            verdict: assessment.map(|a| verdict::word(a.verdict)),
            executed_flop: report.total.flop.clone(),
            reported_flop: reported.to_string(),
            quantity: verdict::quantity(report),
            tier: super::text::tier(report.tier),
            lower_bound,
            corrections: corrections(&threshold, architecture, report.six_nd.as_ref().is_some_and(|s| !s.models.is_empty())),
        },
    }
}

/// Parameters and those that are trained: as they were given, else as the program declared them, else none.
fn parameters(report: &Report) -> (u64, u64) {
    let given = report.six_nd.as_ref().map(|s| s.parameters.value);
    match (given, report.parameters) {
        (Some(n), Some((declared, trainable))) if n == declared => (n, trainable),
        (Some(n), _) => (n, n),
        (None, Some(declared)) => declared,
        (None, None) => (0, 0),
    }
}

/// The one-third test in the toolkit's words.
struct Threshold {
    base: Option<f64>,
    value: f64,
    ratio: Option<f64>,
    exceeds: Option<bool>,
}

impl Threshold {
    fn of(report: &Report, reported: f64) -> Self {
        let assessment = report.assessment.as_ref();
        let test = assessment.map(|a| a.test(TestName::OneThird));
        let base = assessment.and_then(|a| a.base.as_ref()).filter(|b| b.source != BaseSource::Substitute).map(|b| b.flop_float);
        let value = test.and_then(|t| t.threshold.as_ref()).map_or(1e23 / 3.0, |t| t.flop_float);
        let exceeds = match test.map(|t| t.verdict) {
            Some(Verdict::Above) => Some(true),
            Some(Verdict::Below) => Some(false),
            _ => None,
        };
        Self { base, value, ratio: Some(reported / base.unwrap_or(value)), exceeds }
    }
}

fn corrections(threshold: &Threshold, architecture: f64, several_models: bool) -> Vec<Correction> {
    let toolkit_base = threshold.base.filter(|b| *b >= TOOLKIT_GENERAL_PURPOSE);
    let ratio = architecture / toolkit_base.unwrap_or(TOOLKIT_DEFAULT);
    let formula = architecture > 0.0;
    let says = |value: Value| formula.then_some(value);
    let sizes = several_models.then_some(Correction {
        key: "N_total",
        toolkit: None,
        why: "the program declared several models: this and N_trainable are the largest one's, and Flops_architecture is the sum over all models, each with the tokens \
              that it was trained on",
    });
    let always = [
        Correction {
            key: "Flops_hardware",
            toolkit: None,
            why: "the toolkit multiplies NVML's busy time by a peak guessed from the GPU's name (148 TFLOP/s for an H200, which does 989), on one node; this \
                  is what the GPUs' operation counters say, on every node in evidence",
        },
        Correction {
            key: "Flops_architecture",
            toolkit: None,
            why: "the toolkit's formula, with the parameters and tokens that the program declared or that were given: its own count takes adapters before they \
                  are attached, packed or partitioned weights at a fraction of their size, and pads as tokens",
        },
        Correction {
            key: "pct_of_pretrain",
            toolkit: says(ratio.into()),
            why: "measured compute instead of the formula; over the base model's compute wherever that is known or can be estimated, also below 1e23 \
                  (Guidelines, section 3.2)",
        },
        Correction {
            key: "exceeds_30pct",
            toolkit: says(if toolkit_base.is_some() { ratio > 0.30 } else { ratio > 1.0 }.into()),
            why: "the criterion is one third, not 30 % (which is the margin of error that the Guidelines allow); null where it cannot be told: the base model was \
                  not stated, the interval crosses the threshold, evidence is missing, or the run was simulated",
        },
        Correction {
            key: "threshold_value",
            toolkit: Some(python(toolkit_base.unwrap_or(TOOLKIT_DEFAULT)).into()),
            why: "one third of the base model's compute; a third of 1e23 (1e25 for a base model with systemic risk) where that can neither be known nor \
                  estimated. The toolkit writes 3.3e22, or the whole of the base model's compute",
        },
        Correction {
            key: "training_duration_seconds",
            toolkit: None,
            why: "from the first counted window to the last on any node, also of a job that was stopped; the toolkit's is that of one process, and is not \
                  written when the job does not end by itself",
        },
    ];
    sizes.into_iter().chain(always).collect()
}
