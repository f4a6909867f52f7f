//! What the authorities are told: the fields of the Model Documentation Form and of Annex XI that a measurement answers.
//!
//! The form (Code of Practice, Transparency chapter, 10.7.2025) is filled in differently for the AI Office and for national authorities: two significant
//! figures for the one, an order of magnitude and a time band for the other. Fields that a measurement of training cannot answer are there too, and say so.

use serde::Serialize;

use super::{
    figure::{parameter_band, plain, time_band, utc, whole},
    json::Report,
    verdict,
};

/// How methods are introduced, by the form's own words.
const NO_DELEGATED_ACT: &str = "In the absence of a delegated act adopted in accordance with Article 53(5) of Regulation (EU) 2024/1689: ";

/// The forms.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forms {
    /// Model Documentation Form, field by field.
    pub model_documentation: Vec<Field>,
    /// Annex XI, section 1, the points that a measurement answers.
    pub annex_xi: Vec<Point>,
}

/// A field of the Model Documentation Form.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    /// Its name in the form.
    pub field: &'static str,
    /// For the AI Office.
    pub ai_office: String,
    /// For national competent authorities.
    pub national_authority: String,
}

/// A point of Annex XI, section 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// `2(d)`.
    pub point: &'static str,
    /// What it asks for.
    pub asks: &'static str,
    /// The answer.
    pub answer: String,
    /// How it was come by.
    pub basis: String,
}

/// Fills the forms in.
#[must_use]
pub fn forms(report: &Report) -> Forms {
    let mark = if report.simulated { " (simulated)" } else { "" };
    let both = |field, text: String| Field { field, ai_office: text.clone(), national_authority: text };
    let (flop, magnitude) = compute(report, mark);
    let days = report.wall_clock_s / 86_400.0;
    let training_time = Field {
        field: "Training time",
        ai_office: format!("{} days wall clock; {}{mark}", plain(days, 2), hardware_days(report)),
        national_authority: format!("{}{mark}", time_band(days)),
    };
    let parameters = parameters(report);
    let energy = energy(report, mark);
    let base = report.assessment.as_ref().and_then(|a| a.base.as_ref());
    let model_documentation = vec![
        Field {
            field: "Total model size (parameters)",
            ai_office: parameters.map_or_else(not_stated, |n| format!("{}{}", figures(u128::from(n)), several(report))),
            national_authority: parameters.map_or_else(not_stated, |n| format!("{}{}", parameter_band(n), several(report))),
        },
        both("Model dependencies", base.map_or_else(not_stated, |b| format!("modification or fine-tuning of {}", b.name))),
        training_time.clone(),
        Field { field: "Amount of computation used for training", ai_office: flop.clone(), national_authority: magnitude },
        both("Measurement methodology (computation)", format!("{NO_DELEGATED_ACT}{}", compute_method(report))),
        both("Amount of energy used for training", energy.clone()),
        both("Measurement methodology (energy)", format!("{NO_DELEGATED_ACT}{}", energy_method(report))),
        both("Benchmarked amount of computation used for inference", "N/A: this report is of training".to_owned()),
        both("Measurement methodology (inference)", "N/A: this report is of training".to_owned()),
    ];
    let annex_xi = vec![
        Point {
            point: "2(d)",
            asks: "computational resources used to train the model (number of floating point operations)",
            answer: flop,
            basis: compute_method(report),
        },
        Point {
            point: "2(d)",
            asks: "training time",
            answer: training_time.ai_office,
            basis: format!(
                "from {} to {}: from the first window to the last on any node; hardware days are those in which a process had the device open",
                utc(report.began_unix_s),
                utc(report.ended_unix_s)
            ),
        },
        Point {
            point: "2(d)",
            asks: "other relevant details related to the training",
            answer: details(report, mark),
            basis: tiers(report),
        },
        Point { point: "2(e)", asks: "known or estimated energy consumption of the model", answer: energy, basis: energy_method(report) },
    ];
    Forms { model_documentation, annex_xi }
}

fn not_stated() -> String {
    "not stated".to_owned()
}

fn figures(n: u128) -> String {
    whole(n, 2).map_or_else(|| "0".to_owned(), |s| s.to_string())
}

fn parameters(report: &Report) -> Option<u64> {
    report.six_nd.as_ref().map(|s| s.parameters.value).or(report.parameters.map(|(n, _)| n))
}

/// Which of several models this is the size of.
fn several(report: &Report) -> String {
    let models = report.six_nd.as_ref().map_or(0, |s| s.models.len());
    if models > 1 { format!(" (the largest of {models} models that this run trained)") } else { String::new() }
}

/// The reported amount: two significant figures, and its order of magnitude.
fn compute(report: &Report, mark: &str) -> (String, String) {
    let (flop, lower_bound) = verdict::reported(report);
    let least = if lower_bound { "at least " } else { "" };
    // The order of magnitude of what the AI Office is told: 9.96x10^24 is 1.0x10^25 to both.
    match whole(flop, 2) {
        Some(s) => (format!("{least}{s} FLOP{mark}"), format!("{least}10^{} FLOP{mark}", s.exponent)),
        None if report.unmeasured.is_some() => ("not measured".to_owned(), "not measured".to_owned()),
        None => (format!("none was counted{mark}"), format!("none was counted{mark}")),
    }
}

fn hardware_days(report: &Report) -> String {
    let days: Vec<String> = report.gpu_hours.iter().map(|(name, hours)| format!("{} {name} days", plain(hours / 24.0, 2))).collect();
    if days.is_empty() { "no hardware days".to_owned() } else { days.join("; ") }
}

fn energy(report: &Report, mark: &str) -> String {
    match report.energy_mj {
        // 1 MWh is 3.6e12 mJ.
        Some(mj) => format!("{} MWh{mark}", plain(mj as f64 / 3.6e12, 2)),
        None => "N/A: the devices did not say".to_owned(),
    }
}

fn compute_method(report: &Report) -> String {
    if let Some(why) = &report.unmeasured {
        return format!("not measured: {why}. flopsprof {}.", report.flopsprof);
    }
    let total = &report.total;
    let error = match total.standard_error {
        Some(0.0) => "no part of it is interpolated".to_owned(),
        Some(e) => format!("standard error {} FLOP", plain(e, 2)),
        None if report.not_metered.unexplained.is_some() && total.interpolated == "0" => {
            "what was executed on paths that were hardly looked at is not known".to_owned()
        }
        None => "the error of the interpolated part is not known".to_owned(),
    };
    let quantity = match verdict::quantity(report) {
        Some(quantity) => format!(" The figure is the {quantity} compute of section A.1 of the Guidelines."),
        None => " The figure is everything that was executed; what of it counts was not assessed.".to_owned(),
    };
    format!(
        "measured on the hardware. The floating-point operations executed by the GPUs' tensor cores were read from their operation counters (CUPTI) over the \
         whole run, every precision counted equally: {} FLOP counted, {} FLOP interpolated between readings, {error}.{quantity} Operations outside the tensor \
         cores are not counted. flopsprof {}.",
        total.counted, total.interpolated, report.flopsprof
    )
}

fn energy_method(report: &Report) -> String {
    let mut text = "measured. Difference of the energy counters of the accelerators (NVML) over the time in which the job had them open. Boundary: whole \
                    accelerator boards; hosts, network, storage, cooling and the facility's overhead (PUE) are not in it, and other programs on the same \
                    accelerators are."
        .to_owned();
    if report.energy_mj.is_none() {
        text =
            "not known: NVML did not say for every device. Annex XI allows an estimate from the computational resources used.".to_owned();
    }
    text
}

fn details(report: &Report, mark: &str) -> String {
    let mut parts = vec![format!("{} device(s) on {} node(s)", report.devices.len(), report.nodes.len())];
    parts.extend(report.gpu_hours.iter().map(|(name, hours)| format!("{} h on {name}", plain(*hours, 3))));
    let formats: Vec<String> = report.formats().into_iter().map(|(f, flop)| format!("{f} {:.1} %", percent(flop, report))).collect();
    if !formats.is_empty() {
        parts.push(format!("by number format of the operands: {}", formats.join(", ")));
    }
    if let Some(share) = report.peak_share {
        parts.push(format!("{:.1} % of the tensor cores' dense peak", 100.0 * share));
    }
    format!("{}{mark}", parts.join("; "))
}

fn percent(flop: f64, report: &Report) -> f64 {
    if report.total.flop_float > 0.0 { 100.0 * flop / report.total.flop_float } else { 0.0 }
}

fn tiers(report: &Report) -> String {
    format!("evidence of {} process(es), tier of the total: {}", report.processes.len(), super::text::tier(report.tier))
}
