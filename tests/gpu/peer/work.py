"""The work that `peers.py` measures: a training step of a Llama shape of 220 M parameters, and what tools may not see of a step.

| variant | what runs |
|---|---|
| base | the step, 8 rows of 1024 tokens: there the CPU is hardly faster at launching than the GPU at executing |
| wide | the step, 16 rows: the GPU has twice as much to do, the CPU as much as before; only timed |
| triton | the step, and products by a Triton kernel of known operations |
| graph | forward and backward of the blocks, replayed from a CUDA graph |
| padded, trimmed | the step whose rows are half pad tokens, and the same rows without them |
| tiles | the step, and products that do not fill the tensor cores' tiles |
| recompute | the step under activation checkpointing |
"""

import functools

#: In the order in which they are made ready and measured: a capture that fails may leave something behind.
VARIANTS = ("base", "triton", "padded", "trimmed", "tiles", "recompute", "graph")
#: Side of the square products: of the Triton kernel, and of the other process. A multiple of every tile.
SIDE = 4096
#: How many of them beside a step: about as many operations as the step has.
PRODUCTS = 72
PRODUCT = 2 * SIDE**3
#: Batch, side and depth of products that fill 72 of 128 rows or more of a tile, and how often.
TILES, TILE_REPEATS = (1024, 72, 4096), 96
TILES_NOMINAL = 2 * TILES[0] * TILES[1] ** 2 * TILES[2] * TILE_REPEATS
#: Layers, hidden size, heads and MLP of the model; rows and tokens of the batch, and rows of the wide one.
SHAPE, BATCH, WIDE = (12, 1024, 16, 2816), (8, 1024), 16
#: The variants that are timed, and as what.
TIMED = {"wide": "time", "base": "time_launch"}
#: The id of pad tokens.
PAD = 0


class Work:
    """A model, and the variants of its step by name."""

    def __init__(self, tiny=False):
        import torch
        from overhead import llama  # beside peers.py

        self.tiny, self.device = tiny, "cpu" if tiny else "cuda"
        shape, batch = ((2, 64, 4, 128), (2, 64)) if tiny else (SHAPE, BATCH)
        self.step, self.parameters = llama(*shape, vocab=512 if tiny else 32000, device=self.device)
        torch.manual_seed(2)
        self.ids = torch.randint(1, 500, batch, device=self.device)
        self.wide_ids = self.ids if tiny else torch.randint(1, 500, (WIDE, batch[1]), device=self.device)
        self.padded_ids = self.ids.clone()
        self.padded_ids[:, batch[1] // 2 :] = PAD
        self.trimmed_ids = self.ids[:, : batch[1] // 2].contiguous()
        self.ready, self.ran, self.sync = {}, 0, (lambda: None) if tiny else torch.cuda.synchronize

    def fed(self, variant):
        """The tokens a training loop would hand to the model, as a token counter sees them."""
        return {"padded": self.padded_ids, "trimmed": self.trimmed_ids, "wide": self.wide_ids}.get(variant, self.ids)

    def prepare(self, variants=VARIANTS):
        """Makes variants ready and runs each once; those that this machine does not run have the reason in their place."""
        failed = {}
        for name in variants:
            try:
                self.ready[name] = getattr(self, f"_{name}")()
                self.run(name)
                self.sync()
            except Exception as e:
                self.ready.pop(name, None)
                failed[name] = f"{type(e).__name__}: {e}"[:300]
        return failed

    def run(self, variant):
        self.ready[variant]()
        self.ran += 1

    def _base(self):
        return lambda: self.step(self.ids)

    def _wide(self):
        return lambda: self.step(self.wide_ids)

    def _padded(self):
        return lambda: self.step(self.padded_ids)

    def _trimmed(self):
        return lambda: self.step(self.trimmed_ids)

    def _triton(self):
        import torch

        from .kernel import product

        a, b, c = self._matrices(3, SIDE, SIDE)
        product(a, b, c)
        torch.testing.assert_close(c, a @ b, rtol=0.02, atol=1.0)

        def run():
            self.step(self.ids)
            for _ in range(PRODUCTS):
                product(a, b, c)

        return run

    def _tiles(self):
        import torch

        batch, side, depth = (2, 72, 64) if self.tiny else TILES
        a, b = torch.cat(self._matrices(2, batch * side, depth)).view(2, batch, side, depth)

        def run():
            self.step(self.ids)
            for _ in range(TILE_REPEATS):
                torch.bmm(a, b.transpose(1, 2))

        return run

    def _recompute(self):
        from torch.utils.checkpoint import checkpoint

        blocks = self.step.model.blocks

        def run():
            for block in blocks:
                block.forward = functools.partial(checkpoint, type(block).forward.__get__(block), use_reentrant=False)
            try:
                self.step(self.ids)
            finally:
                for block in blocks:
                    del block.forward

        return run

    def _graph(self):
        import torch

        model = self.step.model
        # Kept for as long as the graph may read it.
        x = self.input = torch.randn(*self.ids.shape, model.head.in_features, device=self.device)

        def both():
            with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
                h = x
                for block in model.blocks:
                    h = block(h)
                h = model.head(model.norm(h))
            h.float().square().mean().backward()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                both()
                model.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            both()
        # The gradients are the graph's; a step makes its own.
        model.zero_grad(set_to_none=True)
        return graph.replay

    def _matrices(self, count, *shape):
        import torch

        return [torch.randn(shape, device=self.device, dtype=torch.bfloat16) for _ in range(count)]

    def grouped_query(self):
        """An attention with fewer key and value heads than query heads, forward and backward."""
        import torch
        from torch.nn import functional as F

        q, k = (torch.randn(2, heads, 128, 64, device=self.device, dtype=torch.bfloat16, requires_grad=True) for heads in (32, 8))
        F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True).sum().backward()
        self.sync()


class Products:
    """What the other process on the GPU does."""

    def __init__(self, tiny=False):
        import torch

        side = 64 if tiny else SIDE
        self.flop = 2 * side**3
        self.a = torch.randn(side, side, device="cpu" if tiny else "cuda", dtype=torch.bfloat16)
        self.sync = (lambda: None) if tiny else torch.cuda.synchronize

    def run(self, times):
        for n in range(times):
            self.a @ self.a
            if n % 64 == 63:
                self.sync()
        self.sync()
