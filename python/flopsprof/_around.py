"""What is around the model that is trained: its Trainer, the models that run beside it, what wraps it, and what is inside."""

import sys

from . import _model

#: Callers between a callback and its Trainer: the handler's two, a drop-in's own method, and room for wrappers.
MOST_FRAMES = 12


def trainer():
    """The Trainer that called the callback; None where none did. transformers hands a callback its model and not itself, and what else it runs hangs on it alone."""
    frame = sys._getframe(1)
    for _ in range(MOST_FRAMES):
        frame = frame.f_back if frame is not None else None
        if frame is None:
            return None
        found = frame.f_locals.get("self")
        if hasattr(found, "callback_handler") and hasattr(found, "model"):
            return found
    return None


def beside(trainer, model):
    """Models that a Trainer runs beside the one that it trains (TRL's `ref_model`, `teacher_model`, `reward_model`, and those of `reward_funcs`), with a name for what they do."""
    own, said = modules_of(model), {}
    for name, value in sorted(vars(trainer).items()) if trainer is not None else ():
        several = value if name == "reward_funcs" and isinstance(value, (list, tuple)) else [value] if name.endswith("_model") else []
        for module in map(_model._unwrapped, several):
            if module is not None and id(module) not in own and hasattr(module, "register_forward_pre_hook") and hasattr(module, "config"):
                name = "reference" if name == "ref_model" else name.removesuffix("_model").removesuffix("_funcs")
                said[name] = said.get(name, 0) + 1
                yield (f"{name} {said[name]}" if said[name] > 1 else name), module


def chain(model):
    """A model, the one inside it that PEFT adapts, and the one without a head inside that; each once."""
    get, found = getattr(model, "get_base_model", None), [model]
    base = get() if callable(get) else model
    for inner in (base, getattr(base, "base_model", None)):
        if hasattr(inner, "register_forward_pre_hook") and all(inner is not other for other in found):
            found.append(inner)
    return found


def compiled_around(model):
    """The wrapper that torch.compile put around a model; none where there is none."""
    while model is not None and not hasattr(model, "_orig_mod"):
        model = getattr(model, "module", None)
    return model


def modules_of(model):
    """A model and what is inside it, by identity."""
    modules = getattr(model, "modules", None)
    return {id(model)} | ({id(module) for module in modules()} if callable(modules) else set())


def tells(model):
    """Whether this process tells its tokens. Ranks of one tensor- or pipeline-parallel group are given the same ones: the first of each tells.

    Those of one context- or sequence-parallel group are given the same batch too, but accelerate cuts it, in place, before the model is called (torch's `context_parallel`), and DeepSpeed's
    Ulysses in the data loader: what the model gets is this rank's part of each row, and the parts add up, so all of them tell.
    """
    dist = getattr(sys.modules.get("torch"), "distributed", None)
    if dist is None:
        return True
    mesh = getattr(model, "_device_mesh", None) or getattr(model, "device_mesh", None)
    names = getattr(mesh, "mesh_dim_names", None) or ()
    shared = [axis for axis in ("tp", "pp") if axis in names]
    if shared:
        return all(mesh.get_local_rank(axis) == 0 for axis in shared)
    tp = getattr(model, "tp_size", None) or 1
    if tp > 1 and dist.is_available() and dist.is_initialized():
        return dist.get_rank() % tp == 0
    # Where a program uses it, it is there.
    groups = sys.modules.get("deepspeed.utils.groups")
    try:
        return groups._get_model_parallel_rank() == 0 if getattr(groups, "mpu", None) is not None else True
    except Exception:
        return True
