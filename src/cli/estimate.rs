//! `flopsprof estimate`: what a job will execute, before it runs.

use std::{collections::BTreeMap, fs, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, ValueEnum};
use flopsprof::{
    estimate::{
        config::Config,
        cost::Kernel,
        family, gpu,
        job::{Job, Speed},
        method::{Dora, Method, Targets},
        model::Model,
        peft, spectrum, weights,
        workload::{self, Filling, Shape, Workload},
    },
    evidence::read,
    ledger::{self, arithmetic::add_up},
    report::estimate as form,
    rule::guidelines::CURRENT,
};

use super::{base::BaseArgs, configuration::Source, count::count};

/// Estimate what a job will execute, from its model's configuration and its tokens. No GPU and no network are needed.
///
/// Each product of matrices is counted, forward, backward and recomputed, with 6ND beside it. Several methods stand side by side.
///
/// Exit status: 0; 1 if a file or a field is wrong (the message names it); 2 for wrong usage.
#[derive(clap::Args)]
#[command(
    allow_negative_numbers = true,
    group = ArgGroup::new("amount").required(true).args(["tokens", "rows", "lengths"]),
    after_help = "Examples:\n  flopsprof estimate config.json --tokens 1M --sequence-length 2048 --method full,lora --gpu H100 --utilisation 0.4\n  flopsprof estimate Llama-3.2-3B/ --rows 52k --sequence-length 1024 --epochs 3 --method qlora --gradient-checkpointing\n  flopsprof estimate --params 8.03B --tokens 1.2e9"
)]
pub(crate) struct Args {
    /// The model's config.json, or the folder it is in
    #[arg(value_name = "CONFIG", required_unless_present = "params")]
    config: Option<PathBuf>,
    /// Parameters, where there is no configuration or its architecture is not known
    #[arg(long, value_name = "N", value_parser = count)]
    params: Option<u64>,
    /// Tokens trained on, all epochs together
    #[arg(long, value_name = "D", value_parser = count)]
    tokens: Option<u64>,
    /// Rows of the dataset
    #[arg(long, value_name = "R", value_parser = count, conflicts_with = "tokens")]
    rows: Option<u64>,
    /// File with the lengths of the dataset's rows: a JSON list, or lines "LENGTH COUNT"
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "rows"])]
    lengths: Option<PathBuf>,
    /// Tokens of a row; with --lengths, the longest row there may be
    #[arg(long, short = 's', value_name = "S", value_parser = count)]
    sequence_length: Option<u64>,
    /// Tokens of the decoder's rows, for encoder-decoder models
    #[arg(long, value_name = "S", value_parser = count)]
    decoder_length: Option<u64>,
    /// Epochs over --rows or --lengths; 0.5 is half of the data
    #[arg(long, value_name = "E", value_parser = epochs, default_value = "1", conflicts_with = "tokens")]
    epochs: f64,
    /// How rows are filled
    #[arg(long, value_enum, default_value_t = Fill::None)]
    padding: Fill,
    /// Rows that a GPU takes at once: for padding to the longest of them, and for what some adapters take once a batch
    #[arg(long, value_name = "B", value_parser = count, default_value = "8")]
    batch_size: u64,
    /// How it is trained; several stand side by side
    #[arg(long, value_enum, value_delimiter = ',', default_value = "full")]
    method: Vec<How>,
    /// Rank of adapters [default: 8]
    #[arg(long, value_name = "R", value_parser = count)]
    lora_rank: Option<u64>,
    /// Modules with adapters, or all-linear [default: the query and value projections]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    lora_targets: Vec<String>,
    /// Parameters with adapters, where they are no modules: stacked experts (PEFT's target_parameters)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    lora_parameters: Vec<String>,
    /// Dropout of adapters' inputs; with --method dora the frozen products are computed once more for it
    #[arg(long, value_name = "SHARE", value_parser = dropout)]
    lora_dropout: Option<f64>,
    /// How the library keeps the experts of a mixture, which adapters depend on
    #[arg(long, value_enum, default_value_t = Experts::Stacked)]
    experts: Experts,
    /// Modules trained whole beside adapters
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    modules_to_save: Vec<String>,
    /// Parameters trained by --method frozen: regular expressions (Spectrum's unfrozen_parameters)
    #[arg(long, value_name = "REGEX")]
    unfreeze: Vec<String>,
    /// Spectrum's file of these (YAML)
    #[arg(long, value_name = "FILE")]
    spectrum: Option<PathBuf>,
    /// With --method frozen: freeze the embeddings and the first so many layers
    #[arg(long, value_name = "N", conflicts_with_all = ["unfreeze", "spectrum"])]
    freeze_layers: Option<u64>,
    /// Layers are computed again in the backward pass
    #[arg(long)]
    gradient_checkpointing: bool,
    /// They are computed again to their end (use_reentrant, the default of transformers 4)
    #[arg(long, requires = "gradient_checkpointing")]
    reentrant: bool,
    /// Which positions are computed, and how [default: flash; full where transformers has no other by itself: gemma2, gpt_oss, t5]
    #[arg(long, value_enum)]
    attention: Option<Attention>,
    /// GPU to run on, by name (H100, A100, L40S, ...)
    #[arg(long, value_name = "NAME", conflicts_with = "measured", requires = "utilisation")]
    gpu: Option<String>,
    /// Share of the GPU's dense 16-bit peak at which it executes (0.4, 40%)
    #[arg(long, value_name = "SHARE", value_parser = share, requires = "gpu")]
    utilisation: Option<f64>,
    /// Take GPU, utilisation and power from an earlier run's evidence
    #[arg(long, value_name = "DIR")]
    measured: Option<PathBuf>,
    /// JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    base: BaseArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Fill {
    /// Every row has its own length
    None,
    /// Filled up to the longest of the batch
    Longest,
    /// Filled up to --sequence-length
    Max,
    /// Documents one after the other in rows of --sequence-length; attention stays within a document
    Packed,
    /// The same, attention goes across documents
    PackedAcross,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    Full,
    Lora,
    Qlora,
    /// Adapters with a magnitude of their own (use_dora)
    Dora,
    Frozen,
}

#[derive(Clone, Copy, ValueEnum)]
enum Attention {
    /// Positions the mask allows, one kernel that computes scores again backward (FlashAttention, SDPA)
    Flash,
    /// Positions the mask allows, nothing computed again
    Causal,
    /// All positions, mask or not (eager; FlopCounterMode's and PaLM's convention)
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Experts {
    /// All of a layer in one parameter (transformers 5; gpt-oss always)
    Stacked,
    /// A module each (transformers 4)
    Modules,
}

/// Exit status of wrong usage, which is the command line parser's too.
const USAGE: u8 = 2;
/// No job makes less of a GPU's peak; with less, hours and energy leave what a number holds.
const LEAST: f64 = 1e-6;
/// Rank of adapters, where none is given.
const RANK: u64 = 8;

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let mut model = args.config.as_deref().map(Source::read).transpose()?.unwrap_or_default();
    let config = model.config.as_ref().map(Config::new).transpose().with_context(|| model.name())?;
    let config = config.map(|c| c.with_experts_apart(args.experts == Experts::Modules));
    let built = config.map(family::model).transpose().with_context(|| model.name())?.flatten();
    let built = built.map(|m| Model { reentrant: args.reentrant, ..m });
    if built.is_none() && args.params.is_none() && config.is_some() {
        model.parameters = model.parameters.or_else(|| weights::count(model.path.parent()?));
    }
    if built.is_none()
        && args.params.or(model.parameters).is_none()
        && let Some(c) = config
    {
        bail!(
            "{}: the architecture `{}` is not known (known: {}): give --params for 6ND (or the folder with its weights, model.safetensors, which say how many there are)",
            model.name(),
            c.model_type(),
            family::KNOWN
        );
    }
    if let Some(why) = args.misused(built.as_ref()) {
        eprintln!("flopsprof: {why}");
        return Ok(ExitCode::from(USAGE));
    }
    let workload = args.workload(built.as_ref().and_then(|m| m.fixed_length))?;
    let speed = args.speed()?;
    let origin = args.base.origin(CURRENT)?;
    let eager = built.as_ref().is_some_and(|m| family::eager(&m.model_type));
    let usual_attention = if eager { Attention::Full } else { Attention::Flash };
    let mut estimates = Vec::new();
    for how in &args.method {
        let lengths_known =
            args.sequence_length.is_some() || args.lengths.is_some() || built.as_ref().is_some_and(|m| m.fixed_length.is_some());
        let job = Job {
            model: built.clone(),
            parameters: args.params.or(model.parameters),
            workload: workload.clone(),
            lengths_known,
            method: args.how(*how, built.as_ref()).with_context(|| model.name())?,
            checkpointing: args.gradient_checkpointing,
            kernel: match args.attention.unwrap_or(usual_attention) {
                Attention::Flash => Kernel::FLASH,
                Attention::Causal => Kernel { fused: false, ..Kernel::FLASH },
                Attention::Full => Kernel::EAGER,
            },
            batches: if lengths_known { add_up(workload.executed.iter().map(|s| s.rows)).div_ceil(args.batch_size) } else { 0 },
        };
        let estimate = job.estimate(speed.as_ref()).with_context(|| model.name())?;
        estimates.push(form::assessed(estimate, origin.clone(), CURRENT)?);
    }
    let printed = if args.json { format!("{}\n", serde_json::to_string_pretty(&form::json(&estimates))?) } else { form::text(&estimates) };
    std::io::stdout().write_all(printed.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// What cannot go together, or would be left aside without a word and make another job of it.
    fn misused(&self, model: Option<&Model>) -> Option<String> {
        let adapters = self.method.iter().any(|m| matches!(m, How::Lora | How::Qlora | How::Dora));
        for (given, option) in [
            (self.lora_rank.is_some(), "--lora-rank"),
            (!self.lora_targets.is_empty(), "--lora-targets"),
            (!self.lora_parameters.is_empty(), "--lora-parameters"),
            (self.lora_dropout.is_some(), "--lora-dropout"),
            (!self.modules_to_save.is_empty(), "--modules-to-save"),
        ] {
            if given && !adapters {
                return Some(format!("{option} is of --method lora, qlora or dora, which are not asked for"));
            }
        }
        if !self.lora_parameters.is_empty() {
            for (given, option) in
                [(self.method.contains(&How::Dora), "--method dora"), (self.lora_dropout.unwrap_or(0.0) > 0.0, "--lora-dropout")]
            {
                if given {
                    return Some(format!("{option} does not go with --lora-parameters: PEFT has no such adapters"));
                }
            }
        }
        for (given, option) in [
            (self.freeze_layers.is_some(), "--freeze-layers"),
            (!self.unfreeze.is_empty(), "--unfreeze"),
            (self.spectrum.is_some(), "--spectrum"),
        ] {
            if given && !self.method.contains(&How::Frozen) {
                return Some(format!("{option} is of --method frozen, which is not asked for"));
            }
        }
        if self.method.contains(&How::Frozen) && self.freeze_layers.is_none() && self.unfreeze.is_empty() && self.spectrum.is_none() {
            return Some("--method frozen needs --unfreeze REGEX, --spectrum FILE or --freeze-layers N".to_owned());
        }
        let fixed = model.and_then(|m| m.fixed_length);
        if !matches!(self.padding, Fill::None) && self.sequence_length.or(fixed).is_none() && self.lengths.is_none() {
            return Some("--padding needs --sequence-length, or --lengths: nothing else says how long rows are".to_owned());
        }
        if self.rows.is_some() && self.sequence_length.or(fixed).is_none() {
            return Some("--rows needs --sequence-length".to_owned());
        }
        let model = model?;
        let name = &model.model_type;
        if let (Some(fixed), Some(_)) = (fixed, &self.lengths) {
            return Some(format!("--lengths: every row of {name} has {fixed} tokens (patches and the class token): give --rows"));
        }
        let packed = matches!(self.padding, Fill::Packed | Fill::PackedAcross);
        match (model.encoder_decoder, self.decoder_length) {
            (true, None) => Some(format!("--decoder-length is needed: {name} has an encoder and a decoder")),
            (true, Some(_)) if packed => Some(format!("--padding: rows of {name} cannot be packed: it has an encoder and a decoder")),
            (false, Some(_)) => {
                Some(format!("--decoder-length: {name} has no encoder beside its decoder: --sequence-length is all of a row"))
            }
            _ => None,
        }
    }

    fn workload(&self, fixed: Option<u64>) -> Result<Workload> {
        if let (Some(fixed), Some(given)) = (fixed, self.sequence_length)
            && fixed != given
        {
            bail!("--sequence-length {given}: a row of this model has {fixed} tokens (patches and the class token)");
        }
        let length = self.sequence_length.or(fixed);
        let filling = match self.padding {
            Fill::None => Filling::None,
            Fill::Longest => Filling::Longest,
            Fill::Max => Filling::Max,
            Fill::Packed => Filling::Packed,
            Fill::PackedAcross => Filling::PackedAcross,
        };
        let mut documents = match (&self.lengths, self.rows, self.tokens) {
            (Some(file), ..) => {
                let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
                let mut shapes = workload::lengths(&text).with_context(|| file.display().to_string())?;
                // A tokenizer cuts what is longer than a row.
                for shape in &mut shapes {
                    shape.length = shape.length.min(length.unwrap_or(u64::MAX));
                }
                shapes
            }
            (None, Some(rows), _) => vec![Shape::new(rows, length.context("--rows needs --sequence-length")?)],
            (None, None, Some(tokens)) => {
                if let Some(decoder) = self.decoder_length {
                    return self.of_both(tokens, length.context("--decoder-length needs --sequence-length")?, decoder, filling);
                } else {
                    Workload::of_tokens(tokens, length.unwrap_or(1))?.documents
                }
            }
            (None, None, None) => bail!("one of --tokens, --rows and --lengths is needed"),
        };
        for shape in &mut documents {
            shape.decoder_length = self.decoder_length.unwrap_or(0);
        }
        if self.tokens.is_none() {
            let seen = |documents: &[Shape]| workload::epochs(documents, self.epochs).with_context(|| format!("--epochs {}", self.epochs));
            documents = match (fixed, self.rows) {
                // Of an image there is no part: as many are seen as rows of one token would be.
                (Some(length), Some(rows)) => {
                    vec![Shape::new(add_up(seen(&[Shape::new(rows, 1)])?.iter().map(|s| s.rows)), length)]
                }
                _ => seen(&documents)?,
            };
        }
        let longest = if matches!(self.padding, Fill::None) { None } else { length };
        Ok(Workload::new(documents, filling, self.batch_size, longest)?)
    }

    /// So many tokens of an encoder and a decoder together; the rest is one shorter row.
    fn of_both(&self, tokens: u64, length: u64, decoder: u64, filling: Filling) -> Result<Workload> {
        let shape = Shape { rows: 1, length, decoder_length: decoder };
        Ok(Workload::new(workload::rows_of(tokens, shape).context("--tokens")?, filling, self.batch_size, None)?)
    }

    fn how(&self, how: How, model: Option<&Model>) -> Result<Method> {
        Ok(match how {
            How::Full => Method::Full,
            How::Lora | How::Qlora | How::Dora => {
                let method = Method::Lora {
                    rank: self.lora_rank.unwrap_or(RANK),
                    ranks: BTreeMap::new(),
                    targets: match self.lora_targets.as_slice() {
                        [] if !self.lora_parameters.is_empty() => Targets::Names(Vec::new()),
                        [] => Targets::Names(usual_targets(model)),
                        [all] if all == "all-linear" => Targets::AllLinear,
                        names => Targets::Names(names.to_vec()),
                    },
                    parameters: self.lora_parameters.clone(),
                    tried: true,
                    dora: (how == How::Dora).then(|| Dora { dropout: self.lora_dropout.unwrap_or(0.0) > 0.0 }),
                    also: self.modules_to_save.clone(),
                    quantised: how == How::Qlora,
                };
                match model {
                    Some(model) => peft::converted(method, model)?,
                    None => method,
                }
            }
            How::Frozen => {
                let mut patterns = self.unfreeze.clone();
                if let Some(file) = &self.spectrum {
                    let name = || file.display().to_string();
                    patterns.extend(spectrum::patterns(&fs::read_to_string(file).with_context(name)?).with_context(name)?);
                }
                match self.freeze_layers {
                    Some(n) => Method::FrozenLayers(n),
                    None => Method::unfrozen(&patterns)?,
                }
            }
        })
    }

    fn speed(&self) -> Result<Option<Speed>> {
        if let Some(folder) = &self.measured {
            let run = ledger::run_total(&read::read_run(folder)?);
            return Ok(Some(form::measured(&run, &folder.display().to_string()).map_err(anyhow::Error::msg)?));
        }
        let Some(name) = &self.gpu else { return Ok(None) };
        let gpu = gpu::find(name).with_context(|| format!("--gpu {name}: no peak is known for it; --measured takes one from a run"))?;
        Ok(Some(Speed::named(gpu, name, self.utilisation.unwrap_or(1.0), "--utilisation")))
    }
}

/// The query and value projections, by their names in this model: PEFT's own default for most architectures.
fn usual_targets(model: Option<&Model>) -> Vec<String> {
    let sets: [&[&str]; 6] =
        [&["q_proj", "v_proj"], &["qkv_proj"], &["q_b_proj", "kv_b_proj"], &["q_proj", "kv_b_proj"], &["query", "value"], &["q", "v"]];
    let has = |name: &str| model.is_some_and(|m| m.linears().any(|(_, l)| l.name.rsplit('.').next() == Some(name)));
    let set = sets.iter().find(|set| set.iter().all(|name| has(name))).unwrap_or(&sets[0]);
    set.iter().map(|s| (*s).to_owned()).collect()
}

/// Any positive number: transformers' `num_train_epochs`.
fn epochs(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|v| *v > 0.0 && v.is_finite());
    value.ok_or_else(|| format!("`{text}` is not a positive number of epochs (3, 0.5)"))
}

/// A share that may be none, and not all.
fn dropout(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|v| (0.0..1.0).contains(v));
    value.ok_or_else(|| format!("`{text}` is not a share of 0 or more and below 1 (0.05)"))
}

/// A share: `0.4` or `40%`.
fn share(text: &str) -> Result<f64, String> {
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|p| p / 100.0),
        None => text.parse::<f64>(),
    };
    let value =
        value.ok().filter(|v| *v > 0.0 && *v <= 1.0).ok_or_else(|| format!("`{text}` is not a share above 0 and up to 1 (0.4, 40%)"))?;
    if value < LEAST {
        Err(format!("`{text}` is so little of a GPU that its hours would say nothing: {LEAST} is the least"))
    } else {
        Ok(value)
    }
}
