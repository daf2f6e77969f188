"""The products of konv.kernels.spectrum and spectra: of one bin, tiles by output channels."""

from __future__ import annotations

from konv.llvm import I64, REAL, Module, Routine, Variable, pointer_to
from konv.plan import Plan


def emit_products(module: Module, plan: Plan, vectors: int, rows: int) -> Routine:
    """products(x, u, to, ci, tiles, row, tile, apart): tiles of so many vectors of outputs; x times
    the conjugates of u, summed over so many rows of taps and input channels. From tile to tile x is
    two parts of plan.depth numbers, from row to row `row`; of `to` tiles lie so far apart, and
    imaginary parts from real ones.
    """
    real, lanes, count = REAL[plan.dtype], module.target.lanes(plan.dtype), plan.pixels
    params = [(name, pointer_to(real)) for name in ("x", "u", "to")]
    params += [(name, I64) for name in ("ci", "tiles", "row", "tile", "apart")]
    held, wide = plan.depth, vectors * lanes
    # Of 16 registers twelve are sums: a vector of outputs at a time, for which pixels are dealt out
    # anew, or weights would be spilled.
    few, every = module.target.registers == 16, list(range(vectors))
    together = [[v] for v in every] if few else [every]
    with module.function(f"products_{vectors}", params, inline=False) as (f, args):
        x, u, to, ci, tiles, row, tile, apart = args
        with f.loop(tiles, step=count) as t:
            zero, at = f.zero(real, lanes), x + t * (2 * held)
            sums = [
                [(Variable(f, zero), Variable(f, zero)) for _ in range(vectors)]
                for _ in range(count)
            ]
            with f.loop(rows) as tap, f.loop(ci) as c:
                own, here = u + (tap * ci + c) * (2 * wide), at + (tap * row + c)
                for some in together:
                    weights = {
                        v: (own.vector(v * lanes, lanes), own.vector(wide + v * lanes, lanes))
                        for v in some
                    }
                    pixels = f.after(here, weights[some[0]][0]) if len(together) > 1 else here
                    for n, of_tile in enumerate(sums):
                        re, im = (
                            f.splat(pixels[2 * held * n + held * part], lanes) for part in (0, 1)
                        )
                        for v, (a, b) in weights.items():
                            one, two = of_tile[v]
                            one.set(f.fma(b, im, f.fma(a, re, one.get())))
                            two.set(f.fma(b * -1.0, re, f.fma(a, im, two.get())))
            for n, of_tile in enumerate(sums):
                for v, pair in enumerate(of_tile):
                    place = to + (t + n) * tile + v * lanes
                    place.put(0, pair[0].get())
                    place.put(apart, pair[1].get())
        return f.fn
