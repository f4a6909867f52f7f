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
    """Ids or embeddings of a batch as a model gets it, or what an encoder made of them, for a decoder that generates; none of a batch that has neither."""
    ids = next((value for name in ("input_ids", "inputs_embeds") if (value := inputs.get(name)) is not None), None)
    return inputs["encoder_outputs"][0] if ids is None and inputs.get("encoder_outputs") is not None else ids


def flat(inputs):
    """A batch in which each row is one: of several to a question (`...ForMultipleChoice`) a model makes rows, too."""
    ids = inputs.get("input_ids")
    shape = getattr(ids, "shape", ())
    # Ids of several codebooks have a third side, too, and their mask has not.
    if len(shape) < 3 or getattr(inputs.get("attention_mask"), "shape", None) != shape:
        return inputs
    alike = {name: value for name in ("input_ids", "attention_mask", "position_ids") if getattr(value := inputs.get(name), "shape", None) == shape}
    return {**inputs, **{name: value.reshape(-1, shape[-1]) for name, value in alike.items()}}


def rows_of(ids):
    """Rows of ids or embeddings, and their length."""
    shape = _shape(ids)
    return (1, shape[0]) if len(shape) == 1 else tuple(shape[:2])


def past_of(inputs, encoder_decoder=False):
    """How many positions of these rows were executed before, and are in a cache: a model that generates is given what is new."""
    # Its name until transformers 5.24, and since.
    cache = next((value for name in ("past_key_values", "cache") if (value := inputs.get(name)) is not None), None)
    if cache is None:
        return 0
    length = getattr(cache, "get_seq_length", None)
    length = length() if callable(length) else cache[0][0].shape[-2] if isinstance(cache, (list, tuple)) and cache else 0
    if isinstance(length, int):
        return length
    # A number on a GPU is not waited for; the mask is of all positions.
    ids, mask = ids_of(inputs), inputs.get("attention_mask")
    if encoder_decoder or ids is None or mask is None or isinstance(mask, dict) or len(_shape(mask)) != 2:
        return 0
    return max(0, _shape(mask)[1] - rows_of(ids)[1])


def _decoder(inputs, rows, pad):
    """The length of what a decoder is given, pads included, and tokens of each row."""
    ids, labels = inputs.get("decoder_input_ids"), inputs.get("labels")
    if ids is None and labels is None:
        return 0, [0] * rows
    length = _shape(labels if ids is None else ids)[-1]
    if labels is not None and _shape(labels) == [rows, length]:
        # Collators make decoder inputs of labels; labels are filled up with -100.
        return length, _but(labels, -100)
    if ids is None:
        return length, [length] * rows
    if pad is None or len(_shape(ids)) != 2:
        return length, [length] * rows
    # Of what is given alone, as under label smoothing: pads at the end. The first may be the same number, and begins.
    return length, [max([1] + [at + 1 for at, token in enumerate(row) if token != pad]) for row in _lists(ids)]


def _but(values, other):
    """How many of each row are not this one."""
    return (values != other).sum(1).tolist() if _torch(values) is not None else [sum(value != other for value in row) for row in _lists(values)]


def describe(inputs, attention="sdpa", encoder_decoder=False, past=0, pad=None):
    """What `Rows.add` wants of a batch as a model gets it."""
    ids = ids_of(inputs)
    if ids is None:
        pixels = inputs.get("pixel_values")
        if pixels is None:
            raise KeyError("a batch has none of input_ids, inputs_embeds and pixel_values: its tokens cannot be counted (flopsprof.batch takes those of other names)")
        # Rows of images have a length of their own, which the model's configuration tells.
        return {"rows": _shape(pixels)[0], "length": 0, "documents": []}
    rows, length = rows_of(ids)
    mask = inputs.get("attention_mask")
    positions = inputs.get("position_ids")
    if positions is not None and len(_shape(positions)) == 3:
        # Models that see have positions of several axes, text first.
        positions = positions[0]
    decoder_length, decoder_real = _decoder(inputs, rows, pad) if encoder_decoder else (0, [0] * rows)
    if past:
        # No mask of theirs tells more: they are behind rows that were told.
        documents = [(0, decoder_length) if encoder_decoder else (length, 0)] * rows
        return {"rows": rows, "length": length, "documents": documents, "decoder_length": decoder_length, "past": past}
    if isinstance(mask, dict) or mask is not None and len(_shape(mask)) > 2:
        # A mask of pairs: nothing can be said of documents.
        return {
            "rows": rows,
            "length": length,
            "documents": [(length, d) for d in decoder_real],
            "decoder_length": decoder_length,
            "masked": True,
        }
    bounds = next((value for name in ("cu_seq_lens_q", "cu_seqlens") if (value := inputs.get(name)) is not None), None)
    if bounds is not None and positions is None and rows == 1 and "flash" in attention:
        # As FlashAttention gets it: one row, and where in it each document begins, and the last ends.
        bounds = [int(bound) for bound in (bounds.tolist() if hasattr(bounds, "tolist") else bounds)]
        documents = [(n, 0) for begin, end in zip(bounds, bounds[1:]) if (n := end - begin) > 0]
        return {"rows": rows, "length": length, "documents": documents, "by_document": True}
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
