//! Flags of several verbs: the base model, and compute that the evidence does not tell of.

use anyhow::{Context, Result, bail};
use clap::Args;
use flopsprof::rule::{Amount, Base, BaseCompute, Component, Guidelines, Kind, MOST, Origin, SystemicRisk, known_model};

use super::count::count;

/// The base model's training compute, FLOP; the name that the AWS Fine-Tuning FLOPs Meter uses.
const PRETRAIN_FLOPS: &str = "PRETRAIN_FLOPS";

/// What the model was made from.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Base model")]
pub(crate) struct BaseArgs {
    /// Name of the base model; a known one (Llama, Qwen, Gemma) brings its compute along
    #[arg(long, value_name = "NAME")]
    pub(crate) base: Option<String>,
    /// Training compute of the base model as its provider publishes it, FLOP (1.5e24) [env: PRETRAIN_FLOPS]
    #[arg(long, value_name = "FLOP", value_parser = flop, conflicts_with_all = ["base_params", "base_tokens", "base_unknown"])]
    pub(crate) base_flops: Option<u128>,
    /// Where that is published
    #[arg(long, value_name = "TEXT")]
    pub(crate) base_source: Option<String>,
    /// Parameters of the base model, for an estimate by 6PD (8.03B)
    #[arg(long, value_name = "P", value_parser = count, requires = "base_tokens", conflicts_with = "base_unknown")]
    pub(crate) base_params: Option<u64>,
    /// Tokens that the base model was trained on, epochs included (15T)
    #[arg(long, value_name = "D", value_parser = count, requires = "base_params", conflicts_with = "base_unknown")]
    pub(crate) base_tokens: Option<u64>,
    /// Why the base model's compute cannot be known; together with --base-no-estimate
    #[arg(long, value_name = "REASON", requires = "base_no_estimate")]
    pub(crate) base_unknown: Option<String>,
    /// Why it cannot be estimated either: only then does a third of 10^23 (or 10^25) stand in for it
    #[arg(long, value_name = "REASON", requires = "base_unknown")]
    pub(crate) base_no_estimate: Option<String>,
    /// The base model is one with systemic risk (the Commission lists them)
    #[arg(long, conflicts_with = "no_systemic_risk")]
    pub(crate) systemic_risk: bool,
    /// The base model is none with systemic risk, although its compute is above 10^25
    #[arg(long, value_name = "REASON")]
    pub(crate) no_systemic_risk: Option<String>,
    /// There is no base model: parameters were drawn at random
    #[arg(long, conflicts_with_all = ["base", "base_flops", "base_source", "base_params", "base_tokens", "base_unknown", "systemic_risk", "no_systemic_risk"])]
    pub(crate) from_scratch: bool,
    /// The base model is one's own: no third is taken, its compute (--base-flops or --base-params) adds to this one's
    #[arg(long, conflicts_with_all = ["from_scratch", "base_unknown", "systemic_risk", "no_systemic_risk"])]
    pub(crate) own_base: bool,
}

impl BaseArgs {
    /// What the flags, and `PRETRAIN_FLOPS` in the environment, say of the model's origin.
    pub(crate) fn origin(&self, rules: &Guidelines) -> Result<Origin> {
        self.origin_with(std::env::var(PRETRAIN_FLOPS).ok().filter(|v| !v.trim().is_empty()), rules)
    }

    /// The base model's name, if nothing else is said of it, here or in the environment.
    pub(crate) fn only_name(&self) -> Option<&str> {
        let silent = self.base_flops.is_none()
            && self.base_source.is_none()
            && self.base_params.is_none()
            && self.base_unknown.is_none()
            && self.no_systemic_risk.is_none()
            && !(self.systemic_risk || self.own_base || self.from_scratch)
            && std::env::var_os(PRETRAIN_FLOPS).is_none_or(|v| v.is_empty());
        self.base.as_deref().filter(|_| silent)
    }

    fn origin_with(&self, environment: Option<String>, rules: &Guidelines) -> Result<Origin> {
        if self.from_scratch {
            if environment.is_some() {
                bail!("--from-scratch says that there is no base model, {PRETRAIN_FLOPS} gives its training compute: drop one of the two");
            }
            return Ok(Origin::Scratch);
        }
        let name = self.base.clone();
        let Some(compute) = self.compute(environment)? else {
            if self.own_base || self.systemic_risk || self.no_systemic_risk.is_some() || self.base_source.is_some() {
                bail!(
                    "something is said of the base model, but not which it is: give --base, or its compute (--base-flops, --base-params)"
                );
            }
            return Ok(Origin::NotStated);
        };
        let name = name.unwrap_or_else(|| "the base model (not named)".to_owned());
        if self.own_base {
            let before = match compute {
                BaseCompute::Published { flop, .. } => Amount::exact(flop),
                BaseCompute::Estimated { parameters, tokens, .. } => Amount::estimated(flopsprof::rule::six_pd(parameters, tokens), rules),
                BaseCompute::Unknown { .. } => bail!("one's own base model has a known compute: give --base-flops"),
            };
            return Ok(Origin::Own { name, before });
        }
        let systemic_risk = match (&self.no_systemic_risk, self.systemic_risk) {
            (Some(why), _) => SystemicRisk::No { why: why.clone() },
            (None, true) => SystemicRisk::Yes,
            (None, false) => SystemicRisk::NotDeclared,
        };
        Ok(Origin::Modification(Base { name, compute, systemic_risk }))
    }

    /// Flags go before what is known of the name; two different sources of one number are an error, not a silent choice.
    fn compute(&self, environment: Option<String>) -> Result<Option<BaseCompute>> {
        if let Some(flop) = self.base_flops {
            let source = self.base_source.clone().unwrap_or_else(|| "--base-flops, its place not given".to_owned());
            return Ok(Some(BaseCompute::Published { flop, source }));
        }
        if let Some(text) = environment {
            let flop = flop(&text).map_err(anyhow::Error::msg).with_context(|| format!("{PRETRAIN_FLOPS}={text}"))?;
            if self.base_params.is_some() || self.base_unknown.is_some() {
                bail!(
                    "{PRETRAIN_FLOPS}={text} gives the base model's training compute, and the flags say that it is {}: drop one of the two",
                    if self.base_unknown.is_some() { "not known" } else { "estimated" }
                );
            }
            let source = self.base_source.clone().unwrap_or_else(|| format!("{PRETRAIN_FLOPS}, its place not given"));
            return Ok(Some(BaseCompute::Published { flop, source }));
        }
        if let (Some(parameters), Some(tokens)) = (self.base_params, self.base_tokens) {
            let source = self.base_source.clone().unwrap_or_else(|| "--base-params and --base-tokens".to_owned());
            return Ok(Some(BaseCompute::Estimated { parameters, tokens, source }));
        }
        if let (Some(why), Some(no_estimate)) = (&self.base_unknown, &self.base_no_estimate) {
            let name = self.base.as_deref().unwrap_or_default();
            if let Some(model) = known_model(name).filter(|m| m.published.is_some() || m.tokens.is_some()) {
                bail!("the flags say that the compute of {name} can be neither known nor estimated, but it can: {}", model.source);
            }
            return Ok(Some(BaseCompute::Unknown { why_unknown: why.clone(), why_no_estimate: no_estimate.clone() }));
        }
        let Some(name) = &self.base else { return Ok(None) };
        let give = "give --base-flops, or --base-params and --base-tokens from its model card, \
                    or --base-unknown REASON and --base-no-estimate REASON if neither can be had";
        let Some(model) = known_model(name) else {
            bail!("nothing is known here of the base model {name}: {give}");
        };
        let source = model.source.to_owned();
        match (model.published, model.tokens) {
            (Some(flop), _) => Ok(Some(BaseCompute::Published { flop, source })),
            (None, Some(tokens)) => Ok(Some(BaseCompute::Estimated { parameters: model.parameters, tokens, source })),
            (None, None) => bail!("the compute of {name} is not known: {source}: {give}"),
        }
    }
}

/// Compute that the counters cannot tell apart, or did not see.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "What the compute was for")]
pub(crate) struct UseArgs {
    /// A part of the measured operations that was something else than training: evaluation, recomputation, rollouts, lost-steps, synthetic-private, ...
    #[arg(long, value_name = "KIND=FLOP", value_parser = kind_and_flop)]
    pub(crate) of_which: Vec<(Kind, u128)>,
    /// Compute spent elsewhere that belongs to this model: merged, synthetic-private, training, ...
    #[arg(long, value_name = "KIND=FLOP", value_parser = kind_and_flop)]
    pub(crate) besides: Vec<(Kind, u128)>,
}

impl UseArgs {
    /// Parts of the measured operations.
    pub(crate) fn parts(&self, rules: &Guidelines) -> Vec<Component> {
        declared(&self.of_which, "--of-which", rules)
    }

    /// Compute beside them.
    pub(crate) fn besides(&self, rules: &Guidelines) -> Vec<Component> {
        declared(&self.besides, "--besides", rules)
    }
}

fn declared(given: &[(Kind, u128)], flag: &str, rules: &Guidelines) -> Vec<Component> {
    let component = |&(kind, flop): &(Kind, u128)| Component {
        kind,
        what: format!("declared: {}", kind.name()),
        amount: Amount::estimated(flop, rules),
        source: flag.to_owned(),
    };
    given.iter().map(component).collect()
}

fn kind_and_flop(text: &str) -> Result<(Kind, u128), String> {
    let (name, amount) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KIND=FLOP (evaluation=1.2e19)"))?;
    Ok((kind(name)?, flop(amount)?))
}

/// A use of compute, by its name.
pub(crate) fn kind(name: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|k| k.name() == name).ok_or_else(|| {
        let all: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
        format!("`{name}` is no use of compute: one of {}", all.join(", "))
    })
}

/// FLOP as people write them (`1.5e24`, `33333`), exactly: no float in between.
pub(crate) fn flop(text: &str) -> Result<u128, String> {
    let wrong = || format!("`{text}` is not a positive number of FLOP up to 10^33 (1.5e24)");
    let text = text.trim();
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().map_err(|_| wrong())?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    if all.is_empty() || all.len() > 60 || !all.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let fraction_digits = i32::try_from(fraction.len()).map_err(|_| wrong())?;
    let shift = exponent.checked_sub(fraction_digits).ok_or_else(wrong)?;
    let digits = all.trim_start_matches('0');
    let value = if shift >= 0 {
        let zeros = usize::try_from(shift.min(60)).map_err(|_| wrong())?;
        format!("{digits}{}", "0".repeat(zeros)).parse::<u128>().map_err(|_| wrong())?
    } else {
        let cut = usize::try_from(-i64::from(shift)).map_err(|_| wrong())?;
        let kept = digits.len().checked_sub(cut).ok_or_else(wrong)?;
        if digits[kept..].bytes().any(|b| b != b'0') {
            return Err(wrong());
        }
        digits[..kept].parse::<u128>().map_err(|_| wrong())?
    };
    if (1..=MOST).contains(&value) { Ok(value) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use flopsprof::rule::guidelines::CURRENT;

    use super::*;

    fn origin(args: &BaseArgs, environment: Option<&str>) -> Result<Origin> {
        args.origin_with(environment.map(ToOwned::to_owned), CURRENT)
    }

    fn named(name: &str) -> BaseArgs {
        BaseArgs { base: Some(name.to_owned()), ..BaseArgs::default() }
    }

    #[test]
    fn flop_is_exact() {
        assert_eq!(flop("1.5e24"), Ok(15 * 10u128.pow(23)));
        assert_eq!(flop("100000000000000000000001"), Ok(10u128.pow(23) + 1));
        assert_eq!(flop("1e23"), Ok(10u128.pow(23)));
        assert_eq!(flop("0.5E+1"), Ok(5));
        assert_eq!(flop(" 1.50 e1".trim()), Err("`1.50 e1` is not a positive number of FLOP up to 10^33 (1.5e24)".to_owned()));
        for wrong in
            ["", "0", "e5", "-1e5", "1e34", "1.5", "NaN", "1e999999999999", "1e-5", "1e23 FLOP", "0e0", "1e2147483647", "0.1e-2147483648"]
        {
            assert!(flop(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_known_model_brings_its_compute_and_an_unknown_one_asks_for_it() {
        let Ok(Origin::Modification(base)) = origin(&named("meta-llama/Llama-3.2-3B-Instruct"), None) else { panic!() };
        assert!(matches!(base.compute, BaseCompute::Estimated { parameters: 3_210_000_000, tokens: 9_000_000_000_000, .. }));
        let refused = origin(&named("acme/unheard-of"), None).unwrap_err().to_string();
        assert!(refused.contains("acme/unheard-of") && refused.contains("--base-params"), "{refused}");
        let silent = origin(&named("mistralai/Mistral-7B-v0.1"), None).unwrap_err().to_string();
        assert!(silent.contains("--base-no-estimate"), "{silent}");
        let unknown = |name| BaseArgs { base_unknown: Some("x".to_owned()), base_no_estimate: Some("y".to_owned()), ..named(name) };
        assert!(origin(&unknown("mistralai/Mistral-7B-v0.1"), None).is_ok());
        // Known after all: the substitute is not for the asking.
        assert!(origin(&unknown("Qwen/Qwen3-8B"), None).is_err());
    }

    #[test]
    fn the_environment_counts_as_published_and_contradicts_loudly() {
        let Ok(Origin::Modification(base)) = origin(&named("x"), Some("1.5e24")) else { panic!() };
        assert!(matches!(base.compute, BaseCompute::Published { flop, .. } if flop == 15 * 10u128.pow(23)));
        let estimate = BaseArgs { base_params: Some(1), base_tokens: Some(1), ..named("x") };
        assert!(origin(&estimate, Some("1.5e24")).is_err());
        assert!(origin(&BaseArgs { from_scratch: true, ..BaseArgs::default() }, Some("1e24")).is_err());
        assert!(origin(&named("x"), Some("lots")).unwrap_err().to_string().contains("PRETRAIN_FLOPS=lots"));
        // A flag is said on purpose, and goes before the environment.
        let flag = BaseArgs { base_flops: Some(7), ..named("x") };
        assert!(matches!(
            origin(&flag, Some("1e24")),
            Ok(Origin::Modification(Base { compute: BaseCompute::Published { flop: 7, .. }, .. }))
        ));
    }

    #[test]
    fn nothing_said_is_not_stated_and_half_said_is_an_error() {
        assert_eq!(origin(&BaseArgs::default(), None).unwrap(), Origin::NotStated);
        assert!(origin(&BaseArgs { systemic_risk: true, ..BaseArgs::default() }, None).is_err());
    }
}
