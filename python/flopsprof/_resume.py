"""What a checkpoint says of the training before it.

In trainer_state.json, under the callback's name: `earlier` (what the rank that saved had counted), `of` (how many ranks there were), `run` (the training's id), `at` (where it saved) and
`gaps` (in words, what is not in the count). The other ranks' counts lie beside it: _ranks.py.
"""

import json
import os

from ._ranks import natural, places, read

STATE = "trainer_state.json"
PREFIX = "checkpoint-"
#: More ranks than there are anywhere: a number above is no number of ranks.
MOST = 1 << 20


def kept(callbacks, name):
    """What a callback of this name left in a checkpoint; none if nothing.

    Raises ValueError that names the field, if it is not what such a callback leaves.
    """
    said = (callbacks or {}).get(name)
    # Of several callbacks of one name transformers keeps a list, and adds to it at each save.
    said = said[-1] if isinstance(said, list) and said else said
    if said is None:
        return None
    attributes = said.get("attributes") if isinstance(said, dict) else None
    earlier = attributes.get("earlier") if isinstance(attributes, dict) else None
    where = f"{STATE}: stateful_callbacks.{name}.attributes"
    if not isinstance(earlier, dict):
        raise ValueError(f"{where}.earlier is {earlier!r}, and should hold tokens, padded_tokens and steps")
    for field in ("tokens", "padded_tokens", "steps"):
        if not natural(earlier.get(field)):
            raise ValueError(f"{where}.earlier.{field} is {earlier.get(field)!r}, and should be a whole number, 0 or more")
    of, gaps = attributes.get("of", 1), attributes.get("gaps", [])
    if not natural(of) or not 0 < of <= MOST:
        raise ValueError(f"{where}.of is {of!r}, and should be a number of ranks")
    if not isinstance(gaps, list) or not all(isinstance(gap, str) for gap in gaps):
        raise ValueError(f"{where}.gaps is {gaps!r}, and should be a list of text")
    return {"earlier": {n: earlier[n] for n in ("tokens", "padded_tokens", "steps")}, "of": of, "run": attributes.get("run"), "at": attributes.get("at"), "gaps": gaps}


def last(output_dir):
    """The last checkpoint in a folder: what transformers takes `resume_from_checkpoint=True` for. None where there is none."""
    try:
        steps = [int(name[len(PREFIX) :]) for name in os.listdir(output_dir) if name.startswith(PREFIX) and name[len(PREFIX) :].isdecimal()]
    except (OSError, TypeError):
        return None
    return os.path.join(output_dir, f"{PREFIX}{max(steps)}") if steps else None


def check(folder, names):
    """Refuses a checkpoint that a training cannot be resumed from, or whose count of callbacks of these names is broken, in words that name file, field and remedy."""
    path = os.path.join(folder, STATE)
    remedy = "resume from another checkpoint, or begin anew without resume_from_checkpoint"
    try:
        with open(path, encoding="utf-8") as file:
            said = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing, so there is no training to resume there: {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}), perhaps since it was written in part: {remedy}") from None
    if not isinstance(said, dict) or not natural(said.get("global_step")):
        step = said.get("global_step") if isinstance(said, dict) else None
        raise ValueError(f"{path}: global_step is {step!r}, and should be the number of steps done: {remedy}")
    callbacks = said.get("stateful_callbacks")
    if not isinstance(callbacks, (dict, type(None))):
        raise ValueError(f"{path}: stateful_callbacks is {callbacks!r}, and should be an object: {remedy}")
    for name in names:
        try:
            kept(callbacks, name)
        except ValueError as error:
            raise ValueError(f"{os.path.join(folder, '')}{error}: {remedy}, or remove that entry, and the tokens before are not counted") from None


def others(found, step, folders):
    """Counts of the ranks but the first at a checkpoint, and in words why some are missing. None is taken that is not of this checkpoint's run and step."""
    counts, wrong = [], []
    for rank in range(1, found["of"]):
        why = "not there"
        for path in (path for folder in folders for path in places(folder, rank)):
            said = read(path)
            if said and said["run"] == found["run"] and said["step"] == step:
                counts.append(said)
                break
            if said:
                why = f"{path} is of another {'step' if said['run'] == found['run'] else 'run'}"
        else:
            wrong.append(f"rank {rank}: {why}")
    return counts, wrong
