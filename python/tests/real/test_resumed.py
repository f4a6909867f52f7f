"""Trainings of two ranks by the real transformers, on the CPU: stopped, resumed elsewhere, with ranks that do not save, from broken checkpoints. What flops_meter.json says beside the tokens
that there are.

Ranks are forked from a process that has imported everything, and find each other as torchrun's do. Before, when ranks were asked for their counts at each save, the training in which one rank
saves nothing hung.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import transformers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments  # noqa: E402

import flops_meter  # noqa: E402

#: How long a training of two ranks may take: seconds, where it takes three.
PATIENCE = 120


class Rows(torch.utils.data.Dataset):
    """48 rows of 12 places; of row i, 3 to 12 are tokens."""

    def __len__(self):
        return 48

    def __getitem__(self, at):
        real = 3 + at % 10
        mask = torch.tensor([1] * real + [0] * (12 - real))
        return {"input_ids": torch.arange(12) + 1, "attention_mask": mask, "labels": torch.where(mask > 0, torch.arange(12) + 1, -100)}


TOKENS = sum(3 + i % 10 for i in range(48))


def train(case):
    """What each rank of a case runs."""

    class Meter(flops_meter.FlopsMeterCallback):
        def on_save(self, *arguments, **more):
            if not (case.get("silent") and dist.get_rank() == 1):
                super().on_save(*arguments, **more)

    Meter.__name__ = "FlopsMeterCallback"
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2))
    # 12 steps of two rows a rank.
    common = {"per_device_train_batch_size": 2, "max_steps": 12, "save_steps": 4, "report_to": "none", "use_cpu": True, "ddp_backend": "gloo", "disable_tqdm": True}
    args = TrainingArguments(output_dir=case["out"], **common, **case.get("arguments", {}))
    meter = Meter()
    trainer = flops_meter.TokenCountingTrainer(model=model, args=args, train_dataset=Rows(), callbacks=[meter])
    trainer.train(resume_from_checkpoint=case.get("resume"))
    # As at the end of a program: its last look.
    meter.finish()


def rank(case, number, port, log):
    """A rank, in a process of its own, which ends here."""
    status = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        launched = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in launched.items()}, FLOPS_METER_OUT=case["meter"])
        os.chdir(case["folder"])
        train(case)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        # What the interpreter does at its end is the test's own; and torch 2.11 may hang where a DDP reducer and its gloo threads are taken down.
        os._exit(status)


class Resumed(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.out, self.elsewhere, self.meter = (self.at(name) for name in ("out", "elsewhere", "meter.json"))

    def at(self, *names):
        return os.path.join(self.folder, *names)

    def ranks(self, **case):
        """Trains with two ranks; returns whether both ended well, what the file says, if there is one, and what they said."""
        case = {"out": self.out, "meter": self.meter, "folder": self.folder} | case
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.meter)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        logs = [open(self.at(f"rank-{number}"), "w+") for number in range(2)]
        children = []
        for number, log in enumerate(logs):
            child = os.fork()
            if child == 0:
                rank(case, number, port, log.fileno())
            children.append(child)
        left, until, well = set(children), time.monotonic() + PATIENCE, True
        while left:
            for child in list(left):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    left.remove(child)
                    well &= status == 0
            if left and (time.monotonic() > until or not well):
                # As a launcher does it: where one has failed, or nothing comes any more, the others are ended.
                for child in left:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                well, left = False, set()
            time.sleep(0.02)
        said = []
        for log in logs:
            log.seek(0)
            said.append(log.read())
            log.close()
        meter = None
        if os.path.exists(self.meter):
            with open(self.meter) as file:
                meter = json.load(file)
        return well, meter, "\n".join(said)

    def counts(self, tokens, **case):
        well, meter, said = self.ranks(**case)
        self.assertTrue(well and meter, said[-3000:])
        self.assertEqual(meter["tokens_processed"], tokens, said[-3000:])
        return meter["flopsprof"]["missing"]

    def test_all_tokens_of_all_ranks_are_counted_wherever_a_training_is_resumed(self):
        self.assertEqual(self.counts(TOKENS), [])
        at4, at8 = self.at("out", "checkpoint-4"), self.at("out", "checkpoint-8")
        shutil.rmtree(self.at("out", "checkpoint-12"))
        with self.subTest("resumed at 8"):
            self.assertEqual(self.counts(TOKENS, resume=at8), [])
        with self.subTest("resumed at 4, into another folder"):
            self.assertEqual(self.counts(TOKENS, resume=at4, out=self.elsewhere), [])
        shutil.rmtree(self.at("out", "_flopsprof"))
        moved = shutil.copytree(at8, self.at("moved"))
        shutil.rmtree(at8)
        shutil.rmtree(self.elsewhere)
        with self.subTest("resumed from a copy"):
            self.assertEqual(self.counts(TOKENS, resume=moved, out=self.elsewhere), [])
        with self.subTest("the other rank's file is of another training"):
            others = os.path.join(moved, "flopsprof_rank_1.json")
            with open(others) as file:
                lost = json.load(file)["tokens"]
            shutil.copy(self.at("elsewhere", "checkpoint-12", "flopsprof_rank_1.json"), others)
            missing = self.counts(TOKENS - lost, resume=moved, out=self.at("stale"))
            self.assertIn("1 of 2 ranks", " ".join(missing))
        state = os.path.join(moved, "trainer_state.json")
        with open(state) as file:
            text = file.read()
        for words, broken in (("is not JSON", text[:200]), ("earlier.tokens is 'many'", text.replace('"tokens": ', '"tokens": "many", "_": ')), ("trainer_state.json is missing", None)):
            with self.subTest(words):
                os.remove(state)
                if broken is not None:
                    with open(state, "w") as file:
                        file.write(broken)
                well, meter, said = self.ranks(resume=moved, out=self.at("none"))
                self.assertFalse(well or meter, "refused before anything is written")
                self.assertIn(words, said)
                if broken is None:
                    break

    def test_a_rank_that_saves_nothing_holds_nobody(self):
        self.assertEqual(self.counts(TOKENS, silent=True), [])

    def test_checkpoints_of_models_alone_keep_the_counts_of_ranks(self):
        self.assertEqual(self.counts(TOKENS, arguments={"save_only_model": True}), [])
        self.assertIn("flopsprof_rank_1.json", os.listdir(self.at("out", "checkpoint-4")))


if __name__ == "__main__":
    unittest.main()
