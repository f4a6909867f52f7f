"""Several ranks, resumptions, and what the AWS toolkit has besides: without torch and transformers. `python3 -m unittest discover -s python/tests`."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import types
import unittest
import unittest.mock
import warnings

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from test_flopsprof import Library, Model, Parameter, control, flops_meter, trainer_state  # noqa: E402

from flopsprof import FlopsProfCallback, _resume, _toolkit  # noqa: E402
from flopsprof._ranks import replace  # noqa: E402
from flopsprof._state import State  # noqa: E402


@contextlib.contextmanager
def rank_of(rank, world):
    """torch as this rank has it. It knows no collective: whoever calls one gets an AttributeError, where real ranks would wait."""
    torch = types.ModuleType("torch")
    torch.distributed = types.ModuleType("torch.distributed")
    ours = {"is_available": lambda: True, "is_initialized": lambda: True, "get_rank": lambda: rank, "get_world_size": lambda: world}
    torch.distributed.__dict__.update(ours)
    with unittest.mock.patch.dict(sys.modules, {"torch": torch, "torch.distributed": torch.distributed, "torch.compiler": None}):
        yield


class Rank:
    """One rank of a training: what transformers has it do, by hand."""

    def __init__(self, folder, rank, world, kind=FlopsProfCallback, kept=None, step=0, resumed_from=None, **arguments):
        self.at, self.args = (rank, world), types.SimpleNamespace(output_dir=folder, gradient_checkpointing=False, **arguments)
        self.callback, self.model, self.state = kind(account=State(Library())), Model({"w": Parameter(1)}), trainer_state(step)
        self.state.stateful_callbacks = {kind.__name__: kept} if kept is not None else {}
        self.callback.resumed_from = resumed_from
        with rank_of(*self.at):
            self.callback.on_train_begin(self.args, self.state, control(), model=self.model)

    def step(self, tokens):
        self.state.global_step += 1
        with rank_of(*self.at):
            self.model(input_ids=[[1] * tokens])
            self.callback.on_step_end(self.args, self.state, control())
        return self

    def save(self):
        """What the first rank writes into trainer_state.json."""
        with rank_of(*self.at):
            self.callback.on_save(self.args, self.state, control())
            return json.loads(json.dumps(self.callback.state()))

    def end(self):
        with rank_of(*self.at):
            self.callback.on_train_end(self.args, self.state, control())

    def tokens(self):
        return self.callback.tokens()[0]


class InAFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        self.out = self.path("out")
        patched = unittest.mock.patch.dict(os.environ, {"FLOPS_METER_OUT": self.path("meter.json")})
        patched.start()
        self.addCleanup(patched.stop)
        for name in ("PRETRAIN_FLOPS", "TRAINING_PIPELINE_OUTPUT_S3_BASE"):
            os.environ.pop(name, None)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def meter(self):
        with open(self.path("meter.json")) as file:
            return json.load(file)


class Sums(InAFolder):
    """The AWS toolkit's file of several ranks."""

    KIND = flops_meter.FlopsMeterCallback

    def pair(self):
        return [Rank(self.out, rank, 2, self.KIND).step(tokens) for rank, tokens in enumerate((10, 7))]

    def test_a_rank_that_does_not_save_is_not_waited_for_and_is_named(self):
        first, _ = self.pair()
        first.save()
        said = self.meter()
        self.assertEqual((said["tokens_processed"], said["flopsprof"]["lower_bound"], said["exceeds_30pct"]), (10, True, None))
        self.assertRegex(said["flopsprof"]["missing"][0], "rank 1: .*rank_1.json has no count")

    def test_a_rank_that_is_behind_is_named_with_its_step(self):
        first, second = self.pair()
        second.save()
        self.assertFalse(os.path.exists(self.path("meter.json")), "the first rank writes it")
        first.step(10).save()
        said = self.meter()
        self.assertEqual((said["tokens_processed"], said["flopsprof"]["missing"]), (27, ["rank 1 after step 1 of 2"]))

    def test_whoever_ends_last_all_are_in_the_file(self):
        for order in ((0, 1), (1, 0)):
            pair = self.pair()
            for rank in order:
                pair[rank].end()
            pair[0].callback.finish()
            said = self.meter()
            self.assertEqual((said["tokens_processed"], said["flopsprof"]["missing"], said["exceeds_30pct"], said["gpu_size"]), (17, [], False, 2), order)

    def test_a_program_that_goes_elsewhere_gets_its_file_where_it_was(self):
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        del os.environ["FLOPS_METER_OUT"]
        first, second = self.pair()
        first.end()
        os.chdir("/")
        second.end()
        first.callback.finish()
        with open(self.path("flops_meter.json")) as file:
            self.assertEqual(json.load(file)["tokens_processed"], 17)

    def test_a_rank_that_never_ends_holds_nobody_and_is_said(self):
        first, _ = self.pair()
        first.end()
        with unittest.mock.patch.object(flops_meter, "AT_EXIT", 0.1), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first.callback.finish()
        self.assertIn("lower bound, without rank 1", " ".join(str(w.message) for w in caught))
        self.assertTrue(self.meter()["flopsprof"]["lower_bound"])

    def test_files_of_another_training_are_not_counted(self):
        for rank in self.pair()[::-1]:
            rank.save()
        self.assertEqual(self.meter()["tokens_processed"], 17)
        Rank(self.out, 0, 2, self.KIND).step(3).save()
        said = self.meter()
        self.assertEqual(said["tokens_processed"], 3)
        self.assertRegex(said["flopsprof"]["missing"][0], "rank 1: .* is of another run")

    def test_a_working_directory_that_is_gone_ends_no_training(self):
        self.addCleanup(os.chdir, os.getcwd())
        del os.environ["FLOPS_METER_OUT"]
        os.mkdir(self.path("gone"))
        os.chdir(self.path("gone"))
        os.rmdir(self.path("gone"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rank = Rank("out", 0, 2, self.KIND).step(1)
            rank.save()
            rank.callback._write(flops_meter._out(), 1, 1, 1)
        self.assertIn("FLOPS_METER_OUT", str(caught[-1].message))

    def test_a_folder_that_cannot_be_written_is_said_once(self):
        open(self.out, "w").close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first = Rank(self.out, 0, 2).step(1)
            first.save()
            first.end()
        self.assertEqual(["does not keep" in str(w.message) for w in caught], [True])

    def test_a_restored_callback_knows_the_base_models_compute(self):
        callback = flops_meter.FlopsMeterCallback(pretrain_flops=1.5e24, model_name="m", num_epochs=2, account=State(Library()))
        made = flops_meter.FlopsMeterCallback(**json.loads(json.dumps(callback.state()))["args"])
        self.assertEqual((made.pretrain_flops, made.model_name, made.num_epochs), (1.5e24, "m", 2))


class Resumed(InAFolder):
    """Where the other ranks' counts of a checkpoint are found, and which are believed."""

    def checkpoint(self, folder=None, tokens=(10, 7)):
        """A training of one step that is saved; what its trainer_state.json has."""
        folder = folder or self.out
        ranks = [Rank(folder, rank, len(tokens)).step(n) for rank, n in enumerate(tokens)]
        os.makedirs(os.path.join(folder, "checkpoint-1"))
        return [rank.save() for rank in ranks][0]

    def resumed(self, kept, folder=None, **more):
        return Rank(folder or self.out, 0, 2, kept=kept, **({"step": 1} | more))

    def without_the_live_files(self):
        shutil.rmtree(os.path.join(self.out, "_flopsprof"))

    def test_another_output_dir_finds_the_folder_where_it_was_written(self):
        kept = self.checkpoint()
        self.without_the_live_files()
        self.assertEqual(self.resumed(kept, self.path("elsewhere")).tokens(), 17)

    def test_a_folder_that_was_moved_is_found_where_it_is_named(self):
        kept = self.checkpoint()
        self.without_the_live_files()
        moved = self.path("moved", "best")
        shutil.move(self.path("out", "checkpoint-1"), moved)
        self.assertEqual(self.resumed(kept, resume_from_checkpoint=moved).tokens(), 17)
        self.assertEqual(self.resumed(kept, resumed_from=moved).tokens(), 17)
        with self.assertWarnsRegex(UserWarning, "1 of 2 ranks .*rank 1: not there.*looked for in .*out/checkpoint-1; resume_from_checkpoint"):
            lost = self.resumed(kept, resume_from_checkpoint=True)
        self.assertEqual((lost.tokens(), len(lost.callback.gaps)), (10, 1))
        with self.assertWarnsRegex(UserWarning, "steps up to 2"):
            again = self.resumed(lost.step(1).save(), step=2)
        self.assertEqual((len(again.callback.gaps), again.callback.gaps[0]), (2, lost.callback.gaps[0]), "what is missing stays so")

    def test_a_file_of_another_run_at_the_same_step_is_named_and_not_taken(self):
        kept = self.checkpoint()
        shutil.rmtree(self.out)
        self.checkpoint(tokens=(100, 100))
        with self.assertWarnsRegex(UserWarning, "rank 1: .*rank_1.json is of another run"):
            self.assertEqual(self.resumed(kept).tokens(), 10)

    def test_a_count_of_another_step_is_named_and_not_taken(self):
        ranks = [Rank(self.out, rank, 2).step(tokens) for rank, tokens in enumerate((10, 7))]
        kept = ranks[0].save()
        ranks[1].step(7).save()  # the checkpoint of step 1 has no file of it
        with self.assertWarnsRegex(UserWarning, "rank 1: .*rank_1.json is of another step"):
            self.assertEqual(self.resumed(kept).tokens(), 10)

    def test_a_rank_that_does_not_see_the_folder_makes_none_and_loses_nothing(self):
        first, second = (Rank(self.out, rank, 2).step(tokens) for rank, tokens in enumerate((10, 7)))
        second.save()
        self.assertEqual(os.listdir(self.out), ["_flopsprof"], "a checkpoint without a model is none")
        os.makedirs(self.path("out", "checkpoint-1"))
        kept = first.save()
        self.assertEqual(self.resumed(kept).tokens(), 17, "beside the folder")
        second.step(5)
        self.without_the_live_files()
        self.assertEqual(self.resumed(kept).tokens(), 17, "in the folder, as of the save")

    def test_what_is_no_state_is_named_and_the_training_goes_on(self):
        kept = self.checkpoint(tokens=(10,))
        for wrong, field in (
            (7, "attributes.earlier"),
            ({"attributes": {"earlier": {"tokens": "10", "padded_tokens": 1, "steps": 1}}}, "earlier.tokens is '10'"),
            ({"attributes": {"earlier": {"tokens": 10, "padded_tokens": -1, "steps": 1}}}, "earlier.padded_tokens is -1"),
            ({"attributes": {"earlier": {"tokens": 10, "padded_tokens": 10}}}, "earlier.steps is None"),
            ({"attributes": kept["attributes"] | {"of": 10**12}}, r"attributes.of is 10*, and"),
            ({"attributes": kept["attributes"] | {"gaps": 1}}, "attributes.gaps"),
        ):
            with self.assertWarnsRegex(UserWarning, f"trainer_state.json: stateful_callbacks.FlopsProfCallback.*{field}"):
                rank = self.resumed(wrong).step(3)
            self.assertEqual((rank.tokens(), len(rank.callback.gaps)), (3, 1))

    def test_a_checkpoint_without_a_count_makes_the_file_a_lower_bound(self):
        with self.assertWarnsRegex(UserWarning, "trainer_state.json"):
            rank = Rank(self.out, 0, 1, flops_meter.FlopsMeterCallback, step=500).step(3)
        rank.end()
        said = self.meter()
        self.assertEqual((said["exceeds_30pct"], said["flopsprof"]["lower_bound"]), (None, True))
        self.assertIn("steps up to 500", said["flopsprof"]["missing"][0])


class BadCheckpoints(InAFolder):
    """What cannot be resumed from, before transformers says so in its way."""

    CASES = (
        (None, FileNotFoundError, "trainer_state.json is missing"),
        ("{", ValueError, "trainer_state.json is not JSON"),
        ("[]", ValueError, "global_step is None"),
        ('{"global_step": "5"}', ValueError, "global_step is '5'"),
        ('{"global_step": 5, "stateful_callbacks": 1}', ValueError, "stateful_callbacks is 1"),
        ('{"global_step": 5, "stateful_callbacks": {"FlopsMeterCallback": {}}}', ValueError, "FlopsMeterCallback.attributes.earlier is None"),
    )

    def write(self, text):
        os.makedirs(self.path("checkpoint-5"), exist_ok=True)
        if text is not None:
            with open(self.path("checkpoint-5", "trainer_state.json"), "w") as file:
                file.write(text)
        return self.path("checkpoint-5")

    def trainer(self):
        """The toolkit's trainer over a stub of transformers', that says with what it was called."""

        class Trainer:
            def __init__(self, *callbacks):
                self.args = types.SimpleNamespace(output_dir="nowhere")
                self.callback_handler = types.SimpleNamespace(callbacks=callbacks)
                self.called = []

            def train(self, *arguments, **more):
                self.called.append((arguments, more))

        module = types.ModuleType("transformers_of_tests")
        module.Trainer = Trainer
        utils = types.ModuleType("transformers.trainer_utils")
        utils.get_last_checkpoint = lambda folder: self.path("checkpoint-5") if folder == "nowhere" else None
        patched = unittest.mock.patch.dict(sys.modules, {module.__name__: module, "transformers": module, utils.__name__: utils})
        patched.start()
        self.addCleanup(patched.stop)
        self.addCleanup(flops_meter._trainer.cache_clear)
        flops_meter._trainer.cache_clear()
        return flops_meter.TokenCountingTrainer

    def test_the_toolkits_trainers_refuse_them_by_file_field_and_remedy(self):
        made = self.trainer()(flops_meter.FlopsMeterCallback(account=State(Library())))
        for text, kind, says in self.CASES:
            with self.assertRaisesRegex(kind, f"checkpoint-5/.*{says}.*begin anew"):
                made.train(resume_from_checkpoint=self.write(text))
            with self.assertRaises(kind):
                made.train(True)
        self.assertEqual(made.called, [], "nothing was begun")
        self.assertEqual(sorted(os.listdir(self.folder)), ["checkpoint-5"], "nothing was written")

    def test_they_are_told_what_is_resumed_from_and_change_nothing_else(self):
        callback = flops_meter.FlopsMeterCallback(account=State(Library()))
        made = self.trainer()(callback)
        folder = self.write('{"global_step": 5}')
        for given, resumed in ((folder, folder), (True, folder), (None, None), (False, None)):
            made.train(given, trial="t")
            self.assertEqual(callback.resumed_from, resumed)
            self.assertEqual(made.called.pop(), ((given,), {"trial": "t"}))

    def test_the_toolkits_trainer_is_one_class(self):
        kind = self.trainer()
        self.assertIs(kind, flops_meter.TokenCountingTrainer)
        self.assertIsInstance(kind(), flops_meter.TokenCountingTrainer)
        self.assertEqual(kind.__name__, "TokenCountingTrainer")

    def test_elsewhere_the_callback_says_it_when_the_trainer_is_made(self):
        for text, _, says in self.CASES:
            args = types.SimpleNamespace(resume_from_checkpoint=self.write(text))
            with self.assertWarnsRegex(UserWarning, f"resume_from_checkpoint: .*{says}"):
                flops_meter.FlopsMeterCallback(account=State(Library())).on_init_end(args, trainer_state(), control())
        # `True` is the last one there is.
        last = types.SimpleNamespace(resume_from_checkpoint=True, output_dir=self.folder)
        self.write('{"global_step": 5}')
        os.mkdir(os.path.join(self.folder, "checkpoint-12"))
        with self.assertWarnsRegex(UserWarning, "checkpoint-12.*trainer_state.json is missing"):
            FlopsProfCallback(State(Library())).on_init_end(last, trainer_state(), control())
        os.rmdir(os.path.join(self.folder, "checkpoint-12"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for other in (None, True, "last", self.write('{"global_step": 5}')):
                FlopsProfCallback(State(Library())).on_init_end(types.SimpleNamespace(resume_from_checkpoint=other), trainer_state(), control())
            for args in (last, types.SimpleNamespace(resume_from_checkpoint=True, output_dir="/nowhere")):
                FlopsProfCallback(State(Library())).on_init_end(args, trainer_state(), control())

    def test_a_good_one_passes(self):
        rank = Rank(self.out, 0, 1).step(4)
        state = {"global_step": 1, "stateful_callbacks": {"FlopsProfCallback": rank.save()}}
        replace(self.path("checkpoint-5", "trainer_state.json"), state)
        _resume.check(self.path("checkpoint-5"), ["FlopsProfCallback", "FlopsMeterCallback"])


class Toolkit(InAFolder):
    """Recipe and S3."""

    def setUp(self):
        super().setUp()
        yaml = types.ModuleType("yaml")
        yaml.safe_load = lambda file: json.load(file)  # JSON is YAML
        for patched in (unittest.mock.patch.dict(sys.modules, {"yaml": yaml}), unittest.mock.patch.object(_toolkit, "OPT_ML", self.path("opt"))):
            patched.start()
            self.addCleanup(patched.stop)
        self.recipe = {"model_name_or_path": "m", "num_train_epochs": 3, "compute_flops": True}

    def trained(self, *arguments):
        with unittest.mock.patch.object(sys, "argv", ["sft.py", *arguments]):
            Rank(self.out, 0, 1, flops_meter.FlopsMeterCallback).step(5).end()
        return self.meter()

    def test_the_recipe_is_that_of_the_hyperparameters(self):
        """As the toolkit has it: the name with its quotes, what the file holds."""
        replace(self.path("opt", "input/config/hyperparameters.json"), {"config": '"recipes/a.yaml"'})
        replace(self.path("opt", "code/recipes/a.yaml"), self.recipe)
        said = self.trained("--config", "b.yaml")
        self.assertEqual((said["recipe_config"], said["recipe_config_details"]), ('"recipes/a.yaml"', self.recipe))
        self.assertEqual((said["model_name"], said["num_epochs"]), ("m", 3), "nobody gave others")

    def test_or_that_of_the_command_line(self):
        replace(self.path("b.yaml"), self.recipe)
        for arguments in (("--config", self.path("b.yaml")), (f"--config={self.path('b.yaml')}",)):
            said = self.trained(*arguments)
            self.assertEqual((said["recipe_config"], said["recipe_config_details"]), (self.path("b.yaml"), self.recipe))
        said = self.trained("--config", "settings.ini")
        self.assertEqual((said["recipe_config"], said["recipe_config_details"]), ("", None))

    def test_a_recipe_that_cannot_be_read_is_said_and_costs_nothing(self):
        with self.assertWarnsRegex(UserWarning, "recipe_config_details: .*gone.yaml"):
            said = self.trained("--config", self.path("gone.yaml"))
        self.assertEqual((said["recipe_config"], said["recipe_config_details"]), (self.path("gone.yaml"), None))
        for wrong in ({"config": 7}, []):
            replace(self.path("opt", "input/config/hyperparameters.json"), wrong)
            with self.assertWarnsRegex(UserWarning, "hyperparameters.json"):
                self.assertEqual(self.trained()["tokens_processed"], 5)

    def uploading(self, put):
        """boto3, as much of it as is used."""
        boto3, botocore, config = types.ModuleType("boto3"), types.ModuleType("botocore"), types.ModuleType("botocore.config")
        config.Config = lambda **settings: settings
        boto3.client = lambda name, config: types.SimpleNamespace(put_object=lambda **what: put(name, config, what))
        return {"boto3": boto3, "botocore": botocore, "botocore.config": config}

    def upload(self, modules):
        environment = {"TRAINING_PIPELINE_OUTPUT_S3_BASE": "s3://bucket/some/prefix", "TRAINING_JOB_NAME": "pipelines-abc-xyz"}
        with unittest.mock.patch.dict(os.environ, environment), unittest.mock.patch.dict(sys.modules, modules), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rank = Rank(self.out, 0, 1, flops_meter.FlopsMeterCallback).step(5)
            rank.end()
            rank.callback.finish()
        return [str(w.message) for w in caught]

    def test_the_file_is_copied_to_where_the_toolkits_pipeline_looks(self):
        put = []
        self.assertEqual(self.upload(self.uploading(lambda *what: put.append(what))), [])
        ((name, config, what),) = put
        self.assertEqual((name, what["Bucket"], what["Key"]), ("s3", "bucket", "some/prefix/xyz/evaluation_results/flops_meter.json"))
        self.assertEqual(json.loads(what["Body"]), self.meter())
        self.assertLessEqual((config["connect_timeout"] + config["read_timeout"]) * config["retries"]["total_max_attempts"], 5)

    def test_a_copy_that_fails_is_said_and_costs_nothing(self):
        def refuse(*what):
            raise OSError("no such bucket")

        (said,) = self.upload(self.uploading(refuse))
        self.assertRegex(said, "s3://bucket/some/prefix/xyz/.*TRAINING_PIPELINE_OUTPUT_S3_BASE.*no such bucket")
        (said,) = self.upload({"boto3": None})
        self.assertIn("pip install boto3", said)
        self.assertEqual(self.meter()["tokens_processed"], 5)


class CutRows(InAFolder):
    """Context and sequence parallelism: each rank's model is given its part of the rows."""

    def test_all_ranks_of_a_context_parallel_group_tell_their_part(self):
        told = 0
        for rank in range(4):
            mesh = types.SimpleNamespace(mesh_dim_names=("cp", "tp"), get_local_rank=lambda axis, rank=rank: rank // 2 if axis == "cp" else rank % 2)
            with rank_of(rank, 4), self.assertWarnsRegex(UserWarning, "attention is that of the parts"):
                callback, model = FlopsProfCallback(State(Library())), Model({"w": Parameter(1)}, _device_mesh=mesh)
                args = types.SimpleNamespace(output_dir=self.out, parallelism_config=types.SimpleNamespace(cp_size=2, sp_size=1))
                callback.on_train_begin(args, trainer_state(), control(), model=model)
                model(input_ids=[[1] * 8])  # of rows of 16
            told += callback.tokens()[0]
        self.assertEqual(told, 16, "each row once: by halves of the context-parallel ranks, by the first of the tensor-parallel ones")


if __name__ == "__main__":
    unittest.main()
