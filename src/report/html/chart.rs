//! The charts, as SVG in the page: what was executed when, by number format, against 6ND, and at what power.

use maud::{Markup, html};

use super::{
    super::{
        figure::plain,
        json::{Report, Slot},
    },
    axis::{Area, Axis, colour, power_unit, rate_unit},
    sci,
};

/// Width of a chart in its own units; the page scales it.
const WIDTH: f64 = 920.0;

/// All charts that the evidence can fill.
pub(super) fn charts(report: &Report) -> Markup {
    html! {
        section {
            h2 { "What was executed" }
            (over_time(report))
            (by_format(report))
            (by_kernel(report))
            (against_formula(report))
            (power(report))
        }
    }
}

fn figure(name: &str, title: &str, caption: &Markup, height: f64, drawing: &Markup) -> Markup {
    html! {
        figure id=(name) {
            figcaption { strong { (title) } " " (caption) }
            svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label=(title) { title { (title) } (drawing) }
        }
    }
}

/// Horizontal lines with their numbers, and the axis of time below.
fn grid(area: Area, axis: &Axis, span_s: f64) -> Markup {
    let time = Axis::time(span_s);
    html! {
        @for (share, label) in &axis.ticks {
            line.grid x1=(area.left) x2=(area.left + area.width) y1=(area.y(*share)) y2=(area.y(*share)) {}
            text.tick x=(area.left - 8.0) y=(area.y(*share) + 4.0) text-anchor="end" { (label) }
        }
        @for (share, label) in &time.ticks {
            @let x = area.x(*share);
            line.axis x1=(x) x2=(x) y1=(area.top + area.height) y2=(area.top + area.height + 5.0) {}
            text.tick x=(x) y=(area.top + area.height + 19.0) text-anchor=(if *share > 0.97 { "end" } else { "middle" }) { (label) }
        }
        line.axis x1=(area.left) x2=(area.left + area.width) y1=(area.top + area.height) y2=(area.top + area.height) {}
    }
}

fn span(report: &Report) -> f64 {
    let slots = &report.timeline.slots;
    slots.last().zip(slots.first()).map_or(1.0, |(last, first)| (last.unix_s + last.length_s - first.unix_s).max(1e-9))
}

/// A stack of steps: one band a format, slot by slot.
fn over_time(report: &Report) -> Markup {
    let slots = &report.timeline.slots;
    let span_s = span(report);
    let formats: Vec<String> = report.formats().into_iter().map(|(f, _)| f).collect();
    let most = slots.iter().map(|s| s.flop.values().sum::<f64>() / s.length_s).fold(0.0, f64::max);
    if slots.is_empty() || most <= 0.0 {
        return html! { p.empty { "Nothing was counted, so there is nothing to draw over time." } };
    }
    let area = Area { left: 70.0, top: 12.0, width: WIDTH - 82.0, height: 210.0 };
    let (unit, name) = rate_unit(most);
    let axis = Axis::new(most, unit);
    let (formats, top) = (&formats, axis.top);
    let edge = |upto: usize| move |s: &Slot| formats_sum(s, &formats[..upto]) / s.length_s / top;
    let drawing = html! {
        (grid(area, &axis, span_s))
        @for (i, format) in formats.iter().enumerate() {
            path class={ "band " (colour(format)) } d=(band(area, slots, span_s, edge(i), edge(i + 1))) { title { (format) } }
        }
    };
    let caption = html! {
        (name) ", all devices, by number format of the operands"
        span.legend { @for format in formats { span.item { span class={ "swatch " (colour(format)) } {} (format) } } }
    };
    figure("over-time", "FLOP over time", &caption, 250.0, &drawing)
}

fn formats_sum(slot: &Slot, formats: &[String]) -> f64 {
    formats.iter().filter_map(|f| slot.flop.get(f)).sum()
}

/// Where a slot begins and ends.
fn edges(area: Area, slots: &[Slot], slot: &Slot, span_s: f64) -> (f64, f64) {
    let began = slots.first().map_or(0.0, |s| s.unix_s);
    (area.x((slot.unix_s - began) / span_s), area.x((slot.unix_s + slot.length_s - began) / span_s))
}

/// The outline between two heights (shares of the area), in steps.
fn band(area: Area, slots: &[Slot], span_s: f64, low: impl Fn(&Slot) -> f64, high: impl Fn(&Slot) -> f64) -> String {
    use std::fmt::Write;
    let mut path = String::new();
    for (i, slot) in slots.iter().enumerate() {
        let (from, to) = edges(area, slots, slot, span_s);
        let _ = write!(path, "{}{from:.1} {:.1}H{to:.1}", if i == 0 { "M" } else { "L" }, area.y(high(slot)));
    }
    for slot in slots.iter().rev() {
        let (from, to) = edges(area, slots, slot, span_s);
        let _ = write!(path, "L{to:.1} {:.1}H{from:.1}", area.y(low(slot)));
    }
    path + "Z"
}

/// A bar a path, with its share.
fn by_format(report: &Report) -> Markup {
    let rows: Vec<_> = report.paths.iter().filter(|r| r.operations.flop_float > 0.0).collect();
    let Some(most) = rows.first().map(|r| r.operations.flop_float) else { return html! {} };
    let area = Area { left: 250.0, top: 6.0, width: WIDTH - 250.0 - 190.0, height: 0.0 };
    let drawing = html! {
        @for (i, row) in rows.iter().enumerate() {
            @let y = area.top + 30.0 * i as f64;
            @let flop = row.operations.flop_float;
            text.label x=(area.left - 10.0) y=(y + 16.0) text-anchor="end" {
                (row.source) @if !row.accumulator.is_empty() { " → " (row.accumulator) }
                @if !row.family.is_empty() { tspan.dim { " " (row.family) } }
            }
            rect class={ "bar " (colour(&row.source)) } x=(area.left) y=(y + 2.0) width=(format!("{:.1}", (flop / most * area.width).max(1.0))) height="20" rx="2" {}
            text.label x=(area.x(flop / most) + 8.0) y=(y + 16.0) {
                (power_of_ten(flop)) tspan.dim { " " (plain(100.0 * flop / report.total.flop_float, 3)) " %" }
            }
        }
    };
    let height = 12.0 + 30.0 * rows.len() as f64;
    figure("by-precision", "By precision", &html! { "FLOP executed, and share of all; every format counts equally" }, height, &drawing)
}

/// A bar a category of kernels, where a census told them apart; what no census saw has one too.
fn by_kernel(report: &Report) -> Markup {
    let Some(kernels) = &report.kernels else { return html! {} };
    let residual = (kernels.residual != "0").then_some(("not seen in a census", kernels.residual.as_str(), kernels.residual_share, "c7"));
    let rows: Vec<(&str, &str, f64, &str)> =
        kernels.categories.iter().map(|c| (c.category.name(), c.flop.as_str(), c.share, "c3")).chain(residual).collect();
    let most = rows.iter().map(|r| r.2).fold(f64::MIN_POSITIVE, f64::max);
    let area = Area { left: 250.0, top: 6.0, width: WIDTH - 250.0 - 190.0, height: 0.0 };
    let drawing = html! {
        @for (i, (name, flop, share, class)) in rows.iter().enumerate() {
            @let y = area.top + 30.0 * i as f64;
            text.label x=(area.left - 10.0) y=(y + 16.0) text-anchor="end" { (name) }
            rect class={ "bar " (class) } x=(area.left) y=(y + 2.0) width=(format!("{:.1}", (share / most * area.width).max(1.0))) height="20" rx="2" {}
            text.label x=(area.x(share / most) + 8.0) y=(y + 16.0) {
                (power_of_ten(flop.parse().unwrap_or(0.0))) tspan.dim { " " (plain(100.0 * share, 3)) " %" }
            }
        }
    };
    let caption =
        html! { "by the kernels' names; the total, apportioned by " (kernels.censuses) " census" @if kernels.censuses != 1 { "es" } };
    figure("by-kernel", "By kind of kernel", &caption, 12.0 + 30.0 * rows.len() as f64, &drawing)
}

/// For text inside SVG, which knows no `sup`.
fn power_of_ten(flop: f64) -> Markup {
    let text = format!("{flop:.2e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    html! { (mantissa) "×10" tspan.power dy="-5" { (exponent) } tspan dy="5" { " FLOP" } }
}

/// A bar of the waterfall: what it is, from where to where, FLOP.
struct Step {
    name: String,
    note: String,
    from: f64,
    to: f64,
    class: &'static str,
}

/// From 6ND to what was measured: every line of the reconciliation, or, where the program declared too little for one, the difference as a whole.
fn steps(report: &Report) -> Option<Vec<Step>> {
    let measured = report.total.flop_float;
    let mut steps = Vec::new();
    if let Some(reconciled) = report.reconciliation.as_ref().and_then(|r| r.lines.as_ref()) {
        let mut at = 0.0;
        for (i, line) in reconciled.lines.iter().enumerate().filter(|(i, l)| *i == 0 || l.flop != 0.0 || l.name == "unexplained") {
            let class = if i == 0 { "c7" } else { "difference" };
            let note = format!("{:?}", line.confidence).to_lowercase();
            steps.push(Step { name: line.title(), note, from: at, to: at + line.flop, class });
            at += line.flop;
        }
    } else {
        let formula = report.six_nd.as_ref()?.six_nd.parse::<f64>().ok()?;
        let step = |name: &str, note: &str, from, to, class| Step { name: name.to_owned(), note: note.to_owned(), from, to, class };
        steps.push(step("6·N·D", "formula", 0.0, formula, "c7"));
        steps.push(step(
            if measured >= formula { "more than the formula" } else { "less than the formula" },
            "",
            formula,
            measured,
            "difference",
        ));
    }
    steps.push(Step { name: "measured".to_owned(), note: "operation counters".to_owned(), from: 0.0, to: measured, class: "c1" });
    Some(steps)
}

/// The waterfall.
fn against_formula(report: &Report) -> Markup {
    let Some(steps) = steps(report) else { return html! {} };
    let most = steps.iter().flat_map(|s| [s.from, s.to]).fold(0.0, f64::max);
    if most <= 0.0 {
        return html! {};
    }
    let area = Area { left: 250.0, top: 6.0, width: WIDTH - 250.0 - 190.0, height: 0.0 };
    let measured = report.total.flop_float;
    let x = |flop: f64| area.x(flop / most);
    let drawing = html! {
        @for (i, step) in steps.iter().enumerate() {
            @let y = area.top + 34.0 * i as f64;
            @let (low, high) = (step.from.min(step.to), step.from.max(step.to));
            @let sign = if step.to < step.from { "−" } else { "" };
            text.label x=(area.left - 10.0) y=(y + 17.0) text-anchor="end" { (step.name) @if !step.note.is_empty() { tspan.dim { " " (step.note) } } }
            rect class={ "bar " (step.class) } x=(format!("{:.1}", x(low))) y=(y + 2.0) width=(format!("{:.1}", (x(high) - x(low)).max(1.0))) height="22" rx="2" {}
            text.label x=(x(high) + 8.0) y=(y + 17.0) { (sign) (power_of_ten(high - low)) tspan.dim { " " (sign) (plain(100.0 * (high - low) / measured, 3)) " %" } }
            // Where one bar ends the next begins.
            @if i + 1 < steps.len() { line.guide x1=(x(step.to)) x2=(x(step.to)) y1=(y + 24.0) y2=(y + 36.0) {} }
        }
    };
    let caption = html! {
        @if let Some(six) = &report.six_nd {
            @if let Some(ratio) = six.ratio { "measured is " (format!("{ratio:.4}")) " × 6ND; " } "N = " (sci(six.parameters.value as f64)) " (" (six.parameters.source) "), D = "
            (sci(six.tokens.value as f64)) " (" (six.tokens.source) ")"
        } @else { "line by line" }
    };
    figure("waterfall", "Measured against 6·N·D", &caption, 10.0 + 34.0 * steps.len() as f64, &drawing)
}

/// A line of power over time; gaps where nobody said.
fn power(report: &Report) -> Markup {
    use std::fmt::Write;
    let slots = &report.timeline.slots;
    let most = slots.iter().filter_map(|s| s.power_w).fold(0.0, f64::max);
    if most <= 0.0 {
        return html! { p.empty { "NVML said nothing of energy, so there is no power to draw." } };
    }
    let area = Area { left: 70.0, top: 12.0, width: WIDTH - 82.0, height: 130.0 };
    let (unit, name) = power_unit(most);
    let axis = Axis::new(most, unit);
    let mut path = String::new();
    let mut drawn = false;
    for slot in slots {
        let (from, to) = edges(area, slots, slot, span(report));
        match slot.power_w {
            Some(w) => {
                let _ = write!(path, "{}{from:.1} {:.1}H{to:.1}", if drawn { "L" } else { "M" }, area.y(w / axis.top));
                drawn = true;
            }
            None => drawn = false,
        }
    }
    let drawing = html! { (grid(area, &axis, span(report))) path.line d=(path) {} };
    figure("power", "Power", &html! { (name) ", all devices: energy counters of whole GPU boards" }, 170.0, &drawing)
}
