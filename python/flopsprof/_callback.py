"""`FlopsProfCallback`: a transformers Trainer tells flopsprof what it trains.

It hangs on two places. As a callback it hears of the beginning, steps, evaluation, saving and the end. Batches do not come by callbacks, so it looks at what the
model's forward is given, by a hook that reads shapes and masks and changes nothing. It works for whatever Trainer subclass, since all of them call the model.
"""

import json
import os
import tempfile
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


def _distributed():
    try:
        import torch.distributed as dist
    except ImportError:
        return None
    return dist if dist.is_available() and dist.is_initialized() else None


def _rank_and_world():
    dist = _distributed()
    return (dist.get_rank(), dist.get_world_size()) if dist else (0, 1)


def over_ranks(values):
    """Sums of numbers over all ranks; ranks that share their tokens with another add zeros. All ranks must call it."""
    dist = _distributed()
    if dist is None:
        return list(values)
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, list(values))
    return [sum(column) for column in zip(*gathered)]


#: A rank's count beside a checkpoint.
_RANK = "flopsprof_rank_{}.json"


def _checkpoint(args, step):
    """Where transformers keeps the checkpoint of a step."""
    return os.path.join(getattr(args, "output_dir", None) or "", f"checkpoint-{step}")


def _read(path):
    """What such a file says; none where it says nothing."""
    try:
        with open(path) as file:
            said = json.load(file)
        return {name: int(said[name]) for name in ("tokens", "padded_tokens")}
    except (OSError, ValueError, TypeError, KeyError):
        return None


class FlopsProfCallback(TrainerCallback, ExportableState):
    """Tells flopsprof the model, its rows and its phases. Add it to any Trainer: `trainer.add_callback(FlopsProfCallback())`.

    Evidence is of a process, so a resumed training has that of each of its parts, and they add up (`flopsprof report` takes several folders). What earlier
    parts saw by this callback's own count is kept in the checkpoint: in trainer_state.json (`earlier`), and in a file of each rank of several. Of a resumed training's ranks the first has it, so
    that their sum is right whatever their number. `account` is for tests.
    """

    def __init__(self, account=None):
        self.account = account or _state.STATE
        self.earlier = {"tokens": 0, "padded_tokens": 0, "steps": 0}
        # What this process had counted before this training: its account is of all that the process trains.
        self._before = (0, 0, 0)
        self._training = False
        self._hook = None
        self._model = None
        self._evaluating = False
        self._encoder_decoder = False

    # transformers calls these.

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        resumed_at = getattr(state, "global_step", 0) or 0
        kept = getattr(state, "stateful_callbacks", None)
        self._training = True
        self._begin_count()
        if resumed_at:
            # Read here, because transformers restores callbacks from a checkpoint only where it is told to.
            self._take_up((kept or {}).get(type(self).__name__), args, resumed_at)
        if isinstance(kept, dict):
            # The state of a checkpoint that was made without this callback has no place for it, and transformers' next save ends in a KeyError.
            kept.setdefault(type(self).__name__, self.state())
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
        # An evaluation by itself, before or after a training, is followed by none.
        during = "checkpoint" if getattr(control, "should_save", False) else "train"
        self.account.enter(during if self._training else "other")

    def on_predict(self, args, state, control, **kwargs):
        self._evaluating = False
        self.account.sync()
        self.account.enter("train" if self._training else "other")

    def on_save(self, args, state, control, **kwargs):
        self.account.sync()
        self._keep_rank(args, state)
        self._train_again()

    def on_train_end(self, args, state, control, **kwargs):
        self._training = False
        self.account.sync()
        self.account.enter("other")

    def state(self):
        """What transformers keeps in a checkpoint. It asks the ranks that save alone: the others' counts lie beside it, from `on_save`."""
        earlier = dict(zip(("tokens", "padded_tokens", "steps"), self._counts()))
        return {"args": {}, "attributes": {"earlier": earlier, "of": _rank_and_world()[1]}}

    def tokens(self):
        """Tokens trained on so far, without pads and with them, earlier parts of a resumed training included. Of this process alone: the sum over ranks is right."""
        return self._counts()[:2]

    # The rest is ours.

    def _begin_count(self):
        self.earlier = {"tokens": 0, "padded_tokens": 0, "steps": 0}
        self._before = (*self.account.tokens(), self.account.rows("train").steps)

    def _take_up(self, kept, args, resumed_at):
        kept = kept[0] if isinstance(kept, list) and kept else kept
        kept = kept.get("attributes") or {} if isinstance(kept, dict) else {}
        earlier = kept.get("earlier") if isinstance(kept.get("earlier"), dict) else {}
        rank, _ = _rank_and_world()
        if not earlier.get("steps"):
            warnings.warn(
                f"flopsprof: resumed at step {resumed_at} from a checkpoint whose trainer_state.json has no state of {type(self).__name__}: "
                "tokens before it are not in this count (their evidence is, if they were metered)",
                stacklevel=3,
            )
        self.earlier.update(earlier)
        if earlier.get("steps") and rank == 0:
            of = kept.get("of", 1)
            others = list(filter(None, (_read(os.path.join(_checkpoint(args, resumed_at), _RANK.format(other))) for other in range(1, of))))
            for name in ("tokens", "padded_tokens"):
                self.earlier[name] += sum(other[name] for other in others)
            if 1 + len(others) < of:
                warnings.warn(
                    f"flopsprof: the checkpoint of step {resumed_at} has the tokens of {1 + len(others)} of {of} ranks: those of the others are not in this count",
                    stacklevel=3,
                )
        if rank:
            self.earlier.update(tokens=0, padded_tokens=0)

    def _counts(self):
        real, padded = self.account.tokens()
        steps = self.account.rows("train").steps
        now = (real - self._before[0], padded - self._before[1], steps - self._before[2])
        return tuple(before + n for before, n in zip((self.earlier["tokens"], self.earlier["padded_tokens"], self.earlier["steps"]), now))

    def _keep_rank(self, args, state):
        """Puts this rank's count beside the checkpoint that was just saved. Ranks are not asked for theirs: where not all of them save, one would wait for ever."""
        rank, world = _rank_and_world()
        folder = _checkpoint(args, state.global_step)
        if world == 1 or not os.path.isdir(folder):
            return
        real, padded, _ = self._counts()
        try:
            replace(os.path.join(folder, _RANK.format(rank)), {"tokens": real, "padded_tokens": padded})
        except OSError as error:  # whoever resumes from it says how many ranks are there
            warnings.warn(f"flopsprof: {folder} does not keep the tokens of rank {rank}: {error}", stacklevel=3)

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


def replace(path, value):
    """Writes a JSON file whole or not at all."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".flopsprof-")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _uncompiled(function):
    """Keeps torch.compile away from the hook: it reads values, which a compiled graph has none of."""
    try:
        from torch.compiler import disable
    except ImportError:
        return function
    return disable(function)
