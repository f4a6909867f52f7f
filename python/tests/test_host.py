"""Without torch and transformers: what a program that tells its rows by itself can rely on, and batches of other kinds."""

import copy
import os
import pickle
import subprocess
import sys
import types
import unittest
import unittest.mock
import warnings

from test_flopsprof import ARGS, Library, Model, Parameter, control, trainer_state

import flopsprof
from flopsprof import FlopsProfCallback
from flopsprof._batch import describe, past_of
from flopsprof._hook import inputs_of
from flopsprof._rows import Rows
from flopsprof._state import STATE, State

IDS = [[1] * 8, [1] * 8]
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


class Functions(unittest.TestCase):
    def setUp(self):
        flopsprof.reset()
        self.addCleanup(flopsprof.reset)

    def test_what_was_told_arrives_however_a_program_ends(self):
        """Its rows go to the library every ten seconds: the last ones when it ends."""
        begin = "import sys, flopsprof, flopsprof._library as l; l._library = type('Told', (), {'__getattr__': lambda self, name: lambda *a: print(name, *a)})()\n"
        told = "for _ in range(3):\n    flopsprof.batch([[1] * 8] * 2); flopsprof.step()\n"
        for end in ("", "sys.exit(3)", "raise KeyboardInterrupt", "flopsprof.sync()"):
            ran = subprocess.run([sys.executable, "-c", begin + told + end], cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            last = [line for line in ran.stdout.splitlines() if line.startswith("declare_work")][-1]
            self.assertIn("'steps': 3", last, end)
            self.assertIn("'executed': [[6, 8, 0]]", last, end)

    def test_a_program_trains_outside_of_its_phases(self):
        library = Library()
        with unittest.mock.patch.object(STATE, "_library", library):
            with self.assertRaises(KeyError), flopsprof.phase("evaluate"), flopsprof.phase("generate"):
                raise KeyError
            flopsprof.batch(IDS)
            with flopsprof.phase("train"):
                flopsprof.batch(IDS)
            with flopsprof.phase("evaluate"):
                pass
        self.assertEqual([told[1] for told in library.told if told[0] == "mark_phase"], ["evaluate", "generate", "evaluate", "train", "evaluate", "train"])
        self.assertEqual(flopsprof.tokens(), (32, 32))

    def test_where_training_is_a_phase_the_rest_is_another(self):
        with flopsprof.phase("train"):
            flopsprof.batch(IDS)
        flopsprof.batch(IDS)
        self.assertEqual(flopsprof.tokens(), (16, 16))
        self.assertEqual(sorted(flopsprof.work()["phases"]), ["other", "train"])

    def test_ranks_that_share_rows_tell_them_once(self):
        told, torch = 0, types.ModuleType("torch")
        torch.distributed, torch.Tensor = types.SimpleNamespace(is_available=lambda: False), ()
        for rank in range(2):
            flopsprof.reset()
            mesh = types.SimpleNamespace(mesh_dim_names=("tp",), get_local_rank=lambda axis, rank=rank: rank)
            groups = types.SimpleNamespace(mpu=True, _get_model_parallel_rank=lambda rank=rank: rank)
            for model, modules in ((Model({"w": Parameter(1)}, device_mesh=mesh), {}), (Model({"w": Parameter(1)}), {"deepspeed.utils.groups": groups})):
                with unittest.mock.patch.dict(sys.modules, {"torch": torch} | modules):
                    flopsprof.declare(model)
                    flopsprof.batch(IDS)
            told += flopsprof.tokens()[0]
        self.assertEqual(told, 32, "by the first of each two")

    def test_a_phase_without_a_name_is_refused_before_anything_changes(self):
        for name in (None, "", 3):
            with self.assertRaisesRegex(TypeError, "phase"), flopsprof.phase(name):
                pass
        self.assertIsNone(STATE.phase)

    def test_a_batch_that_cannot_be_read_ends_no_program(self):
        for rows in (None, 7):
            with self.assertWarnsRegex(UserWarning, "not counted"):
                flopsprof.batch(rows)

    def test_each_kind_of_batch_that_cannot_be_read_is_said_once_and_few_are(self):
        state = State(Library())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for n in range(9):
                state.complain(KeyError("a"))
                state.complain(KeyError(n))
        self.assertEqual(len(caught), 4)

    def test_a_copy_is_of_the_process_it_is_in(self):
        self.assertIs(copy.deepcopy(STATE), STATE)
        callback, model = FlopsProfCallback(), Model({"w": Parameter(1)})
        callback.on_train_begin(ARGS, trainer_state(), control(), model=model)
        for copied in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
            self.assertIs(copied.account, STATE)
            copied.detach()
            self.assertEqual(len(model.hooks), 1)
        callback.detach()


class Callback(unittest.TestCase):
    def test_whatever_fails_when_it_resumes_the_next_save_finds_its_place(self):
        callback, state = FlopsProfCallback(State(Library())), trainer_state(5)
        with self.assertWarnsRegex(UserWarning, "on_train_begin: ZeroDivisionError"), unittest.mock.patch("flopsprof._resume.kept", lambda *_: 1 / 0):
            callback.on_train_begin(ARGS, state, control(), model=Model({"w": Parameter(1)}))
        self.assertIn("FlopsProfCallback", state.stateful_callbacks)

    def test_a_model_inside_another_is_counted_with_it(self):
        """Adapters put around a model that was trained before without them."""
        account, inner = State(Library()), Model({"w": Parameter(1)})
        outer = Model({"w": Parameter(1)})
        outer.modules = lambda: iter([outer, inner])
        for model in (inner, outer, inner):
            callback = FlopsProfCallback(account)
            callback.on_train_begin(ARGS, trainer_state(), control(), model=model)
            self.assertEqual([len(m.hooks) for m in (inner, outer)], [int(m is model) for m in (inner, outer)])


class Batches(unittest.TestCase):
    def test_documents_by_the_bounds_that_flash_attention_gets(self):
        inputs = {"input_ids": [[1] * 8], "cu_seq_lens_q": [0, 3, 8]}
        self.assertEqual(describe(inputs, "flash_attention_2")["documents"], [(3, 0), (5, 0)])
        self.assertEqual(describe(inputs, "sdpa")["documents"], [(8, 0)], "it does not look at them")

    def test_positions_of_several_axes(self):
        class Axes(list):
            shape = (3, 2, 8)

        text = [[0, 1, 2, 0, 1, 2, 3, 4], list(range(8))]
        self.assertEqual(describe({"input_ids": IDS, "position_ids": Axes([text, IDS, IDS])})["documents"], [(3, 0), (5, 0), (8, 0)])

    def test_labels_tell_a_decoders_pads_before_its_inputs_do(self):
        given, labels = [[0, 1, 2, 3], [0, 4, 9, 9]], [[1, 2, 3, 4], [4, -100, -100, -100]]
        told = lambda **more: [n for _, n in describe({"input_ids": IDS} | more, encoder_decoder=True, pad=9)["documents"]]
        self.assertEqual(told(decoder_input_ids=given, labels=labels), [4, 1])
        self.assertEqual(told(decoder_input_ids=given), [4, 2], "label smoothing keeps the labels")
        # A start that is the pad is none.
        self.assertEqual(told(decoder_input_ids=[[9, 1, 9, 9], [9, 9, 9, 9]]), [2, 1])

    def test_a_cache_tells_what_was_executed_before(self):
        cache = lambda length: types.SimpleNamespace(get_seq_length=lambda: length)
        for name in ("past_key_values", "cache"):
            self.assertEqual(past_of({"input_ids": IDS, name: cache(5)}), 5)
        self.assertEqual(past_of({"input_ids": IDS, "cache": cache(object()), "attention_mask": [[1] * 9] * 2}), 1, "a number on a GPU is not waited for")
        self.assertEqual(past_of({"input_ids": IDS, "attention_mask": [[1] * 9] * 2}), 0)

    def test_rows_that_grow_are_no_rows_of_their_own(self):
        rows = Rows(backward=False)
        rows.add(2, 8, [(8, 0), (5, 0)], masked=True)
        for past in (8, 9):
            rows.add(2, 1, [(1, 0)] * 2, past=past)
        self.assertEqual((rows.executed, rows.documents, rows.masked), ({(10, 0): 2}, {(10, 0): 1, (7, 0): 1}, {(10, 0): 2}))
        self.assertEqual((rows.batches, rows.tokens, rows.padded_tokens), (3, 17, 20))
        # Rows that nobody has seen before.
        rows.add(3, 1, [(1, 0)] * 3, past=10)
        self.assertEqual(rows.executed, {(10, 0): 2, (1, 0): 3})

    def test_what_is_generated_comes_after_rows_that_are_on_the_way(self):
        class Later(list):
            bytes = 0

            def add(self, inputs, note):
                self.append((inputs, note))

            def send(self):
                pass

            def take(self, wait):
                taken, self[:] = self[:] if wait else [], [] if wait else self
                return taken

        state = State(Library())
        state._coming = Later()
        with unittest.mock.patch("flopsprof._state.comes", lambda inputs: "attention_mask" in inputs and len(inputs["attention_mask"][0]) == 8):
            state.look({"input_ids": IDS, "attention_mask": [[1] * 8, [1] * 5 + [0] * 3]}, phase="inference")
            for past in (8, 9):
                state.look({"input_ids": [[1]] * 2, "attention_mask": [[1] * (past + 1)] * 2, "cache": types.SimpleNamespace(get_seq_length=lambda: past)}, phase="inference")
        self.assertEqual(len(state._coming), 3)
        rows = state.work()["phases"]["inference"]
        self.assertEqual((rows["executed"], rows["documents"], rows["batches"]), ([[2, 10, 0]], [[1, 7, 0], [1, 10, 0]], 3))

    def test_a_forward_names_what_it_is_given(self):
        named = types.SimpleNamespace(forward=lambda input_ids=None, attention_mask=None, *, labels=None: None)
        self.assertEqual(inputs_of(named, (1, 2), {"labels": 3}), {"input_ids": 1, "attention_mask": 2, "labels": 3})
        whole = types.SimpleNamespace(forward=lambda batch: None)
        self.assertEqual(inputs_of(whole, ({"input_ids": 1},), {})["input_ids"], 1)
        self.assertEqual(inputs_of(types.SimpleNamespace(), (IDS,), {})["input_ids"], IDS)


if __name__ == "__main__":
    unittest.main()
