"""What the kernels of distances in Triton do along lines of voxels: two scans, and one minimum.

Exact and separable distances take one axis after the other. Along the first, the nearest marked
place on the line is all: two scans find it. Along each other axis, with f the result so far, every
pair of rows may count:

    D(i) = min over j of f(j) + spacing² (i - j)²

A program keeps the results of ROWS voxels on each of COLS neighboring lines in registers, reads row
after row, and uses each number that it reads ROWS times: two or three instructions per pair. Lines
that are neighbors in memory are neighbors in a tile, so nothing has to be transposed.

Rows of a tile are (ROWS 1) and lines (1 COLS) from the start. Vectors would change their place
among the threads in the inner loop. For the same reason the compiler is not to know whether a
length is a multiple of 16 (`do_not_specialize`): it would let each thread read four neighbors.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

# Along the last axis: lines of one program, and the most voxels of each that it has at a time.
# Of shorter lines it has more.
LINES = (4, 1024)
WARPS = 8
# Across lines: rows and lines of one program, which is one warp. A thread has 32 rows of 4 lines.
# It computes offset² once for the four, and 128 results are what fits into its registers.
TILE = (32, 128)

FAR = tl.constexpr(1 << 28)  # steps; more than a line can have


def lines_and_cols(n: int, lines: int, most: int) -> tuple[int, int]:
    """Tile of a program for lines of n voxels. lines, most: as `LINES`."""
    cols = min(most, max(16, triton.next_power_of_2(n)))
    return lines * most // cols, cols


@triton.jit
def last_until(marked, place):
    """The last marked place on the line up to each voxel, or -FAR. (LINES COLS)."""
    return tl.associative_scan(tl.where(marked, place, -FAR), 1, _larger)


@triton.jit
def first_from(marked, place):
    """The first marked place on the line from each voxel on, or FAR. (LINES COLS)."""
    return tl.associative_scan(tl.where(marked, place, FAR), 1, _smaller, reverse=True)


@triton.jit
def _larger(one, two):
    return tl.maximum(one, two)


@triton.jit
def _smaller(one, two):
    return tl.minimum(one, two)


@triton.jit
def minimum_over_rows(
    before, live, square, best, here, top, low, high, n, stride, ROWS: tl.constexpr
):  # fmt: skip
    """min(best, numbers before at rows low..high-1 + spacing² · offset²). (ROWS COLS).

    before: row 0 of each line. best, and here where there are voxels: rows from `top` on. Only rows
    are read whose offset can count: spacing² · offset² is less than the largest of `best`.
    """
    most = tl.max(tl.where(here, best, 0.0), axis=0, keep_dims=True)
    most = tl.max(most / square)  # steps²
    reach = tl.sqrt(tl.minimum(most, tl.cast(n, tl.float32) * n)).to(tl.int32) + 1
    low, high = tl.maximum(low, top - reach), tl.minimum(high, top + ROWS + reach)
    step = tl.arange(0, ROWS)[:, None].to(tl.float32)
    value = tl.load(before + tl.minimum(low, n - 1) * stride, mask=live, other=float("inf"))
    for j in range(low, high):
        # The next row is on its way while this one is used.
        coming = tl.load(before + tl.minimum(j + 1, n - 1) * stride, mask=live, other=float("inf"))
        offset = step + (top - j).to(tl.float32)
        best = tl.minimum(best, value + offset * offset * square)
        value = coming
    return best
