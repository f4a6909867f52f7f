//! What is trained: all of it, adapters, or a part.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;
use serde::Serialize;

use super::{
    EstimateError,
    model::{Layer, Linear, Model, Work},
};

/// Which modules get adapters, as PEFT's `target_modules` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Targets {
    /// Every `nn.Linear` but the head: `all-linear`.
    AllLinear,
    /// Those whose name is one of these, or ends in `.` and one of these.
    Names(Vec<String>),
}

/// Weight-decomposed adapters (PEFT's `use_dora`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Dora {
    /// The adapters' input is dropped in part (`lora_dropout`). What is scaled is then no longer what the frozen product gave, and that is computed once more.
    pub dropout: bool,
}

/// An adapter at a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its rank.
    pub rank: u64,
    /// How it is executed.
    pub kind: AdapterKind,
}

/// How an adapter is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterKind {
    /// Tokens go through both of its matrices.
    Module,
    /// The same; and once a batch both are multiplied, for the norm of what they make of the frozen matrix.
    Decomposed(Dora),
    /// Once a batch both of its matrices are multiplied and added to the frozen one, of which the whole gradient is computed then.
    Parameter {
        /// Of stacked matrices twice: see [`Method::Lora`].
        tried: bool,
    },
}

impl Adapter {
    /// Its parameters.
    #[must_use]
    pub fn parameters(&self, linear: &Linear) -> u64 {
        let low = self.rank.saturating_mul(linear.inputs + linear.outputs);
        let each = match self.kind {
            AdapterKind::Module | AdapterKind::Parameter { .. } => low,
            AdapterKind::Decomposed(_) => low.saturating_add(linear.outputs),
        };
        each.saturating_mul(linear.stored)
    }
}

/// How a model is trained.
#[derive(Clone, Debug)]
pub enum Method {
    /// Every parameter.
    Full,
    /// Low-rank adapters; the rest is frozen.
    Lora {
        /// Their rank.
        rank: u64,
        /// Those of another rank, by their modules' names (PEFT's `rank_pattern`).
        ranks: BTreeMap<String, u64>,
        /// Where they are.
        targets: Targets,
        /// Parameters with adapters, where they are no modules: stacked experts (PEFT's `target_parameters`).
        parameters: Vec<String>,
        /// PyTorch tries what PEFT makes of stacked ones before it uses it, and that is a product (PEFT 0.21; it was a sum in 0.17).
        tried: bool,
        /// What was trained low-rank is scaled by a magnitude of its own.
        dora: Option<Dora>,
        /// Modules that are trained besides, whole: copies of them (`modules_to_save`). And parameters, by their names: those that are trained in their places.
        also: Vec<String>,
        /// The frozen weights are quantised (QLoRA). It changes bytes, not products: each weight is unpacked before its product.
        quantised: bool,
    },
    /// Parameters whose name matches one of these are trained (Spectrum's `unfrozen_parameters`).
    Unfrozen(Vec<Regex>),
    /// All but the embeddings and the first so many layers.
    FrozenLayers(u64),
    /// These parameters, by their full names: what a live model says of itself.
    Named(BTreeSet<String>),
}

impl Method {
    /// Patterns of parameters to train.
    ///
    /// # Errors
    /// When one is no regular expression.
    pub fn unfrozen(patterns: &[String]) -> Result<Self, EstimateError> {
        let compile = |p: &String| {
            Regex::new(p).map_err(|e| EstimateError::Wrong {
                field: "unfrozen parameters".to_owned(),
                value: p.clone(),
                expected: format!("a regular expression ({e})"),
            })
        };
        Ok(Self::Unfrozen(patterns.iter().map(compile).collect::<Result<_, _>>()?))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Full => "full".to_owned(),
            Self::Lora { rank, ranks, targets, parameters, dora, quantised, .. } => {
                let all = ["all-linear".to_owned()];
                let modules = match targets {
                    Targets::AllLinear => &all[..],
                    Targets::Names(names) => names,
                };
                let targets = [modules, parameters].concat().join(",");
                let varied = if ranks.is_empty() { "" } else { " (varied)" };
                let kind = match (dora, quantised) {
                    (None, false) => "lora",
                    (None, true) => "qlora",
                    (Some(_), false) => "dora",
                    (Some(_), true) => "qdora",
                };
                format!("{kind} r={rank}{varied} {targets}")
            }
            Self::Unfrozen(patterns) => format!("frozen but {} pattern(s)", patterns.len()),
            Self::FrozenLayers(n) => format!("first {n} layers frozen"),
            Self::Named(names) => format!("{} parameters trained", names.len()),
        }
    }

    /// Whether a parameter is trained.
    #[must_use]
    pub fn trains(&self, layer: Option<u64>, is_embedding: bool, module: &str, parameter: &str) -> bool {
        match self {
            Self::Full => true,
            Self::Lora { also, .. } => self.copies(module) || also.contains(&format!("{module}.{parameter}")),
            Self::Unfrozen(patterns) => {
                let whole = format!("{module}.{parameter}");
                patterns.iter().any(|p| p.is_match(&whole))
            }
            Self::FrozenLayers(n) => !is_embedding && layer.is_none_or(|i| i >= *n),
            // Stacked experts are parameters of their own, without `.weight`.
            Self::Named(names) => names.contains(module) || names.contains(&format!("{module}.{parameter}")),
        }
    }

    /// Whether a copy of a module is trained in its place: the frozen one stays beside it.
    #[must_use]
    pub fn copies(&self, module: &str) -> bool {
        matches!(self, Self::Lora { also, .. } if also.iter().any(|name| answers(module, name)))
    }

    /// Whether a head whose matrix is the table's is trained: when that is, but for a copy, which is a matrix of its own.
    #[must_use]
    pub fn trains_tied(&self, table: &str, head: &str) -> bool {
        match self {
            Self::Lora { also, .. } => self.copies(head) || [table, head].iter().any(|of| also.contains(&format!("{of}.weight"))),
            _ => self.trains(None, true, table, "weight"),
        }
    }

    /// Rank of the adapter of a table of embeddings; none where it has none.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<u64> {
        let Self::Lora { rank, ranks, targets: Targets::Names(names), .. } = self else { return None };
        let own = ranks.iter().find(|(of, _)| answers(name, of)).map_or(*rank, |(_, own)| *own);
        names.iter().any(|n| answers(name, n)).then_some(own)
    }

    /// The same method, but for the adapter of a table.
    #[must_use]
    pub fn without_table(&self, table: &str) -> Self {
        let mut method = self.clone();
        if let Self::Lora { targets: Targets::Names(names), .. } = &mut method {
            names.retain(|name| !answers(table, name));
        }
        method
    }

    /// How many of a product's matrices are trained, by a parameter of its module: all or none, but for experts that are modules, where a pattern may name some.
    #[must_use]
    pub fn trained(&self, layer: &Layer, linear: &Linear, parameter: &str) -> u64 {
        let trains = |name: &str| self.trains(layer.index, false, &format!("{}{name}", layer.name), parameter);
        match self {
            Self::Unfrozen(_) if linear.stored > 1 && !linear.stacked() => {
                (0..linear.stored).map(|i| u64::from(trains(&linear.of_expert(i)))).sum()
            }
            _ => linear.stored * u64::from(trains(&linear.name)),
        }
    }

    /// The adapter at a product; none where there is none.
    #[must_use]
    pub fn adapter(&self, layer: &Layer, linear: &Linear) -> Option<Adapter> {
        let Self::Lora { rank, ranks, targets, parameters, tried, dora, .. } = self else { return None };
        let module = format!("{}{}", layer.name, linear.name);
        let targeted = match targets {
            Targets::AllLinear => linear.module && linear.component != super::model::Component::Head,
            Targets::Names(names) => linear.module && names.iter().any(|name| answers(&module, name)),
        };
        let (name, kind) = if targeted {
            (module, dora.map_or(AdapterKind::Module, AdapterKind::Decomposed))
        } else {
            (linear.parameter(layer), AdapterKind::Parameter { tried: *tried })
        };
        let adapted = targeted || parameters.iter().any(|p| answers(&name, p));
        let rank = ranks.iter().find(|(of, _)| answers(&name, of)).map_or(*rank, |(_, own)| *own);
        adapted.then_some(Adapter { rank, kind })
    }

    /// Checks that every name and pattern is answered by something in the model.
    ///
    /// # Errors
    /// When one is not, with the names there are.
    pub fn check(&self, model: &Model) -> Result<(), EstimateError> {
        let no_such = |field: &str, name: &str| {
            let mut modules: Vec<&str> =
                model.linears().filter(|(_, l)| l.module).map(|(_, l)| l.name.rsplit('.').next().unwrap_or(&l.name)).collect();
            modules.sort_unstable();
            modules.dedup();
            EstimateError::NoSuchModule { field: field.to_owned(), name: format!("`{name}`"), modules: modules.join(", ") }
        };
        match self {
            Self::Full | Self::FrozenLayers(_) | Self::Named(_) => {}
            Self::Lora { targets, parameters, dora, also, .. } => {
                if let (Some(_), Some(name)) = (dora, parameters.first()) {
                    return Err(EstimateError::Wrong {
                        field: "lora parameters".to_owned(),
                        value: name.clone(),
                        expected: "none beside DoRA, which PEFT has for modules alone,".to_owned(),
                    });
                }
                if let Some(name) = parameters.iter().find(|p| !model.linears().any(|(y, l)| answers(&l.parameter(y), p))) {
                    let mut there: Vec<_> =
                        model.linears().map(|(y, l)| l.parameter(&Layer { name: String::new(), ..y.clone() })).collect();
                    there.sort_unstable();
                    there.dedup();
                    return Err(EstimateError::NoSuchParameter { name: format!("`{name}`"), parameters: there.join(", ") });
                }
                let has = |name: &String| model.linears().any(|(y, l)| l.module && answers(&format!("{}{}", y.name, l.name), name));
                let table = |name: &String| model.table().is_some_and(|(t, _)| answers(t, name));
                if let Targets::Names(names) = targets
                    && let Some(name) = names.iter().find(|n| !has(n) && !table(n))
                {
                    return Err(no_such("lora targets", name));
                }
                let known = |name: &&String| {
                    let module = [".weight", ".bias"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned();
                    has(&module) || model.embeddings.iter().any(|(e, _)| answers(e, &module)) || parameter_names(model).contains(name)
                };
                if let Some(name) = also.iter().find(|n| !known(n)) {
                    return Err(no_such("modules to save", name));
                }
            }
            Self::Unfrozen(patterns) => {
                let names = parameter_names(model);
                if let Some(p) = patterns.iter().find(|p| !names.iter().any(|n| p.is_match(n))) {
                    return Err(no_such("unfrozen parameters", p.as_str()));
                }
            }
        }
        if let Self::FrozenLayers(n) = self {
            let layers = model.layers.iter().filter_map(|l| l.index).max().map_or(0, |i| i + 1);
            if *n > layers {
                return Err(super::config::contradiction(
                    ("frozen layers", *n),
                    ("hidden layers", layers),
                    "more are frozen than there are",
                ));
            }
        }
        Ok(())
    }
}

/// PEFT's rule: the whole name, or its end behind a dot.
fn answers(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

fn parameter_names(model: &Model) -> Vec<String> {
    let mut names: Vec<String> = model.embeddings.iter().map(|(name, _)| format!("{name}.weight")).collect();
    for layer in &model.layers {
        for operation in &layer.operations {
            match &operation.work {
                Work::Linear(l) if l.stored > 1 && !l.stacked() => {
                    names.extend((0..l.stored).map(|i| format!("{}{}.weight", layer.name, l.of_expert(i))));
                }
                // A tied head's name is known, though it has no parameter of its own.
                Work::Linear(l) => names.push(format!("{}{}.weight", layer.name, l.name)),
                Work::Elementwise { name, parameters } if *parameters > 0 => names.push(format!("{}{name}.weight", layer.name)),
                _ => {}
            }
        }
    }
    names
}
