//! The rules as data: figures, what counts, where it is written, with a version and a date.
//!
//! Paragraph numbers differ between the circulated copies of the Guidelines, and from section 3.2 on even inside one of them (the text reads 63 where its
//! own cross-references say 60). So a [`Citation`] names the section or the annex, which all copies share; comments here give both numbers. Only the paragraph
//! of the 10^23 criterion, 17, is the same in all of them.
//!
//! A new version of the Guidelines is a new [`Guidelines`] beside these, and [`CURRENT`] says which one a report is made by; the old ones stay, so that an old
//! report can be made again.

use serde::Serialize;

use super::Kind;

/// Where something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Citation {
    /// `Guidelines` (the version stands in [`Guidelines`]) or `AI Act`.
    pub document: &'static str,
    /// Section, annex or article.
    pub place: &'static str,
}

impl std::fmt::Display for Citation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", self.document, self.place)
    }
}

/// A place in the Guidelines.
pub(super) const fn guidelines(place: &'static str) -> Citation {
    Citation { document: "Guidelines", place }
}

/// A place in Regulation (EU) 2024/1689.
pub(super) const fn act(place: &'static str) -> Citation {
    Citation { document: "AI Act", place }
}

/// A fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fraction {
    /// Above the line.
    pub numerator: u32,
    /// Below the line.
    pub denominator: u32,
}

/// What becomes of one kind of compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Treatment {
    /// The kind.
    pub kind: Kind,
    /// It is in the direct total.
    pub direct: bool,
    /// It is in the cumulative total.
    pub cumulative: bool,
    /// The Guidelines do not say, and this is our choice: the one that does not make the total smaller.
    pub our_choice: bool,
    /// Why so.
    pub why: &'static str,
    /// Where it is written.
    pub citation: Citation,
}

/// One version of the Commission's Guidelines, as far as compute is concerned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guidelines {
    /// Short name, for flags and files: `2025-07-18`.
    pub version: &'static str,
    /// Title.
    pub title: &'static str,
    /// Reference.
    pub reference: &'static str,
    /// Date of the text.
    pub date: &'static str,
    /// Where it is.
    pub url: &'static str,
    /// What is to be known of this version.
    pub note: &'static str,
    /// Share of the base model's compute above which who modifies it becomes the provider of what results.
    pub modification: Fraction,
    /// FLOP above which a model is, by the indicative criterion, a general-purpose one.
    #[serde(serialize_with = "super::decimal")]
    pub general_purpose: u128,
    /// FLOP above which a model is presumed to have high-impact capabilities.
    #[serde(serialize_with = "super::decimal")]
    pub systemic_risk: u128,
    /// Error that an estimate may have, as a share of the reported value.
    pub margin: Fraction,
    /// Days in which a systemic-risk model has to be notified.
    pub notification_days: u32,
    /// What counts: one entry a kind.
    pub treatments: &'static [Treatment],
}

impl Guidelines {
    /// What becomes of a kind.
    ///
    /// # Panics
    /// Never: a version without an entry for every kind does not compile (see the check below the tables).
    #[must_use]
    pub fn treatment(&self, kind: Kind) -> &'static Treatment {
        &self.treatments[kind as usize]
    }
}

/// The version that reports are made by.
pub const CURRENT: &Guidelines = &GUIDELINES_2025_07_18;

/// Every version known here.
pub const ALL: [&Guidelines; 1] = [CURRENT];

/// The Guidelines as the Commission approved them.
static GUIDELINES_2025_07_18: Guidelines = Guidelines {
    version: "2025-07-18",
    title: "Guidelines on the scope of the obligations for providers of general-purpose AI models under the AI Act",
    reference: "C(2025) 5045 final, annex",
    date: "2025-07-18",
    url: "https://ec.europa.eu/newsroom/dae/redirection/document/118340",
    note: "Approved 18.7.2025, formally adopted 19.11.2025 as C(2025) 7719 final, with the same figures according to secondary sources; its text was not compared. \
           Non-binding, but the Commission bases its enforcement on them.",
    // Section 3.2, para 63 (60 in its own cross-references): "greater than a third".
    modification: Fraction { numerator: 1, denominator: 3 },
    // Para 17: "greater than 10^23 FLOP".
    general_purpose: 10u128.pow(23),
    // Article 51(2) of the Act: "greater than 10^25".
    systemic_risk: 10u128.pow(25),
    // Annex A.2, para 123 (120): "within an overall error margin of 30% of the reported estimate".
    margin: Fraction { numerator: 3, denominator: 10 },
    // Article 52(1) of the Act: "within two weeks".
    notification_days: 14,
    treatments: &TREATMENTS_2025_07_18,
};

/// Annex A.1, paras 118 to 122 (115 to 119), in the order of [`Kind`].
const TREATMENTS_2025_07_18: [Treatment; 12] = [
    Treatment {
        kind: Kind::Training,
        direct: true,
        cumulative: true,
        our_choice: false,
        why: "it contributes directly to updates of parameters",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::Recomputation,
        direct: false,
        cumulative: false,
        our_choice: false,
        why: "recomputation of activations to save memory need not be counted",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::Evaluation,
        direct: false,
        cumulative: false,
        our_choice: false,
        why: "pure diagnostics (evaluation, red-teaming) need not be counted",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::PrivateSyntheticData,
        direct: false,
        cumulative: true,
        our_choice: false,
        why: "generating synthetic data that is not public contributes to capabilities, discarded samples included; it updates no parameter",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::PublicSyntheticData,
        direct: false,
        cumulative: false,
        our_choice: false,
        why: "generating synthetic data that is publicly accessible need not be counted",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::MergedWeights,
        direct: true,
        cumulative: true,
        // Named for the cumulative quantity; for the direct one the text is silent.
        our_choice: true,
        why: "training of weights that were merged, averaged or started from counts in the cumulative total; in the direct one the Guidelines are \
              silent, and it is counted because those updates are in the model",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::Rollouts,
        direct: true,
        cumulative: true,
        our_choice: true,
        why: "generation for reinforcement learning counts in the cumulative total; in the direct one the Guidelines are silent, and it is counted \
              because each update is computed from it",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::LostSteps,
        direct: true,
        cumulative: true,
        our_choice: true,
        why: "the Guidelines are silent on steps that a crash or a restart undid; they were executed, and are counted once",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::DiscardedRun,
        direct: false,
        cumulative: false,
        our_choice: false,
        why: "exploratory research and failed experiments whose results are discarded need not be counted",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::AuxiliaryModel,
        direct: false,
        cumulative: false,
        our_choice: false,
        why: "training of auxiliary models (reward models, value functions) need not be counted",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::DistillationParent,
        direct: false,
        cumulative: false,
        our_choice: false,
        why: "training of the parent model of a distillation need not be counted",
        citation: guidelines("Annex A.1"),
    },
    Treatment {
        kind: Kind::Other,
        direct: true,
        cumulative: true,
        our_choice: true,
        why: "its use is not known, so it is counted",
        citation: guidelines("Annex A.1"),
    },
];

const _: () = {
    // Each kind's entry stands at its place, so that looking it up cannot miss.
    let mut i = 0;
    while i < Kind::ALL.len() {
        assert!(TREATMENTS_2025_07_18[i].kind as usize == i && Kind::ALL[i] as usize == i);
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_says_of_every_kind_what_becomes_of_it() {
        for version in ALL {
            assert_eq!(version.treatments.len(), Kind::ALL.len());
            for kind in Kind::ALL {
                assert_eq!(version.treatment(kind).kind, kind);
            }
        }
    }

    #[test]
    fn a_choice_of_ours_never_makes_a_total_smaller() {
        for version in ALL {
            for t in version.treatments.iter().filter(|t| t.our_choice) {
                assert!(t.direct && t.cumulative, "{:?}", t.kind);
            }
            // What updates parameters contributes to capabilities.
            assert!(version.treatments.iter().all(|t| t.cumulative || !t.direct));
        }
    }
}
