"""Small pictures of a page, as SVG without a script: tokens by block, and how a search went."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 34
GREEN, GREY, INK = "#0b6e4f", "#dcdcdc", "#444444"


def token_bars(before: int, attention: Sequence[int], mlp: Sequence[int]) -> str:
    """SVG of the patch tokens in each block, a bar for its attention and one for its MLP, before
    those that there would be without compression."""
    wide = (WIDTH - LEFT - RIGHT) / max(len(attention), 1)
    shapes = []
    for block, pair in enumerate(zip(attention, mlp, strict=True)):
        x = LEFT + block * wide
        shapes.append(_bar(x + 1, wide - 2, 1.0, GREY))
        for half, count in enumerate(pair):
            width = (wide - 3) / 2
            shapes.append(_bar(x + 1 + half * (width + 1), width, count / before, GREEN))
    labels = [_text(LEFT + (i + 0.5) * wide, HEIGHT - 18, str(i)) for i in range(len(attention))]
    step = 1 if len(attention) <= 16 else 4
    return _svg(
        [*shapes, *labels[::step]],
        across="block (left: attention, right: MLP)",
        top=str(before),
        title=f"patch tokens of the best, of {before}",
    )


def course_line(volumes: Sequence[float], across: str, title: str) -> str:
    """SVG of a figure after each of several steps, from 0 to its end."""
    most = max(volumes, default=0.0) or 1.0
    step = (WIDTH - LEFT - RIGHT) / max(len(volumes) - 1, 1)
    base = HEIGHT - BOTTOM
    points = [
        f"{LEFT + i * step:.1f},{base - (base - TOP) * volume / most:.1f}"
        for i, volume in enumerate(volumes)
    ]
    line = f'<polyline points="{" ".join(points)}" fill="none" stroke="{GREEN}" stroke-width="2"/>'
    ends = [
        _text(LEFT, HEIGHT - 18, "1"),
        _text(WIDTH - RIGHT, HEIGHT - 18, str(len(volumes)), "end"),
    ]
    return _svg([line, *ends], across=across, top=f"{most:.4g}", title=title)


def _bar(x: float, width: float, share: float, colour: str) -> str:
    high = (HEIGHT - BOTTOM - TOP) * share
    y = HEIGHT - BOTTOM - high
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{high:.1f}"'
        f' fill="{colour}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
    )


def _svg(shapes: Sequence[str], *, across: str, top: str, title: str) -> str:
    """The shapes in a frame that says what is across, what is up, and how far up that goes."""
    base = HEIGHT - BOTTOM
    frame = f'<path d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}" fill="none" stroke="{INK}"/>'
    words = [_text(LEFT - 6, TOP + 8, top, "end"), _text(LEFT - 6, base, "0", "end")]
    words.append(_text((LEFT + WIDTH) / 2, HEIGHT - 3, across))
    return (
        f"<figure class='chart'><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join([*shapes, frame, *words])}</svg></figure>"
    )
