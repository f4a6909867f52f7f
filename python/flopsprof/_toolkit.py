"""What the AWS toolkit's meter reads and writes beside its file: the recipe by which a training was begun, and a copy of the file on S3."""

import json
import os
import sys

from ._model import _plain
from ._warn import warn

#: Where SageMaker says what a job was given.
OPT_ML = "/opt/ml"


def recipe():
    """The recipe's name, as the hyperparameter `config` has it, and what its file holds; "" and none where there is none.

    Without SageMaker's file, the one that the command line names for the toolkit's sft.py: `--config RECIPE`.
    """
    path, name = os.path.join(OPT_ML, "input/config/hyperparameters.json"), ""
    try:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                name = json.load(file).get("config", "")
        else:
            name = _argument(sys.argv[1:])
        # SageMaker writes hyperparameters as JSON: the toolkit's value has quotes around it, and its file has not.
        file = name.strip('"').strip("'")
        return name, _read(file) if file else None
    except Exception as error:  # a training is worth more than its recipe
        warn(f"recipe_config_details: config is {name!r} ({path}, or --config): {error}", stacklevel=4)
        return name if isinstance(name, str) else "", None


def _argument(arguments):
    for at, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        value = value if equals else arguments[at + 1] if at + 1 < len(arguments) else ""
        # Other programs call other things so.
        if flag == "--config" and value.endswith((".yaml", ".yml")):
            return value
    return ""


def _read(file):
    import yaml  # transformers needs it too

    paths = os.path.join(OPT_ML, "code", file), os.path.abspath(file)
    for path in paths:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as opened:
                return _plain(yaml.safe_load(opened))
    raise FileNotFoundError(f"neither {' nor '.join(paths)} is there")


def upload(value, base, training_id):
    """Puts the file where the toolkit's pipeline looks for it, below TRAINING_PIPELINE_OUTPUT_S3_BASE. Whatever goes wrong is a warning."""
    place = f"{base}/{training_id}/evaluation_results/flops_meter.json"
    try:
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise RuntimeError("boto3 is not installed: pip install boto3") from None
        bucket, _, key = place.replace("s3://", "").partition("/")
        # A machine that does not reach S3 would hold its job's end for minutes by the times that botocore waits for.
        client = boto3.client("s3", config=Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 1}))
        client.put_object(Bucket=bucket, Key=key, Body=json.dumps(value, indent=2).encode())
    except Exception as error:
        warn(f"{place} (TRAINING_PIPELINE_OUTPUT_S3_BASE) is not written: {error}", stacklevel=2)
