"""Batches that lie on a GPU, on their way to the host.

To wait for a copy of each batch's mask and look at it cost 0.5 ms a step on an H100, and a copy that nobody waits for as much: most of it is the processor's first look at memory that
the GPU has just written (0.4 ms for the 131 KB of a mask of 16,384 tokens, 0.09 ms for the second look). So the GPU says what there is to know of a batch in a few
numbers, by two or three small kernels; those of several batches come together, in one copy that nobody waits for; and they are read when they are there.
"""

import collections
import sys
import types

#: What is looked at of a batch.
NAMES = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
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

    def __len__(self):
        return len(self._here) + sum(len(group[0]) for group in self._on_the_way)

    def add(self, inputs, note):
        """Takes a batch; `note` comes back with it. Its mask and position ids are kept until they are read: what they hold may be more than the numbers say."""
        torch = sys.modules["torch"]
        kept, numbers = {}, []
        for name in NAMES:
            value = inputs.get(name)
            kept[name] = value
            if name in ("input_ids", "inputs_embeds") and value is not None:
                kept[name] = Shape(shape=tuple(value.shape))
            elif name == "attention_mask" and value is not None:
                # A sum is the count of ones; where there are other values the least and the greatest say so.
                numbers.append((name, value.sum(1, dtype=torch.int64)))
                if value.dtype != torch.bool:
                    numbers += [(name, bound.long().view(1)) for bound in value.aminmax()]
            elif name == "position_ids" and value is not None:
                numbers.append((name, value[:, 1:] <= value[:, :-1]))
        self._here.append((kept, numbers, note))

    def send(self):
        """Begins to copy the numbers of all batches to the host."""
        if not self._here:
            return
        torch = sys.modules["torch"]
        by_kind = {}
        for _, numbers, _ in self._here:
            for _, tensor in numbers:
                by_kind.setdefault(_kind(tensor), []).append(tensor.reshape(-1))
        copies = {kind: torch.cat(tensors).to("cpu", non_blocking=True) for kind, tensors in by_kind.items()}
        events = []
        for device in {device for device, _ in by_kind}:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            events.append(event)
        self._on_the_way.append((self._here, copies, events))
        self._here = []

    def take(self, wait):
        """Batches whose numbers have come, all if it may wait for them: inputs for `describe`, and the note of each."""
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
                yield _inputs(kept, read), note


def _kind(tensor):
    return tensor.device, tensor.dtype


def _inputs(kept, read):
    inputs = dict(kept)
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


def captured(inputs):
    """Whether the batch is that of a step which is captured into a CUDA graph: to read it would end the capture, and the graph's replays are not seen anyway."""
    torch = sys.modules.get("torch")
    return any(getattr(v, "is_cuda", False) for v in inputs.values()) and torch.cuda.is_current_stream_capturing()


def comes(inputs, encoder_decoder):
    """Whether a batch is one that a few numbers describe: on a GPU, rows of tokens of a decoder, and a mask and position ids of the rows if any."""
    torch = sys.modules.get("torch")
    values = [(name, inputs[name]) for name in NAMES if inputs.get(name) is not None]
    if encoder_decoder or not all(getattr(v, "is_cuda", False) for _, v in values):
        return False
    rows_of = [v for name, v in values if name in ("attention_mask", "position_ids")]
    return (
        all(isinstance(v, torch.Tensor) for _, v in values)
        and all(v.dim() == 2 and v.shape[1] > 1 for v in rows_of)
        and all(v.dim() >= 2 for _, v in values)
        and bool(rows_of)
    )
