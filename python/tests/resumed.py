"""Trainings of two ranks by the real transformers, on the CPU: stopped, resumed elsewhere, with ranks that do not save, from broken checkpoints. What flops_meter.json says beside the tokens
that there are.

    python3 python/tests/resumed.py

Seen 2026-11-26 with torch 2.11, transformers 5.17 and 4.57: all 352 tokens in each training but the one whose checkpoint has a file of another; broken checkpoints are refused before
anything is written. Before, when ranks were asked for their counts at each save, the training in which one rank saves nothing hung.
"""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))


def rank(case):
    """What each rank of a case runs."""
    import torch
    import torch.distributed as dist
    from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

    import flops_meter

    class Rows(torch.utils.data.Dataset):
        """48 rows of 12 places; of row i, 3 to 12 are tokens."""

        def __len__(self):
            return 48

        def __getitem__(self, at):
            real = 3 + at % 10
            mask = torch.tensor([1] * real + [0] * (12 - real))
            return {"input_ids": torch.arange(12) + 1, "attention_mask": mask, "labels": torch.where(mask > 0, torch.arange(12) + 1, -100)}

    class Meter(flops_meter.FlopsMeterCallback):
        def on_save(self, *arguments, **more):
            if not (case.get("silent") and dist.get_rank() == 1):
                super().on_save(*arguments, **more)

    Meter.__name__ = "FlopsMeterCallback"
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2))
    # 12 steps of two rows a rank.
    common = {"per_device_train_batch_size": 2, "max_steps": 12, "save_steps": 4, "report_to": "none", "use_cpu": True, "ddp_backend": "gloo", "disable_tqdm": True}
    args = TrainingArguments(output_dir=case["out"], **common, **case.get("arguments", {}))
    trainer = flops_meter.TokenCountingTrainer(model=model, args=args, train_dataset=Rows(), callbacks=[Meter()])
    assert isinstance(trainer, flops_meter.TokenCountingTrainer)
    status = 1
    # After the meter's own last look. torch 2.11 may hang where a DDP reducer and its gloo threads are taken down: one holds the interpreter, the other waits for it.
    atexit.register(lambda kept=trainer: (sys.stderr.flush(), os._exit(status)))
    trainer.train(resume_from_checkpoint=case.get("resume"))
    status = 0


def main():
    with tempfile.TemporaryDirectory() as folder:
        out, elsewhere = os.path.join(folder, "out"), os.path.join(folder, "elsewhere")
        meter, at4, at8 = os.path.join(folder, "meter.json"), os.path.join(out, "checkpoint-4"), os.path.join(out, "checkpoint-8")
        true = sum(3 + i % 10 for i in range(48))

        def run(name, expected, **case):
            environment = os.environ | {"FLOPS_METER_OUT": meter, "CASE": json.dumps({"out": out} | case)}
            # It is the launcher that ends its ranks.
            command = ["timeout", "120", sys.executable, "-W", "always::UserWarning", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", os.path.abspath(__file__)]
            if os.path.exists(meter):
                os.remove(meter)
            done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
            said = json.load(open(meter)) if os.path.exists(meter) else None
            found = said and [said["tokens_processed"], said["flopsprof"]["missing"]]
            lines = [line for line in done.stderr.splitlines() if "flopsprof: " in line or line.startswith(("ValueError", "FileNotFoundError")) or "]: FileNotFoundError" in line or "]: ValueError" in line]
            print(f"{name}: status {done.returncode}, tokens {found and found[0]} of {true}, missing {found and found[1]}", *dict.fromkeys(lines), sep="\n    ", flush=True)
            if found is None and expected is not None:
                print(done.stderr[-3000:])
            ok.append((found and found[0]) == expected)

        ok = []
        run("whole", true)
        for at in (at4, at8):
            # transformers 5.17 cannot read them on the CPU: they are tagged with cpu:0, which torch does not know.
            os.remove(os.path.join(at, "optimizer.pt"))
        shutil.rmtree(os.path.join(out, "checkpoint-12"))
        run("resumed at 8", true, resume=at8)
        run("resumed at 4, into another folder", true, resume=at4, out=elsewhere)
        shutil.rmtree(os.path.join(out, "_flopsprof"))
        moved = shutil.copytree(at8, os.path.join(folder, "moved"))
        shutil.rmtree(at8)
        shutil.rmtree(elsewhere)
        run("resumed from a copy, by train's argument", true, resume=moved, out=elsewhere)
        shutil.rmtree(elsewhere)
        run("rank 1 saves nothing", true, out=elsewhere, silent=True)
        shutil.rmtree(elsewhere)
        run("models alone are saved", true, out=elsewhere, arguments={"save_only_model": True})
        print("   ", sorted(name for name in os.listdir(os.path.join(elsewhere, "checkpoint-4")) if "flopsprof" in name))
        others = os.path.join(moved, "flopsprof_rank_1.json")
        with open(others) as file:
            lost = json.load(file)["tokens"]
        shutil.copy(os.path.join(elsewhere, "checkpoint-8", "flopsprof_rank_1.json"), others)
        run("rank 1's file is of another training", true - lost, resume=moved, out=os.path.join(folder, "stale"))
        state = os.path.join(moved, "trainer_state.json")
        with open(state) as file:
            text = file.read()
        for name, broken in (("half of a trainer_state.json", text[:200]), ("tokens that are no number", text.replace('"tokens": ', '"tokens": "many", "_": '))):
            with open(state, "w") as file:
                file.write(broken)
            run(name, None, resume=moved, out=os.path.join(folder, "none"))
        os.remove(state)
        run("no trainer_state.json", None, resume=moved, out=os.path.join(folder, "none"))
        print("   ", os.listdir(os.path.join(folder, "none")))
    sys.exit(0 if all(ok) else 1)


if __name__ == "__main__":
    rank(json.loads(os.environ["CASE"])) if "CASE" in os.environ else main()
