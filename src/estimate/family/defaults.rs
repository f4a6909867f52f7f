//! What a `text_config` leaves out: transformers writes of a configuration inside another one what differs from its class's defaults, and no more.
//!
//! A configuration by itself has all its fields, and one that is missing there is a mistake. Head widths and switches stand in `decoder`'s styles.

/// The numbers of transformers' classes, by `model_type`.
pub(super) fn of(model_type: &str) -> &'static [(&'static str, u64)] {
    match model_type {
        "llama" => &[
            ("vocab_size", 32_000),
            ("hidden_size", 4096),
            ("intermediate_size", 11_008),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 32),
        ],
        "mistral" => &[
            ("vocab_size", 32_000),
            ("hidden_size", 4096),
            ("intermediate_size", 14_336),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 32),
            ("num_key_value_heads", 8),
            ("sliding_window", 4096),
        ],
        "qwen2" | "qwen3" => &[
            ("vocab_size", 151_936),
            ("hidden_size", 4096),
            ("intermediate_size", 22_016),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 32),
            ("num_key_value_heads", 32),
            ("sliding_window", 4096),
        ],
        "gemma" => &[
            ("vocab_size", 256_000),
            ("hidden_size", 3072),
            ("intermediate_size", 24_576),
            ("num_hidden_layers", 28),
            ("num_attention_heads", 16),
            ("num_key_value_heads", 16),
        ],
        "gemma2" => &[
            ("vocab_size", 256_000),
            ("hidden_size", 2304),
            ("intermediate_size", 9216),
            ("num_hidden_layers", 26),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("sliding_window", 4096),
        ],
        "gemma3" | "gemma3_text" => &[
            ("vocab_size", 262_208),
            ("hidden_size", 2304),
            ("intermediate_size", 9216),
            ("num_hidden_layers", 26),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("sliding_window", 4096),
        ],
        "phi" => &[
            ("vocab_size", 51_200),
            ("hidden_size", 2048),
            ("intermediate_size", 8192),
            ("num_hidden_layers", 24),
            ("num_attention_heads", 32),
        ],
        "phi3" => &[
            ("vocab_size", 32_064),
            ("hidden_size", 3072),
            ("intermediate_size", 8192),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 32),
        ],
        "mixtral" => &[
            ("vocab_size", 32_000),
            ("hidden_size", 4096),
            ("intermediate_size", 14_336),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 32),
            ("num_key_value_heads", 8),
            ("num_local_experts", 8),
            ("num_experts_per_tok", 2),
        ],
        _ => &[],
    }
}
