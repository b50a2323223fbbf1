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
BLOCK = tl.constexpr(8)  # rows that are read, or left out, together


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
    before, live, square, best, here, top, low, high, stride, ROWS: tl.constexpr
):  # fmt: skip
    """min(best, numbers before at rows low..high-1 + spacing² · offset²). (ROWS COLS).

    before: row 0 of each line. best, and here where there are voxels: rows from `top` on. Blocks of
    BLOCK rows are read up from the tile, then down, until they are so far away that no row can
    count. A block whose least numbers are too large for its distance is left out.
    """
    step = tl.arange(0, ROWS)[:, None].to(tl.float32)
    best = tl.where(here, best, 0.0)  # so that no other voxel asks for more rows
    worst = tl.max(best, axis=0, keep_dims=True)
    most = tl.max(worst / square)  # steps²
    for down in range(2):
        start = tl.where(down == 0, tl.maximum(top, low), tl.minimum(top, high) - BLOCK)
        gap = _steps_between(start, top, ROWS)
        while (start < high) & (start + BLOCK > low) & (gap * gap < most):
            least = tl.full(worst.shape, float("inf"), tl.float32)
            for row in tl.static_range(BLOCK):
                place = tl.minimum(tl.maximum(start + row, low), high - 1)
                value = tl.load(before + place * stride, mask=live, other=float("inf"))
                least = tl.minimum(least, value)
            if tl.max((least + gap * gap * square < worst).to(tl.int32)) > 0:
                first, last = tl.maximum(start, low), tl.minimum(start + BLOCK, high) - 1
                value = tl.load(before + first * stride, mask=live, other=float("inf"))
                for j in range(first, last + 1):
                    # The next row is on its way while this one is used.
                    coming = before + tl.minimum(j + 1, last) * stride
                    coming = tl.load(coming, mask=live, other=float("inf"))
                    offset = step + (top - j).to(tl.float32)
                    best = tl.minimum(best, value + offset * offset * square)
                    value = coming
                worst = tl.max(best, axis=0, keep_dims=True)
                most = tl.max(worst / square)
            start += BLOCK * (1 - 2 * down)
            gap = _steps_between(start, top, ROWS)
    return best


@triton.jit
def _steps_between(start, top, ROWS: tl.constexpr):
    """From the nearest row of a block to that of a tile, 0 inside it. float32."""
    gap = tl.maximum(start - top - ROWS + 1, top - start - BLOCK + 1)
    return tl.maximum(gap, 0).to(tl.float32)
