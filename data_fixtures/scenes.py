"""
Drawn scenes: pictures of a few everyday things, with the boxes that are really visible in them.

A scene is a pure function of its seed and size.  Every picture is drawn here from geometric
shapes, so the set carries no photograph and no licence but this project's own.  Category ids
are COCO's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

# Patches are drawn this much larger and then reduced: edges come out anti-aliased, as in a photo.
SUPERSAMPLE = 2
# An object of which less than this is left visible is not drawn at all: nobody could find it.
MIN_VISIBLE = 0.4
MIN_SIDE = 6


class Pen:
    """Draws on a transparent patch in coordinates from 0 to 1, whatever the patch's size."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        self.patch = Image.new("RGBA", self.size, (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.patch)

    def _at(self, *points: Point) -> list[Point]:
        width, height = self.size
        return [(x * (width - 1), y * (height - 1)) for x, y in points]

    def polygon(self, color: Color, *points: Point) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._at(*points), fill=color)

    def rectangle(self, color: Color, left: float, top: float, right: float, bottom: float) -> None:
        """Fill a rectangle."""
        self._draw.rectangle(self._at((left, top), (right, bottom)), fill=color)

    def ellipse(self, color: Color, left: float, top: float, right: float, bottom: float) -> None:
        """Fill an ellipse."""
        self._draw.ellipse(self._at((left, top), (right, bottom)), fill=color)

    def line(self, color: Color, start: Point, end: Point, width: float) -> None:
        """Draw a line whose width is a fraction of the patch's smaller side."""
        pixels = max(1, round(width * min(self.size)))
        self._draw.line(self._at(start, end), fill=color, width=pixels)

    def wedge(self, color: Color, start: float, end: float) -> None:
        """Fill a slice, in degrees, of an ellipse as wide as the patch and a little higher."""
        width, height = self.size
        self._draw.pieslice([(0, 0), (width - 1, 1.15 * height)], start, end, fill=color)


def _vary(rng: np.random.Generator, color: Color, spread: int = 30) -> Color:
    """A colour near *color*, as light and material would make it."""
    red, green, blue = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in color)
    return red, green, blue


def _paint(rng: np.random.Generator) -> Color:
    """Any strong colour, for things that come in every colour."""
    color = rng.integers(20, 236, 3)
    color[rng.integers(3)] = rng.choice([15, 240])
    return int(color[0]), int(color[1]), int(color[2])


DARK: Color = (35, 35, 40)
WHITE: Color = (245, 245, 240)
GLASS: Color = (175, 210, 230)


def _person(pen: Pen, rng: np.random.Generator) -> None:
    shirt, trousers = _paint(rng), _vary(rng, (50, 60, 90))
    skin = _vary(rng, (205, 160, 125))
    pen.rectangle(trousers, 0.27, 0.55, 0.47, 1)
    pen.rectangle(trousers, 0.53, 0.55, 0.73, 1)
    pen.rectangle(shirt, 0.22, 0.22, 0.78, 0.6)
    pen.line(skin, (0.12, 0.27), (0.06, 0.62), 0.13)
    pen.line(skin, (0.88, 0.27), (0.94, 0.62), 0.13)
    pen.ellipse(skin, 0.3, 0, 0.7, 0.2)


def _car(pen: Pen, rng: np.random.Generator) -> None:
    body = _paint(rng)
    pen.polygon(body, (0.22, 0.45), (0.33, 0.02), (0.7, 0.02), (0.84, 0.45))
    pen.polygon(GLASS, (0.29, 0.42), (0.37, 0.1), (0.49, 0.1), (0.49, 0.42))
    pen.polygon(GLASS, (0.54, 0.42), (0.54, 0.1), (0.66, 0.1), (0.76, 0.42))
    pen.rectangle(body, 0, 0.42, 1, 0.82)
    for centre in (0.23, 0.77):
        pen.ellipse(DARK, centre - 0.12, 0.55, centre + 0.12, 1)
        pen.ellipse((150, 150, 150), centre - 0.05, 0.68, centre + 0.05, 0.87)


def _bus(pen: Pen, rng: np.random.Generator) -> None:
    pen.rectangle(_paint(rng), 0, 0, 1, 0.86)
    for i in range(5):
        pen.rectangle(GLASS, 0.05 + 0.19 * i, 0.12, 0.19 + 0.19 * i, 0.46)
    pen.rectangle(WHITE, 0, 0.56, 1, 0.63)
    for centre in (0.22, 0.78):
        pen.ellipse(DARK, centre - 0.09, 0.66, centre + 0.09, 1)


def _boat(pen: Pen, rng: np.random.Generator) -> None:
    pen.polygon(WHITE, (0.53, 0.02), (0.53, 0.68), (0.98, 0.68))
    pen.polygon(_paint(rng), (0.47, 0.1), (0.47, 0.68), (0.1, 0.68))
    pen.line((90, 60, 40), (0.5, 0), (0.5, 0.75), 0.03)
    pen.polygon(_vary(rng, (120, 70, 40)), (0, 0.74), (1, 0.74), (0.82, 1), (0.18, 1))


def _traffic_light(pen: Pen, rng: np.random.Generator) -> None:
    pen.rectangle(_vary(rng, DARK, 15), 0, 0, 1, 1)
    lit = rng.integers(3)
    for i, color in enumerate([(230, 40, 30), (240, 200, 30), (40, 200, 80)]):
        red, green, blue = color if i == lit else (color[0] // 2, color[1] // 2, color[2] // 2)
        pen.ellipse((red, green, blue), 0.2, 0.06 + 0.31 * i, 0.8, 0.32 + 0.31 * i)


def _fire_hydrant(pen: Pen, rng: np.random.Generator) -> None:
    red = _vary(rng, (205, 45, 35))
    pen.rectangle(red, 0.22, 0.2, 0.78, 0.9)
    pen.ellipse(red, 0.2, 0, 0.8, 0.4)
    pen.rectangle(red, 0, 0.42, 1, 0.6)
    pen.rectangle(red, 0.08, 0.88, 0.92, 1)
    pen.ellipse((230, 200, 60), 0.36, 0.4, 0.64, 0.62)


def _stop_sign(pen: Pen, rng: np.random.Generator) -> None:
    for color, radius in ((WHITE, 0.54), (_vary(rng, (200, 25, 35), 20), 0.48)):
        corners = [math.radians(22.5 + 45 * i) for i in range(8)]
        pen.polygon(
            color, *((0.5 + radius * math.cos(a), 0.5 + radius * math.sin(a)) for a in corners)
        )
    pen.rectangle(WHITE, 0.2, 0.42, 0.8, 0.58)


def _umbrella(pen: Pen, rng: np.random.Generator) -> None:
    pen.line((80, 60, 50), (0.5, 0.4), (0.5, 0.97), 0.06)
    pen.line((80, 60, 50), (0.48, 0.97), (0.66, 0.97), 0.06)
    first, second = _paint(rng), _paint(rng)
    for i in range(6):
        pen.wedge(first if i % 2 else second, 180 + 30 * i, 210 + 30 * i)


def _frisbee(pen: Pen, rng: np.random.Generator) -> None:
    pen.ellipse(_vary(rng, (30, 60, 205)), 0, 0, 1, 1)
    pen.ellipse(_vary(rng, (70, 110, 235)), 0.16, 0.16, 0.84, 0.84)


def _sports_ball(pen: Pen, rng: np.random.Generator) -> None:
    pen.ellipse(_vary(rng, WHITE, 8), 0, 0, 1, 1)
    turn = rng.uniform(0, math.tau)
    pen.ellipse(DARK, 0.37, 0.37, 0.63, 0.63)
    for i in range(5):
        x = 0.5 + 0.36 * math.cos(turn + math.tau * i / 5)
        y = 0.5 + 0.36 * math.sin(turn + math.tau * i / 5)
        pen.ellipse(DARK, x - 0.1, y - 0.1, x + 0.1, y + 0.1)


def _kite(pen: Pen, rng: np.random.Generator) -> None:
    first, second = _paint(rng), _paint(rng)
    pen.polygon(first, (0.5, 0), (0.98, 0.3), (0.5, 0.3))
    pen.polygon(second, (0.5, 0), (0.02, 0.3), (0.5, 0.3))
    pen.polygon(second, (0.98, 0.3), (0.5, 0.75), (0.5, 0.3))
    pen.polygon(first, (0.02, 0.3), (0.5, 0.75), (0.5, 0.3))
    pen.line(DARK, (0.5, 0.75), (0.38, 0.87), 0.05)
    pen.line(DARK, (0.38, 0.87), (0.6, 0.99), 0.05)


def _bottle(pen: Pen, rng: np.random.Generator) -> None:
    glass = _vary(rng, (40, 120, 60))
    pen.rectangle(_vary(rng, (200, 180, 60)), 0.34, 0, 0.66, 0.07)
    pen.rectangle(glass, 0.37, 0.07, 0.63, 0.4)
    pen.ellipse(glass, 0, 0.28, 1, 0.55)
    pen.rectangle(glass, 0, 0.42, 1, 1)
    pen.rectangle(WHITE, 0, 0.58, 1, 0.82)


def _apple(pen: Pen, rng: np.random.Generator) -> None:
    pen.ellipse(_vary(rng, (200, 35, 40)), 0, 0.14, 1, 1)
    pen.line((90, 60, 30), (0.5, 0.2), (0.55, 0.02), 0.07)
    pen.ellipse((70, 150, 60), 0.55, 0.02, 0.85, 0.17)


def _orange(pen: Pen, rng: np.random.Generator) -> None:
    pen.ellipse(_vary(rng, (245, 150, 30), 18), 0, 0, 1, 1)
    pen.ellipse((90, 130, 50), 0.44, 0.06, 0.56, 0.16)


def _tv(pen: Pen, rng: np.random.Generator) -> None:
    pen.rectangle(DARK, 0, 0, 1, 0.88)
    pen.rectangle(_vary(rng, (90, 130, 180), 60), 0.05, 0.06, 0.95, 0.8)
    pen.rectangle(DARK, 0.44, 0.86, 0.56, 0.95)
    pen.rectangle(DARK, 0.28, 0.94, 0.72, 1)


def _clock(pen: Pen, rng: np.random.Generator) -> None:
    pen.ellipse(_paint(rng), 0, 0, 1, 1)
    pen.ellipse(WHITE, 0.1, 0.1, 0.9, 0.9)
    for length, width in ((0.3, 0.06), (0.2, 0.08)):
        angle = rng.uniform(0, math.tau)
        end = (0.5 + length * math.cos(angle), 0.5 + length * math.sin(angle))
        pen.line(DARK, (0.5, 0.5), end, width)


def _vase(pen: Pen, rng: np.random.Generator) -> None:
    clay, band = _vary(rng, (70, 90, 170), 40), _vary(rng, (225, 215, 190), 20)
    pen.polygon(clay, (0.2, 0), (0.8, 0), (0.65, 0.2), (0.35, 0.2))
    pen.ellipse(clay, 0, 0.12, 1, 0.9)
    pen.rectangle(clay, 0.25, 0.8, 0.75, 1)
    pen.rectangle(band, 0.02, 0.44, 0.98, 0.56)


def _teddy_bear(pen: Pen, rng: np.random.Generator) -> None:
    fur = _vary(rng, (150, 100, 60))
    light = _vary(rng, (210, 170, 120), 15)
    for left, top, right, bottom in (
        (0.14, 0, 0.4, 0.22), (0.6, 0, 0.86, 0.22), (0, 0.42, 0.35, 0.68), (0.65, 0.42, 1, 0.68),
        (0.08, 0.74, 0.46, 1), (0.54, 0.74, 0.92, 1), (0.18, 0.36, 0.82, 0.95),
        (0.2, 0.04, 0.8, 0.5),
    ):  # fmt: skip
        pen.ellipse(fur, left, top, right, bottom)
    pen.ellipse(light, 0.34, 0.5, 0.66, 0.82)
    pen.ellipse(light, 0.38, 0.26, 0.62, 0.44)
    for x in (0.36, 0.64):
        pen.ellipse(DARK, x - 0.05, 0.18, x + 0.05, 0.27)


def _toothbrush(pen: Pen, rng: np.random.Generator) -> None:
    pen.rectangle(_paint(rng), 0, 0.55, 1, 1)
    for i in range(6):
        left = 0.02 + 0.05 * i
        pen.rectangle(WHITE if i % 2 else (120, 190, 230), left, 0, left + 0.045, 0.6)


@dataclass(frozen=True)
class Thing:
    """A drawable category: its COCO id, its width over height, and how it is drawn."""

    category_id: int
    aspect: float
    draw: Callable[[Pen, np.random.Generator], None]


THINGS = (
    Thing(1, 0.42, _person),
    Thing(3, 1.9, _car),
    Thing(6, 2.1, _bus),
    Thing(9, 1.1, _boat),
    Thing(10, 0.42, _traffic_light),
    Thing(11, 0.6, _fire_hydrant),
    Thing(13, 1.0, _stop_sign),
    Thing(28, 1.0, _umbrella),
    Thing(34, 1.25, _frisbee),
    Thing(37, 1.0, _sports_ball),
    Thing(38, 0.75, _kite),
    Thing(44, 0.36, _bottle),
    Thing(53, 0.95, _apple),
    Thing(55, 1.0, _orange),
    Thing(72, 1.45, _tv),
    Thing(85, 1.0, _clock),
    Thing(86, 0.62, _vase),
    Thing(88, 0.8, _teddy_bear),
    Thing(90, 5.0, _toothbrush),
)
CROWDS = tuple(thing for thing in THINGS if thing.category_id in (1, 53, 55))


@dataclass(frozen=True)
class Truth:
    """One annotation: COCO category id, visible box (x, y, w, h in pixels), visible area, crowd."""

    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: bool = False


@dataclass(frozen=True)
class Scene:
    """An RGB picture and what is visible in it."""

    image: Image.Image
    truths: tuple[Truth, ...]


def draw_scene(
    seed: int,
    size: tuple[int, int],
    *,
    objects: int | None = None,
    smallest: float = 16,
    crowd: bool = False,
) -> Scene:
    """
    Draw the scene of *seed*, *size* (width, height) pixels large.

    *objects* is how many things are tried (default: 3 to 11), *smallest* the least long side of
    one in pixels; *crowd* adds one crowd region.
    """
    rng = np.random.default_rng(seed)
    image = _background(rng, size)
    owner = np.zeros((size[1], size[0]), np.int16)
    things: list[Thing] = []
    areas: list[int] = []
    crowd_members = _place_crowd(rng, image, owner, things, areas) if crowd else 0
    for _ in range(rng.integers(3, 12) if objects is None else objects):
        thing = THINGS[rng.integers(len(THINGS))]
        long_side = math.exp(rng.uniform(math.log(smallest), math.log(0.62 * min(size))))
        _place(rng, image, owner, things, areas, thing, long_side, _anywhere(rng, size))
    image = _camera(rng, image)
    return Scene(image, tuple(_truths(owner, things, crowd_members)))


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A soft many-coloured ground with a few plain shapes that are no objects."""
    coarse = rng.integers(75, 200, (3, 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 6)):
        x, y = _anywhere(rng, size)
        width, height = rng.uniform(0.05, 0.5, 2) * min(size)
        color = tuple(int(c) for c in rng.integers(60, 215, 3))
        if rng.random() < 0.5:
            draw.rectangle([(x, y), (x + width, y + height)], fill=color)
        else:
            draw.line([(x, y), (x + width, y - height)], fill=color, width=int(rng.integers(1, 8)))
    return image


def _anywhere(rng: np.random.Generator, size: tuple[int, int]) -> Point:
    return rng.uniform(0, size[0]), rng.uniform(0, size[1])


def _place_crowd(
    rng: np.random.Generator,
    image: Image.Image,
    owner: np.ndarray,
    things: list[Thing],
    areas: list[int],
) -> int:
    """Place a dense group of one category; return how many members were drawn."""
    thing = CROWDS[rng.integers(len(CROWDS))]
    side = 0.09 * min(image.size)
    left, top = rng.uniform(0.1, 0.4) * image.size[0], rng.uniform(0.2, 0.6) * image.size[1]
    for row in range(3):
        for column in range(6):
            jitter = rng.uniform(-0.15, 0.15, 2) * side
            at = (left + column * side * 0.9 + jitter[0], top + row * side * 0.9 + jitter[1])
            _place(rng, image, owner, things, areas, thing, side, at)
    return len(things)


def _place(
    rng: np.random.Generator,
    image: Image.Image,
    owner: np.ndarray,
    things: list[Thing],
    areas: list[int],
    thing: Thing,
    long_side: float,
    centre: Point,
) -> None:
    """Draw *thing* unless it, or something drawn before, would be left mostly hidden."""
    aspect = thing.aspect * rng.uniform(0.85, 1.18)
    width = max(MIN_SIDE, round(long_side * min(1.0, aspect)))
    height = max(MIN_SIDE, round(long_side * min(1.0, 1 / aspect)))
    pen = Pen(width, height)
    thing.draw(pen, rng)
    patch = pen.patch
    if rng.random() < 0.5:
        patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.uniform(-12, 12)
    patch = patch.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    patch = patch.resize(
        (max(1, patch.width // SUPERSAMPLE), max(1, patch.height // SUPERSAMPLE)),
        Image.Resampling.BOX,
    )
    left, top = round(centre[0] - patch.width / 2), round(centre[1] - patch.height / 2)
    mask = np.asarray(patch.getchannel("A")) > 127
    inside = mask[
        max(0, -top) : max(0, owner.shape[0] - top), max(0, -left) : max(0, owner.shape[1] - left)
    ]
    if inside.sum() < MIN_VISIBLE * mask.sum() or not inside.any():
        return
    view = owner[
        max(0, top) : max(0, top) + inside.shape[0], max(0, left) : max(0, left) + inside.shape[1]
    ]
    after = np.bincount(owner.ravel(), minlength=len(things) + 1) - np.bincount(
        view[inside], minlength=len(things) + 1
    )
    if any(after[i + 1] < MIN_VISIBLE * area for i, area in enumerate(areas)):
        return
    view[inside] = len(things) + 1
    image.paste(patch, (left, top), patch)
    things.append(thing)
    areas.append(int(mask.sum()))


def _camera(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """What a camera adds: exposure and a little noise."""
    pixels = np.asarray(image, np.float32) * rng.uniform(0.75, 1.2)
    pixels += rng.normal(0, rng.uniform(1, 5), (*pixels.shape[:2], 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _truths(owner: np.ndarray, things: list[Thing], crowd_members: int) -> list[Truth]:
    """The visible box and area of each thing; the first *crowd_members* become one crowd."""
    groups = [[i + 1] for i in range(crowd_members, len(things))]
    truths = []
    if crowd_members:
        groups.insert(0, list(range(1, crowd_members + 1)))
    for group in groups:
        visible = np.isin(owner, group)
        rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
        left, top = int(columns[0]), int(rows[0])
        box = (float(left), float(top), float(columns[-1] + 1 - left), float(rows[-1] + 1 - top))
        thing = things[group[0] - 1]
        truths.append(Truth(thing.category_id, box, float(visible.sum()), len(group) > 1))
    return truths
