"""Without torch and PEFT: adapters are declared with the rank that each has, and with what kind they are of."""

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
