"""The rows of a phase, kept as counts by length, so that their number does not grow with the run."""


class Rows:
    def __init__(self, backward):
        self.batches = self.steps = 0
        self.tokens = self.padded_tokens = 0
        self.executed, self.documents, self.masked = {}, {}, {}
        self.by_document = False
        self.backward = backward
        self.config = None
        self._last = None

    def add(self, rows, length, documents, decoder_length=0, masked=False, by_document=False, past=0):
        """Adds a batch. `past`: so many positions of these rows were executed before, and a cache has them. Then these are no rows of their own, but the last ones, grown: what a program
        generates costs as much as one pass over all of it does."""
        last, grown = self._last, None
        self.batches += 1
        self.tokens += sum(length + decoder for length, decoder in documents)
        self.padded_tokens += rows * ((0 if decoder_length and past else length) + decoder_length)
        if past and last is not None and last.rows == rows and last.positions == past and bool(last.decoder_length) == bool(decoder_length):
            self._take(last)
            grown = last.grown(decoder_length or length)
        self._last = grown or _Batch(rows, length, decoder_length, documents, masked)
        self._put(self._last)
        self.by_document |= by_document

    def forget_the_last(self):
        """Whatever comes next is no more of the last rows."""
        self._last = None

    def _put(self, batch, times=1):
        shape = batch.length, batch.decoder_length
        _count(self.executed, shape, times * batch.rows)
        for document in batch.documents:
            _count(self.documents, document, times)
        if batch.masked:
            _count(self.masked, shape, times * batch.rows)

    def _take(self, batch):
        self._put(batch, -1)

    def as_json(self):
        def rows(counts):
            return [[n, *key] for key, n in sorted(counts.items())]

        return {
            "batches": self.batches,
            "steps": self.steps,
            "executed": rows(self.executed),
            "documents": rows(self.documents),
            "masked": rows(self.masked),
            "by_document": self.by_document,
            "backward": self.backward,
        } | ({"config": self.config} if self.config else {})


class _Batch:
    """The rows of one batch."""

    def __init__(self, rows, length, decoder_length, documents, masked):
        self.rows, self.length, self.decoder_length, self.documents, self.masked = rows, length, decoder_length, documents, masked

    @property
    def positions(self):
        return self.decoder_length or self.length

    def grown(self, by):
        if self.decoder_length:
            return _Batch(self.rows, self.length, self.decoder_length + by, [(length, decoder + by) for length, decoder in self.documents], self.masked)
        return _Batch(self.rows, self.length + by, 0, [(length + by, 0) for length, _ in self.documents], self.masked)


def _count(counts, key, more):
    n = counts.get(key, 0) + more
    if n:
        counts[key] = n
    else:
        counts.pop(key, None)
