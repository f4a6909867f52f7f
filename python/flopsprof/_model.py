"""A live model, read: its true parameters, what of it is trained, and how.

Sizes are true ones. A 4-bit weight of bitsandbytes is packed two to a byte: its `numel` is half (or less) of its parameters. Under ZeRO-3 a weight is
partitioned and its `numel` may be 0: `ds_numel` is the whole. GPTQ and AWQ keep packed weights in buffers. Under FSDP and tensor parallelism a DTensor says its global size; the flat parameters of the older
FSDP are shards, so the sizes of the original ones are taken from their metadata.
"""

import re

from ._adapters import adapters, clean, experts_apart, together


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


def _packed(model):
    """Sizes of GPTQ's and AWQ's weights by identity: what is packed is a buffer `qweight`, mostly no parameter, and the module has the sides of the matrix."""
    modules = getattr(model, "modules", None)
    sizes = {}
    for module in modules() if callable(modules) else ():
        weight = getattr(module, "qweight", None)
        sides = [getattr(module, f"{side}_features", None) or getattr(module, f"{side}features", None) for side in ("in", "out")]
        if weight is not None and all(isinstance(side, int) for side in sides):
            sizes[id(weight)] = _product(sides)
    return sizes


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
    packed = _packed(model)
    total, trainable = sum(packed.values()), 0
    for _, parameter in model.named_parameters():
        if id(parameter) in packed:
            continue
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
        or _packed(model)
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
    experts = experts_apart(model)
    method = adapters(model, experts)
    if method is None:
        if trainable == total:
            method = {"kind": "full"}
        else:
            method = {"kind": "frozen", "trained": together([clean(n) for n, p in model.named_parameters() if p.requires_grad], experts)}
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
