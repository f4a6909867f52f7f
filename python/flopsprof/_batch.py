"""What a batch holds: rows, their length, and the documents in them.

Works on anything that has a `shape` and `tolist()`, and on nested lists. A mask or position ids are read once a batch; on a GPU that is a copy of some kilobytes
and a wait for the device. It is done before the model runs, on tensors the data loader has just made.
"""


def _lists(value):
    return value.tolist() if hasattr(value, "tolist") else [list(row) for row in value]


def _shape(value):
    shape = getattr(value, "shape", None)
    if shape is not None:
        return [int(n) for n in shape]
    rows = list(value)
    return [len(rows), len(rows[0]) if rows and hasattr(rows[0], "__len__") else 1]


def _mask_rows(mask):
    """A mask's rows. Of a tensor without pads only two numbers a row are fetched from its device."""
    if hasattr(mask, "amin") and hasattr(mask, "amax"):
        least, most = mask.amin().item(), mask.amax().item()
        if least == most and most == 1:
            return None
    return _lists(mask)


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


def describe(inputs, attention="sdpa", encoder_decoder=False):
    """What `State.batch` wants of a batch as a model gets it."""
    ids = inputs.get("input_ids")
    if ids is None:
        ids = inputs.get("inputs_embeds")
    if ids is None:
        pixels = inputs.get("pixel_values")
        if pixels is None:
            raise KeyError("a batch has none of input_ids, inputs_embeds and pixel_values: its tokens cannot be counted")
        # Rows of images have a length of their own, which the model's configuration tells.
        return {"rows": _shape(pixels)[0], "length": 0, "documents": []}
    rows, length = (_shape(ids) + [1])[:2]
    if len(_shape(ids)) == 1:
        rows, length = 1, _shape(ids)[0]
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
    documents, padded, packed = [], False, False
    mask_rows = _mask_rows(mask) if mask is not None else None
    position_rows = _lists(positions) if positions is not None else None
    if position_rows is not None and len(position_rows) == 1 and rows > 1:
        position_rows = position_rows * rows
    for row in range(rows):
        lengths = [length]
        if mask_rows is not None:
            values = mask_rows[row]
            real = sum(1 for v in values if v)
            padded |= real < length
            # Masks of packed rows number their documents: 1, 1, 1, 2, 2, ...
            numbers = sorted({v for v in values if v and v is not True})
            lengths = [sum(1 for v in values if v == n) for n in numbers] if len(numbers) > 1 else [real]
        if position_rows is not None and not encoder_decoder:
            values = position_rows[row]
            real = length
            if mask_rows is not None:
                values = [p for p, m in zip(values, mask_rows[row]) if m]
            found = _runs(values) if values else []
            if len(found) > 1:
                lengths = found
        packed |= len(lengths) > 1
        documents.extend((n, decoder_real[row]) for n in lengths if n > 0)
    flash = attention.startswith("flash")
    # Kernels of scaled_dot_product_attention skip by causality alone; pads and bounds of documents make an explicit mask, which they compute whole.
    masked = (padded or packed) and not flash and attention != "eager"
    return {
        "rows": rows,
        "length": length,
        "documents": documents,
        "decoder_length": decoder_length,
        "masked": masked,
        "by_document": packed,
    }
