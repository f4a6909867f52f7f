"""Without torch and TRL: models that a trainer runs beside the one it trains have rows of their own, which are no training."""

import types
import unittest
import unittest.mock

from test_flopsprof import ARGS, Library, Model, Parameter, control, trainer_state

from flopsprof import FlopsProfCallback
from flopsprof._state import State

LLAMA = {"model_type": "llama", "hidden_size": 64, "pad_token_id": None, "torch_dtype": "bfloat16"}


def llama(**more):
    return Model({"model.layers.0.mlp.down_proj.weight": Parameter(100)}, LLAMA | more)


class Trainer:
    """Calls its callback as transformers does: through a handler, which has the model and not the trainer."""

    def __init__(self, callback, model, **more):
        self.model, self.callback = model, callback
        self.callback_handler = types.SimpleNamespace(call=lambda event: getattr(callback, event)(ARGS, trainer_state(), control(), model=model))
        self.__dict__.update(more)

    def train(self):
        self.callback_handler.call("on_train_begin")


def phases(account):
    return account.work()["phases"]


class Beside(unittest.TestCase):
    def setUp(self):
        self.library = Library()
        self.account = State(self.library)
        self.callback = FlopsProfCallback(self.account)
        self.batch = {"input_ids": [[1, 2, 3, 4], [1, 2, 3, 4]], "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]]}

    def begin(self, model, **more):
        Trainer(self.callback, model, **more).train()

    def frozen(self, model, **batch):
        """As under `torch.no_grad()`."""
        with unittest.mock.patch("flopsprof._callback._gradients", lambda: False):
            model(**(batch or self.batch))

    def test_a_reference_is_no_training(self):
        policy, reference = llama(), llama(pad_token_id=0, torch_dtype="float32")
        reference.training = False
        self.begin(policy, ref_model=reference)
        policy(**self.batch)
        self.frozen(reference)
        said = phases(self.account)
        self.assertEqual((said["train"]["executed"], said["reference"]["executed"], said["reference"]["documents"]), ([[2, 4, 0]], [[2, 4, 0]], [[1, 2, 0], [1, 4, 0]]))
        self.assertEqual((said["train"]["backward"], said["reference"]["backward"]), (True, False))
        self.assertNotIn("config", said["reference"], "it is of the trained one's shape")
        self.assertEqual(sum(told[1] for told in self.library.told if told[0] == "add_tokens"), 6)
        self.assertEqual((self.account.tokens(), self.account.phase), ((6, 8), "train"))
        # Of an evaluation it is a part, and its windows hold it.
        self.callback.on_prediction_step(ARGS, trainer_state(), control())
        self.frozen(reference)
        self.assertEqual(phases(self.account)["evaluate"]["executed"], [[2, 4, 0]])
        self.callback.detach()
        self.assertEqual((policy.hooks, reference.hooks), ([], []))

    def test_another_models_rows_have_its_shape(self):
        self.begin(llama(), teacher_model=llama(hidden_size=128), ref_model=None, some_model="a name")
        self.assertEqual(phases(self.account)["teacher"]["config"]["hidden_size"], 128)
        self.assertNotIn("torch_dtype", phases(self.account)["teacher"]["config"])

    def test_models_that_reward_are_beside_it(self):
        """TRL's GRPO has them in a list, functions among them."""
        first, second = llama(hidden_size=128), llama()
        self.begin(llama(), reward_funcs=[first, len, second])
        self.frozen(first)
        self.frozen(second)
        said = phases(self.account)
        self.assertEqual((said["reward"]["executed"], said["reward 2"]["executed"]), ([[2, 4, 0]], [[2, 4, 0]]))
        self.assertEqual((said["reward"]["config"]["hidden_size"], "config" in said["reward 2"]), (128, False))

    def test_the_trained_model_is_none_beside_it(self):
        policy = llama()
        inner = llama()
        policy.modules = lambda: iter([policy, inner])
        wrapped = types.SimpleNamespace(_orig_mod=policy)
        self.begin(policy, ref_model=wrapped, reward_model=inner)
        self.assertEqual((len(policy.hooks), len(inner.hooks)), (1, 0))

    def test_one_that_is_trained_as_well_is_left_alone(self):
        value = llama()
        self.begin(llama(), value_model=value)
        value(**self.batch)
        self.assertEqual(phases(self.account)["value"]["executed"], [])

    def test_a_model_with_its_adapters_off_is_another_one(self):
        layer = types.SimpleNamespace(lora_A={}, disable_adapters=False)
        policy = llama()
        policy.modules = lambda: iter([policy, layer])
        self.begin(policy)
        self.frozen(policy)
        self.assertNotIn("config", phases(self.account)["inference"])
        layer.disable_adapters = True
        policy(**self.batch)
        self.frozen(policy)
        self.assertEqual(phases(self.account)["inference"]["config"], {"model_type": "llama", "hidden_size": 64, "architectures": ["Model"]})
        self.assertNotIn("config", phases(self.account)["train"])

    def test_one_may_be_named_where_nobody_finds_it(self):
        reference = llama()
        self.callback.on_train_begin(ARGS, trainer_state(), control(), model=llama())
        self.callback.watch(reference)
        self.frozen(reference)
        self.assertEqual(phases(self.account)["reference"]["executed"], [[2, 4, 0]])

    def test_what_goes_wrong_beside_costs_no_training(self):
        broken = llama()
        broken.config = types.SimpleNamespace(to_dict=lambda: 1 / 0)
        with self.assertWarnsRegex(UserWarning, "models beside the trained one are not counted"):
            self.begin(llama(), ref_model=broken)
        reference = llama()
        self.callback.watch(reference)
        with self.assertWarnsRegex(UserWarning, "not counted"):
            self.frozen(reference, input_ids=None)


if __name__ == "__main__":
    unittest.main()
