"""The names of the AWS Fine-Tuning FLOPs Meter, on flopsprof: its `sft.py` runs unchanged with this file as its `utils/flops_meter.py`.

`FlopsMeterCallback`, `TokenCountingTrainer` and `TokenCountingSFTTrainer` take the arguments of the toolkit's and write a `flops_meter.json` with its keys. What the
toolkit gets wrong is right here: parameters are counted after adapters are in place, unpacked and whole; pads are no tokens; a resumed training goes on counting; the
rule is one third. `Flops_architecture` is the toolkit's formula of these true counts. `Flops_hardware` is null in this file, since what was executed is
known when the process has ended: `flopsprof run --recipe RECIPE` writes it then, measured (or `flopsprof report --aws FILE`).

Environment: PRETRAIN_FLOPS, FLOPS_METER_OUT, TRAINING_JOB_NAME, TRAINING_INSTANCE_TYPE, MODEL_PACKAGE_GROUP_NAME as with the toolkit. FLOPS_METER_NVML is
accepted: NVML's utilisation is in flopsprof's evidence whatever it says, and is never passed off as operations.
"""

import math
import os
import time
import warnings

from flopsprof._callback import FlopsProfCallback, _rank_and_world, over_ranks, replace

#: One third of what makes a model general-purpose: for a base model whose compute can be neither known nor estimated.
ONE_THIRD_OF_1E23 = 1e23 / 3


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
        self.start_time = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.start_time = time.time()
        super().on_train_begin(args, state, control, model=model, **kwargs)

    def on_save(self, args, state, control, **kwargs):
        super().on_save(args, state, control, **kwargs)
        # A run that is killed leaves what it had.
        self._write(state)

    def on_train_end(self, args, state, control, **kwargs):
        super().on_train_end(args, state, control, **kwargs)
        self._write(state)

    def add_tokens(self, n):
        """The toolkit's trainers call this; here the batches are looked at instead."""

    def _write(self, state):
        real, padded = over_ranks(self.tokens())
        rank, world = _rank_and_world()
        if rank == 0:
            path = os.environ.get("FLOPS_METER_OUT") or (
                "/opt/ml/output/data/flops_meter.json" if os.path.isdir("/opt/ml/output") else "flops_meter.json"
            )
            try:
                replace(path, self.report(real, padded, world))
            except OSError as error:  # a training is worth more than this file
                warnings.warn(f"flopsprof: {path} (FLOPS_METER_OUT) is not written: {error}", stacklevel=3)

    def report(self, tokens, padded_tokens, world):
        """What the file says."""
        sizes = (self.account.model or {}).get("parameters") or {}
        total, trainable = sizes.get("total", 0), sizes.get("trainable", 0)
        flop = calculate_finetuning_flops(total, trainable, tokens)
        threshold, kind, stands_in = determine_compliance_threshold(self.pretrain_flops)
        job = os.environ.get("TRAINING_JOB_NAME", "")
        return {
            "N_total": total,
            "N_trainable": trainable,
            "tokens_processed": tokens,
            "Flops_architecture": _scientific(flop) if flop > 0 else flop,
            "Flops_hardware": None,
            "pct_of_pretrain": flop / (threshold if stands_in else self.pretrain_flops),
            "exceeds_30pct": flop > threshold,
            "model_name": self.model_name,
            "num_epochs": self.num_epochs,
            "training_duration_seconds": round(time.time() - self.start_time, 2) if self.start_time else 0,
            "gpu_size": world,
            "gpu_rank": 0,
            "Flops_original": _scientific(self.pretrain_flops),
            "threshold_type": kind,
            "threshold_value": _scientific(threshold),
            "training_job_name": job,
            "training_id": job.split("-")[-1] if job else "",
            "recipe_config": "",
            "recipe_config_details": None,
            "gpu_name": _gpu_name(),
            "instance_type": os.environ.get("TRAINING_INSTANCE_TYPE"),
            "model_package_group_name": os.environ.get("MODEL_PACKAGE_GROUP_NAME"),
            "flopsprof": {
                "tier": "analytic",
                "flop": flop,
                "padded_tokens": padded_tokens,
                "threshold": threshold,
                "given_before_adapters": self.given,
                "next": "flopsprof report --aws FILE writes this file with what was measured, once the process has ended",
            },
        }


def _gpu_name():
    try:
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    except Exception:
        return None


def _trainer(name, module):
    """A trainer of the toolkit's name: the library's own, since nothing has to be added to it."""
    import importlib

    base = getattr(importlib.import_module(module), name)
    return type(f"TokenCounting{name}", (base,), {"__doc__": f"{module}'s {name}; its tokens are counted by the callback."})


def __getattr__(name):
    # Made when asked for, so that people without TRL have the rest.
    if name == "TokenCountingTrainer":
        return _trainer("Trainer", "transformers")
    if name == "TokenCountingSFTTrainer":
        return _trainer("SFTTrainer", "trl")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
