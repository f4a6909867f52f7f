"""A live model, read: its true parameters, what of it is trained, and how.

Sizes are true ones. A 4-bit weight of bitsandbytes is packed two to a byte: its `numel` is half (or less) of its parameters. Under ZeRO-3 a weight is
partitioned and its `numel` may be 0: `ds_numel` is the whole. Under FSDP and tensor parallelism a DTensor says its global size; the flat parameters of the older
FSDP are shards, so the sizes of the original ones are taken from their metadata.
"""

import re


def true_numel(parameter):
    """Elements of a parameter before packing and partitioning."""
    partitioned = getattr(parameter, "ds_numel", None)
    count = partitioned if partitioned is not None else _numel(parameter)
    state = getattr(parameter, "quant_state", None)
    if state is not None and getattr(state, "shape", None) is not None:
        return _product(state.shape)
    kind = type(parameter).__name__
    if kind == "Params4bit" or getattr(parameter, "bnb_quantized", False) and _itemsize(parameter) == 1 and kind != "Int8Params":
        # Two weights to a byte of the storage type, as transformers' own count has it.
        storage = getattr(parameter, "quant_storage", None)
        return count * 2 * (getattr(storage, "itemsize", None) or _itemsize(parameter) or 1)
    return count


def _numel(parameter):
    # A flat parameter of FSDP: a shard of many. Its metadata tells the whole, and has no pads in it. It is no class of its own: PyTorch marks it.
    if getattr(parameter, "_is_flat_param", False):
        return sum(parameter._numels)
    return parameter.numel()


def _whole(model):
    """Sizes of parameters that FSDP keeps as views of their shards, by identity: what it keeps of each is in the metadata of the flat one, which is no parameter of any module then."""
    modules = getattr(model, "modules", None)
    whole = {}
    for module in modules() if callable(modules) else ():
        flat = getattr(getattr(module, "_handle", None), "flat_param", None)
        for original, n in zip(getattr(flat, "_params", None) or (), getattr(flat, "_numels", ())):
            whole[id(original)] = n
    return whole


def _itemsize(parameter):
    size = getattr(parameter, "element_size", None)
    return size() if callable(size) else None


def _product(shape):
    n = 1
    for side in shape:
        n *= int(side)
    return n


def parameters(model, whole=None):
    """All parameters and those that are trained. Tied ones count once, as `named_parameters` yields them once. `whole`: sizes of those that do not tell theirs."""
    total = trainable = 0
    for _, parameter in model.named_parameters():
        n = (whole or {}).get(id(parameter)) or true_numel(parameter)
        total += n
        trainable += n if parameter.requires_grad else 0
    return total, trainable


def _unwrapped(model):
    """The model inside DistributedDataParallel, FSDP, DeepSpeed and torch.compile."""
    for _ in range(8):
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine", "DataParallel"):
            inner = getattr(model, "module", None)
        if inner is None:
            return model
        model = inner
    return model


def _clean(name):
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


def _adapters(model, experts):
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
        targets = set(_together([name.split("language_model.", 1)[-1] for name in named], experts))
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
    ranks = _together({name: r for name, r in _ranks(model, active).items() if r != rank}, experts)
    method |= {"ranks": ranks} if ranks else {}
    if getattr(config, "use_dora", False):
        method |= {"dora": True, "dropout": float(getattr(config, "lora_dropout", 0) or 0)}
    if isinstance(method["targets"], list):
        # A head takes adapters along with the table that it is tied to, if PEFT is told so.
        modules = _together([name for name, module in _adapted(model, active) if not getattr(module, "parameter_name", None)], experts)
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
            name = _clean(name + ".").rstrip(".").split("language_model.", 1)[-1]
            # One that shares its copy's matrix with another has none of its own: its parameter is trained where it is.
            matrix = id(getattr(module, "weight", None) if getattr(module, "weight", None) is not None else module)
            copied[matrix] = [*copied.get(matrix, ()), f"{name}.weight" if matrix in copied else name]
    if copied:
        return sorted(name for names in copied.values() for name in names)
    there = {_clean(name).rsplit(".", 1)[-1]: None for name, _ in modules()} | {_clean(name): None for name, _ in modules()}
    return sorted(name for name in names if name in there)


def _in_place(model):
    """Parameters that are trained where they are, beside adapters: biases (`bias` of LoraConfig), or whatever somebody unfroze."""
    names = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return sorted(_clean(name).split("language_model.", 1)[-1] for name in names if not re.search(r"\blora_|\bmodules_to_save\b|\btrainable_tokens_", name))


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
            name = _clean(name + ".").rstrip(".").split("language_model.", 1)[-1]
            yield (f"{name}.{of}" if of else name), module


#: An expert that is a module of its own, as in transformers 4: where it hangs, its number, and what is behind.
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)(?:\.(.+))?")


def _experts(model):
    """How many experts there are that are modules of their own, by where they hang."""
    modules = getattr(model, "named_modules", None)
    numbers = {}
    for name, _ in modules() if callable(modules) else ():
        found = _EXPERT.fullmatch(_clean(name + ".").rstrip("."))
        if found and not found[3]:
            numbers.setdefault(found[1].split("language_model.", 1)[-1], set()).add(found[2])
    return {place: len(those) for place, those in numbers.items()}


def _together(names, experts):
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


def _ties(model, said):
    """Whether the head's matrix is the table's, as the model has it. transformers 5 says so of every T5, and loads those with two matrices as they were published all the same."""
    base = getattr(model, "get_base_model", None)
    base = base() if callable(base) else model
    weights = []
    for which in ("get_input_embeddings", "get_output_embeddings"):
        get = getattr(base, which, None)
        module = get() if callable(get) else None
        for inner in ("original_module", "base_layer"):
            module = getattr(module, inner, module)
        weights.append(getattr(module, "weight", None))
    # Of shards and views nothing can be told.
    own = {id(parameter) for _, parameter in model.named_parameters()}
    return weights[0] is weights[1] if all(id(weight) in own for weight in weights) else said


def _input_gradients(model):
    """Whether the embeddings' output is made to need a gradient, whatever is trained: transformers, PEFT and TRL hang a hook on the table for it. None where it cannot be told."""
    get = getattr(model, "get_input_embeddings", None)
    hooks = getattr(get() if callable(get) else None, "_forward_hooks", None)
    if hooks is None:
        return None
    return any("inputs_require_grad" in getattr(hook, "__name__", "") for hook in hooks.values())


def _class(model, said):
    """Name of the class that runs. `architectures` in a configuration is of who saved it: of a language model that now classifies it still names the language model, whose head is another one."""
    base = getattr(model, "get_base_model", None)
    base = base() if callable(base) else model
    for kind in type(base).__mro__:
        # FSDP makes a class of its own below it, and so do people.
        if kind.__module__.startswith("transformers.models."):
            return [kind.__name__]
    return said or [type(base).__name__]


def _quantised(model):
    return bool(
        getattr(model, "is_loaded_in_4bit", False)
        or getattr(model, "is_loaded_in_8bit", False)
        or getattr(model, "is_quantized", False)
        or any(type(p).__name__ in ("Params4bit", "Int8Params") for _, p in model.named_parameters())
    )


def _checkpointed(model):
    # Not by the model's own `is_gradient_checkpointing`, which transformers 5.24 warns of and 6 will not have: this is what it looks at.
    modules = getattr(model, "modules", None)
    return callable(modules) and any(getattr(m, "gradient_checkpointing", False) is True for m in modules())


def _reentrant(model):
    """Whether layers are checkpointed in PyTorch's reentrant way, which runs all of them again: by what transformers hangs on them."""
    modules = getattr(model, "modules", None)
    for module in modules() if callable(modules) else ():
        if getattr(module, "gradient_checkpointing", False) is True:
            said = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", None) or {}
            if said.get("use_reentrant") is not None:
                return bool(said["use_reentrant"])
    return False


def _plain(value):
    """A configuration as JSON can carry it."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return str(value)


def read(model, gradient_checkpointing=None):
    """What `flopsprof_declare_model` is told of a model. Call it after adapters are in place."""
    # Of the outermost FSDP too.
    whole = _whole(model)
    model = _unwrapped(model)
    config = getattr(model, "config", None)
    as_dict = getattr(config, "to_dict", None)
    as_dict = as_dict() if callable(as_dict) else dict(config) if isinstance(config, dict) else {}
    if as_dict:
        as_dict["architectures"] = _class(model, as_dict.get("architectures"))
        as_dict |= {"tie_word_embeddings": tied} if (tied := _ties(model, as_dict.get("tie_word_embeddings"))) is not None else {}
    total, trainable = parameters(model, whole)
    experts = _experts(model)
    method = _adapters(model, experts)
    if method is None:
        if trainable == total:
            method = {"kind": "full"}
        else:
            method = {"kind": "frozen", "trained": _together([_clean(n) for n, p in model.named_parameters() if p.requires_grad], experts)}
    method["quantised"] = _quantised(model)
    if gradient_checkpointing is None:
        gradient_checkpointing = _checkpointed(model)
    return {
        "format": 1,
        "config": _plain(as_dict),
        "parameters": {"total": total, "trainable": trainable},
        "method": method,
        "gradient_checkpointing": bool(gradient_checkpointing),
        "attention": str(getattr(config, "_attn_implementation", None) or "sdpa"),
    } | ({"experts_apart": True} if experts else {}) | ({"reentrant": True} if gradient_checkpointing and _reentrant(model) else {}) | ({} if (asked := _input_gradients(model)) is None else {"input_gradients": asked})


#: Fields of a configuration that say nothing of what is executed: how weights are kept, what text is made of them, what labels are called.
_ASIDE = re.compile(
    r"_name_or_path|.*dtype|transformers_version|use_cache|id2label|label2id|problem_type|.*_token_id|generation_config|quantization_config|initializer_.*|output_.*|return_.*"
    r"|(max|min)_length|do_sample|early_stopping|num_beams|num_beam_groups|num_return_sequences|temperature|top_[kp]|typical_p|.*_penalty|.*no_repeat_ngram_size|remove_invalid_values"
    r"|tf_legacy_loss|torchscript|pruned_heads|use_bfloat16"
)


def shape(said):
    """What of a configuration, as `read` tells it, decides on the products of a model."""
    labels = {"num_labels": len(said["config"]["id2label"])} if said["config"].get("id2label") else {}
    return {field: value for field, value in said["config"].items() if value is not None and not _ASIDE.fullmatch(field)} | labels
