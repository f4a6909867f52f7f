"""The AWS toolkit's sft.py, unchanged, with flopsprof's flops_meter.py in the place of its own: what each says of the same trainings.

    pip install transformers==4.57.0 trl==0.21.0 peft==0.17.0 accelerate==1.11.0 datasets==4.0.0 mlflow soundfile Pillow boto3 nvidia-ml-py torch
    python3 python/tests/toolkit.py amazon-sagemaker-generativeai/0_model_customization_recipes/supervised_finetuning/sagemaker_code

A model of two layers and 180 rows, on the CPU. A line each: whose meter, which training, tokens, trained parameters, and the tokens that there are. Exit status 1 if ours is not the truth.
Recorded in toolkit.txt.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

PYTHON = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
RECIPE = """
model_name_or_path: {folder}/model
tokenizer_name_or_path: {folder}/model
model_revision: main
torch_dtype: float32
attn_implementation: sdpa
bf16: false
use_cpu: true
output_dir: {folder}/out
dataset_id_or_path: {folder}/data.jsonl
max_seq_length: 256
lora_target_modules: ["q_proj", "k_proj", "v_proj", "o_proj"]
lora_r: 16
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
gradient_checkpointing: true
report_to: none
save_strategy: epoch
seed: 42
compute_flops: true
run_evaluation: false
"""
#: Name, lines of the recipe, how often every row is trained on; the last resumes the one before it.
TRAININGS = (
    ("full", "use_peft: false", 1),
    ("packed", "use_peft: true\npacking: true", 1),
    ("padding-free", "use_peft: true\npadding_free: true", 1),
    ("lora", "use_peft: true", 1),
    ("lora, resumed", "use_peft: true", 2),
)


def made_up(folder):
    """Writes a model, its tokenizer and rows of text; returns the tokens of the rows that sft.py trains on, an end each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    chosen = random.Random(1)
    words = "the model trains on tokens and counts what the hardware executes in floating point operations per second of time".split()
    texts = [" ".join(chosen.choice(words) for _ in range(chosen.randint(5, 60))) for _ in range(200)]
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    pieces.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=3, **shape))
    for saved in (tokenizer, model):
        saved.save_pretrained(os.path.join(folder, "model"))
    with open(os.path.join(folder, "data.jsonl"), "w") as f:
        f.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts[:180])


def main():
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        code = shutil.copytree(sys.argv[1], os.path.join(folder, "code"))
        tokens = made_up(folder)
        for whose in ("theirs", "ours"):
            if whose == "ours":
                shutil.copy(os.path.join(PYTHON, "flops_meter.py"), os.path.join(code, "utils", "flops_meter.py"))
            for name, lines, epochs in TRAININGS:
                if epochs == 1:
                    shutil.rmtree(os.path.join(folder, "out"), ignore_errors=True)
                recipe, meter = os.path.join(folder, "recipe.yaml"), os.path.join(folder, "meter.json")
                with open(recipe, "w") as f:
                    f.write(RECIPE.format(folder=folder) + f"{lines}\nnum_train_epochs: {epochs}\n")
                env = os.environ | {"PYTHONPATH": PYTHON, "SM_MODEL_DIR": os.path.join(folder, "saved"), "FLOPS_METER_OUT": meter, "PRETRAIN_FLOPS": "1.5e10"}
                done = subprocess.run([sys.executable, "sft.py", "--config", recipe], cwd=code, env=env, capture_output=True, text=True)
                if done.returncode != 0:
                    sys.exit(f"{whose}, {name}: {done.stderr[-2000:]}")
                with open(meter) as f:
                    said = json.load(f)
                print(json.dumps({"whose": whose, "training": name, **{k: said[k] for k in ("tokens_processed", "N_trainable", "pct_of_pretrain")}, "true_tokens": tokens * epochs}), flush=True)
                wrong += whose == "ours" and (said["tokens_processed"] != tokens * epochs or said["recipe_config_details"]["num_train_epochs"] != epochs)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
