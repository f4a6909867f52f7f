"""The names of the AWS Fine-Tuning FLOPs Meter, on flopsprof: its `sft.py` runs unchanged with this file as its `utils/flops_meter.py`.

`FlopsMeterCallback`, `TokenCountingTrainer` and `TokenCountingSFTTrainer` take the arguments of the toolkit's and write a `flops_meter.json` with its keys. What the
toolkit gets wrong is right here: parameters are counted after adapters are in place, unpacked and whole; pads are no tokens; a resumed training goes on counting; the
rule is one third. `Flops_architecture` is the toolkit's formula of these true counts. `Flops_hardware` is null in this file, since what was executed is
known when the process has ended: `flopsprof run --recipe RECIPE` writes it then, measured (or `flopsprof report --aws FILE`).

The first rank writes the file, at each save and at the end, by what the others left in files (flopsprof/_ranks.py): nobody waits. What is not in its sum, `flopsprof.missing` says.

Environment: PRETRAIN_FLOPS, FLOPS_METER_OUT, TRAINING_JOB_NAME, TRAINING_INSTANCE_TYPE, MODEL_PACKAGE_GROUP_NAME, TRAINING_PIPELINE_OUTPUT_S3_BASE as with the toolkit.
FLOPS_METER_NVML is accepted: NVML's utilisation is in flopsprof's evidence whatever it says, and is never passed off as operations.
"""

import atexit
import functools
import importlib
import math
import os
import threading
import time

from flopsprof import _resume, _toolkit
from flopsprof._callback import FlopsProfCallback
from flopsprof._model import _plain
from flopsprof._ranks import absolute, replace
from flopsprof._warn import harmless, warn

#: One third of what makes a model general-purpose: for a base model whose compute can be neither known nor estimated.
ONE_THIRD_OF_1E23 = 1e23 / 3
#: How long ranks that end later than the first are looked for, seconds; and once the program ends.
LATER, AT_EXIT = 60, 2


def calculate_finetuning_flops(N_total, N_trainable, tokens_processed):
    """The toolkit's formula. It knows no attention, no experts that are not met and no recomputation: `flopsprof estimate` does."""
    return (4.0 * N_total + 2.0 * N_trainable) * float(tokens_processed)


def determine_compliance_threshold(pretrain_flops):
    """The threshold, the toolkit's name of its kind, and whether it stands in for a base model's compute that is not known."""
    if pretrain_flops:
        return pretrain_flops / 3, "30pct_of_actual_pretraining", False
    return ONE_THIRD_OF_1E23, "default_3.3e22", True


def pretrain_flops_from(value):
    """A base model's compute; none where nothing is given.

    Raises ValueError for what is no positive number: a silent default would be another verdict.
    """
    if value is None or str(value).strip() == "":
        return None
    try:
        flop = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"PRETRAIN_FLOPS={value!r} is not a number of FLOP (1.5e24)") from None
    if not math.isfinite(flop) or flop <= 0:
        raise ValueError(f"PRETRAIN_FLOPS={value!r} is not a positive number of FLOP (1.5e24)")
    return flop


def _scientific(value):
    return None if value is None else f"{value: .2e}"


class FlopsMeterCallback(FlopsProfCallback):
    """The toolkit's callback. `n_total`, `n_trainable` and `pad_token_id` are taken and not believed: the model and the masks are looked at."""

    def __init__(
        self,
        pad_token_id=None,
        pretrain_flops=None,
        sample_nvml=True,
        n_total=0,
        n_trainable=0,
        model_name="",
        num_epochs=0.0,
        account=None,
    ):
        super().__init__(account)
        given = pretrain_flops if pretrain_flops is not None else os.environ.get("PRETRAIN_FLOPS")
        self.pretrain_flops = pretrain_flops_from(given)
        self.pad_token_id, self.sample_nvml = pad_token_id, sample_nvml
        self.given = {"n_total": n_total, "n_trainable": n_trainable}
        self.model_name, self.num_epochs = model_name, num_epochs
        self.start_time = self.end_time = None
        self.recipe = "", None
        self._finishing = None

    @harmless
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.finish()
        self.start_time, self.end_time = time.time(), None
        super().on_train_begin(args, state, control, model=model, **kwargs)
        if self._ranks.rank == 0:
            self.recipe = _toolkit.recipe()

    @harmless
    def on_save(self, args, state, control, **kwargs):
        super().on_save(args, state, control, **kwargs)
        # A run that is killed leaves what it had.
        self._write(_out(), state.global_step, *self.tokens())

    @harmless
    def on_train_end(self, args, state, control, **kwargs):
        super().on_train_end(args, state, control, **kwargs)
        self.end_time = time.time()
        if self._ranks is not None and self._ranks.rank == 0:
            end = _out(), state.global_step, *self.tokens()
            said, late = self._write(*end)
            base = os.environ.get("TRAINING_PIPELINE_OUTPUT_S3_BASE")
            if late or base:
                # Beside the program: it is not to wait for other ranks, nor for S3.
                self._finishing = _Finishing(lambda: self._write(*end), said, late, base)
                atexit.register(self.finish)

    def finish(self):
        """Has what is written beside the program be done with: a last look for the ranks that ended after the first, and the copy on S3."""
        finishing, self._finishing = self._finishing, None
        if finishing is not None:
            finishing.hurry()
            atexit.unregister(self.finish)

    def __getstate__(self):
        return super().__getstate__() | {"_finishing": None}

    def state(self):
        # transformers makes a callback anew by these if it is told to restore callbacks from a checkpoint.
        arguments = {"pretrain_flops": self.pretrain_flops, "model_name": self.model_name, "num_epochs": self.num_epochs, **self.given}
        return super().state() | {"args": _plain(arguments)}

    def add_tokens(self, n):
        """The toolkit's trainers call this; here the batches are looked at instead."""

    def _write(self, path, step, tokens, padded_tokens):
        """Writes the file if this is the first rank; returns what it says, and what is missing of other ranks."""
        if self._ranks is None or self._ranks.rank:
            return None, []
        more, padded_more, late = self._ranks.others(step)
        said = self.report(tokens + more, padded_tokens + padded_more, self._ranks.world, self.gaps + late)
        try:
            replace(path, said)
        except OSError as error:  # a training is worth more than this file
            warn(f"{path} (FLOPS_METER_OUT) is not written: {error}", stacklevel=3)
        return said, late

    def report(self, tokens, padded_tokens, world, missing=()):
        """What the file says; `missing`: in words, what is not in the tokens."""
        sizes = (self.account.model or {}).get("parameters") or {}
        total, trainable = sizes.get("total", 0), sizes.get("trainable", 0)
        flop = calculate_finetuning_flops(total, trainable, tokens)
        threshold, kind, stands_in = determine_compliance_threshold(self.pretrain_flops)
        # What is missing may be what it would take.
        exceeds = True if flop > threshold else None if missing else False
        job = os.environ.get("TRAINING_JOB_NAME", "")
        recipe, details = self.recipe
        known = details if isinstance(details, dict) else {}
        until = self.end_time or time.time()
        return {
            "N_total": total,
            "N_trainable": trainable,
            "tokens_processed": tokens,
            "Flops_architecture": _scientific(flop) if flop > 0 else flop,
            "Flops_hardware": None,
            "pct_of_pretrain": flop / (threshold if stands_in else self.pretrain_flops),
            "exceeds_30pct": exceeds,
            "model_name": self.model_name or known.get("model_name_or_path") or "",
            "num_epochs": self.num_epochs or known.get("num_train_epochs") or 0.0,
            "training_duration_seconds": round(until - self.start_time, 2) if self.start_time else 0,
            "gpu_size": world,
            "gpu_rank": 0,
            "Flops_original": _scientific(self.pretrain_flops),
            "threshold_type": kind,
            "threshold_value": _scientific(threshold),
            "training_job_name": job,
            "training_id": job.split("-")[-1] if job else "",
            "recipe_config": recipe,
            "recipe_config_details": details,
            "gpu_name": _gpu_name(),
            "instance_type": os.environ.get("TRAINING_INSTANCE_TYPE"),
            "model_package_group_name": os.environ.get("MODEL_PACKAGE_GROUP_NAME"),
            "flopsprof": {
                "tier": "analytic",
                "flop": flop,
                "padded_tokens": padded_tokens,
                "lower_bound": bool(missing),
                "missing": list(missing),
                "threshold": threshold,
                "given_before_adapters": self.given,
                "next": "flopsprof report --aws FILE writes this file with what was measured, once the process has ended",
            },
        }


def _out():
    """Where the file belongs, whatever folder the program goes to later."""
    uploaded = "/opt/ml/output/data/flops_meter.json" if os.path.isdir("/opt/ml/output") else "flops_meter.json"
    return absolute(os.environ.get("FLOPS_METER_OUT") or uploaded)


def _gpu_name():
    try:
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    except Exception:
        return None


class _Finishing(threading.Thread):
    """What is left to do when the first rank has ended its training: the ranks that end after it, and S3."""

    def __init__(self, write, said, late, base):
        super().__init__(name="flopsprof-finish", daemon=True)
        self._again, self._said, self._late, self._base = write, said, late, base
        self._until, self._hurry, self._process = time.monotonic() + LATER, threading.Event(), os.getpid()
        self.start()

    def run(self):
        pause = 0.05
        try:
            while self._late and time.monotonic() < self._until:
                if self._hurry.is_set():
                    time.sleep(0.05)
                else:
                    self._hurry.wait(pause)
                    pause = min(2 * pause, 2)
                self._said, self._late = self._again()
            if self._late:
                warn(f"flops_meter.json is a lower bound, without {'; '.join(self._late[:4])}{'; …' * (len(self._late) > 4)}", stacklevel=2)
            if self._base:
                _toolkit.upload(self._said, self._base, self._said["training_id"])
        except Exception as error:  # nobody else would say it
            warn(f"flops_meter.json is as it was when this rank ended: {error!r}", stacklevel=2)

    def hurry(self):
        if os.getpid() != self._process:  # a child that was forked has no such thread
            return
        self._until = min(self._until, time.monotonic() + AT_EXIT)
        self._hurry.set()
        self.join(AT_EXIT + 5)
        if self.is_alive():
            warn(f"{self._base} (TRAINING_PIPELINE_OUTPUT_S3_BASE) takes too long to be waited for", stacklevel=3)


@functools.lru_cache(maxsize=None)
def _trainer(name, module):
    """A trainer of the toolkit's name: the library's own, which knows what it resumes from."""
    base = getattr(importlib.import_module(module), name)

    class TokenCounting(base):
        def train(self, resume_from_checkpoint=None, *args, **kwargs):
            ours = [callback for callback in self.callback_handler.callbacks if isinstance(callback, FlopsProfCallback)]
            folder = resume_from_checkpoint
            if folder is True:
                from transformers.trainer_utils import get_last_checkpoint

                folder = get_last_checkpoint(self.args.output_dir)
            if folder:
                # transformers would end in an error that names neither field nor remedy, or lose the count.
                _resume.check(folder, sorted({type(callback).__name__ for callback in ours}))
            for callback in ours:
                callback.resumed_from = folder or None
            return super().train(resume_from_checkpoint, *args, **kwargs)

    TokenCounting.__name__ = TokenCounting.__qualname__ = f"TokenCounting{name}"
    TokenCounting.__doc__ = f"{module}'s {name}; its tokens are counted by the callback."
    return TokenCounting


def __getattr__(name):
    # Made when asked for, so that people without TRL have the rest.
    if name == "TokenCountingTrainer":
        return _trainer("Trainer", "transformers")
    if name == "TokenCountingSFTTrainer":
        return _trainer("SFTTrainer", "trl")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
