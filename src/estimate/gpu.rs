//! Named GPUs: what they can do at most, and what they draw.
//!
//! Peaks are the vendors' published dense 16-bit tensor rates (bf16; fp16 where a chip has no bf16) and board powers. A name is matched word by word,
//! never by a part of a word: an H200 is no H20 and an RTX A1000 no A100. A name that is not here has no peak, and is not given one.

use serde::Serialize;

/// A GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// Words that its name must have.
    pub words: &'static str,
    /// Dense 16-bit FLOP/s.
    pub peak: f64,
    /// Board power, watts.
    pub watts: f64,
}

const fn gpu(words: &'static str, tera: f64, watts: f64) -> Gpu {
    Gpu { words, peak: tera * 1e12, watts }
}

/// The table. Where two lines fit a name, the one of more words does.
const TABLE: [Gpu; 35] = [
    gpu("b300", 2250.0, 1400.0),
    gpu("b200", 2250.0, 1000.0),
    gpu("gb200", 2500.0, 1200.0),
    gpu("gh200", 989.4, 900.0),
    gpu("h200", 989.4, 700.0),
    gpu("h200 nvl", 835.5, 600.0),
    gpu("h100", 989.4, 700.0),
    gpu("h100 pcie", 756.0, 350.0),
    gpu("h100 nvl", 835.5, 400.0),
    gpu("h800", 989.4, 700.0),
    gpu("h20", 148.0, 400.0),
    gpu("a100", 312.0, 400.0),
    gpu("a100 pcie", 312.0, 300.0),
    gpu("a800", 312.0, 400.0),
    gpu("a30", 165.0, 165.0),
    gpu("a40", 149.7, 300.0),
    gpu("a10", 125.0, 150.0),
    gpu("a10g", 70.0, 300.0),
    gpu("l40s", 362.05, 350.0),
    gpu("l40", 181.05, 300.0),
    gpu("l4", 121.0, 72.0),
    gpu("v100", 125.0, 300.0),
    gpu("v100 pcie", 112.0, 250.0),
    gpu("t4", 65.0, 70.0),
    gpu("rtx 5090", 209.5, 575.0),
    gpu("rtx 4090", 165.2, 450.0),
    gpu("rtx 3090", 71.0, 350.0),
    gpu("rtx 6000 ada", 182.1, 300.0),
    gpu("rtx a6000", 154.8, 300.0),
    gpu("mi355x", 2516.6, 1400.0),
    gpu("mi325x", 1307.4, 1000.0),
    gpu("mi300x", 1307.4, 750.0),
    gpu("mi300a", 980.6, 760.0),
    gpu("mi250x", 383.0, 560.0),
    gpu("mi250", 362.1, 560.0),
];

/// Finds a GPU by its name.
#[must_use]
pub fn find(name: &str) -> Option<Gpu> {
    let lower = name.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let fits = |g: &&Gpu| g.words.split(' ').all(|w| words.contains(&w));
    TABLE.iter().filter(fits).max_by_key(|g| g.words.split(' ').count()).copied()
}

/// The Commission's hardware-based method (Annex A.2.1): units, seconds of use, peak FLOP/s of a unit, average utilisation.
#[must_use]
pub fn hardware_method(units: f64, seconds: f64, peak: f64, utilisation: f64) -> f64 {
    units * seconds * peak * utilisation
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the AWS FLOPs Meter takes for these names (its function, executed), and what is published.
    #[test]
    fn names_are_matched_by_words_where_the_aws_table_matches_parts() {
        for (name, aws, published) in [
            ("NVIDIA H200", 148.0, Some(989.4)),
            ("NVIDIA GH200 480GB", 148.0, Some(989.4)),
            ("NVIDIA B200", 150.0, Some(2250.0)),
            ("NVIDIA GB200", 150.0, Some(2500.0)),
            ("NVIDIA L40S", 181.05, Some(362.05)),
            ("NVIDIA L4", 150.0, Some(121.0)),
            ("Tesla T4", 150.0, Some(65.0)),
            ("Tesla V100-SXM2-16GB", 150.0, Some(125.0)),
            ("AMD Instinct MI300X", 150.0, Some(1307.4)),
            ("NVIDIA H100 PCIe", 989.0, Some(756.0)),
            ("NVIDIA A10G", 125.0, Some(70.0)),
            ("NVIDIA RTX A1000", 312.0, None),
        ] {
            let ours = find(name).map(|g| g.peak / 1e12);
            assert_eq!(ours.is_some(), published.is_some(), "{name}");
            if let (Some(ours), Some(published)) = (ours, published) {
                assert!((ours - published).abs() < 1e-6, "{name}: {ours}");
            }
            assert!(ours.is_none_or(|ours| (ours / aws - 1.0).abs() > 0.05), "{name}: AWS's {aws} would have been right");
        }
        assert_eq!(find("NVIDIA H100 80GB HBM3").map(|g| g.words), Some("h100"));
        assert_eq!(find("NVIDIA H20").map(|g| g.words), Some("h20"));
        assert_eq!(find("NVIDIA A100-SXM4-80GB").map(|g| g.words), Some("a100"));
        assert_eq!(find("a GPU of tomorrow"), None);
    }
}
