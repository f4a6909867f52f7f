"""What each rank of a training has counted, in files.

    OUTPUT_DIR/_flopsprof/rank_1.json        as of the rank's last save, or its end
    CHECKPOINT/flopsprof_rank_1.json         as of that checkpoint

Ranks are never asked: where not all of them are at the same place, one that asks waits for ever. Files of one training bear its id. The first rank draws it when a training begins, and the
others read it in the first one's file whenever they write theirs; they have taken a step together by then, so it is there. Where it is not (each node has a disk of its own) a file bears
none, or that of another training: who adds the ranks up leaves such a file out and says so.

What begins with an underscore is not uploaded by transformers' `push_to_hub`.
"""

import json
import os
import tempfile
import uuid

from ._warn import warn


def natural(value):
    """Whether a value is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def absolute(path):
    """A path whatever folder the program goes to later; as it is where the present one was removed."""
    try:
        return os.path.abspath(path)
    except OSError:
        return path


def read(path):
    """What a rank's file says; none where it says nothing."""
    try:
        with open(path, encoding="utf-8") as file:
            said = json.load(file)
        return said if isinstance(said["run"], str) and all(natural(said[n]) for n in ("step", "tokens", "padded_tokens")) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _live(output_dir, rank):
    return os.path.join(output_dir, "_flopsprof", f"rank_{rank}.json")


def places(checkpoint, rank):
    """Where the count of a rank at a checkpoint may be: a rank that did not see the folder when it saved has it beside the folder until it does."""
    return os.path.join(checkpoint, f"flopsprof_rank_{rank}.json"), _live(os.path.dirname(checkpoint), rank)


class Ranks:
    """The files of one training, as one of its ranks sees them. Of a training of one rank there are none."""

    def __init__(self, output_dir, rank, world):
        self.output_dir = absolute(output_dir or ".")
        self.rank, self.world = rank, world
        self._drawn = uuid.uuid4().hex if rank == 0 else None
        self._waits = None
        self._complained = False

    def run(self):
        """The training's id; none where it is not known."""
        return self._drawn or (read(_live(self.output_dir, 0)) or {}).get("run")

    def write(self, step, tokens, padded_tokens, checkpoint=None):
        """Puts this rank's count where the others find it, and beside a checkpoint."""
        if self.world == 1:
            return
        said = {"run": self.run(), "step": step, "tokens": tokens, "padded_tokens": padded_tokens}
        self._replace(_live(self.output_dir, self.rank), said)
        if checkpoint:
            self._waits = checkpoint, said
        self.settle()

    def settle(self):
        """Puts a count beside its checkpoint once the folder is there. A rank that is quicker than the one that saves does not make it: a folder of that name without a model is
        what a resumption would end at."""
        if self._waits and os.path.isdir(self._waits[0]):
            (checkpoint, said), self._waits = self._waits, None
            self._replace(places(checkpoint, self.rank)[0], said)

    def _replace(self, path, said):
        try:
            replace(path, said)
        except OSError as error:  # who adds the ranks up says which are missing
            if not self._complained:
                warn(f"{path} does not keep the tokens of rank {self.rank}: {error}", stacklevel=4)
            self._complained = True

    def others(self, step):
        """Tokens of the other ranks, without pads and with them, by their files, and in words what is not in these sums."""
        tokens, padded_tokens, missing = 0, 0, []
        for rank in range(self.world):
            said = read(_live(self.output_dir, rank)) if rank != self.rank else None
            if said and said["run"] == self.run():
                tokens, padded_tokens = tokens + said["tokens"], padded_tokens + said["padded_tokens"]
                if said["step"] < step:
                    missing.append(f"rank {rank} after step {said['step']} of {step}")
            elif rank != self.rank:
                missing.append(f"rank {rank}: {_live(self.output_dir, rank)} " + ("is of another run" if said else "has no count"))
        return tokens, padded_tokens, missing


def replace(path, value):
    """Writes a JSON file whole or not at all."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".flopsprof-")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
