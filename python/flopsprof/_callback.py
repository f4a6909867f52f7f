"""`FlopsProfCallback`: a transformers Trainer tells flopsprof what it trains.

It hangs on two places. As a callback it hears of the beginning, steps, evaluation, saving and the end. Batches do not come by callbacks, so it looks at what the
model's forward is given, by a hook that reads shapes and masks and changes nothing. It works for whatever Trainer subclass, since all of them call the model.
"""

import os
import sys
import threading
import weakref

from . import _batch, _model, _resume, _state
from ._around import beside, chain, compiled_around, modules_of, trainer
from ._hook import hook, inputs_of
from ._ranks import Ranks, absolute
from ._warn import harmless, warn

#: Callbacks that look at a model.
_LOOKING = weakref.WeakSet()

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError:  # for people without transformers, and for tests

    class TrainerCallback:
        """Stands in for transformers' class."""

    class ExportableState:
        """Stands in for transformers' class: what has it is kept in checkpoints."""


def _rank_and_world():
    try:
        import torch.distributed as dist
    except ImportError:
        return 0, 1
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _gradients():
    """Whether what is computed now has a backward pass. Without one it trains nothing: preference training asks the same model for its reference, with adapters switched off."""
    enabled = getattr(sys.modules.get("torch"), "is_grad_enabled", None)
    return enabled is None or enabled()


def _checkpoint(output_dir, step):
    """Where transformers keeps the checkpoint of a step."""
    return os.path.join(absolute(output_dir or "."), f"checkpoint-{step}")


class FlopsProfCallback(TrainerCallback, ExportableState):
    """Tells flopsprof the model, its rows and its phases. Add it to any Trainer: `trainer.add_callback(FlopsProfCallback())`.

    Evidence is of a process, so a resumed training has that of each of its parts, and they add up (`flopsprof report` takes several folders). What earlier
    parts saw by this callback's own count is kept in the checkpoint: in trainer_state.json (`earlier`), and in a file of each rank of several. Of a resumed training's ranks the first has it, so
    that their sum is right whatever their number. Nothing here waits for another rank. `account` is for tests.
    """

    def __init__(self, account=None):
        self.account = account or _state.STATE
        self.earlier = {"tokens": 0, "padded_tokens": 0, "steps": 0}
        #: The state of the training that is counted, and the callback that counts it, where that is another one.
        self._of = self._first = None
        # What this process had counted before this training: its account is of all that the process trains.
        self._before = (0, 0, 0)
        #: In words, what of earlier parts is not in the count.
        self.gaps = []
        #: The folder that is resumed from, where somebody knows it (transformers does not tell).
        self.resumed_from = None
        self._ranks = None
        self._training = False
        #: Models that are looked at, and what takes each hook away.
        self._hooks = []
        self._model = self._adapter = None
        self._evaluating = False
        self._encoder_decoder = False

    def __getstate__(self):
        # A copy looks at no model, until a training begins with it.
        return self.__dict__ | {"_hooks": [], "_model": None, "_adapter": None, "_of": None, "_first": None}

    # transformers calls these.

    @harmless
    def on_init_end(self, args, state, control, **kwargs):
        # transformers reads the checkpoint before it calls a callback again, and what it says of a broken one names neither field nor remedy. What `train` alone is given is not
        # known here: only a trainer of ours (flops_meter) can refuse that, and to put another `train` into other people's trainers is not for a meter to do.
        folder = getattr(args, "resume_from_checkpoint", None)
        if folder is True:
            folder = _resume.last(getattr(args, "output_dir", None))
        if isinstance(folder, str) and os.path.isdir(folder) and _rank_and_world()[0] == 0:
            try:
                _resume.check(folder, [type(self).__name__])
            except (OSError, ValueError) as error:  # these arguments need not be what is resumed from
                warn(f"resume_from_checkpoint: {error}", stacklevel=3)

    @harmless
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        resumed_at = getattr(state, "global_step", 0) or 0
        kept = getattr(state, "stateful_callbacks", None)
        self._training, self._of = True, state
        self._alone(model)
        self._ranks = self._first._ranks if self._first else Ranks(getattr(args, "output_dir", None), *_rank_and_world())
        self._begin_count()
        try:
            if resumed_at:
                # Read here, because transformers restores callbacks from a checkpoint only where it is told to.
                self._take_up(kept, args, resumed_at)
        finally:
            if isinstance(kept, dict):
                # The state of a checkpoint that was made without this callback has no place for it, and transformers' next save ends in a KeyError.
                kept.setdefault(type(self).__name__, self.state())
        if self._ranks.rank == 0:
            # The others find the training's id there.
            self._ranks.write(resumed_at, *self.tokens())
        if model is not None and self._first is None:
            self._attach(args, model)
            try:
                for name, other in beside(trainer(), self._model):
                    self.watch(other, name)
            except Exception as error:  # the training goes on whatever happens here
                warn(f"models beside the trained one are not counted: {error!r}", stacklevel=2)
        self.account.enter("train")
        self.account.sync()

    @harmless
    def on_step_end(self, args, state, control, **kwargs):
        self._train_again()
        if self._first is None:
            self.account.step()
        if self._ranks is not None:
            self._ranks.settle()
        self._next(control)

    @harmless
    def on_epoch_end(self, args, state, control, **kwargs):
        self._next(control)

    @harmless
    def on_step_begin(self, args, state, control, **kwargs):
        self._train_again()

    @harmless
    def on_prediction_step(self, args, state, control, **kwargs):
        self._evaluating = True
        self.account.enter("evaluate")

    @harmless
    def on_evaluate(self, args, state, control, **kwargs):
        self._evaluating = False
        self.account.sync()
        # An evaluation by itself, before or after a training, is followed by none.
        during = "checkpoint" if getattr(control, "should_save", False) else "train"
        self.account.enter(during if self._training else "other")

    @harmless
    def on_predict(self, args, state, control, **kwargs):
        self._evaluating = False
        self.account.sync()
        self.account.enter("train" if self._training else "other")

    @harmless
    def on_save(self, args, state, control, **kwargs):
        self.account.sync()
        if self._ranks is not None:
            self._ranks.write(state.global_step, *self.tokens(), checkpoint=_checkpoint(getattr(args, "output_dir", None), state.global_step))
        self._train_again()

    @harmless
    def on_train_end(self, args, state, control, **kwargs):
        self._training = False
        self.account.sync()
        if self._ranks is not None:
            self._ranks.write(state.global_step, *self.tokens())
        self.account.enter("other")

    def state(self):
        """What transformers keeps in a checkpoint. It asks the ranks that save alone: the others' counts lie beside it, from `on_save`."""
        attributes = {"earlier": dict(zip(("tokens", "padded_tokens", "steps"), self._counts())), "of": _rank_and_world()[1], "gaps": list(self.gaps)}
        if self._ranks is not None:
            attributes |= {"run": self._ranks.run(), "at": self._ranks.output_dir}
        return {"args": {}, "attributes": attributes}

    def tokens(self):
        """Tokens trained on so far, without pads and with them, earlier parts of a resumed training included. Of this process alone: the sum over ranks is right."""
        return self._counts()[:2]

    # The rest is ours.

    def _begin_count(self):
        self.earlier, self.gaps = {"tokens": 0, "padded_tokens": 0, "steps": 0}, []
        self._before = (*self.account.tokens(), self.account.rows("train").steps)

    def _take_up(self, callbacks, args, resumed_at):
        name = type(self).__name__
        try:
            found = _resume.kept(callbacks, name)
            why = f"{_resume.STATE} has no state of {name}, so the checkpoint was made without it"
        except ValueError as error:
            found, why = None, str(error)
        if not found or not found["earlier"]["steps"]:
            self._lacks(f"steps up to {resumed_at}: {why}", "their evidence is, if they were metered")
            return
        self.earlier.update(found["earlier"])
        self.gaps += found["gaps"]
        if self._ranks.rank:
            self.earlier.update(tokens=0, padded_tokens=0)
            return
        said = getattr(args, "resume_from_checkpoint", None)
        written = found["at"] if isinstance(found["at"], str) else None
        folders = [self.resumed_from, said if isinstance(said, str) else None, written and _checkpoint(written, resumed_at), _checkpoint(self._ranks.output_dir, resumed_at)]
        folders = list(dict.fromkeys(absolute(folder) for folder in folders if folder))
        others, wrong = _resume.others(found, resumed_at, folders)
        for field in ("tokens", "padded_tokens"):
            self.earlier[field] += sum(other[field] for other in others)
        if wrong:
            self._lacks(
                f"steps up to {resumed_at}: the checkpoint has the tokens of {1 + len(others)} of {found['of']} ranks ({'; '.join(wrong[:4])}{'; …' * (len(wrong) > 4)})",
                f"looked for in {', '.join(folders)}; resume_from_checkpoint in the arguments names another folder",
            )

    def _lacks(self, gap, more):
        self.gaps.append(gap)
        if self._ranks.rank == 0:
            warn(f"not in this count: {gap} ({more})", stacklevel=4)

    def _counts(self):
        real, padded = self.account.tokens()
        steps = self.account.rows("train").steps
        now = (real - self._before[0], padded - self._before[1], steps - self._before[2])
        return tuple(before + n for before, n in zip((self.earlier["tokens"], self.earlier["padded_tokens"], self.earlier["steps"]), now))

    def _train_again(self):
        self._evaluating = False
        self.account.enter("train")

    def _next(self, control):
        """Begins what the Trainer does before it trains on."""
        if getattr(control, "should_evaluate", False):
            self._evaluating = True
            self.account.enter("evaluate")
        elif getattr(control, "should_save", False):
            self.account.enter("checkpoint")

    def _alone(self, model):
        """Sees to it that no batch is counted twice: of several callbacks of one training the first counts, and one of an earlier training of this model, or of one inside it, counts no more."""
        self._first = None
        ours = modules_of(model)
        for other in [*_LOOKING]:
            if other is self or other.account is not self.account or not other._hooks:
                continue
            if other._of is self._of:
                self._first = other
            elif any(id(module) in ours or id(model) in modules_of(module) for module, _ in other._hooks):
                other.detach()
        if self._first:
            self.detach()

    def _attach(self, args, model):
        self.detach()
        wrapped, model = model, _model._unwrapped(model)
        self._model = model
        config = getattr(model, "config", None)
        self._encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        cut = getattr(args, "parallelism_config", None)
        if any((getattr(cut, size, None) or 1) > 1 for size in ("cp_size", "sp_size")):
            warn("rows are cut between ranks, and each tells its part: tokens add up, the estimate's attention is that of the parts, too low", stacklevel=4)
        # The first is its newer name; a model that is checkpointed without the arguments' saying so is looked at.
        checkpointing = any(getattr(args, name, None) for name in ("activation_checkpointing", "gradient_checkpointing"))
        try:
            said = self.account.declare(wrapped, True if checkpointing else None)
            self._attention, self._bare = said["attention"], _model.shape(said)
        except Exception as error:  # its tokens can be counted all the same
            warn(f"the model is not declared: {error!r}", stacklevel=5)
            self._attention, self._bare = "sdpa", None
        modules = getattr(model, "modules", None)
        # One of PEFT's layers says whether adapters are switched off: all are, or none.
        self._adapter = next((m for m in modules() if hasattr(m, "disable_adapters") and hasattr(m, "lora_A")), None) if callable(modules) else None
        self._look_at_all(compiled_around(wrapped), chain(model))

    def _look_at_all(self, compiled, models):
        """Looks at a model, and at those inside it that others call by themselves: PEFT's generate() asks the one that it adapts, Liger's losses in TRL the one without its head. What
        a model was given by one around it is counted there."""
        if compiled is not None:
            self._look_at(compiled, lambda _, *given: self._forward(models[0], *given))
        # Threads that are inside each; who left by KeyboardInterrupt is so until its next call.
        inside = [set() for _ in models]
        for level, model in enumerate(models):
            graph = level > 0 or compiled is not None

            def enter(module, args, kwargs, around=inside[:level], within=inside[level]):
                thread = threading.get_ident()
                if not any(thread in others for others in around):
                    self._forward(module, args, kwargs)
                within.add(thread)

            self._look_at(model, enter, graph)
            if hasattr(model, "register_forward_hook"):
                leave = hook(lambda *_, within=inside[level]: within.discard(threading.get_ident()), graph)
                self._hooks.append((model, model.register_forward_hook(leave, always_call=True)))

    def _look_at(self, model, function, compiled=False):
        if hasattr(model, "register_forward_pre_hook"):
            self._hooks.append((model, model.register_forward_pre_hook(hook(function, compiled), with_kwargs=True)))
            _LOOKING.add(self)

    def watch(self, model, name="reference"):
        """Counts what a model beside the trained one is given, as a phase of its own: a frozen reference, a teacher. Those that hang on a Trainer are found by themselves
        when a training begins; call it after that."""
        said = _model.read(model)
        self.account.stands_in(name, said)
        encoder_decoder = bool(said["config"].get("is_encoder_decoder"))

        def forward(module, args, kwargs):
            if _gradients():
                return  # trained as well, by whom we do not know
            try:
                inputs = inputs_of(module, args, kwargs)
                # An evaluation's windows hold all that runs in them.
                evaluating = self._evaluating or self.account.phase == "evaluate"
                self.account.look(inputs, said["attention"], encoder_decoder, "evaluate" if evaluating else name, fresh=True)
            except Exception as error:  # the training goes on whatever happens here
                self.account.complain(error)

        model = _model._unwrapped(model)
        self.detach(model)
        self._look_at(model, forward)

    def detach(self, model=None):
        """Takes the hooks away, or those of one model."""
        for entry in [*self._hooks]:
            if model is None or entry[0] is model:
                self._hooks.remove(entry)
                entry[1].remove()

    def _forward(self, module, args, kwargs):
        try:
            inputs = inputs_of(module, args, kwargs)
            training = getattr(module, "training", True) and not self._evaluating
            name = ("train" if _gradients() else "inference") if training else "evaluate"
            if name == "inference" and getattr(self._adapter, "disable_adapters", False) is True:
                # Another model than the declared one: without its adapters.
                self.account.rows(name).config = self._bare
            if not training:
                self.account.enter("evaluate")
            elif self._training and self.account.phase == "evaluate":
                # A program that generates between two steps calls eval() and train() by itself.
                self.account.enter("train")
            if _batch.ids_of(inputs) is not None:
                self.account.look(inputs, self._attention, self._encoder_decoder, name, fresh=True)
            else:
                self.account.batch(**self._image(_batch.describe(inputs)), phase=name)
        except Exception as error:  # the training goes on whatever happens here
            self.account.complain(error)

    def _image(self, described):
        config = self._model.config
        patches = (int(config.image_size) // int(config.patch_size)) ** 2 + 1
        return described | {"length": patches, "documents": [(patches, 0)] * described["rows"]}

