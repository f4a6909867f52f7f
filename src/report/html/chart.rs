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

/// For text inside SVG, which knows no `sup`.
fn power_of_ten(flop: f64) -> Markup {
    let text = format!("{flop:.2e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    html! { (mantissa) "×10" tspan.power dy="-5" { (exponent) } tspan dy="5" { " FLOP" } }
}

/// 6ND, the difference, and what was measured.
fn against_formula(report: &Report) -> Markup {
    let Some(six) = &report.six_nd else { return html! {} };
    let (formula, measured) = (six.six_nd.parse::<f64>().unwrap_or(0.0), report.total.flop_float);
    let most = formula.max(measured);
    if most <= 0.0 {
        return html! {};
    }
    let area = Area { left: 250.0, top: 6.0, width: WIDTH - 250.0 - 190.0, height: 0.0 };
    let (low, high) = (formula.min(measured), formula.max(measured));
    let rows = [
        ("6·N·D", "formula", 0.0, formula, "c7"),
        (if measured >= formula { "more than the formula" } else { "less than the formula" }, "", low, high, "difference"),
        ("measured", "operation counters", 0.0, measured, "c1"),
    ];
    let drawing = html! {
        @for (i, (name, note, from, to, class)) in rows.iter().enumerate() {
            @let y = area.top + 34.0 * i as f64;
            text.label x=(area.left - 10.0) y=(y + 17.0) text-anchor="end" { (name) @if !note.is_empty() { tspan.dim { " " (note) } } }
            rect class={ "bar " (class) } x=(format!("{:.1}", area.x(from / most))) y=(y + 2.0) width=(format!("{:.1}", ((to - from) / most * area.width).max(1.0))) height="22" rx="2" {}
            text.label x=(area.x(to / most) + 8.0) y=(y + 17.0) { (power_of_ten(to - from)) }
        }
        // What the bars share is drawn through.
        line.guide x1=(area.x(formula / most)) x2=(area.x(formula / most)) y1=(area.top) y2=(area.top + 34.0 * 2.0) {}
        line.guide x1=(area.x(measured / most)) x2=(area.x(measured / most)) y1=(area.top + 34.0) y2=(area.top + 34.0 * 3.0 - 8.0) {}
    };
    let caption = html! {
        "measured is " (format!("{:.4}", six.ratio)) " × 6ND; N = " (sci(six.parameters.value as f64)) " (" (six.parameters.source) "), D = "
        (sci(six.tokens.value as f64)) " (" (six.tokens.source) ")"
    };
    figure("waterfall", "Measured against 6·N·D", &caption, 112.0, &drawing)
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
