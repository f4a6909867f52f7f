"""What a batch holds: rows, their length, and the documents in them.

Works on anything that has a `shape` and `tolist()`, on nested lists, and on what `_coming` made of tensors on a GPU. In few operations: lists of a mask of 16,384 tokens and loops over
them took 1.7 ms a step on an H100's host.
"""

import sys

from ._coming import Begins, Real, begins


def _lists(value):
    return value.tolist() if hasattr(value, "tolist") else [list(row) for row in value]


def _shape(value):
    shape = getattr(value, "shape", None)
    if shape is not None:
        return [int(n) for n in shape]
    rows = list(value)
    return [len(rows), len(rows[0]) if rows and hasattr(rows[0], "__len__") else 1]


def _torch(value):
    """The module, if this is one of its tensors, of rows."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(value, torch.Tensor) and value.dim() == 2 and value.shape[1] > 0 else None


def _real(mask):
    """Tokens of each row that are no pads, and whether the mask numbers documents: 1, 1, 1, 2, 2, ..."""
    if isinstance(mask, Real):
        return mask.real, False
    torch = _torch(mask)
    if torch is None:
        rows = _lists(mask)
        return [sum(1 for v in row if v) for row in rows], any(v not in (0, 1) for row in rows for v in row)
    mask = mask.cpu()
    real = mask.count_nonzero(1).tolist()
    if mask.dtype == torch.bool:
        return real, False
    least, most = mask.aminmax()
    return real, bool(least < 0 or most > 1)


def _documents(positions):
    """Lengths of the documents in rows whose positions begin anew with each."""
    if isinstance(positions, Begins):
        found = positions.found
    elif _torch(positions) is None:
        return [_runs(row) for row in _lists(positions)]
    else:
        positions = positions.cpu()
        found = begins(positions).nonzero().tolist()
    rows, length = positions.shape
    starts = [[0] for _ in range(rows)]
    for row, at in found:
        starts[row].append(at + 1)
    return [[b - a for a, b in zip(row, row[1:] + [length])] for row in starts]


def _runs(positions):
    """Lengths of the documents in a row whose positions begin at 0 for each."""
    lengths, length = [], 0
    for i, position in enumerate(positions):
        if i > 0 and position <= positions[i - 1]:
            lengths.append(length)
            length = 0
        length += 1
    lengths.append(length)
    return lengths


def ids_of(inputs):
    """Ids or embeddings of a batch as a model gets it; none of a batch that has neither."""
    ids = inputs.get("input_ids")
    return inputs.get("inputs_embeds") if ids is None else ids


def rows_of(ids):
    """Rows of ids or embeddings, and their length."""
    shape = _shape(ids)
    return (1, shape[0]) if len(shape) == 1 else tuple(shape[:2])


def describe(inputs, attention="sdpa", encoder_decoder=False):
    """What `State.batch` wants of a batch as a model gets it."""
    ids = ids_of(inputs)
    if ids is None:
        pixels = inputs.get("pixel_values")
        if pixels is None:
            raise KeyError("a batch has none of input_ids, inputs_embeds and pixel_values: its tokens cannot be counted")
        # Rows of images have a length of their own, which the model's configuration tells.
        return {"rows": _shape(pixels)[0], "length": 0, "documents": []}
    rows, length = rows_of(ids)
    mask = inputs.get("attention_mask")
    positions = inputs.get("position_ids")
    decoder_length, decoder_real = 0, [0] * rows
    if encoder_decoder:
        other = inputs.get("decoder_input_ids")
        other = inputs.get("labels") if other is None else other
        if other is not None:
            decoder_length = _shape(other)[-1]
            # Labels are filled up with -100, decoder inputs with pads that no mask of theirs tells; the longest is what is executed.
            decoder_real = [sum(token != -100 for token in row) for row in _lists(other)]
    if isinstance(mask, dict) or mask is not None and len(_shape(mask)) > 2:
        # A mask of pairs: nothing can be said of documents.
        return {
            "rows": rows,
            "length": length,
            "documents": [(length, d) for d in decoder_real],
            "decoder_length": decoder_length,
            "masked": True,
        }
    documents, packed = [], False
    real, numbered = _real(mask) if mask is not None else ([length] * rows, False)
    padded = any(n < length for n in real)
    found = None
    if positions is not None and not encoder_decoder:
        if padded:
            # Pads have positions too: those of the tokens alone are looked at.
            masks = _lists(mask)
            found = _lists(positions)
            found = found * rows if len(found) == 1 else found
            found = [_runs(values) if values else [] for values in ([p for p, m in zip(*row) if m] for row in zip(found, masks))]
        else:
            found = _documents(positions)
            found = found * rows if len(found) == 1 else found
    numbers = _lists(mask) if numbered else None
    for row in range(rows):
        lengths = [real[row]]
        if numbers is not None:
            kinds = sorted({v for v in numbers[row] if v})
            lengths = [numbers[row].count(n) for n in kinds] if len(kinds) > 1 else lengths
        if found is not None and len(found[row]) > 1:
            lengths = found[row]
        packed |= len(lengths) > 1
        documents.extend((n, decoder_real[row]) for n in lengths if n > 0)
    # FlashAttention goes by the name of its kernel too (kernels-community/vllm-flash-attn3); FlexAttention leaves out whole blocks that nobody attends to.
    skips = "flash" in attention or "flex" in attention
    # Kernels of scaled_dot_product_attention skip by causality alone; pads and bounds of documents make an explicit mask, which they compute whole.
    masked = (padded or packed) and not skips and attention != "eager"
    return {
        "rows": rows,
        "length": length,
        "documents": documents,
        "decoder_length": decoder_length,
        "masked": masked,
        # transformers takes pads out of what FlashAttention gets.
        "by_document": packed or padded and skips,
    }
