"""What looks at a model's forward. It reads shapes and masks and changes nothing.

A model that is copied or pickled (`copy.deepcopy(model)`, `torch.save(model)`) takes its hooks along. In the copy nothing is left of ours but a method of the standard library that does nothing:
the copy is not counted as this model, and can be loaded where there is no flopsprof.
"""

import collections.abc
import contextlib
import functools
import inspect
import weakref

#: Names of what a forward takes by position.
_NAMES = weakref.WeakKeyDictionary()
#: What a model calls its rows.
IDS = ("input_ids", "inputs_embeds", "pixel_values")


@functools.lru_cache(maxsize=None)
def _classes():
    """Hooks that torch.compile leaves out of its graphs, and such as it takes in, where they do nothing. Made when torch is there."""
    try:
        from torch.compiler import disable, is_compiling
    except ImportError:
        disable, is_compiling = _as_it_is, bool

    class Hook:
        def __init__(self, function):
            self._function = function

        def __reduce__(self):
            return getattr, (contextlib.nullcontext(), "__exit__")

    class Outside(Hook):
        # The method itself, and not what it calls: then the graph has no break, but one where a wrapper is compiled.
        @disable
        def __call__(self, module, args, more):
            self._function(module, args, more)

    class Inside(Hook):
        def __call__(self, module, args, more):
            if not is_compiling():
                self._function(module, args, more)

    return Outside, Inside


def _as_it_is(function):
    return function


def hook(function, compiled=False):
    """What has a function look at what a module is given, or has made. `compiled`: in a graph of torch.compile it does nothing, since somebody looks from outside."""
    return _classes()[compiled](function)


def inputs_of(module, args, kwargs):
    """What a model is given, by name: by its forward's own names, and what stands in a batch that is handed over whole."""
    if not args:
        return kwargs
    inputs = _named(module, args) | kwargs
    for value in [*inputs.values()]:
        if isinstance(value, collections.abc.Mapping):
            inputs = {**value, **inputs}
    if not any(name in inputs for name in IDS):
        # Some call them otherwise. They are integers; other numbers may be anything.
        first = args[0]
        kind = getattr(first, "dtype", None)
        if isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) in (1, 2) and "int" in str(kind):
            inputs["input_ids"] = first
    return inputs


def _named(module, args):
    forward = getattr(module, "forward", None)
    # The function of a method: its first name is of the module then. Asking takes 40 us.
    of = getattr(forward, "__func__", forward)
    try:
        names = _NAMES.get(of)
        if names is None:
            kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
            names = _NAMES[of] = [name for name, parameter in inspect.signature(forward).parameters.items() if parameter.kind in kinds]
    except (TypeError, ValueError):
        names = []
    return dict(zip(names, args))
