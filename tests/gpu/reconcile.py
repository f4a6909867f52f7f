"""Trainings by transformers whose operations must be explained line by line, for `run.py`.

    python3 reconcile.py OUT_FOLDER [--only full,lora,...] [--seconds 6] [--tiny] [--callback TRUTH_FILE]

Each case is a process of its own, forked from one that has imported everything but not started CUDA, with its evidence in a folder of its name. Weights and tokens are
made up. `--tiny` tries the script on a CPU, where nothing is counted. `--callback` times the callback instead: what a step spends in it, and steps with and without it in
alternation.
"""

import argparse
import json
import os
import sys
import time
import traceback

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "python"))

#: Llama of 1.1 B, and a small mixture of experts.
LLAMA = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000}
MOE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 32000}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}

METHODS = ["full", "full-ckpt", "lora", "lora-ckpt", "moe"]
LENGTHS = [2048, 8192]
FILLS = ["padded", "packed", "whole"]
#: Method, and how rows are filled, of trainings whose products are matched with a census: sides that are no multiple of any tile, adapters, experts, layers computed again, rows that are
#: added up before a step.
TILES = [("full", "whole"), ("odd", "whole"), ("odd-ckpt", "padded"), ("lora", "padded"), ("moe", "whole"), ("full-accumulated", "whole")]
#: One that takes censuses by itself: name, method, length of rows, and how they are filled.
ITSELF = [("itself-lora-2048-ragged", "lora", 2048, "ragged")]
#: Sides of the odd one.
ODD = {"intermediate_size": 5600, "vocab_size": 32003}
#: Tokens of a micro-batch.
TOKENS = 16384


def cases():
    """All of them; rows without pads or packing for the first method alone."""
    for method in METHODS:
        for length in LENGTHS:
            for fill in FILLS:
                if fill != "whole" or method in ("full", "moe"):
                    yield f"{method}-{length}-{fill}", method, length, fill


def tiles():
    """Those that a census is taken of."""
    for method, fill in TILES:
        yield f"{method}-2048-{fill}", method, 2048, fill


def rows(length, fill, count, vocabulary):
    """Rows of a data set, and of one batch the documents, different from row to row."""
    import random

    made_up = random.Random(7)
    data = []
    for i in range(count):
        ids = [made_up.randrange(3, vocabulary) for _ in range(length)]
        row = {"input_ids": ids, "labels": list(ids)}
        if fill in ("padded", "ragged"):
            real = length if fill == "padded" and i % 2 == 0 else made_up.randrange(length // 4, length)
            row["attention_mask"] = [1] * real + [0] * (length - real)
            row["labels"] = ids[:real] + [-100] * (length - real)
        elif fill == "packed":
            positions = []
            while len(positions) < length:
                positions += range(min(made_up.randrange(length // 8, length // 2), length - len(positions)))
            row["position_ids"] = positions
        data.append(row)
    return data


def cut(batch):
    """A batch of rows as long as its longest, a multiple of eight."""
    import torch

    batch = {k: torch.stack([row[k] for row in batch]) for k in batch[0]}
    longest = -(-int(batch["attention_mask"].sum(1).max()) // 8) * 8
    return {k: v[:, :longest] for k, v in batch.items()}


def timed(out, truth, length, seconds, tiny):
    """A training in which the callback is on, and, in its last third, for every other pair of steps."""
    import statistics

    import torch
    from transformers import TrainerCallback

    from flopsprof import FlopsProfCallback

    class Timed(FlopsProfCallback):
        """Says how long each step spends in it, in those steps in which it is on: by the host's clock, since it waits for nothing, and what it has the GPU do by the GPU's."""

        on = True

        def __init__(self):
            super().__init__()
            self.spent, self.marks = {}, []
            self.begun = None

        def inside(self, part, call, *args, **kwargs):
            if not self.on:
                return None
            mark = part == "forward" and not tiny
            if mark:
                self.marks.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
                self.marks[-1][0].record()
            begun = time.perf_counter()
            answer = call(*args, **kwargs)
            took = time.perf_counter() - begun
            self.spent[part] = self.spent.get(part, 0.0) + took
            if mark:
                self.marks[-1][1].record()
            return answer

        def taken(self):
            """Seconds of the step by its parts, on the host and, of the forward, on the GPU between the marks around it (which has the host's time in it where it had nothing to do)."""
            for _, end in self.marks:
                end.synchronize()
            gpu = sum(a.elapsed_time(b) for a, b in self.marks) / 1e3
            spent, self.spent, self.marks = self.spent, {}, []
            return spent, gpu

        def on_step_begin(self, *args, **kwargs):
            return self.inside("step_begin", super().on_step_begin, *args, **kwargs)

        def on_step_end(self, *args, **kwargs):
            return self.inside("step_end", super().on_step_end, *args, **kwargs)

        def _forward(self, module, args, kwargs):
            return self.inside("forward", super()._forward, module, args, kwargs)

    watched, steps, costs, always = Timed(), [], [], []

    class Watch(TrainerCallback):
        """Times steps from one begin to the next, and switches the callback."""

        def on_step_begin(self, args, state, control, **kwargs):
            steps.append((time.perf_counter(), watched.on))
            costs.append(watched.taken())
            # What comes every ten seconds must not fall on half of the steps.
            watched.begun = watched.begun or time.monotonic()
            alternating = time.monotonic() - watched.begun > seconds * 2 / 3
            watched.on = not alternating or len(steps) // 2 % 2 == 0
            always.append(not alternating)

    train(out, "full", length, "padded", seconds, tiny, [Watch(), watched])
    # The first steps find memory to copy to and the library: once, and not in each. Of the others in which it is on the mean, because batches are counted some at a time.
    first = 10
    # At a step's begin it is heard how the one before was.
    alternating = [(a[0], *b) for a, b, each in zip(steps, steps[1:], always) if not each]
    length_of = {state: [end - begin for begin, end, on in alternating if on == state] for state in (True, False)}
    off, on = (statistics.median(length_of[state]) for state in (False, True))
    spent = [(sum(parts.values()), gpu, parts) for (parts, gpu), each in list(zip(costs[1:], always))[first:] if each]
    host, gpu = (statistics.mean(s[n] for s in spent) for n in range(2))
    parts = {name: statistics.mean(s[2].get(name, 0.0) for s in spent) for name in ("step_begin", "forward", "step_end")}
    once = sum(sum(parts.values()) for parts, _ in costs[: first + 1])
    # Where the CPU is ahead the GPU's share is what a step gets longer by, where the GPU is ahead the CPU's.
    said = {"cost": max(host, gpu) / off, "host_s": host, "gpu_s": gpu, "parts_s": parts, "first_s": once, "step_s": off, "ratio": on / off, "steps": len(spent)}
    said["typical_s"], said["most_s"] = statistics.median(s[0] for s in spent), sorted(s[0] for s in spent)[-4:]
    with open(truth, "w") as f:
        json.dump(said, f)


def train(out, method, length, fill, seconds, tiny, callbacks=None):
    import torch
    import transformers
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from flopsprof import FlopsProfCallback

    transformers.logging.set_verbosity_error()
    device = "cpu" if tiny else "cuda"
    shape = (TINY if tiny else MOE if method == "moe" else LLAMA | ODD if method.startswith("odd") else LLAMA) | {"max_position_embeddings": length, "bos_token_id": 1, "eos_token_id": 2}
    if method == "moe":
        config, kind = transformers.MixtralConfig(**shape, **EXPERTS), transformers.MixtralForCausalLM
    else:
        config, kind = transformers.LlamaConfig(**shape), transformers.LlamaForCausalLM
    with torch.device(device):
        model = kind(config).to(torch.bfloat16)
    if method.startswith("lora"):
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))

    class Clock(TrainerCallback):
        """Ends the training when its time is up."""

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                self.began = time.monotonic()
            control.should_training_stop |= time.monotonic() - self.began > seconds
            return control

    batch = max(TOKENS // length, 1)
    arguments = TrainingArguments(
        out,
        per_device_train_batch_size=batch,
        max_steps=100_000,
        bf16=not tiny,
        use_cpu=tiny,
        gradient_checkpointing=method.endswith("-ckpt"),
        gradient_accumulation_steps=2 if method.endswith("-accumulated") else 1,
        optim="adamw_torch" if tiny else "adamw_torch_fused",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
    )
    data = rows(length, fill, 16 * batch, shape["vocab_size"])
    # The same few rows over and over: what they hold changes nothing of what is executed.
    tensors = [{k: torch.tensor(v) for k, v in row.items()} for row in data]
    trainer = Trainer(model, arguments, data_collator=cut if fill == "ragged" else None, train_dataset=tensors, callbacks=[*(callbacks or [FlopsProfCallback()]), Clock()])
    trainer.train()
    return {"steps": trainer.state.global_step}


def launches(folder, name, method, length, fill, tiny):
    """Writes down how many kernels a step launches, by torch.profiler: a census of so many is one of a whole step, wherever it begins."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    from flopsprof import FlopsProfCallback

    os.environ["FLOPSPROF_DISABLE"] = "1"
    profiler = profile(activities=[ProfilerActivity.CPU if tiny else ProfilerActivity.CUDA])

    class Profile(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if not tiny:
                torch.cuda.synchronize()
            if state.global_step == 3:
                profiler.start()
            elif state.global_step == 4:
                profiler.stop()
                control.should_training_stop = True
            return control

    train(os.path.join(folder, "trainer"), method, length, fill, 60, tiny, [FlopsProfCallback(), Profile()])
    kernels = [e for e in profiler.events() if tiny or str(e.device_type).endswith("CUDA") and not e.name.lower().startswith(("memcpy", "memset"))]
    with open(os.path.join(folder, f"{name}.launches"), "w") as f:
        f.write(str(len(kernels)))
    print(f"  {name}: {len(kernels)} kernels a step", flush=True)


def one(folder, name, method, length, fill, seconds, tiny, tiles=False):
    os.environ["FLOPSPROF_OUT"] = os.path.join(folder, name)
    if tiles:
        with open(os.path.join(folder, f"{name}.launches")) as f:
            # The survey of the paths is over by then, with steps of a second too: in its midst a census may miss the path of a product.
            os.environ["FLOPSPROF_CENSUS"] = f"10:{f.read()}"
    began = time.monotonic()
    said = train(os.path.join(folder, "trainer"), method, length, fill, seconds, tiny)
    print(f"  {name}: {said['steps']} steps in {time.monotonic() - began:.0f} s", flush=True)
    if tiny:
        import flopsprof

        print(json.dumps(flopsprof.work())[:300], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--fills", default=",".join(FILLS))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--tiles", action="store_true", help="trainings of which a census is taken, instead")
    parser.add_argument("--itself", action="store_true", help="one that takes censuses by itself, of batches of many lengths, instead")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--callback")
    args = parser.parse_args()
    import peft  # noqa: F401  imported once, before the forks
    import torch  # noqa: F401
    import transformers

    for name in ("Trainer", "TrainingArguments", "LlamaForCausalLM", "MixtralForCausalLM"):
        getattr(transformers, name)
    if args.callback:
        timed(os.path.join(args.folder, "trainer"), args.callback, 64 if args.tiny else 2048, args.seconds, args.tiny)
        return
    failed = 0
    if args.itself:
        os.environ["FLOPSPROF_OVERHEAD"] = "20"
    for name, method, length, fill in ITSELF if args.itself else tiles() if args.tiles else cases():
        if not (args.tiles or args.itself) and (method not in args.only.split(",") or fill not in args.fills.split(",")):
            continue
        case = (args.folder, name, method, 64 if args.tiny else length, fill)
        failed += args.tiles and forked(launches, *case, args.tiny) != 0
        failed += forked(one, *case, args.seconds, args.tiny, args.tiles) != 0
    sys.exit(1 if failed else 0)


def forked(program, *arguments):
    """Runs it in a process of its own; returns its status."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            program(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
