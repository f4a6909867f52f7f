"""Without torch and PEFT: adapters are declared with the rank that each has, and with what kind they are of."""

import functools
import types
import unittest

from test_flopsprof import Model, Parameter, adapted

from flopsprof._model import read


def layers(ranks):
    """A model as PEFT leaves it: each adapted module keeps its ranks by adapter."""
    model = adapted(Model({"base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight": Parameter(100)}))
    modules = {f"base_model.model.model.layers.{i}.self_attn.q_proj": types.SimpleNamespace(r={"default": r}) for i, r in enumerate(ranks)}
    # An adapter that is not active has its own, and other modules have none.
    modules["base_model.model.model.layers.0.self_attn.v_proj"] = types.SimpleNamespace(r={"other": 64})
    modules["base_model.model.model.layers.0.mlp"] = types.SimpleNamespace()
    model.named_modules = lambda: iter(modules.items())
    return model


class Ranks(unittest.TestCase):
    def test_one_rank_needs_no_list(self):
        self.assertNotIn("ranks", read(layers([8, 8]))["method"])

    def test_a_pattern_of_ranks_is_declared_by_module(self):
        method = read(layers([8, 4, 16]))["method"]
        self.assertEqual(method["rank"], 8)
        self.assertEqual(method["ranks"], {"model.layers.1.self_attn.q_proj": 4, "model.layers.2.self_attn.q_proj": 16})


class Kinds(unittest.TestCase):
    def test_plain_adapters_say_nothing_of_others(self):
        self.assertEqual(set(read(layers([8]))["method"]), {"kind", "rank", "targets", "also", "quantised"})

    def test_magnitudes_are_declared_with_what_is_dropped(self):
        model = adapted(Model({"w": Parameter(100)}), use_dora=True, lora_dropout=0.1)
        method = read(model)["method"]
        self.assertEqual((method["dora"], method["dropout"]), (True, 0.1))
        method = read(adapted(Model({"w": Parameter(100)}), use_dora=True))["method"]
        self.assertEqual((method["dora"], method["dropout"]), (True, 0.0))

    def test_adapters_of_parameters_are_declared_by_the_parameters_names(self):
        """PEFT puts them around each other where a module has several, and all-linear makes them without a word."""
        model = adapted(Model({"w": Parameter(100)}), target_parameters={"gate_up_proj", "down_proj"})
        at = "base_model.model.model.layers.3.mlp.experts"
        wrapper = lambda name, rank: types.SimpleNamespace(r={"default": rank}, parameter_name=name)
        modules = {at: wrapper("down_proj", 8), f"{at}.base_layer": wrapper("gate_up_proj", 16), f"{at}.base_layer.base_layer": types.SimpleNamespace()}
        model.named_modules = lambda: iter(modules.items())
        method = read(model)["method"]
        self.assertEqual(method["parameters"], ["model.layers.3.mlp.experts.down_proj", "model.layers.3.mlp.experts.gate_up_proj"])
        self.assertEqual(method["ranks"], {"model.layers.3.mlp.experts.gate_up_proj": 16})
        self.assertFalse(method["tried"])
        modules[at].get_delta_factors = lambda adapter: None
        self.assertTrue(read(model)["method"]["tried"], "as PEFT 0.21 has them")

    def test_what_is_not_estimated_is_named(self):
        model = adapted(Model({"w": Parameter(100)}), use_qalora=True, layer_replication=[(0, 2)], lora_bias=False, kasa_config=None)
        self.assertEqual(read(model)["method"]["not_estimated"], ["use_qalora", "layer_replication"])


class Besides(unittest.TestCase):
    """What is trained beside adapters."""

    def model(self, modules, parameters=("base_model.model.lm_head.original_module.weight",), **config):
        model = adapted(Model({name: Parameter(10) for name in parameters}), **config)
        model.named_modules = lambda: iter(modules.items())
        return model

    def copied(self, weight):
        return types.SimpleNamespace(modules_to_save={}, original_module=None, weight=weight)

    def test_copies_are_named_as_peft_left_them(self):
        """It takes a head along that is tied to the table, if it is told to: one copy for both."""
        own, table = object(), object()
        names = ("base_model.model.model.embed_tokens", "base_model.model.lm_head")
        method = lambda *weights: read(self.model({n: self.copied(w) for n, w in zip(names, weights)}, modules_to_save=["lm_head"]))["method"]
        self.assertEqual(method(table, own)["also"][:2], ["lm_head", "model.embed_tokens"])
        self.assertEqual(method(table, table)["also"][:2], ["lm_head.weight", "model.embed_tokens"])

    def test_what_is_trained_in_its_place_is_named(self):
        at = "base_model.model.model.layers.0.self_attn.q_proj"
        names = [f"{at}.base_layer.bias", f"{at}.lora_A.default.weight", f"{at}.lora_magnitude_vector.default.weight", "base_model.model.lm_head.modules_to_save.default.weight"]
        model = self.model({}, names)
        for _, parameter in model.named_parameters():
            parameter.requires_grad = True
        self.assertEqual(read(model)["method"]["also"], ["model.layers.0.self_attn.q_proj.bias"])

    def test_adapters_that_nobody_named_are_declared(self):
        modules = {f"base_model.model.{name}": types.SimpleNamespace(r={"default": 8}) for name in ("model.embed_tokens", "lm_head")}
        self.assertEqual(read(self.model(modules, target_modules={"embed_tokens"}))["method"]["targets"], ["embed_tokens", "lm_head"])


class Experts(unittest.TestCase):
    """Experts that are modules of their own, as in transformers 4: all of a layer are told as one."""

    LAYER = "base_model.model.model.layers.0.mlp"

    def model(self, ranks=(8, 8, 8), **config):
        model = adapted(Model({"w": Parameter(100)}), **config)
        modules = {f"{self.LAYER}.experts": types.SimpleNamespace()}
        for i, rank in enumerate(ranks):
            modules[f"{self.LAYER}.experts.{i}"] = types.SimpleNamespace()
            modules[f"{self.LAYER}.experts.{i}.up_proj"] = types.SimpleNamespace(r={"default": rank})
        model.named_modules = lambda: iter(modules.items())
        model.targeted_module_names = [name.removeprefix("base_model.model.") for name in modules if name.endswith("up_proj")]
        return model

    def test_they_are_said_to_be_modules(self):
        self.assertIs(read(self.model())["experts_apart"], True)
        self.assertNotIn("experts_apart", read(layers([8])), "where there are none")

    def test_targets_and_ranks_of_all_experts_are_one(self):
        method = read(self.model((4, 4, 4), target_modules=r".*experts.*up_proj"))["method"]
        self.assertEqual(method["targets"], ["model.layers.0.mlp.experts.up_proj"])
        self.assertEqual(method["ranks"], {"model.layers.0.mlp.experts.up_proj": 4})

    def test_some_of_them_stay_what_they_are(self):
        method = read(self.model((8, 4, 4), target_modules=r".*experts.*up_proj"))["method"]
        self.assertEqual(method["targets"], ["model.layers.0.mlp.experts.up_proj"])
        self.assertEqual(method["ranks"], {f"model.layers.0.mlp.experts.{i}.up_proj": 4 for i in (1, 2)})

    def test_frozen_ones_are_told_likewise(self):
        names = [f"model.layers.{layer}.mlp.experts.{i}.up_proj.weight" for layer in (0, 1) for i in (0, 1)]
        # Of layer 1 one expert alone is trained.
        model = Model({name: Parameter(10, trained=name != names[3]) for name in names})
        modules = {name.removesuffix(".up_proj.weight"): types.SimpleNamespace() for name in names}
        model.named_modules = lambda: iter(modules.items())
        self.assertEqual(read(model)["method"]["trained"], [names[2], "model.layers.0.mlp.experts.up_proj.weight"])


class Checkpointing(unittest.TestCase):
    def test_the_reentrant_way_is_told(self):
        """transformers hangs the function that checkpoints on each module that does."""
        model = Model({"w": Parameter(1)})
        layer = types.SimpleNamespace(gradient_checkpointing=True)
        model.modules = lambda: iter([model, layer])
        said = []
        for reentrant in (None, False, True):
            layer._gradient_checkpointing_func = functools.partial(print, **({} if reentrant is None else {"use_reentrant": reentrant}))
            said.append(read(model).get("reentrant"))
        self.assertEqual(said, [None, None, True])
        layer.gradient_checkpointing = False
        self.assertNotIn("reentrant", read(model))


class Embeddings(unittest.TestCase):
    def model(self, table, head, said=True, hooks=()):
        model = Model({"table": table} | ({"head": head} if head is not table else {}), {"model_type": "t5", "tie_word_embeddings": said})
        model.get_input_embeddings = lambda: types.SimpleNamespace(weight=table, _forward_hooks=dict(enumerate(hooks)))
        model.get_output_embeddings = lambda: types.SimpleNamespace(weight=head)
        return model

    def test_what_the_model_has_goes_before_what_its_configuration_says(self):
        """transformers 5 says of every T5 that it is tied, and loads those that were published with a head of their own as they are."""
        table, head = Parameter(10), Parameter(10)
        tied = lambda *given: read(self.model(*given))["config"]["tie_word_embeddings"]
        self.assertEqual([tied(table, head), tied(table, table, False), tied(table, table)], [False, True, True])

    def test_views_tell_nothing(self):
        model = self.model(Parameter(10), Parameter(10))
        model.get_output_embeddings = lambda: types.SimpleNamespace(weight=Parameter(10))
        self.assertIs(read(model)["config"]["tie_word_embeddings"], True)

    def test_that_gradients_flow_to_the_table_is_told(self):
        def make_inputs_require_grads():
            """As transformers calls it."""

        asked = lambda *hooks: read(self.model(Parameter(10), Parameter(10), hooks=hooks))["input_gradients"]
        self.assertEqual([asked(), asked(print, make_inputs_require_grads)], [False, True])
        self.assertNotIn("input_gradients", read(Model({"w": Parameter(1)})), "where it cannot be known")
