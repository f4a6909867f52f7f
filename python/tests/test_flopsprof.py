"""Without torch and transformers: stubs of the few classes that are looked at. `python3 -m unittest discover -s python/tests`."""

import json
import os
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock
import warnings

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import flops_meter  # noqa: E402
import flopsprof  # noqa: E402
from flopsprof import FlopsProfCallback  # noqa: E402
from flopsprof._batch import describe  # noqa: E402
from flopsprof._model import read, true_numel  # noqa: E402
from flopsprof._state import State  # noqa: E402


class Parameter:
    def __init__(self, n, trained=True, **more):
        self.n, self.requires_grad = n, trained
        self.__dict__.update(more)

    def numel(self):
        return self.n

    def element_size(self):
        return self.__dict__.get("itemsize", 4)


class Params4bit(Parameter):
    pass


class Model:
    """As much of a transformers model as is looked at."""

    def __init__(self, parameters, config=None, **more):
        self._parameters_, self.hooks, self.training = parameters, [], True
        self.config = types.SimpleNamespace(to_dict=lambda: dict(config or {"model_type": "llama"}), _attn_implementation="sdpa")
        self.__dict__.update(more)

    def named_parameters(self):
        return iter(self._parameters_.items())

    def modules(self):
        return iter([self])

    def register_forward_pre_hook(self, hook, with_kwargs):
        assert with_kwargs
        self.hooks.append(hook)
        return types.SimpleNamespace(remove=lambda: self.hooks.remove(hook))

    def __call__(self, *args, **kwargs):
        for hook in list(self.hooks):
            hook(self, args, kwargs)


class Library:
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *arguments: self.told.append((name, *json.loads(json.dumps(arguments)))) or True


def adapted(model, **config):
    """What PEFT leaves behind: frozen weights, adapters beside them."""
    for parameter in model._parameters_.values():
        parameter.requires_grad = False
    model._parameters_["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"] = Parameter(8 * 100)
    defaults = {"r": 8, "target_modules": {"q_proj", "v_proj"}, "modules_to_save": None, "peft_type": "LORA"}
    model.peft_config = {"default": types.SimpleNamespace(**(defaults | config))}
    model.active_adapter = "default"
    return model


def aws(total, trainable, tokens):
    return (4 * total + 2 * trainable) * tokens


ARGS = types.SimpleNamespace(gradient_checkpointing=False)


def trainer_state(step=0, **more):
    return types.SimpleNamespace(global_step=step, stateful_callbacks={}, num_input_tokens_seen=0, **more)


def control(**more):
    return types.SimpleNamespace(**({"should_evaluate": False, "should_save": False} | more))


class Sizes(unittest.TestCase):
    """Errors 8 and 9 of the AWS meter: its answer beside ours."""

    def test_packed_weights_count_whole(self):
        weight = Params4bit(500, trained=False, quant_state=types.SimpleNamespace(shape=(10, 100)))
        self.assertEqual(true_numel(weight), 1000)
        self.assertEqual(weight.numel(), 500, "what the AWS meter sees")
        without_state = Params4bit(500, trained=False, quant_state=None, itemsize=1)
        self.assertEqual(true_numel(without_state), 1000)
        # Stored as bf16, four to an element.
        stored = Params4bit(250, trained=False, quant_state=None, quant_storage=types.SimpleNamespace(itemsize=2))
        self.assertEqual(true_numel(stored), 1000)

    def test_weights_that_are_packed_in_buffers_count_whole(self):
        weight = Parameter(50)
        layer = types.SimpleNamespace(in_features=40, out_features=20, qweight=weight)
        # PEFT hands the weight on to what it puts around the layer; some versions have other names for its sides.
        around = types.SimpleNamespace(infeatures=40, outfeatures=20, qweight=weight)
        model = Model({"lora_A": Parameter(8), "norm": Parameter(4, trained=False)})
        for more in ({}, {"qweight": weight}):
            model._parameters_.update(more)
            model.modules = lambda: iter([model, around, layer])
            self.assertEqual((read(model)["parameters"], read(model)["method"]["quantised"]), ({"total": 812, "trainable": 8}, True))

    def test_partitioned_weights_count_whole(self):
        weight = Parameter(0, ds_numel=1000)
        self.assertEqual(true_numel(weight), 1000)
        self.assertEqual(aws(weight.numel(), weight.numel(), 10), 0, "the AWS meter says no operations at all")

    def test_flat_parameters_count_whole(self):
        flat = Parameter(250, _is_flat_param=True, _numels=(600, 400), _is_padding_mask=[False, True, False])
        self.assertEqual(true_numel(flat), 1000)

    def test_views_of_shards_count_whole(self):
        """FSDP with the original parameters: each is what this rank has of it, and may be nothing."""
        views = {"a": Parameter(250), "b": Parameter(0, trained=False)}
        flat = Parameter(250, _is_flat_param=True, _params=list(views.values()), _numels=(600, 400))
        model = Model(views)
        root = type("FullyShardedDataParallel", (), {"module": model, "_handle": types.SimpleNamespace(flat_param=flat), "modules": lambda self: [self, model]})()
        said = read(root)["parameters"]
        self.assertEqual((said["total"], said["trainable"]), (1000, 600))

    def test_parameters_are_counted_after_adapters(self):
        model = Model({"model.layers.0.self_attn.q_proj.weight": Parameter(10_000)})
        before = sum(p.numel() for _, p in model.named_parameters() if p.requires_grad)
        said = read(adapted(model))
        self.assertEqual(said["parameters"], {"total": 10_800, "trainable": 800})
        self.assertEqual(said["method"], {"kind": "lora", "rank": 8, "targets": ["q_proj", "v_proj"], "also": [], "quantised": False})
        ratio = aws(10_000, before, 1) / aws(10_800, 800, 1)
        self.assertGreater(ratio, 1.3, "the AWS meter takes LoRA for full training")


class Declarations(unittest.TestCase):
    def test_wrappers_are_looked_through(self):
        inner = Model({"model.layers.0.mlp.down_proj.weight": Parameter(10), "model.embed_tokens.weight": Parameter(5, trained=False)})
        wrapped = types.SimpleNamespace(_orig_mod=type("DistributedDataParallel", (), {"module": inner})())
        said = read(wrapped)
        self.assertEqual(said["method"], {"kind": "frozen", "trained": ["model.layers.0.mlp.down_proj.weight"], "quantised": False})
        self.assertEqual(said["config"]["architectures"], ["Model"])

    def test_a_pattern_as_targets_is_what_it_found(self):
        model = adapted(Model({"w": Parameter(10)}), target_modules=r".*\.(up|down)_proj")
        model.targeted_module_names = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "model.layers.0.mlp.down_proj"]
        found = ["model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
        self.assertEqual(read(model)["method"]["targets"], found)

    def test_adapters_of_some_layers_are_not_those_of_all(self):
        for some in ({"layers_to_transform": [1]}, {"exclude_modules": r".*layers\.0\..*"}):
            model = adapted(Model({"w": Parameter(10)}), **some)
            model.targeted_module_names = ["model.language_model.layers.1.self_attn.q_proj"]
            self.assertEqual(read(model)["method"]["targets"], ["layers.1.self_attn.q_proj"], some)
        model = adapted(Model({"w": Parameter(10)}), layers_to_transform=None, exclude_modules=None)
        model.targeted_module_names = ["model.layers.1.self_attn.q_proj"]
        self.assertEqual(read(model)["method"]["targets"], ["q_proj", "v_proj"])

    def test_the_class_that_runs_is_declared_and_not_the_one_that_was_saved(self):
        """`from_pretrained` of a language model's weights as a classifier leaves `architectures` as the language model's, whose head is a vocabulary wide."""
        saved = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
        runs = type("LlamaForSequenceClassification", (Model,), {"__module__": "transformers.models.llama.modeling_llama"})
        sharded = type("FSDPLlamaForSequenceClassification", (runs,), {"__module__": "torch.distributed.fsdp"})
        for kind in (runs, sharded):
            for model in (kind({"w": Parameter(1)}, saved), Model({"w": Parameter(1)}, saved, get_base_model=lambda kind=kind: kind({}))):
                self.assertEqual(read(model)["config"]["architectures"], ["LlamaForSequenceClassification"])
        self.assertEqual(read(Model({"w": Parameter(1)}, saved))["config"]["architectures"], ["LlamaForCausalLM"], "of other people's classes nothing is known")

    def test_of_the_heads_that_peft_names_the_one_there_is_is_declared(self):
        """For `SEQ_CLS` it adds `classifier` and `score` to what is trained whole; a name that no module has makes the estimate refuse the model."""
        model = adapted(Model({"w": Parameter(10)}), modules_to_save=["classifier", "score"])
        names = ["base_model.model.model.layers.0", "base_model.model.score", "base_model.model.score.modules_to_save.default"]
        model.named_modules = lambda: iter([(name, types.SimpleNamespace()) for name in names])
        self.assertEqual(read(model)["method"]["also"], ["score"])

    def test_what_json_cannot_carry_is_made_plain(self):
        said = read(Model({"w": Parameter(1)}, {"model_type": "x", "dtype": object, "eps": float("inf"), "id2label": {0: "a"}}))
        json.dumps(said, allow_nan=False)
        self.assertEqual(said["config"]["id2label"], {"0": "a"})

    def test_rows_are_told_before_another_model_is_declared(self):
        state = State(Library())
        state.declare(Model({"w": Parameter(10)}))
        for _ in range(3):  # only the first is told at once
            state.batch(rows=1, length=4, documents=[(4, 0)])
        state.declare(Model({"w": Parameter(20)}))
        said = [call for call in state.library.told if call[0] in ("declare_model", "declare_work")]
        self.assertEqual([call[0] for call in said], ["declare_model", "declare_work", "declare_work", "declare_model"])
        self.assertEqual(said[2][1]["phases"]["train"]["executed"], [[3, 4, 0]])

    def test_without_the_library_it_is_analytic_only(self):
        self.assertFalse(flopsprof.loaded())
        self.assertIsNone(flopsprof.library_version())
        flopsprof.reset()
        flopsprof.declare(Model({"w": Parameter(10)}))
        with flopsprof.phase("train"):
            flopsprof.batch([[1, 2, 3], [4, 5, 6]], attention_mask=[[1, 1, 1], [1, 1, 0]])
            flopsprof.step()
        self.assertEqual(flopsprof.tokens(), (5, 6))
        self.assertEqual(flopsprof.declaration()["parameters"]["total"], 10)
        self.assertEqual(flopsprof.work()["phases"]["train"]["executed"], [[2, 3, 0]])

    def test_importing_brings_no_framework(self):
        code = "import sys, flopsprof; assert not {'torch', 'transformers'} & set(sys.modules), sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.join(os.path.dirname(__file__), ".."))


class Batches(unittest.TestCase):
    IDS = [[1] * 8, [1] * 8]

    def test_pads_are_no_tokens(self):
        said = describe({"input_ids": self.IDS, "attention_mask": [[1] * 8, [1] * 5 + [0] * 3]})
        self.assertEqual((said["rows"], said["length"], said["documents"]), (2, 8, [(8, 0), (5, 0)]))
        self.assertTrue(said["masked"])
        # Error 7 of the AWS meter: `getattr(args, "pad_token_id", -100)`, and TRL's arguments have none, so no token is ever a pad.
        pad = getattr(types.SimpleNamespace(pad_token="<pad>"), "pad_token_id", -100)
        self.assertEqual(sum(t != pad for row in self.IDS for t in row), 16)

    def test_full_masks_are_none(self):
        self.assertFalse(describe({"input_ids": self.IDS, "attention_mask": [[1] * 8] * 2})["masked"])
        self.assertFalse(describe({"input_ids": self.IDS})["masked"])

    def test_flash_attention_gets_no_pads(self):
        padded = {"input_ids": self.IDS, "attention_mask": [[1] * 8, [1] * 3 + [0] * 5]}
        told = lambda attention: (lambda said: (said["masked"], said["by_document"], said["documents"]))(describe(padded, attention))
        self.assertEqual(told("flash_attention_2"), (False, True, [(8, 0), (3, 0)]))
        self.assertEqual(told("sdpa"), (True, False, [(8, 0), (3, 0)]))
        full = {"input_ids": self.IDS, "attention_mask": [[1] * 8] * 2}
        self.assertFalse(describe(full, "flash_attention_2")["by_document"])

    def test_packed_rows_hold_several_documents(self):
        positions = [[0, 1, 2, 0, 1, 2, 3, 4], list(range(8))]
        for inputs in ({"position_ids": positions}, {"attention_mask": [[1, 1, 1, 2, 2, 2, 2, 2], [1] * 8]}):
            said = describe({"input_ids": self.IDS} | inputs)
            self.assertEqual(said["documents"], [(3, 0), (5, 0), (8, 0)], inputs)
            self.assertTrue(said["by_document"])
        for attention in ("flash_attention_2", "kernels-community/vllm-flash-attn3", "flex_attention"):
            self.assertFalse(describe({"input_ids": self.IDS, "position_ids": positions}, attention)["masked"])

    def test_encoders_and_decoders_have_a_length_each(self):
        said = describe({"input_ids": self.IDS, "labels": [[1, 2, 3], [4, -100, -100]]}, encoder_decoder=True)
        self.assertEqual((said["decoder_length"], said["documents"]), (3, [(8, 3), (8, 1)]))

    def test_what_has_no_tokens_is_named(self):
        with self.assertRaisesRegex(KeyError, "input_ids"):
            describe({"labels": [1]})


class Callback(unittest.TestCase):
    def setUp(self):
        self.library = Library()
        self.account = State(self.library)

    def begin(self, callback, model, state=None):
        callback.on_train_begin(ARGS, state or trainer_state(), control(), model=model)

    def names(self, kind):
        return [told[1] for told in self.library.told if told[0] == kind]

    def test_a_training_with_evaluation_and_checkpoints(self):
        model = Model({"w": Parameter(100)})
        callback = FlopsProfCallback(self.account)
        self.begin(callback, model)
        for step in range(1, 4):
            model(input_ids=[[1] * 4] * 2, attention_mask=[[1] * 4, [1, 1, 0, 0]])
            last = step == 3
            callback.on_step_end(ARGS, trainer_state(step), control(should_evaluate=last, should_save=last))
        model.training = False
        model(input_ids=[[1] * 4])
        callback.on_prediction_step(ARGS, trainer_state(3), control())
        callback.on_evaluate(ARGS, trainer_state(3), control(should_save=True))
        callback.on_save(ARGS, trainer_state(3), control())
        model.training = True
        callback.on_train_end(ARGS, trainer_state(3), control())
        self.assertEqual(self.names("mark_phase"), ["train", "evaluate", "checkpoint", "train", "other"])
        self.assertEqual(self.names("add_tokens"), [6, 6, 6], "evaluation adds no tokens")
        work = [told[1] for told in self.library.told if told[0] == "declare_work"][-1]
        self.assertEqual(work["phases"]["train"]["executed"], [[6, 4, 0]])
        self.assertEqual(work["phases"]["train"]["documents"], [[3, 2, 0], [3, 4, 0]])
        self.assertEqual(work["phases"]["evaluate"]["backward"], False)
        self.assertEqual(callback.tokens(), (18, 24))
        callback.detach()
        self.assertEqual(model.hooks, [])

    def test_passes_without_gradients_train_nothing(self):
        """Preference training with adapters asks the same model for its reference, with the adapters off: half of its passes."""
        model, grad = Model({"w": Parameter(100)}), [True]
        callback = FlopsProfCallback(self.account)
        self.begin(callback, model)
        with unittest.mock.patch.dict(sys.modules, {"torch": types.SimpleNamespace(is_grad_enabled=lambda: grad[0], Tensor=())}):
            for grad[0] in (False, True):
                model(input_ids=[[1] * 4] * 2)
        self.assertEqual(callback.tokens(), (8, 8))
        self.assertEqual(self.names("add_tokens"), [8])
        phases = self.account.work()["phases"]
        self.assertEqual((phases["train"]["batches"], phases["inference"]["executed"]), (1, [[2, 4, 0]]))
        self.assertFalse(phases["inference"]["backward"])
        self.assertEqual(self.names("mark_phase"), ["train"], "a window is not cut for it")

    def test_training_goes_on_after_the_program_has_generated(self):
        model = Model({"w": Parameter(100)})
        callback = FlopsProfCallback(self.account)
        self.begin(callback, model)
        for model.training in (False, False, True):
            model(input_ids=[[1] * 4])
        self.assertEqual(self.names("mark_phase"), ["train", "evaluate", "train"])
        self.assertEqual(callback.tokens(), (4, 4))

    def test_a_batch_that_cannot_be_read_never_ends_the_training(self):
        model = Model({"w": Parameter(1)})
        self.begin(FlopsProfCallback(self.account), model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model(audio=[1])
            model(audio=[1])
        self.assertEqual(len(caught), 1)
        self.assertIn("not counted", str(caught[0].message))

    def test_a_resumed_training_goes_on_counting(self):
        """Error 11 of the AWS meter: tokens begin at 0 again."""
        first, model = FlopsProfCallback(self.account), Model({"w": Parameter(1)})
        self.begin(first, model)
        model(input_ids=[[1] * 10])
        first.on_step_end(ARGS, trainer_state(1), control())
        kept = json.loads(json.dumps(first.state()))
        second, account = FlopsProfCallback(State(Library())), Model({"w": Parameter(1)})
        state = trainer_state(1)
        state.stateful_callbacks = {"FlopsProfCallback": kept}
        self.begin(second, account, state)
        account(input_ids=[[1] * 7])
        self.assertEqual(second.tokens(), (17, 17))
        self.assertEqual(second.account.tokens(), (7, 7), "this process's own, which is what its evidence is of")

    def test_a_training_is_counted_by_itself_whatever_the_process_did_before(self):
        """A notebook: a training that was stopped, the same one resumed, and another one, in one process."""
        callback, model = FlopsProfCallback(self.account), Model({"w": Parameter(1)})
        self.begin(callback, model)
        model(input_ids=[[1] * 10])
        callback.on_step_end(ARGS, trainer_state(1), control())
        callback.on_train_end(ARGS, trainer_state(1), control())
        kept = json.loads(json.dumps(callback.state()))
        callback.detach()
        for resumed in (FlopsProfCallback(self.account), callback):
            state = trainer_state(1)
            state.stateful_callbacks = {"FlopsProfCallback": kept}
            self.begin(resumed, model, state)
            model(input_ids=[[1] * 7])
            self.assertEqual(resumed.tokens(), (17, 17))
            resumed.detach()
        state = trainer_state()
        # transformers writes the states of all callbacks there, of a training that is not resumed too.
        state.stateful_callbacks = {"FlopsProfCallback": callback.state()}
        self.begin(callback, model, state)
        model(input_ids=[[1] * 3])
        self.assertEqual(callback.tokens(), (3, 3))
        self.assertEqual(self.account.tokens(), (27, 27), "of this process, which is what its evidence is of")

    def test_a_checkpoint_without_our_state_is_said_and_can_be_saved_again(self):
        state = trainer_state(500)
        with self.assertWarnsRegex(UserWarning, "trainer_state.json"):
            self.begin(FlopsProfCallback(self.account), Model({"w": Parameter(1)}), state)
        # transformers 4.57 and 5.17: `self.state.stateful_callbacks[cb_name]`, without a thought that it may not be there.
        self.assertIn("FlopsProfCallback", state.stateful_callbacks)

    def ranks(self, folder, parts, at, kept=None, into=None):
        """A training of so many ranks, each with a row of so many tokens, that is saved; what its checkpoint keeps, and what the ranks say."""
        callbacks = []
        for rank, n in enumerate(parts):
            callback, model, state = FlopsProfCallback(State(Library())), Model({"w": Parameter(1)}), trainer_state(at if kept else 0)
            state.stateful_callbacks = {"FlopsProfCallback": kept} if kept else {}
            with unittest.mock.patch("flopsprof._callback._rank_and_world", lambda rank=rank: (rank, len(parts))):
                callback.on_train_begin(types.SimpleNamespace(output_dir=folder), state, control(), model=model)
                model(input_ids=[[1] * n])
                callback.on_step_end(ARGS, trainer_state(at + 1), control())
            callbacks.append(callback)
        path = os.path.join(into or folder, f"checkpoint-{at + 1}")
        os.makedirs(path)
        args = types.SimpleNamespace(output_dir=into or folder)
        for rank, callback in enumerate(callbacks):
            with unittest.mock.patch("flopsprof._callback._rank_and_world", lambda rank=rank: (rank, len(parts))):
                callback.on_save(args, trainer_state(at + 1), control())
                saved = json.loads(json.dumps(callback.state())) if rank == 0 else saved
        self.assertEqual(len(os.listdir(path)), len(parts) if len(parts) > 1 else 0)
        return saved, [c.tokens()[0] for c in callbacks]

    def test_of_several_ranks_the_checkpoint_keeps_all(self):
        """transformers asks one rank for what is kept; the rows of the others are as many and of other lengths."""
        with tempfile.TemporaryDirectory() as folder:
            kept, _ = self.ranks(folder, [10, 6], 0)
            again, told = self.ranks(folder, [1, 2, 3], 1, kept)
            self.assertEqual(told, [17, 2, 3])
            self.assertEqual((again["attributes"]["earlier"], again["attributes"]["of"]), ({"tokens": 17, "padded_tokens": 17, "steps": 2}, 3))
            _, told = self.ranks(folder, [1], 2, again)
            self.assertEqual(told, [23])
            os.remove(os.path.join(folder, "checkpoint-2", "flopsprof_rank_1.json"))
            os.remove(os.path.join(folder, "_flopsprof", "rank_1.json"))
            with self.assertWarnsRegex(UserWarning, "2 of 3 ranks"):
                self.assertEqual(self.ranks(os.path.join(folder), [1, 1], 2, again, into=folder + "-again")[1], [21, 1])

    def test_an_evaluation_by_itself_is_no_training(self):
        callback, model = FlopsProfCallback(self.account), Model({"w": Parameter(1)})
        self.begin(callback, model)
        callback.on_train_end(ARGS, trainer_state(1), control())
        for ends in (callback.on_evaluate, callback.on_predict):
            callback.on_prediction_step(ARGS, trainer_state(1), control())
            ends(ARGS, trainer_state(1), control())
        self.assertEqual(self.names("mark_phase"), ["train", "other", "evaluate", "other", "evaluate", "other"])

    def test_ranks_that_share_tokens_tell_them_once(self):
        told = 0
        for rank in range(4):
            mesh = types.SimpleNamespace(mesh_dim_names=("dp", "tp"), get_local_rank=lambda axis, rank=rank: rank % 2 if axis == "tp" else rank // 2)
            torch = types.ModuleType("torch")
            torch.distributed = types.ModuleType("torch.distributed")
            torch.distributed.is_available = lambda: False
            saved = {name: sys.modules.get(name) for name in ("torch", "torch.distributed")}
            sys.modules.update({"torch": torch, "torch.distributed": torch.distributed})
            try:
                account, model = State(Library()), Model({"w": Parameter(1)}, device_mesh=mesh)
                self.begin(FlopsProfCallback(account), model)
                model(input_ids=[[1] * 5])
            finally:
                for name, module in saved.items():
                    if module is None:
                        del sys.modules[name]
                    else:
                        sys.modules[name] = module
            told += account.tokens()[0]
        self.assertEqual(told, 10, "two data-parallel groups of 5 tokens; the AWS meter says 20")


class Tensor:
    """As much of torch's as is asked of a batch on a GPU: rows of numbers, or one row of them."""

    def __init__(self, data, dtype="int64", on="cuda:0"):
        self.data, self.dtype, self.device, self._version = data, dtype, on, 0
        self.is_cuda = on != "cpu"
        self.shape = (len(data), len(data[0])) if data and isinstance(data[0], list) else (len(data),)

    def _new(self, data, dtype=None):
        return Tensor(data, dtype or self.dtype, self.device)

    @property
    def nbytes(self):
        return 8 * self.numel()

    def dim(self):
        return len(self.shape)

    def numel(self):
        return self.shape[0] * (self.shape[1] if self.dim() > 1 else 1)

    def sum(self, dim, dtype):
        assert dim == 1
        return self._new([sum(row) for row in self.data], dtype)

    def aminmax(self):
        flat = self.reshape(-1).data
        return self._new([min(flat)]), self._new([max(flat)])

    def long(self):
        return self._new(self.data, "int64")

    def reshape(self, to):
        assert to == -1
        return self._new([v for row in self.data for v in row] if self.dim() > 1 else self.data)

    def view(self, shape):
        if shape == 1 or len(shape) == 1:
            return self
        rows, length = shape
        return self._new([self.data[i * length : (i + 1) * length] for i in range(rows)])

    def __getitem__(self, at):
        if isinstance(at, tuple):
            return self._new([row[at[1]] for row in self.data[at[0]]])
        return self._new(self.data[at])

    def __le__(self, other):
        return self._new([[a <= b for a, b in zip(*rows)] for rows in zip(self.data, other.data)], "bool")

    def nonzero(self):
        return self._new([[i, j] for i, row in enumerate(self.data) for j, v in enumerate(row) if v])

    def to(self, where, non_blocking):
        assert where == "cpu" and non_blocking
        return Tensor(self.data, self.dtype, "cpu")

    def cpu(self):
        return Tensor(self.data, self.dtype, "cpu")

    def count_nonzero(self, dim):
        assert dim == 1 and not self.is_cuda
        return self._new([sum(v != 0 for v in row) for row in self.data])

    def __lt__(self, other):
        return self.data[0] < other

    def __gt__(self, other):
        return self.data[0] > other

    def tolist(self):
        OnAGpu.waited += self.is_cuda
        return self.data


class OnAGpu(unittest.TestCase):
    """Batches that lie on a GPU, by a stub of torch in which a copy comes when it is told to."""

    waited = 0

    def setUp(self):
        self.arrived, self.capturing, test = [], False, self
        OnAGpu.waited = 0

        class Event:
            def record(self, stream):
                self.number = len(test.arrived)
                test.arrived.append(False)

            def query(self):
                return test.arrived[self.number]

            def synchronize(self):
                test.arrived[self.number] = True

        torch = types.ModuleType("torch")
        torch.Tensor, torch.int64, torch.bool = Tensor, "int64", "bool"
        torch.cat = lambda tensors: Tensor([v for t in tensors for v in t.data], tensors[0].dtype, tensors[0].device)
        torch.cuda = types.SimpleNamespace(Event=Event, current_stream=lambda device: None, is_initialized=lambda: True, is_current_stream_capturing=lambda: self.capturing)
        patched = unittest.mock.patch.dict(sys.modules, {"torch": torch})
        patched.start()
        self.addCleanup(patched.stop)
        self.library = Library()
        self.account = State(self.library)

    def batch(self, *rows, phase="train", positions=None, fresh=True):
        """A batch of these rows of a mask, and of position ids."""
        inputs = {"input_ids": Tensor([[7] * len((list(rows) or positions)[0])] * 2)}
        inputs |= {"attention_mask": Tensor([list(row) for row in rows])} if rows else {}
        inputs |= {"position_ids": Tensor(positions)} if positions else {}
        self.account.look(inputs, phase=phase, fresh=fresh)
        return inputs

    def told(self):
        return [told[1] for told in self.library.told if told[0] == "add_tokens"]

    def documents(self, phase="train"):
        return self.account.work()["phases"][phase]["documents"]

    FULL, PADDED = [1, 1, 1, 1], [1, 1, 1, 0]

    def test_a_batch_is_counted_when_its_numbers_have_come(self):
        self.account.sync()
        for _ in range(64):
            self.batch(self.FULL, self.PADDED)
        self.assertEqual((self.told(), len(self.arrived)), ([], 2), "the first, and then they come together")
        marks = [told[1:] for told in self.library.told if told[0] == "mark_batch"]
        self.assertEqual(marks, [(2, 4)] * 64, "a shape is known at once: a census asks for it")
        for _ in range(63):
            self.batch(self.FULL, self.PADDED)
        self.arrived[:2] = [True, True]
        self.batch(self.FULL, self.PADDED)
        self.assertEqual(self.told(), [7] * 64, "the others are still on their way")
        self.batch(self.FULL, [1, 1, 0, 0])
        self.assertEqual(self.account.tokens(), (128 * 7 + 6, 129 * 8), "who asks gets all")
        self.assertEqual(self.documents(), [[1, 2, 0], [128, 3, 0], [129, 4, 0]])
        self.assertEqual(OnAGpu.waited, 0)

    def test_the_end_of_a_training_waits_for_all(self):
        self.batch(self.FULL, self.PADDED)
        self.account.sync()
        self.assertEqual(self.told(), [7])
        work = [told[1] for told in self.library.told if told[0] == "declare_work"][-1]
        self.assertEqual(work["phases"]["train"]["executed"], [[2, 4, 0]])

    def test_what_never_comes_does_not_heap_up(self):
        for _ in range(3000):
            self.batch(self.FULL, self.PADDED)
        self.assertLess(len(self.account._coming), 1025)
        self.batch([1] * (1 << 21), [1] * (1 << 21))
        self.assertEqual(self.account._coming.bytes, 0, "of large ones no memory is kept")

    def test_buffers_that_are_used_again_are_read_in_time(self):
        """By plain functions: the numbers are worked out before the next batch is written there."""
        inputs = self.batch(self.FULL, self.PADDED, fresh=False)
        mask = inputs["attention_mask"]
        mask.data, mask._version = [self.PADDED, self.PADDED], 1
        self.account.look(inputs, phase="train")
        self.assertEqual(self.account.tokens(), (13, 16))

    def test_what_was_written_over_is_said_and_does_not_happen_again(self):
        self.batch(self.FULL, self.PADDED)  # the first of all is sent for at once
        mask = self.batch(self.FULL, self.PADDED)["attention_mask"]
        mask._version = 1
        with self.assertWarnsRegex(UserWarning, "written over"):
            self.account.sync()
        mask = self.batch(self.FULL, self.PADDED)["attention_mask"]
        mask._version = 1
        self.assertEqual(self.account.tokens(), (14, 16))

    def test_a_phase_is_that_in_which_the_batch_was_given(self):
        self.batch(self.FULL, self.FULL, phase="evaluate")
        self.account.enter("train")
        self.assertEqual(self.account.tokens("evaluate"), (8, 8))
        self.assertEqual(self.account.tokens("train"), (0, 0))

    def test_packed_rows_are_described_as_on_the_host(self):
        positions = [[0, 1, 2, 0], [0, 1, 2, 3]]
        self.batch(positions=positions)
        self.batch(self.FULL, self.FULL, positions=positions)
        self.assertEqual(self.documents(), [[2, 1, 0], [2, 3, 0], [2, 4, 0]])
        self.assertEqual(OnAGpu.waited, 0)

    def test_what_numbers_do_not_tell_is_read(self):
        self.batch(self.FULL, self.PADDED)
        self.batch([1, 1, 2, 2], self.FULL)  # documents by their numbers
        self.batch(self.FULL, [1, 1, 1, 0], positions=[[0, 1, 0, 1], [0, 1, 0, 0]])  # pads have positions too
        self.batch(self.FULL, self.PADDED)
        self.assertEqual(self.documents(), [[1, 1, 0], [5, 2, 0], [2, 3, 0], [3, 4, 0]])

    def test_a_capture_is_not_disturbed_and_said(self):
        model = Model({"w": Parameter(1)})
        FlopsProfCallback(self.account).on_train_begin(ARGS, trainer_state(), control(), model=model)
        self.capturing = True
        with self.assertWarnsRegex(UserWarning, "CUDA graph"):
            model(input_ids=Tensor([[1] * 4]), attention_mask=Tensor([[1] * 4]))
        self.assertEqual(self.arrived, [])


class Meter(unittest.TestCase):
    """The AWS toolkit's names."""

    KEYS = (
        "N_total N_trainable tokens_processed Flops_architecture Flops_hardware pct_of_pretrain exceeds_30pct model_name num_epochs "
        "training_duration_seconds gpu_size gpu_rank Flops_original threshold_type threshold_value training_job_name training_id recipe_config "
        "recipe_config_details gpu_name instance_type model_package_group_name"
    ).split()

    def run_one(self, folder, **more):
        path = os.path.join(folder, "sub", "flops_meter.json")
        model = adapted(Model({"model.layers.0.self_attn.q_proj.weight": Parameter(10_000)}))
        environment = {"FLOPS_METER_OUT": path, "FLOPS_METER_NVML": "1", "TRAINING_JOB_NAME": "pipelines-abc-xyz"}
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            callback = flops_meter.FlopsMeterCallback(
                pad_token_id=0, n_total=10_000, n_trainable=10_000, model_name="m", num_epochs=1.0, account=State(Library()), **more
            )
            callback.on_train_begin(ARGS, trainer_state(), control(), model=model)
            model(input_ids=[[1] * 8, [1] * 8], attention_mask=[[1] * 8, [1] * 4 + [0] * 4])
            callback.add_tokens(999)
            callback.on_step_end(ARGS, trainer_state(1), control())
            callback.on_train_end(ARGS, trainer_state(1), control())
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        with open(path) as file:
            said = json.load(file)
        self.assertEqual(os.listdir(os.path.dirname(path)), ["flops_meter.json"], "nothing half-written")
        return said

    def test_the_file_has_the_toolkits_keys_in_its_order_and_true_values(self):
        with tempfile.TemporaryDirectory() as folder:
            said = self.run_one(folder)
        self.assertEqual(list(said)[: len(self.KEYS)], self.KEYS)
        self.assertEqual((said["N_total"], said["N_trainable"], said["tokens_processed"]), (10_800, 800, 12))
        self.assertEqual(said["Flops_architecture"], f"{aws(10_800, 800, 12): .2e}")
        self.assertGreater(aws(10_000, 10_000, 16), 1.7 * aws(10_800, 800, 12), "what the toolkit would have written")
        self.assertEqual((said["threshold_type"], said["threshold_value"]), ("default_3.3e22", " 3.33e+22"))
        self.assertEqual((said["training_job_name"], said["training_id"]), ("pipelines-abc-xyz", "xyz"))

    def test_the_rule_is_one_third_of_the_base_models_compute(self):
        """Errors 1, 2 and 4: 0.30, a default below 1e23, a threshold that is the whole."""
        self.assertEqual(flops_meter.determine_compliance_threshold(1.5e24)[0], 5e23)
        self.assertEqual(flops_meter.determine_compliance_threshold(9e22)[0], 3e22)
        self.assertAlmostEqual(flops_meter.determine_compliance_threshold(None)[0] / 1e22, 3.3333333, 6)
        with tempfile.TemporaryDirectory() as folder:
            said = self.run_one(folder, pretrain_flops=1.5e24)
        self.assertEqual((said["Flops_original"], said["threshold_value"]), (" 1.50e+24", " 5.00e+23"))

    def test_a_file_that_cannot_be_written_does_not_end_the_training(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "file", "flops_meter.json")
            open(os.path.dirname(path), "w").close()
            callback, model = flops_meter.FlopsMeterCallback(account=State(Library())), Model({"w": Parameter(1)})
            callback.on_train_begin(ARGS, trainer_state(), control(), model=model)
            with unittest.mock.patch.dict(os.environ, {"FLOPS_METER_OUT": path}):
                with self.assertWarnsRegex(UserWarning, "FLOPS_METER_OUT"):
                    callback.on_train_end(ARGS, trainer_state(1), control())

    def test_a_compute_that_is_no_number_is_refused(self):
        for wrong in ("much", "-1", "0", "nan", "inf"):
            with self.assertRaisesRegex(ValueError, "PRETRAIN_FLOPS"):
                flops_meter.pretrain_flops_from(wrong)
        self.assertIsNone(flops_meter.pretrain_flops_from(" "))
        self.assertEqual(flops_meter.pretrain_flops_from("1.5e24"), 1.5e24)


if __name__ == "__main__":
    unittest.main()
