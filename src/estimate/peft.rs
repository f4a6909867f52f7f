//! What PEFT makes of a list of targets, where transformers 5 stacks experts that were modules before.
//!
//! PEFT 0.21 takes the old modules' names, and `all-linear`, for parameters there (`_convert_peft_config_moe`): gate and up are one matrix now, whose adapter has
//! both their ranks, and the router's matrix is one of them. It does so for some architectures and not for others, whatever they have in common.

use super::{
    EstimateError,
    method::{Method, Targets},
    model::{Component, Model},
};

/// Old names and the parameters they stand for: gate and up first, which are one now.
struct Renamed {
    gate_and_up: [&'static str; 2],
    down: &'static str,
}

const ROUTER: [&str; 2] = ["gate", "gate.weight"];
const GATE_AND_UP: &str = "gate_up_proj";
const DOWN: &str = "down_proj";

fn renamed(model_type: &str) -> Option<Renamed> {
    match model_type {
        "mixtral" => Some(Renamed { gate_and_up: ["w1", "w3"], down: "w2" }),
        "qwen3_moe" | "deepseek_v2" | "deepseek_v3" => Some(Renamed { gate_and_up: ["gate_proj", "up_proj"], down: DOWN }),
        // Not qwen2_moe, after which PEFT calls its table, nor gpt_oss.
        _ => None,
    }
}

/// The method as PEFT carries it out on a model.
///
/// # Errors
/// When gate and up are not both among the targets: PEFT refuses one alone.
pub fn converted(method: Method, model: &Model) -> Result<Method, EstimateError> {
    let Method::Lora { rank, mut ranks, targets, mut parameters, tried, dora, also, quantised } = method else { return Ok(method) };
    // Where they are modules still, they are adapted as such.
    let stacked = model.linears().any(|(_, l)| l.stacked());
    let Some(old) = renamed(&model.model_type).filter(|_| stacked) else {
        return Ok(Method::Lora { rank, ranks, targets, parameters, tried, dora, also, quantised });
    };
    let all = targets == Targets::AllLinear;
    let mut names = match targets {
        Targets::Names(names) => names,
        Targets::AllLinear => modules(model),
    };
    let mut take = |name: &str| {
        let before = names.len();
        names.retain(|n| n != name && !n.ends_with(&format!(".{name}")));
        all || names.len() < before
    };
    let both = old.gate_and_up.map(&mut take);
    match both {
        [true, true] => {
            ranks.insert(GATE_AND_UP.to_owned(), rank.saturating_mul(2));
            parameters.push(GATE_AND_UP.to_owned());
        }
        [false, false] => {}
        [one, _] => {
            let (there, lacking) = if one { (0, 1) } else { (1, 0) };
            return Err(EstimateError::Wrong {
                field: "lora targets".to_owned(),
                value: old.gate_and_up[there].to_owned(),
                expected: format!(
                    "{} beside it, since the experts of {} have both in one matrix,",
                    old.gate_and_up[lacking], model.model_type
                ),
            });
        }
    }
    for (name, parameter) in [(old.down, DOWN), (ROUTER[0], ROUTER[1])] {
        if take(name) {
            parameters.push(parameter.to_owned());
        }
    }
    Ok(Method::Lora { rank, ranks, targets: Targets::Names(names), parameters, tried, dora, also, quantised })
}

/// Last names of all `nn.Linear` but the head: PEFT keeps these of `all-linear`.
fn modules(model: &Model) -> Vec<String> {
    let modules = model.linears().map(|(_, l)| l).filter(|l| l.module && l.component != Component::Head);
    let mut names: Vec<_> = modules.map(|l| l.name.rsplit('.').next().unwrap_or(&l.name).to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}
