"""What PEFT made of a model: where adapters are, of which rank, and what is trained beside them; and names as they are without wrappers.

Experts that are modules of their own, as in transformers 4, are told together, a layer's as one.
"""

import re


def clean(name):
    """A parameter's name as it is without wrappers and adapters."""
    for wrapper in ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "base_model.model.", "base_layer."):
        name = name.replace(wrapper, "")
    name = re.sub(r"^module\.", "", name)
    return re.sub(r"\.modules_to_save\.[^.]+", "", name)


#: Fields of LoraConfig that change what is executed, in ways that the estimate does not know.
NOT_ESTIMATED = (
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "trainable_token_indices",
    "velora_config",
)


def adapters(model, experts):
    """PEFT's configuration, as a method; None where there are no adapters."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    active = getattr(model, "active_adapter", None)
    active = active[0] if isinstance(active, (list, tuple)) and active else active
    config = configs.get(active) or next(iter(configs.values()))
    kind = getattr(config, "peft_type", "")
    kind = str(getattr(kind, "value", kind)).upper()
    targets = getattr(config, "target_modules", None) or []
    named = getattr(model, "targeted_module_names", None) or []
    chosen = any(getattr(config, field, None) not in (None, [], "") for field in ("layers_to_transform", "exclude_modules"))
    if named and (chosen or isinstance(targets, str) and targets != "all-linear" or not targets):
        # A regular expression, or some layers: what was found is what counts, by its whole name, since below the lowest of them no gradient is needed.
        targets = set(together([name.split("language_model.", 1)[-1] for name in named], experts))
    elif isinstance(targets, str) and targets != "all-linear":
        targets = []
    rank = int(getattr(config, "r", 0) or 0)
    method = {
        "kind": "lora" if kind in ("LORA", "") else kind.lower(),
        "rank": rank,
        "targets": targets if isinstance(targets, str) else sorted(targets),
        "also": _also(model, getattr(config, "modules_to_save", None) or []),
    }
    if method["kind"] == "lora":
        method["also"] += _in_place(model)
    ranks = together({name: r for name, r in _ranks(model, active).items() if r != rank}, experts)
    method |= {"ranks": ranks} if ranks else {}
    if getattr(config, "use_dora", False):
        method |= {"dora": True, "dropout": float(getattr(config, "lora_dropout", 0) or 0)}
    if isinstance(method["targets"], list):
        # A head takes adapters along with the table that it is tied to, if PEFT is told so.
        modules = together([name for name, module in _adapted(model, active) if not getattr(module, "parameter_name", None)], experts)
        method["targets"] += [name for name in modules if not any(name == t or name.endswith(f".{t}") for t in targets)]
    parameters = {name: module for name, module in _adapted(model, active) if getattr(module, "parameter_name", None)}
    if parameters:
        # Where PEFT hands both matrices to a parametrization, it is their product that PyTorch tries when it is put on; before, it was a sum.
        method |= {"parameters": sorted(parameters), "tried": any(hasattr(module, "get_delta_factors") for module in parameters.values())}
    others = [field for field in NOT_ESTIMATED if getattr(config, field, None)]
    return method | {"not_estimated": others} if others else method


def _also(model, names):
    """Modules of which a copy is trained whole: as PEFT left them, since it takes what is tied to one along if it is told to, and adds names of its own for a classifier,
    `classifier` and `score`, of which a model has one."""
    modules = getattr(model, "named_modules", None)
    if not callable(modules):
        return sorted(names)
    copied = {}
    for name, module in modules():
        if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
            name = clean(name + ".").rstrip(".").split("language_model.", 1)[-1]
            # One that shares its copy's matrix with another has none of its own: its parameter is trained where it is.
            matrix = id(getattr(module, "weight", None) if getattr(module, "weight", None) is not None else module)
            copied[matrix] = [*copied.get(matrix, ()), f"{name}.weight" if matrix in copied else name]
    if copied:
        return sorted(name for names in copied.values() for name in names)
    there = {clean(name).rsplit(".", 1)[-1]: None for name, _ in modules()} | {clean(name): None for name, _ in modules()}
    return sorted(name for name in names if name in there)


def _in_place(model):
    """Parameters that are trained where they are, beside adapters: biases (`bias` of LoraConfig), or whatever somebody unfroze."""
    names = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return sorted(clean(name).split("language_model.", 1)[-1] for name in names if not re.search(r"\blora_|\bmodules_to_save\b|\btrainable_tokens_", name))


def _ranks(model, adapter):
    """Ranks of a model's adapters by module, as PEFT keeps them: `rank_pattern` gives some their own, and what of it matched is what counts. `alpha_pattern` scales, and executes nothing."""
    return {name: int(module.r[adapter]) for name, module in _adapted(model, adapter)}


def _adapted(model, adapter):
    """Modules that PEFT put an adapter to, by name. One for a parameter stands around the module that has it, or around another of these, and has the parameter's name here."""
    modules = getattr(model, "named_modules", None)
    for name, module in modules() if callable(modules) else ():
        own = getattr(module, "r", None)
        if isinstance(own, dict) and adapter in own:
            of = getattr(module, "parameter_name", None)
            name = clean(name + ".").rstrip(".").split("language_model.", 1)[-1]
            yield (f"{name}.{of}" if of else name), module


#: An expert that is a module of its own, as in transformers 4: where it hangs, its number, and what is behind.
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)(?:\.(.+))?")


def experts_apart(model):
    """How many experts there are that are modules of their own, by where they hang."""
    modules = getattr(model, "named_modules", None)
    numbers = {}
    for name, _ in modules() if callable(modules) else ():
        found = _EXPERT.fullmatch(clean(name + ".").rstrip("."))
        if found and not found[3]:
            numbers.setdefault(found[1].split("language_model.", 1)[-1], set()).add(found[2])
    return {place: len(those) for place, those in numbers.items()}


def together(names, experts):
    """Names with those of all experts of a layer as one, without their numbers: hundreds of them say one thing. `names` may have values, which must be the same."""
    values = names if isinstance(names, dict) else dict.fromkeys(names)
    groups = {}
    for name, value in values.items():
        found = _EXPERT.fullmatch(name)
        if found and found[3] and found[1] in experts:
            groups.setdefault((found[1], found[3], value), []).append(name)
    whole = {key: those for key, those in groups.items() if len(those) == experts[key[0]]}
    one_by_one = {name for those in whole.values() for name in those}
    values = {name: value for name, value in values.items() if name not in one_by_one} | {f"{place}.{rest}": value for place, rest, value in whole}
    return values if isinstance(names, dict) else list(values)
