"""With the real transformers and PEFT, on the CPU: what people do with a trainer, its model and its callbacks stays possible with ours, and counts no batch twice and none too few."""

import copy
import os
import pickle
import sys
import unittest
import unittest.mock
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from test_trainer import Rows, Trained, llama  # noqa: E402
from transformers import BertConfig, BertForMultipleChoice, DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration, Trainer, TrainerCallback  # noqa: E402

import flops_meter  # noqa: E402
import flopsprof  # noqa: E402
from flopsprof import FlopsProfCallback  # noqa: E402
from flopsprof._state import State  # noqa: E402

LORA = {"r": 4, "target_modules": ["q_proj"]}


class Host(Trained):
    def told(self):
        return sum(self.library.all("add_tokens"))

    def test_a_model_that_is_trained_again_is_counted_once_each_time(self):
        """As in a notebook: a trainer and a callback for each training, of one model, and of that model with adapters."""
        model, rows = llama(), Rows(24)
        for trained in (model, model, peft.get_peft_model(model, peft.LoraConfig(**LORA))):
            before = self.told()
            self.callback = FlopsProfCallback(self.account)
            self.train(trained, rows)
            self.assertEqual((self.callback.tokens(), self.told() - before), ((rows.tokens(), 24 * 12), rows.tokens()))
        self.assertEqual(self.phases()["train"]["steps"], 18)

    def test_of_several_callbacks_one_counts(self):
        rows, saves = Rows(24), {"save_strategy": "steps", "save_steps": 4}
        some = lambda: [FlopsProfCallback(self.account), FlopsProfCallback(self.account), flops_meter.FlopsMeterCallback(account=self.account)]
        with unittest.mock.patch.dict(os.environ, {"FLOPS_METER_OUT": os.path.join(self.folder, "meter.json")}), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            callbacks = some()
            Trainer(model=llama(), args=self.arguments(**saves), train_dataset=rows, callbacks=callbacks).train()
            self.assertEqual([callback.tokens()[0] for callback in callbacks], [rows.tokens()] * 3)
            self.assertEqual((self.told(), self.phases()["train"]["steps"]), (rows.tokens(), 6))
            # Of callbacks of one name transformers keeps a list, whose first is of the beginning.
            callbacks = some()
            again = Trainer(model=llama(), args=self.arguments(num_train_epochs=2), train_dataset=rows, callbacks=callbacks)
            again.train(resume_from_checkpoint=os.path.join(self.folder, "checkpoint-4"))
            self.assertEqual([callback.tokens()[0] for callback in callbacks], [2 * rows.tokens()] * 3)

    def test_trainers_models_and_callbacks_are_copied_and_saved(self):
        rows = Rows(8)
        trainer = self.train(llama(), rows)
        copied = copy.deepcopy(trainer)
        pickle.loads(pickle.dumps(self.callback))
        path = os.path.join(self.folder, "model.pt")
        torch.save(trainer.model, path)
        before = self.account.work()
        for model in (copy.deepcopy(trainer.model), torch.load(path, weights_only=False)):
            model(input_ids=torch.ones(2, 8, dtype=torch.long))
        self.assertEqual(self.account.work(), before, "a copy is not the model that is trained")
        # It can be loaded where there is no flopsprof.
        with open(path, "rb") as saved:
            self.assertNotIn(b"flopsprof", saved.read())
        copied.train()
        self.assertEqual(self.told(), 2 * rows.tokens())

    def test_warnings_that_are_errors_end_no_training(self):
        class Unknown(torch.nn.Module):
            config = None

            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(12, 1)

            def forward(self, features=None, labels=None):
                return {"loss": self.layer(features).mean()}

        rows = [{"features": torch.ones(12), "labels": torch.tensor(1)}] * 8
        with warnings.catch_warnings(), unittest.mock.patch("sys.stderr") as stderr:
            warnings.simplefilter("error", UserWarning)
            trainer = self.train(Unknown(), rows)
        self.assertEqual(trainer.state.global_step, 2)
        self.assertIn("tokens are not counted", "".join(str(call) for call in stderr.write.mock_calls))

    def test_what_goes_wrong_in_the_callback_ends_no_training(self):
        model, rows = llama(), Rows(8)
        model.config.to_dict = lambda: 1 / 0
        with self.assertWarnsRegex(UserWarning, "not declared: ZeroDivisionError"):
            self.train(model, rows)
        self.assertEqual(self.callback.tokens()[0], rows.tokens())
        with self.assertWarnsRegex(UserWarning, "on_step_end: ZeroDivisionError"), unittest.mock.patch.object(self.account, "step", lambda: 1 / 0):
            self.train(llama(), rows)

    def test_saving_after_an_epoch_is_no_training(self):
        self.train(llama(), Rows(8), num_train_epochs=2, save_strategy="epoch")
        self.assertEqual(self.library.all("mark_phase"), ["train", "checkpoint", "train", "checkpoint", "train", "other"])

    def test_batches_are_read_by_the_names_of_the_models_forward(self):
        class ByPosition(Trainer):
            def compute_loss(self, model, inputs, **kwargs):
                return model(inputs["input_ids"], inputs["attention_mask"], labels=inputs["labels"]).loss

        class Whole(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = llama()
                self.config = self.inner.config

            def forward(self, batch):
                return self.inner(**batch)

        class AsAWhole(Trainer):
            def compute_loss(self, model, inputs, **kwargs):
                return model(inputs).loss

        rows = Rows(8)
        for model, kind in ((llama(), ByPosition), (Whole(), AsAWhole)):
            self.callback = FlopsProfCallback(self.account)
            self.train(model, rows, kind=kind, remove_unused_columns=False)
            self.assertEqual(self.callback.tokens(), (rows.tokens(), 8 * 12), kind)

    def test_each_answer_that_may_be_chosen_is_a_row(self):
        class Questions(Rows):
            """Of each row four."""

            def __getitem__(self, at):
                row = super().__getitem__(at)
                return {name: torch.stack([row[name]] * 4) for name in ("input_ids", "attention_mask")} | {"labels": torch.tensor(1)}

        rows = Questions(8)
        self.train(BertForMultipleChoice(BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)), rows)
        self.assertEqual((self.callback.tokens(), self.phases()["train"]["executed"]), ((4 * rows.tokens(), 4 * 8 * 12), [[32, 12, 0]]))

    def test_what_a_model_without_its_head_is_given_counts(self):
        """As TRL's trainers call it with Liger's losses: the head is in the loss."""
        class WithoutHead(Trainer):
            def compute_loss(self, model, inputs, **more):
                model = self.accelerator.unwrap_model(model)
                inner = model.base_model.model if isinstance(model, peft.PeftModel) else model
                hidden = inner.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
                return torch.nn.functional.cross_entropy(inner.lm_head(hidden).flatten(0, 1), inputs["labels"].flatten())

        for adapters in (False, True):
            rows, before = Rows(8), self.told()
            model = peft.get_peft_model(llama(), peft.LoraConfig(**LORA)) if adapters else llama()
            self.callback = FlopsProfCallback(self.account)
            WithoutHead(model=model, args=self.arguments(), train_dataset=rows, callbacks=[self.callback]).train()
            self.assertEqual((self.callback.tokens(), self.told() - before), ((rows.tokens(), 8 * 12), rows.tokens()), adapters)
            # The whole, the one that is adapted and the one without a head: each call is one.
            inner = model.get_base_model() if adapters else model
            of_each = [self.forwards(each) for each in (model, inner, inner.model)]
            self.assertEqual(of_each, [1] * 3, adapters)

    def forwards(self, model):
        """How many batches a forward of this one is."""
        before = sum(phase["batches"] for phase in self.account.work()["phases"].values())
        model(input_ids=torch.ones(2, 8, dtype=torch.long))
        return sum(phase["batches"] for phase in self.account.work()["phases"].values()) - before

    def test_compiled_models_stay_whole(self):
        rows, compiled = Rows(8), {"backend": "eager", "fullgraph": True}
        inner = lambda adapters: peft.get_peft_model(llama(), peft.LoraConfig(**LORA)) if adapters else llama()
        for adapters in (False, True):
            for wrapped in (False, True):
                torch._dynamo.reset()
                model = inner(adapters)
                model = torch.compile(model, **compiled) if wrapped else model.compile(**compiled) or model
                self.callback = FlopsProfCallback(self.account)
                self.train(model, rows, remove_unused_columns=False)
                self.assertEqual(self.callback.tokens(), (rows.tokens(), 8 * 12), (adapters, wrapped))

    def test_what_is_generated_costs_as_one_pass_over_it(self):
        class Generates(TrainerCallback):
            def on_step_end(self, args, state, control, model=None, **kwargs):
                prompts = torch.tensor([[0, 0, 5, 6], [4, 5, 6, 7]])
                model.generate(input_ids=prompts, attention_mask=(prompts > 0).long(), max_new_tokens=6, min_new_tokens=6, do_sample=False)

        rows = Rows(8)
        for adapters in (False, True):
            model = peft.get_peft_model(llama(), peft.LoraConfig(**LORA)) if adapters else llama()
            self.account = State(self.library)
            self.callback = FlopsProfCallback(self.account)
            Trainer(model=model, args=self.arguments(), train_dataset=rows, callbacks=[self.callback, Generates()]).train()
            phases = self.phases()
            generated = phases["evaluate" if "evaluate" in phases else "inference"]
            # Two steps. The last token of six is made and not read.
            self.assertEqual((generated["executed"], generated["documents"]), ([[4, 9, 0]], [[2, 7, 0], [2, 9, 0]]), adapters)
            self.assertEqual((self.callback.tokens(), generated["batches"]), ((rows.tokens(), 8 * 12), 12))


class Seq2Seq(Trained):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, at):
            return {"input_ids": [5] * (3 + at % 4), "attention_mask": [1] * (3 + at % 4), "labels": [6] * (2 + at % 3)}

    def trained(self, **more):
        from test_trl import tokenizer

        torch.manual_seed(0)
        model = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0, pad_token_id=3, eos_token_id=2))
        common = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "num_train_epochs": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
        args = Seq2SeqTrainingArguments(output_dir=self.folder, **common | more)
        # The collator has the model make the decoder's inputs of labels, and fills them up with pads.
        parts = {"data_collator": DataCollatorForSeq2Seq(tokenizer(), model=model), "compute_metrics": lambda predicted: {"score": 1.0}}
        Seq2SeqTrainer(model=model, args=args, train_dataset=self.Rows(), eval_dataset=self.Rows(), callbacks=[self.callback], **parts).train()
        return self.phases()

    def test_a_decoders_pads_are_no_tokens(self):
        phases = self.trained()
        self.assertEqual(sum(n * decoder for n, _, decoder in phases["train"]["documents"]), sum(2 + at % 3 for at in range(8)))
        self.assertEqual(self.callback.tokens()[0], sum(3 + at % 4 + 2 + at % 3 for at in range(8)))

    def test_an_encoder_runs_once_for_what_its_decoder_generates(self):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="flopsprof")
            phases = self.trained(predict_with_generate=True, eval_strategy="epoch", generation_max_length=6)
        # Eight rows are generated from, five tokens each, and eight are evaluated with their labels.
        executed = phases["evaluate"]["executed"]
        self.assertEqual(sum(n for n, _, _ in executed), 16)
        self.assertIn([8, 6, 5], executed)


class Functions(unittest.TestCase):
    """For people without a Trainer."""

    def setUp(self):
        flopsprof.reset()
        self.addCleanup(flopsprof.reset)

    def test_a_program_trains_on_after_it_has_evaluated(self):
        flopsprof.declare(llama())
        rows = torch.ones(2, 8, dtype=torch.long)
        for _ in range(2):
            flopsprof.batch(rows)
            flopsprof.step()
            with flopsprof.phase("evaluate"):
                flopsprof.batch(rows)
        flopsprof.batch(rows)
        self.assertEqual(flopsprof.tokens(), (48, 48))
        self.assertEqual(sorted(flopsprof.work()["phases"]), ["evaluate", "train"])


class Bounds(unittest.TestCase):
    def test_bounds_of_documents_that_lie_on_a_gpu_are_not_waited_for(self):
        class OnGpu(torch.Tensor):
            is_cuda = True

            def tolist(self):
                raise AssertionError("the step waits for the GPU")

            def to(self, *_, **__):
                return self.as_subclass(torch.Tensor)

        class Quiet:
            def __getattr__(self, _):
                return lambda *_: None

        state = State(Quiet())
        bounds = torch.tensor([0, 3, 8], dtype=torch.int32).as_subclass(OnGpu)
        with unittest.mock.patch("torch.cuda.Event", unittest.mock.MagicMock()), unittest.mock.patch("torch.cuda.current_stream", unittest.mock.MagicMock()):
            state.look({"input_ids": torch.ones(1, 8, dtype=torch.long), "cu_seq_lens_q": bounds}, "flash_attention_2", phase="train")
            rows = state.work()["phases"]["train"]
        self.assertEqual(rows["documents"], [[1, 3, 0], [1, 5, 0]])


if __name__ == "__main__":
    unittest.main()
