"""`FlopsProfCallback`: a transformers Trainer tells flopsprof what it trains.

It hangs on two places. As a callback it hears of the beginning, steps, evaluation, saving and the end. Batches do not come by callbacks, so it looks at what the
model's forward is given, by a hook that reads shapes and masks and changes nothing. It works for whatever Trainer subclass, since all of them call the model.
"""

import warnings

from . import _batch, _model, _state

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError:  # for people without transformers, and for tests

    class TrainerCallback:
        """Stands in for transformers' class."""

    class ExportableState:
        """Stands in for transformers' class: what has it is kept in checkpoints."""


def _tells(trainer_args, model):
    """Whether this process tells its tokens. Ranks of one tensor- or pipeline-parallel group are given the same ones: the first of each tells."""
    try:
        import torch.distributed as dist
    except ImportError:
        return True
    mesh = getattr(model, "_device_mesh", None) or getattr(model, "device_mesh", None)
    names = getattr(mesh, "mesh_dim_names", None) or ()
    for axis in ("tp", "pp", "cp"):
        if axis in names:
            return all(mesh.get_local_rank(a) == 0 for a in ("tp", "pp", "cp") if a in names)
    tp = getattr(model, "tp_size", None) or 1
    if tp > 1 and dist.is_available() and dist.is_initialized():
        return dist.get_rank() % tp == 0
    try:
        from deepspeed.utils import groups

        return groups._get_model_parallel_rank() == 0 if groups.mpu is not None else True
    except Exception:
        return True


class FlopsProfCallback(TrainerCallback, ExportableState):
    """Tells flopsprof the model, its rows and its phases. Add it to any Trainer: `trainer.add_callback(FlopsProfCallback())`.

    Evidence is of a process, so a resumed training has that of each of its parts, and they add up (`flopsprof report` takes several folders). What earlier
    parts saw by this callback's own count is kept in the checkpoint's trainer_state.json: `earlier`. `account` is for tests.
    """

    def __init__(self, account=None):
        self.account = account or _state.STATE
        self.earlier = {"tokens": 0, "padded_tokens": 0, "steps": 0}
        self._hook = None
        self._model = None
        self._evaluating = False
        self._encoder_decoder = False

    # transformers calls these.

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        # Read here, because transformers restores callbacks from a checkpoint only where it is told to.
        kept = (getattr(state, "stateful_callbacks", None) or {}).get(type(self).__name__) or {}
        kept = kept[0] if isinstance(kept, list) and kept else kept
        if isinstance(kept, dict) and not self.earlier["steps"]:
            self.earlier.update((kept.get("attributes") or {}).get("earlier") or {})
        resumed_at = getattr(state, "global_step", 0) or 0
        if resumed_at and not self.earlier["steps"]:
            warnings.warn(
                f"flopsprof: resumed at step {resumed_at} from a checkpoint whose trainer_state.json has no state of FlopsProfCallback: "
                "tokens before it are not in this count (their evidence is, if they were metered)",
                stacklevel=2,
            )
        if model is not None:
            self._attach(args, model)
        self.account.enter("train")
        self.account.sync()

    def on_step_end(self, args, state, control, **kwargs):
        self._train_again()
        self.account.step()
        if getattr(control, "should_evaluate", False):
            self._evaluating = True
            self.account.enter("evaluate")
        elif getattr(control, "should_save", False):
            self.account.enter("checkpoint")

    def on_step_begin(self, args, state, control, **kwargs):
        self._train_again()

    def on_prediction_step(self, args, state, control, **kwargs):
        self._evaluating = True
        self.account.enter("evaluate")

    def on_evaluate(self, args, state, control, **kwargs):
        self._evaluating = False
        self.account.sync()
        self.account.enter("checkpoint" if getattr(control, "should_save", False) else "train")

    def on_predict(self, args, state, control, **kwargs):
        self._evaluating = False
        self.account.sync()

    def on_save(self, args, state, control, **kwargs):
        self.account.sync()
        self._train_again()

    def on_train_end(self, args, state, control, **kwargs):
        self.account.sync()
        self.account.enter("other")

    def state(self):
        """What transformers keeps in a checkpoint."""
        real, padded = self.tokens()
        steps = self.earlier["steps"] + self.account.rows("train").steps
        return {"args": {}, "attributes": {"earlier": {"tokens": real, "padded_tokens": padded, "steps": steps}}}

    def tokens(self):
        """Tokens trained on so far, without pads and with them, earlier parts of a resumed training included. Of this process alone."""
        real, padded = self.account.tokens()
        return self.earlier["tokens"] + real, self.earlier["padded_tokens"] + padded

    # The rest is ours.

    def _train_again(self):
        self._evaluating = False
        self.account.enter("train")

    def _attach(self, args, model):
        self.detach()
        wrapped, model = model, _model._unwrapped(model)
        self._model = model
        config = getattr(model, "config", None)
        self._encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        checkpointing = getattr(args, "gradient_checkpointing", None)
        said = self.account.declare(wrapped, True if checkpointing else None)
        self.account.counts_here = _tells(args, model)
        self._attention = said["attention"]
        register = getattr(model, "register_forward_pre_hook", None)
        if register is not None:
            self._hook = register(_uncompiled(self._forward), with_kwargs=True)

    def detach(self):
        """Takes the hook away."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _forward(self, module, args, kwargs):
        try:
            inputs = dict(kwargs)
            if args and "input_ids" not in inputs:
                inputs["input_ids"] = args[0]
            training = getattr(module, "training", True) and not self._evaluating
            name = "train" if training else "evaluate"
            if not training:
                self.account.enter("evaluate")
            if any(inputs.get(k) is not None for k in ("input_ids", "inputs_embeds")):
                self.account.look(inputs, self._attention, self._encoder_decoder, name, fresh=True)
            else:
                self.account.batch(**self._image(_batch.describe(inputs)), phase=name)
        except Exception as error:  # the training goes on whatever happens here
            self.account.complain(error)

    def _image(self, described):
        config = self._model.config
        patches = (int(config.image_size) // int(config.patch_size)) ** 2 + 1
        return described | {"length": patches, "documents": [(patches, 0)] * described["rows"]}


def _uncompiled(function):
    """Keeps torch.compile away from the hook: it reads values, which a compiled graph has none of."""
    try:
        from torch.compiler import disable
    except ImportError:
        return function
    return disable(function)
