"""What a training job trains, and on which rows, told to flopsprof.

    from flopsprof import FlopsProfCallback
    trainer.add_callback(FlopsProfCallback())           # transformers, TRL, accelerate

    import flopsprof                                    # without a Trainer
    flopsprof.declare(model)                            # after adapters are in place
    with flopsprof.phase("evaluate"):
        ...
    flopsprof.batch(input_ids, attention_mask)          # each micro-batch
    flopsprof.step()                                    # each optimizer step

The operations themselves are counted by libflopsprof.so, which is loaded with LD_PRELOAD (`flopsprof run python train.py`). Without it everything here works
as well and is analytic only: what was declared can be had from `declaration()` and `work()`. Nothing here imports torch or transformers by itself.
"""

from ._library import library_version, loaded
from ._state import batch, declaration, declare, phase, reset, step, sync, tokens, work

__version__ = "0.1.0"
__all__ = [
    "FlopsProfCallback",
    "batch",
    "declaration",
    "declare",
    "library_version",
    "loaded",
    "phase",
    "reset",
    "step",
    "sync",
    "tokens",
    "work",
]


def __getattr__(name):
    # The callback is a subclass of transformers' when that is installed; it is imported when it is asked for.
    if name == "FlopsProfCallback":
        from ._callback import FlopsProfCallback

        return FlopsProfCallback
    raise AttributeError(f"module 'flopsprof' has no attribute {name!r}")
