//! An assessment in words, for a terminal.

use std::fmt;

use super::{Assessment, Statement, Test, TestName, Total, Verdict};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Below => "below",
            Self::Above => "ABOVE",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Withheld => "withheld (simulated)",
            Self::NotApplicable => "not applicable",
        })
    }
}

impl fmt::Display for TestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneThird => "one third of the base model",
            Self::GeneralPurpose => "10^23, general-purpose",
            Self::SystemicRisk => "10^25, systemic risk",
        })
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.citation {
            Some(citation) => write!(f, "{} [{citation}]", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl fmt::Display for Assessment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.simulated { " (simulated)" } else { "" };
        if let Some(base) = &self.base {
            writeln!(f, "base model  {}: {:.4e} FLOP, {}", base.name, base.flop_float, base.how)?;
            writeln!(f, "            systemic risk: {} ({})", if base.systemic_risk { "yes" } else { "no" }, base.systemic_risk_why)?;
        }
        writeln!(f, "direct      {}{mark}", total(&self.direct))?;
        writeln!(f, "cumulative  {}{mark}", total(&self.cumulative))?;
        for c in self.components.iter().filter(|c| c.component.amount.flop > 0) {
            let into = match (c.in_direct, c.in_cumulative) {
                (true, _) => "in both",
                (false, true) => "in cumulative only",
                (false, false) => "left out",
            };
            writeln!(f, "  {:>14.6e}  {into}: {} ({})", c.component.amount.flop as f64, c.component.what, c.why)?;
        }
        writeln!(f)?;
        for test in &self.tests {
            test_line(f, test, test.name == self.headline)?;
        }
        for (title, statements) in [("what follows", &self.conclusions), ("assumed", &self.assumptions)] {
            if !statements.is_empty() {
                writeln!(f, "\n{title}")?;
            }
            for statement in statements {
                writeln!(f, "  - {statement}")?;
            }
        }
        if !self.gaps.is_empty() {
            writeln!(f, "\nmissing")?;
        }
        for gap in &self.gaps {
            match gap.at_most {
                Some(flop) => writeln!(f, "  - {} (at most {:.2e} FLOP)", gap.what, flop as f64)?,
                None => writeln!(f, "  - {} (nobody can say how much)", gap.what)?,
            }
        }
        write!(f, "\nby the Guidelines of {} ({})", self.guidelines.date, self.guidelines.reference)
    }
}

fn total(t: &Total) -> String {
    let high = t.high.map_or_else(|| "no upper end".to_owned(), |h| format!("{:.4e}", h as f64));
    let bound = if t.lower_bound { ", a lower bound" } else { "" };
    format!(
        "{:.6e} FLOP, in [{:.4e}, {high}]{bound}; by the margin of 30 % in [{:.4e}, {:.4e}]",
        t.flop_float, t.low as f64, t.margin_low as f64, t.margin_high as f64
    )
}

fn test_line(f: &mut fmt::Formatter<'_>, test: &Test, headline: bool) -> fmt::Result {
    let mark = if headline { "=>" } else { "  " };
    writeln!(f, "{mark} {:<28} {}: {} [{}]", test.name.to_string(), test.verdict, test.why, test.citation)?;
    let (Some(threshold), Some(ratio)) = (&test.threshold, test.ratio) else { return Ok(()) };
    writeln!(
        f,
        "   {:<28} {:.4e} FLOP ({}) x {ratio:.3e}; by the margin alone: {}",
        "", threshold.flop_float, threshold.how, test.by_margin
    )
}
