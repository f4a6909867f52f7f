"""With the real TRL, on the CPU: rows that are packed, and preference training, which asks the model for a reference that trains nothing."""

import os
import random
import sys
import tempfile
import unittest
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

import datasets  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from test_trainer import Library, llama, numel  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer  # noqa: E402

import flops_meter  # noqa: E402
from flopsprof import FlopsProfCallback  # noqa: E402
from flopsprof._state import State  # noqa: E402

WORDS = [f"w{i}" for i in range(50)]
datasets.disable_progress_bars()


def tokenizer():
    """A word a token."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    pieces = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


def text(chosen, least, most):
    return " ".join(chosen.choice(WORDS) for _ in range(chosen.randint(least, most)))


class Trl(unittest.TestCase):
    def setUp(self):
        self.library = Library()
        self.account = State(self.library)
        self.callback = FlopsProfCallback(self.account)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        transformers.logging.set_verbosity_error()
        caught = warnings.catch_warnings()
        caught.__enter__()
        self.addCleanup(caught.__exit__, None, None, None)
        warnings.simplefilter("ignore")

    def arguments(self, kind, **more):
        common = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
        return kind(output_dir=self.folder, **common | more)

    def phases(self):
        return self.library.last("declare_work")["phases"]

    def fine_tuned(self, **more):
        chosen = random.Random(1)
        texts = [text(chosen, 3, 12) for _ in range(24)]
        # An end each.
        tokens = sum(len(t.split()) + 1 for t in texts)
        kind = flops_meter.TokenCountingSFTTrainer
        self.assertTrue(issubclass(kind, SFTTrainer))
        lora = peft.LoraConfig(r=4, target_modules=["q_proj"])
        rows = datasets.Dataset.from_dict({"text": texts})
        trainer = kind(model=llama(), args=self.arguments(SFTConfig, max_length=32, **more), train_dataset=rows, processing_class=tokenizer(), peft_config=lora, callbacks=[self.callback])
        trainer.train()
        self.assertEqual(sum(self.library.all("add_tokens")), tokens)
        # Adapters were put in by the trainer, after it was given the callback.
        said = self.library.last("declare_model")
        self.assertEqual((said["method"]["kind"], said["parameters"]), ("lora", {"total": numel(trainer.model), "trainable": 2 * 4 * 32}))
        return tokens, self.phases()["train"]

    def test_padded_rows(self):
        tokens, train = self.fine_tuned()
        self.assertEqual(sum(n * length for n, length, _ in train["documents"]), tokens)
        self.assertGreater(sum(n * length for n, length, _ in train["executed"]), tokens)

    def test_packed_rows(self):
        tokens, train = self.fine_tuned(packing=True)
        self.assertEqual(sum(n for n, _, _ in train["documents"]), 24)
        self.assertTrue(train["by_document"])

    def test_preference_training_with_adapters(self):
        chosen = random.Random(2)
        pairs = [{"prompt": text(chosen, 2, 4), "chosen": " " + text(chosen, 2, 8), "rejected": " " + text(chosen, 2, 8)} for _ in range(8)]
        lora = peft.LoraConfig(r=4, target_modules=["q_proj"])
        args = self.arguments(DPOConfig, max_length=32)
        trainer = DPOTrainer(model=llama(), args=args, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer(), peft_config=lora, callbacks=[self.callback])
        trainer.train()
        phases = self.phases()
        # A prompt and each of its answers, with an end.
        tokens = sum(2 * len(p["prompt"].split()) + len(p["chosen"].split()) + len(p["rejected"].split()) + 2 for p in pairs)
        self.assertEqual(sum(self.library.all("add_tokens")), tokens)
        self.assertEqual(phases["train"]["executed"], phases["inference"]["executed"], "the reference, with the adapters off, is of the same rows")
        self.assertEqual((phases["train"]["backward"], phases["inference"]["backward"]), (True, False))


if __name__ == "__main__":
    unittest.main()
