"""Batches that lie on a GPU, on their way to the host.

In a training, a thread that has waited for the GPU for a third of a second finds its caches cold, and whatever it does next takes several times as long: on an H100 machine a
batch's mask, copied and looked at, took 0.5 ms a step, the host's first look at 131 KB that the GPU had just written 0.4 ms of it, and three small kernels that say what there is to know
0.4 ms as well. So a step only notes the tensors. Now and then what there is to know of all of them is worked out on the GPU, some numbers a batch; they come in
one copy that nobody waits for, and are read when they are there.
"""

import collections
import sys
import types

#: What is looked at of a batch.
NAMES = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "cu_seq_lens_q", "cu_seqlens")
#: What stands for a tensor of which only the shape is asked.
Shape = types.SimpleNamespace


class Real:
    """A mask: tokens of each row that are no pads. No document is numbered in it."""

    def __init__(self, mask, real):
        self.shape, self.real = tuple(mask.shape), real


class Begins:
    """Position ids: the rows, and where in each a document begins that is not the row's first, less one."""

    def __init__(self, positions, found):
        self.shape, self.found = tuple(positions.shape), found


class Coming:
    """In the order in which they were given: batches whose numbers are on the GPU, and groups of batches whose numbers are on the way."""

    def __init__(self):
        self._here = []
        self._on_the_way = collections.deque()
        #: Memory of the GPU that is kept for it.
        self.bytes = 0

    def __len__(self):
        return len(self._here) + sum(len(group[0]) for group in self._on_the_way)

    def add(self, inputs, note):
        """Takes a batch; `note` comes back with it. Its mask and position ids are kept until they are read."""
        kept = {name: value for name in NAMES if (value := inputs.get(name)) is not None}
        for name in NAMES[4:]:
            # Positions say more than bounds, and such as the host has nobody waits for.
            if "position_ids" in kept or not getattr(kept.get(name), "is_cuda", False):
                kept.pop(name, None)
        for name in NAMES[:3]:
            # Of tokens only the shape is asked, and of a mask of pairs of them, which is large.
            if name in kept and (name != "attention_mask" or kept[name].dim() > 2):
                kept[name] = Shape(shape=tuple(kept[name].shape))
        versions = [(name, _version(kept[name])) for name in NAMES[2:] if name in kept and not isinstance(kept[name], Shape)]
        self.bytes += sum(kept[name].nbytes for name, _ in versions)
        self._here.append((kept, versions, note))

    def send(self):
        """Has the GPU work out the numbers of all batches, and begins to copy them to the host."""
        if not self._here:
            return
        torch = sys.modules["torch"]
        batches, by_kind = [], {}
        for kept, versions, note in self._here:
            overwritten = any(_version(kept[name]) != version for name, version in versions)
            numbers = [] if overwritten else [(name, tensor) for name, _ in versions for tensor in _numbers(torch, name, kept[name])]
            for _, tensor in numbers:
                by_kind.setdefault(_kind(tensor), []).append(tensor.reshape(-1))
            batches.append((None if overwritten else kept, numbers, note))
        copies = {kind: torch.cat(tensors).to("cpu", non_blocking=True) for kind, tensors in by_kind.items()}
        events = []
        for device in {device for device, _ in by_kind}:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            events.append(event)
        self._on_the_way.append((batches, copies, events))
        self._here, self.bytes = [], 0

    def take(self, wait):
        """Batches whose numbers have come, all if it may wait for them: inputs for `describe`, none where the program has written over them, and the note of each."""
        if wait:
            self.send()
        while self._on_the_way and (wait or all(event.query() for event in self._on_the_way[0][2])):
            batches, copies, events = self._on_the_way.popleft()
            for event in events:
                event.synchronize()
            at = dict.fromkeys(copies, 0)
            for kept, numbers, note in batches:
                read = {}
                for name, tensor in numbers:
                    kind, size = _kind(tensor), tensor.numel()
                    read.setdefault(name, []).append(copies[kind][at[kind] : at[kind] + size].view(tensor.shape))
                    at[kind] += size
                yield kept and _inputs(kept, read), note


def _version(tensor):
    """Grows with each operation that writes into it; none for tensors of inference mode, which do not tell."""
    try:
        return tensor._version
    except RuntimeError:
        return None


def begins(positions):
    """Where in each row of position ids the next one begins a document."""
    return positions[:, 1:] <= positions[:, :-1]


def _numbers(torch, name, rows):
    """What there is to know of a mask, of position ids or of bounds, on its device; nothing of what is no row of tokens each."""
    if name in NAMES[4:]:
        return [rows]
    if rows.dim() != 2 or rows.shape[1] < 2:
        return []
    if name == "position_ids":
        return [begins(rows)]
    # A sum is the count of ones; where there are other values the least and the greatest say so.
    bounds = [] if rows.dtype == torch.bool else [bound.long().view(1) for bound in rows.aminmax()]
    return [rows.sum(1, dtype=torch.int64), *bounds]


def _kind(tensor):
    return tensor.device, tensor.dtype


def _inputs(kept, read):
    inputs = kept | {name: read[name][0] for name in NAMES[4:] if name in read}
    if "attention_mask" in read:
        real, *bounds = (tensor.tolist() for tensor in read["attention_mask"])
        if bounds and (bounds[0][0] < 0 or bounds[1][0] > 1):
            # Documents are numbered in it: it has to be read itself.
            return inputs
        length = kept["attention_mask"].shape[1]
        if "position_ids" in read and any(n < length for n in real):
            # Pads have positions too: those of the tokens alone count.
            return inputs
        inputs["attention_mask"] = Real(kept["attention_mask"], real)
    if "position_ids" in read:
        inputs["position_ids"] = Begins(kept["position_ids"], read["position_ids"][0].nonzero().tolist())
    return inputs


def comes(inputs):
    """Whether a batch has to be waited for: its mask, position ids or bounds of documents lie on a GPU."""
    given = [[value for name in names if (value := inputs.get(name)) is not None] for names in (NAMES[2:4], NAMES[4:])]
    rows = given[0] or given[1]
    return bool(rows) and all(getattr(value, "is_cuda", False) for value in rows)


def captured():
    """Whether a step is being captured into a CUDA graph: to read its batch would end the capture, and the graph's replays are not seen anyway."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda is not None and cuda.is_initialized() and cuda.is_current_stream_capturing()
