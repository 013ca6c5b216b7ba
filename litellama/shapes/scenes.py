"""Scenes of up to five shapes: attributes drawn at random, pictures painted from them in torch.

All scenes of a batch are made at once, so that on a GPU a batch takes about a millisecond.  A shape
is its signed distance: how many pixels a point is outside (positive) or inside (negative) of the
outline.  A pixel's cover is the distance clamped to half a pixel, which is anti-aliasing.
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

SIZE = 96  # pixels of an edge
MAX_OBJECTS = 5
# Shapes stand in different cells of a grid, so that none covers another: cells of an edge, by the
# number of shapes.
GRIDS = {1: (1, 2, 3), 2: (2, 3), 3: (2, 3), 4: (2, 3), 5: (3,)}

SHAPES = ("circle", "square", "triangle", "star", "cross")
# Hue in turns, saturation and value; each is varied a little.
COLOURS = {
    "red": (0.0, 0.85, 0.85),
    "orange": (0.08, 0.9, 0.95),
    "yellow": (0.155, 0.85, 0.95),
    "green": (0.36, 0.75, 0.65),
    "blue": (0.61, 0.8, 0.85),
    "purple": (0.77, 0.65, 0.7),
}
SIZES = ("small", "large")
WAVES = (2, 3, 5)  # along a turn around a shape that is drawn by an unsteady hand
RADII = ((7.0, 9.0), (12.0, 15.0))  # pixels, of small and of large shapes on the finest grid
FILLED = 0.45  # of a wider cell, the radius of the largest shape in it


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes with room for ``MAX_OBJECTS`` each; on the CPU.

    count: int64 [B]; the first ``count`` objects of a scene exist.  shape, colour, size: int64
    [B, N], indices of the names above.  x, y: float32 [B, N], centres in pixels, y downwards.
    radius, angle: float32 [B, N], in pixels and radians.  line: float32 [B, N], 0 for a filled
    shape, else the width of its outline in pixels.  wobble: float32 [B, N, 3], how far the outline
    leaves its course in waves of ``WAVES`` a turn, as shares of the radius.  tint: float32
    [B, N, 3], what is added to hue, saturation and value.
    """

    count: torch.Tensor
    shape: torch.Tensor
    colour: torch.Tensor
    size: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    radius: torch.Tensor
    angle: torch.Tensor
    line: torch.Tensor
    wobble: torch.Tensor
    tint: torch.Tensor

    def to(self, device: torch.device) -> "Scenes":
        """The same on another device."""
        return Scenes(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


def draw_scenes(
    batch: int, generator: torch.Generator, counts: tuple[int, ...] = (1, 2, 3, 4, 5)
) -> Scenes:
    """Random scenes, each with a number of objects out of ``counts``, equally likely."""

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    def integers(*shape: int, high: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    N = MAX_OBJECTS
    count = torch.tensor(counts)[integers(batch, high=len(counts))]
    cells = torch.tensor([random_grid(n, generator) for n in count.tolist()])[:, None]
    width = SIZE / cells
    size = integers(batch, N, high=2)
    radii = torch.tensor(RADII)[size]
    # In wider cells the large shapes may be larger.
    most = torch.where(size == 1, torch.maximum(radii[..., 1], FILLED * width), radii[..., 1])
    radius = radii[..., 0] + (most - radii[..., 0]) * uniform(batch, N)
    # Cells in random order, those that the scene's grid does not have last.
    order = torch.rand(batch, 9, generator=generator) + (torch.arange(9) >= cells**2)
    cell = order.argsort(dim=1)[:, :N]
    room = (width / 2 - radius).clamp(min=0)  # how far a centre may leave the middle of its cell
    x = (cell % cells + 0.5) * width + room * uniform(batch, N, low=-1)
    y = (cell // cells % cells + 0.5) * width + room * uniform(batch, N, low=-1)
    outlined, unsteady = uniform(batch, N) < 0.35, uniform(batch, N, 1) < 0.5
    return Scenes(
        count=count,
        shape=integers(batch, N, high=len(SHAPES)),
        colour=integers(batch, N, high=len(COLOURS)),
        size=size,
        x=x,
        y=y,
        radius=radius,
        angle=uniform(batch, N, high=2 * math.pi),
        line=torch.where(outlined, uniform(batch, N, low=2.0, high=4.0), 0.0),
        wobble=unsteady * uniform(batch, N, len(WAVES), low=-0.03, high=0.03),
        tint=uniform(batch, N, 3, low=-1) * torch.tensor([0.018, 0.12, 0.12]),
    )


def random_grid(count: int, generator: torch.Generator) -> int:
    """Cells of an edge for a scene of ``count`` objects."""
    choices = GRIDS[count]
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def paint(scenes: Scenes, device: torch.device, seed: int) -> torch.Tensor:
    """float32 [B, 3, SIZE, SIZE] from 0 to 1; ``seed`` settles the backgrounds and the noise."""
    generator = torch.Generator(device).manual_seed(seed)
    s = scenes.to(device)
    picture = backgrounds(len(s.count), generator)
    cover, colour = covers(s), hsv_to_rgb(colours(s))
    for i in range(MAX_OBJECTS):
        shown = (cover[:, i] * (i < s.count)[:, None, None])[:, None]
        picture = picture + shown * (colour[:, i, :, None, None] - picture)
    # A lens that is not sharp: from nothing to the mean of three pixels in both directions.
    soft = torch.rand(len(s.count), 1, 1, 1, generator=generator, device=device)
    near = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    picture = picture + (2 * soft - 1).clamp(min=0) * (near - picture)
    strength = 0.06 * torch.rand(len(s.count), 1, 1, 1, generator=generator, device=device)
    noise = torch.randn(picture.shape, generator=generator, device=device)
    return (picture + strength * noise).clamp(0, 1)


def backgrounds(batch: int, generator: torch.Generator) -> torch.Tensor:
    """[B, 3, SIZE, SIZE]: greys and pale colours, from any brightness to any other across."""
    device = generator.device

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    ends = uniform(batch, 2, 1) * 0.9 + 0.05 + 0.25 * (uniform(batch, 2, 3) - 0.5)
    # Half of them the same everywhere.
    ends[:, 1] = torch.where(uniform(batch, 1) < 0.5, ends[:, 0], ends[:, 1])
    direction = uniform(batch, 1, 1) * 2 * math.pi
    along, down = pixel_grid(device)
    across = (along - SIZE / 2) * direction.cos() + (down - SIZE / 2) * direction.sin()
    mix = (across / (SIZE * math.sqrt(2)) + 0.5)[:, None]
    return (ends[:, 0, :, None, None] * (1 - mix) + ends[:, 1, :, None, None] * mix).clamp(0, 1)


def pixel_grid(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y of the pixels' centres, each [SIZE, SIZE]."""
    at = torch.arange(SIZE, device=device) + 0.5
    return at.expand(SIZE, SIZE), at[:, None].expand(SIZE, SIZE)


def covers(s: Scenes) -> torch.Tensor:
    """[B, N, SIZE, SIZE] from 0 to 1: how much of each pixel each object covers."""
    along, down = pixel_grid(s.x.device)
    dx, dy = along - s.x[..., None, None], down - s.y[..., None, None]
    cos, sin = s.angle.cos()[..., None, None], s.angle.sin()[..., None, None]
    distance = signed_distance(
        dx * cos + dy * sin, dy * cos - dx * sin, s.radius[..., None, None], s.shape
    )
    turn = torch.atan2(dy, dx)
    for waves, share in zip(WAVES, s.wobble.unbind(-1), strict=True):
        distance = distance + (s.radius * share)[..., None, None] * (waves * turn).sin()
    line = s.line[..., None, None]
    # An outline is what is nearer to the edge than half its width.
    distance = torch.where(line > 0, (distance + line / 2).abs() - line / 2, distance)
    return (0.5 - distance).clamp(0, 1)


def signed_distance(
    x: torch.Tensor, y: torch.Tensor, r: torch.Tensor, shape: torch.Tensor
) -> torch.Tensor:
    """Pixels from the outline of each object's shape, negative inside; x, y from its centre."""
    far = torch.hypot(x, y)
    box = torch.maximum(x.abs(), y.abs()) - 0.85 * r
    thirds = [
        x * math.cos(a) + y * math.sin(a) for a in (math.pi / 2, -math.pi / 6, -5 * math.pi / 6)
    ]
    triangle = torch.stack(thirds).amax(dim=0) - 0.55 * r
    turned = torch.atan2(x, -y).remainder(2 * math.pi / 5)
    turned = torch.minimum(turned, 2 * math.pi / 5 - turned)  # one of ten like halves of a ray
    px, py = far * turned.cos(), far * turned.sin()
    inner = 0.45 * r
    ex, ey = inner * math.cos(math.pi / 5) - r, inner * math.sin(math.pi / 5)
    star = ((px - r) * ey - py * ex) / torch.hypot(ex, ey)
    bar = torch.minimum(
        torch.maximum(x.abs() - r, y.abs() - 0.33 * r),
        torch.maximum(y.abs() - r, x.abs() - 0.33 * r),
    )
    index = shape[..., None, None]
    out = far - r
    for i, distance in enumerate((box, triangle, star, bar), start=1):
        out = torch.where(index == i, distance, out)
    return out


def colours(s: Scenes) -> torch.Tensor:
    """[B, N, 3]: hue, saturation and value of each object."""
    plain = torch.tensor(list(COLOURS.values()), device=s.colour.device)[s.colour] + s.tint
    return torch.cat([plain[..., :1].remainder(1), plain[..., 1:].clamp(0, 1)], dim=-1)


def hsv_to_rgb(hsv: torch.Tensor) -> torch.Tensor:
    """[..., 3] to [..., 3], all from 0 to 1."""
    h, s, v = hsv.unbind(-1)
    sixths = torch.tensor([5.0, 3.0, 1.0], device=hsv.device)
    k = (sixths + h[..., None] * 6).remainder(6)
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return v[..., None] * (1 - s[..., None] * ramp)
