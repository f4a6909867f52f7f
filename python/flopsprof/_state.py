"""What this process has said so far: one model, rows by phase.

Rows are kept as counts by length, so their number does not grow with the run. They go to the library now and then (`sync`), whole each time, so that nothing
is lost but what came after the last time.

Batches that lie on a GPU are counted some at a time, when what there is to know of them has come to the host (`settle`), so that nobody waits.
"""

import atexit
import contextlib
import threading
import time

from . import _batch, _model
from ._around import tells
from ._coming import Coming, captured, comes
from ._library import library
from ._rows import Rows
from ._warn import warn

#: How often rows go to the library at most, seconds. It costs 1 to 2 ms on an H100 machine; a kill costs the open window anyway, which is longer.
SYNC_EVERY = 10.0
#: So many batches, or so many bytes of them, come to the host together, if `SYNC_EVERY` does not come first; and so many are waited for.
TOGETHER, MOST_BYTES, MOST = 64, 1 << 24, 1024
#: More kinds of batches that cannot be read than this are not said.
MOST_COMPLAINTS = 4


class State:
    """All of it. One a process; tests make their own."""

    def __init__(self, lib=None):
        self._library = lib
        self._lock = threading.RLock()
        self.model = None
        self.phases = {}
        self.phase = None
        self.counts_here = True
        self._synced = 0.0
        self._coming = Coming()
        self._complaints = set()
        self._begun = self._due = False
        self._overwritten = False

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        # In another process it is that one's.
        return _of_this_process, ()

    @property
    def library(self):
        return self._library if self._library is not None else library()

    def declare(self, model, gradient_checkpointing=None):
        """Declares a model; call it once adapters are in place, and again if they change."""
        self.tell()  # rows belong to the model that was declared when the library is told of them
        for rows in self.phases.values():
            rows.forget_the_last()
        self.counts_here = tells(_model._unwrapped(model))
        self.model = _model.read(model, gradient_checkpointing)
        sizes = self.model["parameters"]
        self.library.declare_parameters(sizes["total"], sizes["trainable"])
        self.library.declare_model(self.model)
        return self.model

    def stands_in(self, name, said):
        """Says which model a phase's rows go through (`_model.read`), where it is another one than the declared."""
        config = _model.shape(said)
        self.rows(name).config = config if self.model is None or config != _model.shape(self.model) else None

    def enter(self, name):
        """Begins a phase."""
        if name != self.phase:
            self.phase = name
            self.library.mark_phase(name)

    def rows(self, name):
        return self.phases.setdefault(name, Rows(backward=name == "train"))

    def batch(self, rows, length, documents, decoder_length=0, phase=None, **more):
        """Adds one micro-batch: `rows` of `length`, pads included, that hold `documents`: pairs of a length and a decoder's length (0 without one). `more`: see `Rows.add`."""
        self.library.mark_batch(rows, length, decoder_length)
        self._add(phase or self.phase or "train", rows=rows, length=length, documents=documents, decoder_length=decoder_length, **more)
        self.sync(force=False)

    def look(self, inputs, attention="sdpa", encoder_decoder=False, phase=None, fresh=False):
        """Adds one micro-batch by the tensors that the model is given: at once, or, when they lie on a GPU, when what they hold has come to the host. `fresh`: nothing is
        written over them later."""
        name = phase or self.phase or "train"
        if captured():
            raise RuntimeError("the step is captured into a CUDA graph, whose replays no hook sees")
        inputs = _batch.flat(inputs)
        past = _batch.past_of(inputs, encoder_decoder)
        # What the program generates comes after its rows, which may be on the way yet.
        if encoder_decoder or not comes(inputs) and not (past and self._coming):
            self.batch(**_batch.describe(inputs, attention, encoder_decoder, past, self._pad()), phase=name)
            return
        ids = _batch.ids_of(inputs)
        if ids is not None:
            self.library.mark_batch(*_batch.rows_of(ids))
        first, self._begun = not self._begun, True
        with self._lock:
            self._due = True
            self._coming.add({"input_ids": ids} if past else inputs, (attention, name, past))
            # The first of a program is sent for at once: what is loaded and made room for then, is so before the training has got going.
            if first or not fresh or self._overwritten:
                self._coming.send()
            if len(self._coming) % TOGETHER == 0 or self._coming.bytes > MOST_BYTES:
                self.settle(wait=len(self._coming) >= MOST)
        self.sync(force=False)

    def settle(self, wait=True):
        """Counts the batches that have come to the host, all of them if it may wait for that, and sends for the others."""
        with self._lock:
            for inputs, (attention, phase, past) in self._coming.take(wait):
                try:
                    if inputs is None:
                        self._overwritten = True
                        raise RuntimeError("it was written over before it was read; later ones are read at once")
                    self._add(phase, **_batch.describe(inputs, attention, past=past))
                except Exception as error:  # the training goes on whatever happens here
                    self.complain(error)
            self._coming.send()

    def at_exit(self):
        """A program of plain functions may end without a last `sync`, and one with a Trainer by an exception."""
        if self._due:
            with contextlib.suppress(Exception):  # the driver may be gone already
                self.sync()

    def complain(self, error):
        """Says that a batch could not be read, once of each kind."""
        said = repr(error)
        if said not in self._complaints and len(self._complaints) < MOST_COMPLAINTS:
            self._complaints.add(said)
            warn(f"this batch's tokens are not counted: {said}", stacklevel=3)

    def _pad(self):
        return (self.model or {}).get("config", {}).get("pad_token_id")

    def _add(self, phase, **batch):
        with self._lock:
            self._due = True
            kept = self.rows(phase)
            if not self.counts_here:
                kept.batches += 1
                return
            before = kept.tokens
            kept.add(**batch)
            if phase == "train":
                self.library.add_tokens(kept.tokens - before)

    def step(self):
        """One optimizer step is done."""
        self._due = True
        self.rows("train").steps += 1
        self.library.mark_step()
        self.sync(force=False)

    def work(self):
        """What `flopsprof_declare_work` is told."""
        self.settle()
        return self._work()

    def _work(self):
        with self._lock:
            return {"format": 1, "phases": {name: rows.as_json() for name, rows in self.phases.items()}}

    def sync(self, force=True):
        """Brings the rows to the library. The first call of every kind goes through; later ones at most every ten seconds, unless forced."""
        now = time.monotonic()
        if force or now - self._synced >= SYNC_EVERY:
            self._synced = now
            self.settle(wait=force)
            self._due = bool(self._coming)
            self.library.declare_work(self._work())

    def tell(self):
        """Brings what the library has not been told yet, if there was anything: before another model, or nothing, stands here."""
        if self.phases or self._coming:
            self.sync()

    def tokens(self, phase="train"):
        """Tokens so far, without pads and with them."""
        self.settle()
        rows = self.phases.get(phase)
        return (rows.tokens, rows.padded_tokens) if rows else (0, 0)


STATE = State()
atexit.register(STATE.at_exit)


def _of_this_process():
    return STATE


def declare(model, gradient_checkpointing=None):
    """Declares a model, after adapters are in place. Returns what was said of it."""
    return STATE.declare(model, gradient_checkpointing)


def declaration():
    """What was said of the model; None before."""
    return STATE.model


def batch(input_ids, attention_mask=None, position_ids=None, decoder_input_ids=None, labels=None, phase=None):
    """Adds one micro-batch of this process, by the tensors (or nested lists) that the model gets."""
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "decoder_input_ids": decoder_input_ids,
        "labels": labels,
    }
    attention = (STATE.model or {}).get("attention", "sdpa")
    encoder_decoder = bool((STATE.model or {}).get("config", {}).get("is_encoder_decoder"))
    try:
        STATE.look({k: v for k, v in inputs.items() if v is not None}, attention, encoder_decoder, phase)
    except Exception as error:  # the training goes on whatever happens here
        STATE.complain(error)


def step():
    """One optimizer step is done."""
    STATE.step()


@contextlib.contextmanager
def phase(name):
    """What is done inside is of this phase: `train`, `evaluate`, `checkpoint`, or any other name.

    Outside of all phases a program trains, unless its training is a phase itself, or it has said otherwise.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"a phase is named by a text, and not by {name!r}")
    before = STATE.phase or ("other" if name == "train" else "train")
    STATE.enter(name)
    try:
        yield
    finally:
        STATE.sync()
        STATE.enter(before)


def tokens(phase="train"):
    """Tokens so far in this process, without pads and with them."""
    return STATE.tokens(phase)


def work():
    """Rows so far in this process."""
    return STATE.work()


def sync():
    """Brings the rows to the library now."""
    STATE.sync()


def reset():
    """Forgets everything, for a second training in one process. The library keeps what it was told, and is told the rest now."""
    STATE.tell()
    STATE.__init__(STATE._library)
