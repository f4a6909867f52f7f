//! What follows under the EU AI Act: verdict, tests, and what the authorities are told.

use maud::{Markup, PreEscaped, html};

use super::{
    super::{figure::plain, form::Field, json::Report, verdict},
    axis::Area,
    class, sci, sci_whole,
};
use crate::rule::{Assessment, Statement, Test, Threshold, Total};

/// The verdict, large, with the value on a scale beside its threshold.
pub(super) fn verdict(report: &Report) -> Markup {
    let Some(a) = &report.assessment else { return html! {} };
    let test = a.test(a.headline);
    html! {
        section class={ "verdict " (class(a.verdict)) } aria-label="Verdict" {
            p.kicker { "EU AI Act · " (test.question) }
            p.headline { (ten_to_the(&verdict::headline(a))) }
            p {
                @if let Some(ratio) = test.ratio { "The reported value is " (ten_to_the(&times(ratio))) " the threshold: " }
                (ten_to_the(&test.why)) "."
            }
            @if let (Some(value), Some(threshold)) = (&test.value, &test.threshold) { (scale(value, threshold)) }
            p.cite { (test.citation) " · " (a.guidelines.reference) }
        }
    }
}

/// A ratio as people say it.
fn times(ratio: f64) -> String {
    if ratio < 1.0 { format!("{} % of", plain(100.0 * ratio, 3)) } else { format!("{} times", plain(ratio, 3)) }
}

/// The value, its interval, the margin of 30 % and the threshold on one logarithmic scale.
fn scale(value: &Total, threshold: &Threshold) -> Markup {
    let area = Area { left: 40.0, top: 0.0, width: 840.0, height: 0.0 };
    let positive = |n: u128| if n > 0 { Some((n as f64).log10()) } else { None };
    let marks =
        [positive(value.low), positive(value.flop), value.high.and_then(positive), positive(threshold.low), positive(threshold.high)];
    let (least, most) = marks.iter().flatten().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
    let (Some(at), true) = (positive(value.flop), least <= most) else { return html! {} };
    let (from, to) = ((least - 0.6).floor(), (most + 0.6).ceil());
    let x = |log: f64| area.x((log - from) / (to - from));
    let low = positive(value.low).map_or(area.left, x);
    // Without an upper end the bar runs off the scale.
    let high = value.high.and_then(positive).map_or(area.left + area.width, x);
    let limits = (positive(threshold.low).map_or(area.left, x), positive(threshold.high).map_or(area.left, x));
    let margin = (positive(value.margin_low).map_or(area.left, x), positive(value.margin_high).map_or(area.left, x));
    let limit = x(threshold.flop_float.log10());
    let every = ((to - from) / 10.0).ceil().max(1.0);
    let decades = (0..=20u8).map(|i| from + f64::from(i) * every).take_while(|d| *d <= to);
    html! {
        svg.scale viewBox="0 0 920 92" role="img" aria-label="The value and its threshold on a logarithmic scale" {
            title { "The value and its threshold on a logarithmic scale" }
            @for decade in decades {
                line.grid x1=(x(decade)) x2=(x(decade)) y1="26" y2="66" {}
                text.tick x=(x(decade)) y="84" text-anchor="middle" { "10" tspan.power dy="-5" { (decade) } }
            }
            line.axis x1=(area.left) x2=(area.left + area.width) y1="66" y2="66" {}
            rect.margin x=(margin.0) y="40" width=((margin.1 - margin.0).max(1.0)) height="18" { title { "30 % either way, the error that the Guidelines accept" } }
            rect.interval x=(low) y="45" width=((high - low).max(2.0)) height="8" { title { "the value's own interval" } }
            rect.limit x=(limits.0) y="26" width=((limits.1 - limits.0).max(2.0)) height="40" { title { "threshold" } }
            circle.value cx=(x(at)) cy="49" r="6" { title { "reported value" } }
            text.label x=(limit) y="18" text-anchor=(anchor(limit)) { "threshold " (power(threshold.flop_float)) }
            text.label x=(x(at)) y="36" text-anchor=(anchor(x(at))) { "reported " (power(value.flop_float)) @if value.lower_bound { " at least" } }
        }
    }
}

fn anchor(x: f64) -> &'static str {
    match x {
        x if x < 160.0 => "start",
        x if x > 760.0 => "end",
        _ => "middle",
    }
}

fn power(flop: f64) -> Markup {
    let text = format!("{flop:.2e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    html! { (mantissa) "×10" tspan.power dy="-5" { (exponent) } tspan dy="5" { "" } }
}

/// Tests, components, what follows, what was assumed.
pub(super) fn rule(report: &Report) -> Markup {
    let Some(a) = &report.assessment else { return html! {} };
    html! {
        section {
            h2 { "The tests of the Guidelines" }
            table {
                thead { tr { th { "Test" } th.n { "Value (FLOP)" } th.n { "Its interval" } th.n { "Threshold (FLOP)" } th { "By the 30 % margin" } th { "Verdict" } } }
                tbody { @for test in &a.tests { (row(test)) } }
            }
            (base(a))
            (components(a))
            (statements("What follows", &a.conclusions))
            (statements("What was assumed", &a.assumptions))
            (list("What is missing in the value", a.gaps.iter().map(|g| {
                let most = g.at_most.map_or_else(|| "nobody can say how much".to_owned(), |n| format!("at most {:.2e} FLOP", n as f64));
                format!("{} ({most})", g.what)
            })))
            (list("Why the evidence cannot be relied on", a.doubts.iter().cloned()))
        }
    }
}

fn row(test: &Test) -> Markup {
    html! {
        tr {
            td { strong { (ten_to_the(verdict::title(test.name))) } div.dim { (verdict::name(test.quantity)) " compute" @if test.with_base { ", the base model's included" } } div.dim { (test.citation) } }
            @match &test.value {
                Some(v) => { td.n { (sci(v.flop_float)) } td.n { (sci(v.low as f64)) " – " @match v.high { Some(h) => { (sci(h as f64)) }, None => { "no upper end" } } } },
                None => { td.n { "–" } td.n { "–" } },
            }
            td.n { @match &test.threshold { Some(t) => { (sci(t.flop_float)) div.dim { (ten_to_the(&t.how)) } }, None => { "–" } } }
            td { (verdict::word(test.by_margin)) }
            td { span class={ "pill " (class(test.verdict)) } { (verdict::word(test.verdict)) } div.dim { (ten_to_the(&test.why)) } }
        }
    }
}

fn base(a: &Assessment) -> Markup {
    let Some(b) = &a.base else { return html! {} };
    html! {
        h3 { "Base model" }
        p { strong { (b.name) } ": " (sci_whole(&b.flop.to_string(), 3)) " FLOP; " (ten_to_the(&b.how)) ". "
            @if b.systemic_risk { "With systemic risk: " } @else { "Without systemic risk: " } (ten_to_the(&b.systemic_risk_why)) ". " span.cite { (b.citation) } }
    }
}

fn components(a: &Assessment) -> Markup {
    html! {
        h3 { "What counts" }
        table {
            thead { tr { th { "Compute" } th.n { "FLOP" } th { "Direct" } th { "Cumulative" } th { "Why" } } }
            tbody {
                @for c in &a.components {
                    tr {
                        td { (c.component.what) div.dim { (c.component.source) } }
                        td.n { (sci_whole(&c.component.amount.flop.to_string(), 4)) }
                        td { (yes(c.in_direct)) }
                        td { (yes(c.in_cumulative)) }
                        td { (c.why) @if c.our_choice { " (our choice: the Guidelines do not say)" } " " span.cite { (c.citation) } }
                    }
                }
                tr.sum { td { "direct" } td.n { (sci_whole(&a.direct.flop.to_string(), 4)) } td { "✓" } td {} td {} }
                tr.sum { td { "cumulative" } td.n { (sci_whole(&a.cumulative.flop.to_string(), 4)) } td {} td { "✓" } td {} }
            }
        }
    }
}

fn yes(counts: bool) -> &'static str {
    if counts { "✓" } else { "–" }
}

fn statements(title: &str, statements: &[Statement]) -> Markup {
    html! {
        @if !statements.is_empty() {
            h3 { (title) }
            ul { @for s in statements { li { (ten_to_the(&s.text)) @if let Some(c) = s.citation { " " span.cite { (c) } } } } }
        }
    }
}

fn list(title: &str, items: impl Iterator<Item = String>) -> Markup {
    let items: Vec<String> = items.collect();
    html! { @if !items.is_empty() { h3 { (title) } ul { @for item in &items { li { (item) } } } } }
}

/// Both views of the Model Documentation Form, and Annex XI.
pub(super) fn forms(report: &Report) -> Markup {
    let Some(forms) = &report.forms else { return html! {} };
    let view = |title: &str, note: &str, answer: fn(&Field) -> &str| {
        html! {
            section.form {
                h2 { (title) }
                p.dim { (note) }
                table { tbody { @for f in &forms.model_documentation { tr { th.field scope="row" { (f.field) } td { (ten_to_the(answer(f))) } } } } }
            }
        }
    };
    html! {
        (view("Model Documentation Form: for the AI Office", "Two significant figures; hardware days by exact type.", |f| &f.ai_office))
        (view("Model Documentation Form: for national competent authorities", "Orders of magnitude and bands.", |f| &f.national_authority))
        section.form {
            h2 { "Annex XI, section 1, points 2(d) and 2(e)" }
            table {
                thead { tr { th { "Point" } th { "Asks for" } th { "Answer" } th { "Basis" } } }
                tbody { @for p in &forms.annex_xi { tr { td { (p.point) } td { (p.asks) } td { (ten_to_the(&p.answer)) } td.dim { (ten_to_the(&p.basis)) } } } }
            }
        }
    }
}

/// `x10^25` in a text as ×10²⁵, with everything else escaped.
pub(super) fn ten_to_the(text: &str) -> Markup {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("10^") {
        let (before, after) = (&rest[..at], &rest[at + 3..]);
        let sign = usize::from(after.starts_with('-'));
        let digits = sign + after[sign..].bytes().take_while(u8::is_ascii_digit).count();
        let before = before.strip_suffix('x').map_or_else(|| before.to_owned(), |b| format!("{b}×"));
        let exponent = &after[..digits];
        out += &html! { (before) "10" sup { (exponent) } }.into_string();
        rest = &after[digits..];
    }
    out += &html! { (rest) }.into_string();
    PreEscaped(out)
}

#[cfg(test)]
mod tests {
    use super::ten_to_the;

    #[test]
    fn powers_are_raised_and_the_rest_is_escaped() {
        assert_eq!(ten_to_the("2.4x10^25 <b> & 10^-3 MWh").into_string(), "2.4×10<sup>25</sup> &lt;b&gt; &amp; 10<sup>-3</sup> MWh");
        assert_eq!(ten_to_the("<10^").into_string(), "&lt;10<sup></sup>");
    }
}
