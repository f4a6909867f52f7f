"""Error 15 of the AWS meter: where its file is written if nobody says where."""

import os
import unittest
import unittest.mock

from test_flopsprof import ARGS, Library, Model, Parameter, control, trainer_state

import flops_meter
from flopsprof._state import State

#: What SageMaker keeps of a job's folders: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-output.html
UPLOADED = ("/opt/ml/model/", "/opt/ml/output/data/")


class Default(unittest.TestCase):
    def written(self, on_sagemaker):
        """Where the drop-in has its file written at the end of a training."""
        environment = {name: value for name, value in os.environ.items() if name != "FLOPS_METER_OUT"}
        callback, paths = flops_meter.FlopsMeterCallback(account=State(Library())), []
        is_dir = os.path.isdir
        with (
            unittest.mock.patch.dict(os.environ, environment, clear=True),
            unittest.mock.patch("os.path.isdir", lambda path: on_sagemaker if str(path).startswith("/opt/ml") else is_dir(path)),
            unittest.mock.patch.object(flops_meter, "replace", lambda path, said: paths.append(path)),
        ):
            callback.on_train_begin(ARGS, trainer_state(), control(), model=Model({"w": Parameter(1)}))
            callback.on_train_end(ARGS, trainer_state(1), control())
        self.assertEqual(len(paths), 1)
        return paths[0]

    def test_the_default_is_what_sagemaker_uploads(self):
        self.assertFalse("/opt/ml/output/flops_meter.json".startswith(UPLOADED), "the AWS meter's default")
        self.assertTrue(self.written(True).startswith(UPLOADED))

    def test_elsewhere_it_is_the_working_directory(self):
        self.assertEqual(self.written(False), os.path.join(os.getcwd(), "flops_meter.json"))
