"""With the real torch, transformers and PEFT, on the CPU: what a Trainer's callback declares and counts, beside what there is."""

import json
import os
import sys
import tempfile
import unittest
import unittest.mock
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, Trainer, TrainingArguments  # noqa: E402

import flops_meter  # noqa: E402
from flopsprof import FlopsProfCallback  # noqa: E402
from flopsprof._state import State  # noqa: E402

transformers.logging.set_verbosity_error()
SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


class Library:
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *arguments: self.told.append((name, *json.loads(json.dumps(arguments)))) or True

    def last(self, kind):
        return [said[1] for said in self.told if said[0] == kind][-1]

    def all(self, kind):
        return [said[1] for said in self.told if said[0] == kind]


class Rows(torch.utils.data.Dataset):
    """Rows of 12 places; of row i, 3 to 12 are tokens. `classes`: with an answer a row instead of one a token."""

    def __init__(self, count, classes=0):
        self.count, self.classes = count, classes

    def __len__(self):
        return self.count

    def __getitem__(self, at):
        real = 3 + at % 10
        mask = torch.tensor([1] * real + [0] * (12 - real))
        labels = torch.tensor(at % self.classes) if self.classes else torch.where(mask > 0, torch.arange(12) + 1, -100)
        return {"input_ids": torch.arange(12) + 1, "attention_mask": mask, "labels": labels}

    def tokens(self):
        return sum(3 + at % 10 for at in range(self.count))


def llama(kind=LlamaForCausalLM, **more):
    torch.manual_seed(0)
    return kind(LlamaConfig(**SHAPE, pad_token_id=0, **more))


def numel(model, trained=False):
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


class Trained(unittest.TestCase):
    """What tests of trainings have in common."""

    def setUp(self):
        self.library = Library()
        self.account = State(self.library)
        self.callback = FlopsProfCallback(self.account)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def arguments(self, **more):
        common = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
        return TrainingArguments(output_dir=self.folder, **common | more)

    def train(self, model, rows, kind=Trainer, evaluated=None, resume=None, **more):
        trainer = kind(model=model, args=self.arguments(**more), train_dataset=rows, eval_dataset=evaluated, callbacks=[self.callback])
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    def phases(self):
        return self.library.last("declare_work")["phases"]


class Callback(Trained):
    def test_padded_rows_accumulated_and_evaluated(self):
        model, rows, others = llama(), Rows(24), Rows(10)
        more = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 5}
        trainer = self.train(model, rows, evaluated=others, **more)
        train, evaluation = self.phases()["train"], self.phases()["evaluate"]
        self.assertEqual(trainer.state.global_step, 3)
        self.assertEqual((train["batches"], train["steps"], train["executed"], train["backward"]), (6, 3, [[24, 12, 0]], True))
        self.assertEqual(train["masked"], train["executed"], "each batch has a row with pads")
        self.assertEqual(sum(n * length for n, length, _ in train["documents"]), rows.tokens())
        self.assertEqual(sum(self.library.all("add_tokens")), rows.tokens(), "evaluation adds no tokens")
        self.assertEqual((evaluation["batches"], evaluation["executed"], evaluation["backward"]), (4, [[20, 12, 0]], False), "after step 2 and in the end")
        self.assertEqual(sum(n * length for n, length, _ in evaluation["documents"]), 2 * others.tokens())
        self.assertEqual(self.library.all("mark_phase"), ["train", "evaluate", "train", "evaluate", "train", "other"])
        said = self.library.last("declare_model")
        self.assertEqual(said["parameters"], {"total": numel(model), "trainable": numel(model)})
        self.assertEqual((said["method"]["kind"], said["config"]["model_type"], said["attention"], said["gradient_checkpointing"]), ("full", "llama", "sdpa", False))
        self.assertEqual(self.callback.tokens(), (rows.tokens(), 24 * 12))

    def test_adapters_by_peft(self):
        import peft

        model = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], rank_pattern={"layers.1.self_attn.v_proj": 2}))
        rows = Rows(8)
        self.train(model, rows, gradient_checkpointing=True)
        said = self.library.last("declare_model")
        # r (inputs + outputs) of each: queries 16 to 16, values 16 to 8.
        self.assertEqual(said["parameters"]["trainable"], 2 * 4 * (16 + 16) + (4 + 2) * (16 + 8))
        self.assertEqual(said["parameters"], {"total": numel(model), "trainable": numel(model, trained=True)})
        self.assertEqual((said["method"]["kind"], said["method"]["rank"], said["method"]["targets"]), ("lora", 4, ["q_proj", "v_proj"]))
        self.assertEqual(said["method"]["ranks"], {"model.layers.1.self_attn.v_proj": 2})
        self.assertEqual((said["gradient_checkpointing"], said["config"]["architectures"]), (True, ["LlamaForCausalLM"]))
        # Layers that are computed again are no batches more.
        self.assertEqual((self.phases()["train"]["batches"], self.callback.tokens()[0]), (2, rows.tokens()))

    def test_layers_that_are_computed_again_are_declared_without_a_warning(self):
        """Whatever the arguments call it, or where the model alone knows. A program may have made warnings errors."""
        by_model = llama()
        by_model.model.gradient_checkpointing = True
        for model, arguments in ((llama(), {"gradient_checkpointing": True}), (llama(), {"activation_checkpointing": True}), (by_model, {})):
            if not all(hasattr(TrainingArguments, name) for name in arguments):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                args = self.arguments(**arguments)
                warnings.simplefilter("error", FutureWarning)
                self.callback.on_train_begin(args, transformers.TrainerState(), transformers.TrainerControl(), model=model)
            self.callback.detach()
            self.assertTrue(self.library.last("declare_model")["gradient_checkpointing"], arguments)

    def test_some_layers_are_frozen(self):
        model = llama()
        for parameter in model.model.layers[0].parameters():
            parameter.requires_grad = False
        self.train(model, Rows(4))
        said = self.library.last("declare_model")
        self.assertEqual(said["parameters"], {"total": numel(model), "trainable": numel(model, trained=True)})
        self.assertEqual(said["method"]["kind"], "frozen")
        self.assertIn("model.layers.1.mlp.down_proj.weight", said["method"]["trained"])
        self.assertNotIn("model.layers.0.mlp.down_proj.weight", said["method"]["trained"])

    def test_the_head_that_a_checkpoint_had_is_not_declared(self):
        """A language model that is loaded as a classifier: its configuration's `architectures` still names the language model."""
        saved = os.path.join(self.folder, "saved")
        llama().save_pretrained(saved)
        with open(os.path.join(saved, "config.json")) as file:
            self.assertEqual(json.load(file)["architectures"], ["LlamaForCausalLM"])
        model = LlamaForSequenceClassification.from_pretrained(saved, num_labels=3)
        rows = Rows(8, classes=3)
        self.train(model, rows)
        said = self.library.last("declare_model")
        self.assertEqual(said["config"]["architectures"], ["LlamaForSequenceClassification"])
        # No head of 64 words: one of 3 classes.
        self.assertEqual(said["parameters"]["total"], numel(model))
        self.assertEqual(numel(llama()) - numel(model), (64 - 3) * 16)
        self.assertEqual(self.callback.tokens()[0], rows.tokens())

    def test_passes_without_gradients_are_a_phase_of_their_own(self):
        class WithReference(Trainer):
            """As preference training does: half of the passes train nothing."""

            def compute_loss(self, model, inputs, **kwargs):
                with torch.no_grad():
                    model(**inputs)
                return super().compute_loss(model, inputs, **kwargs)

        rows = Rows(8)
        self.train(llama(), rows, kind=WithReference)
        phases = self.phases()
        for name, backward in (("train", True), ("inference", False)):
            self.assertEqual((phases[name]["batches"], phases[name]["executed"], phases[name]["backward"]), (2, [[8, 12, 0]], backward), name)
        self.assertEqual(self.callback.tokens()[0], rows.tokens())
        self.assertEqual(sum(self.library.all("add_tokens")), rows.tokens())

    def test_what_no_configuration_says_is_told(self):
        """Copies in the place of frozen modules, a head that is tied no more, how layers are checkpointed, and where gradients flow."""
        import peft

        base = llama(tie_word_embeddings=True)
        model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], bias="all"))
        self.train(model, Rows(4), gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})
        said = self.library.last("declare_model")
        self.assertEqual((said["reentrant"], said["input_gradients"], said["method"]["also"]), (True, True, ["lm_head"]))
        self.assertEqual((said["config"]["tie_word_embeddings"], said["parameters"]), (True, {"total": numel(model), "trainable": numel(model, trained=True)}))
        self.assertNotIn("experts_apart", said)
        # As transformers 5 loads a T5 that was published with a head of its own, whose configuration it says is tied.
        untied = llama(tie_word_embeddings=True)
        untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
        self.train(untied, Rows(4))
        said = self.library.last("declare_model")
        self.assertEqual((said["config"]["tie_word_embeddings"], said.get("reentrant"), said["input_gradients"]), (False, None, False))

    def test_a_resumed_training_goes_on_counting(self):
        rows = Rows(24)
        self.train(llama(), rows, max_steps=3, save_strategy="steps", save_steps=3)
        half = self.callback.tokens()
        with open(os.path.join(self.folder, "checkpoint-3", "trainer_state.json")) as file:
            kept = json.load(file)["stateful_callbacks"]["FlopsProfCallback"]["attributes"]["earlier"]
        self.assertEqual((kept["tokens"], kept["steps"]), (half[0], 3))
        # As in a process of its own.
        self.account = State(Library())
        self.callback = FlopsProfCallback(self.account)
        trainer = self.train(llama(), rows, max_steps=6, save_strategy="steps", save_steps=3, resume=os.path.join(self.folder, "checkpoint-3"))
        self.assertEqual(trainer.state.global_step, 6)
        self.assertEqual(self.callback.tokens(), (rows.tokens(), 24 * 12))
        self.assertEqual(self.account.tokens()[0], rows.tokens() - half[0], "what this part executed")

    def test_a_batch_is_cut_to_its_longest_row(self):
        """As the collators of transformers do it: rows of a batch are as long as its longest."""

        def collate(rows):
            longest = max(int(row["attention_mask"].sum()) for row in rows)
            return {key: torch.stack([row[key][:longest] for row in rows]) for key in rows[0]}

        rows = Rows(12)
        trainer = Trainer(model=llama(), args=self.arguments(), train_dataset=rows, data_collator=collate, callbacks=[self.callback])
        trainer.get_train_dataloader()
        lengths = []
        trainer.model.register_forward_pre_hook(lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
        trainer.train()
        executed = {length: 4 * lengths.count(length) for length in lengths}
        self.assertEqual({length: n for n, length, _ in self.phases()["train"]["executed"]}, executed)
        self.assertEqual(self.callback.tokens(), (rows.tokens(), sum(n * length for length, n in executed.items())))


class DropIn(Trained):
    """The names of the AWS toolkit, as its sft.py uses them."""

    def test_the_file_has_true_counts_in_the_end(self):
        import peft

        model, rows = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=["q_proj"])), Rows(24)
        path = os.path.join(self.folder, "meter.json")
        with unittest.mock.patch.dict(os.environ, {"FLOPS_METER_OUT": path, "PRETRAIN_FLOPS": "1.5e10"}):
            self.callback = flops_meter.FlopsMeterCallback(n_total=7, n_trainable=7, account=self.account)
            self.train(model, rows, kind=flops_meter.TokenCountingTrainer, save_strategy="steps", save_steps=4)
            self.callback.finish()
        with open(path) as file:
            said = json.load(file)
        self.assertEqual((said["N_total"], said["N_trainable"], said["tokens_processed"]), (numel(model), numel(model, trained=True), rows.tokens()))
        self.assertEqual((said["flopsprof"]["padded_tokens"], said["flopsprof"]["missing"]), (24 * 12, []))
        flop = (4 * numel(model) + 2 * numel(model, trained=True)) * rows.tokens()
        self.assertEqual((said["flopsprof"]["flop"], said["exceeds_30pct"]), (flop, flop > 1.5e10 / 3))

    def test_a_broken_checkpoint_is_refused_by_its_field(self):
        self.callback = flops_meter.FlopsMeterCallback(account=self.account)
        with unittest.mock.patch.dict(os.environ, {"FLOPS_METER_OUT": os.path.join(self.folder, "meter.json")}):
            self.train(llama(), Rows(8), kind=flops_meter.TokenCountingTrainer, save_strategy="steps", save_steps=1)
            self.callback.finish()
            checkpoint = os.path.join(self.folder, "checkpoint-1")
            state = os.path.join(checkpoint, "trainer_state.json")
            with open(state) as file:
                text = file.read()
            broken = {"not JSON": text[:200], "earlier.tokens is 'many'": text.replace('"tokens": ', '"tokens": "many", "_": ')}
            for words, content in broken.items():
                with open(state, "w") as file:
                    file.write(content)
                with self.assertRaisesRegex(ValueError, words):
                    self.train(llama(), Rows(8), kind=flops_meter.TokenCountingTrainer, resume=checkpoint)
            os.remove(state)
            before = sorted(os.walk(self.folder))
            with self.assertRaisesRegex(FileNotFoundError, "trainer_state.json is missing.*resume from another"):
                self.train(llama(), Rows(8), kind=flops_meter.TokenCountingTrainer, resume=checkpoint)
            # transformers' own Trainer ends in its own error before it calls a callback again: what its arguments name is looked at when it is made.
            with self.assertWarnsRegex(UserWarning, "trainer_state.json is missing.*resume from another"):
                Trainer(model=llama(), args=self.arguments(resume_from_checkpoint=checkpoint), train_dataset=Rows(8), callbacks=[FlopsProfCallback(self.account)])
            self.assertEqual(sorted(os.walk(self.folder)), before, "refused before anything is written")


if __name__ == "__main__":
    unittest.main()
