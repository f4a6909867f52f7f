"""Without torch and PEFT: adapters of several ranks are declared with the rank that each has."""

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
