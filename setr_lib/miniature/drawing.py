"""From a picture's description to its pixels: flat, friendly icons and garments on ten textured backgrounds.

Only Pillow's drawing primitives and Python's own generator are used, so a seed gives the same pixels on any
machine. Foregrounds are drawn at twice the size and reduced, for smooth edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from PIL import Image, ImageChops, ImageDraw

from setr_lib.miniature.garments import Garment
from setr_lib.miniature.scenes import Scene, Thing

SIDE = 192
"""Width and height of a picture, pixels."""
_SCALE = 2
_RADII = {"small": 29, "large": 42}
_GROUP_RADII = {"small": 22, "large": 34}

RGB = tuple[int, int, int]
Point = tuple[float, float]

INKS: dict[str, RGB] = {
    "red": (214, 48, 49),
    "orange": (240, 136, 32),
    "yellow": (250, 212, 56),
    "green": (56, 158, 78),
    "blue": (44, 98, 208),
    "purple": (136, 70, 176),
    "white": (246, 246, 242),
    "black": (38, 38, 44),
}


Layout = list[tuple[Thing, Point, int]]
"""(thing, centre, radius) in pixels of the finished picture, one entry per drawn copy."""


def draw_picture(picture: Scene | Garment, rng: Random) -> Image.Image:
    """Draw a picture.

    Args:
        picture: What it shows.
        rng: Decides what the description leaves open (jitter, texture).

    Returns:
        An RGB image of ``SIDE`` x ``SIDE`` pixels.
    """
    return draw_with_layout(picture, rng)[0]


def draw_with_layout(picture: Scene | Garment, rng: Random) -> tuple[Image.Image, Layout]:
    """Draw a picture, and tell where its things are.

    Args:
        picture: What it shows.
        rng: Decides what the description leaves open (jitter, texture).

    Returns:
        An RGB image of ``SIDE`` x ``SIDE`` pixels, and the place of each thing of a scene (empty for a
        garment).
    """
    canvas = _BACKGROUNDS[picture.background](rng)
    overlay = Image.new("RGBA", (SIDE * _SCALE, SIDE * _SCALE), (0, 0, 0, 0))
    layout: Layout = []
    if isinstance(picture, Garment):
        _draw_garment(overlay, picture, rng)
    else:
        layout = _place_things(picture, rng)
        for thing, centre, radius in layout:
            _draw_thing(overlay, thing, centre, radius, rng)
    overlay = overlay.reduce(_SCALE)
    left, top, right, bottom = overlay.getbbox() or (0, 0, SIDE, SIDE)
    overlay = overlay.crop((left, top, right, bottom))
    shadow = Image.new("RGBA", overlay.size, (0, 0, 0, 0))
    shadow.paste((0, 0, 0, 70), (0, 0), overlay.getchannel("A"))
    canvas.paste(shadow, (left + 3, top + 4), shadow)
    canvas.paste(overlay, (left, top), overlay)
    return canvas, layout


def _place_things(scene: Scene, rng: Random) -> Layout:
    if len(scene.things) == 1:
        return _place_group(scene.things[0], rng)
    beside = scene.relation == "beside"
    placed: Layout = []
    for index, thing in enumerate(scene.things):
        along, across = (52 + 88 * index + rng.randint(-5, 5), 96 + rng.randint(-9, 9))
        placed.append((thing, (along, across) if beside else (across, along), _RADII[thing.size]))
    return placed


def _place_group(thing: Thing, rng: Random) -> Layout:
    spots: dict[int, list[Point]] = {
        1: [(96, 98)],
        2: [(52, 100), (140, 100)],
        3: [(52, 58), (140, 58), (96, 138)],
    }
    radius = (_RADII if thing.count == 1 else _GROUP_RADII)[thing.size]
    reach = 10 if thing.count == 1 else 6
    return [
        (thing, (x + rng.randint(-reach, reach), y + rng.randint(-reach, reach)), radius)
        for x, y in spots[thing.count]
    ]


def _ink(colour: str, rng: Random) -> RGB:
    red, green, blue = (min(255, max(0, channel + rng.randint(-9, 9))) for channel in INKS[colour])
    return red, green, blue


def _shade(ink: RGB, factor: float) -> RGB:
    """Darker below 1; towards white above 1."""
    if factor <= 1:
        return int(ink[0] * factor), int(ink[1] * factor), int(ink[2] * factor)
    share = factor - 1
    return tuple(int(channel + (255 - channel) * share) for channel in ink)  # pyright: ignore[reportReturnType]


def _outline_colour(colour: str) -> RGB:
    return (205, 205, 210) if colour == "black" else _shade(INKS[colour], 0.45)


def _mark_colour(colour: str) -> RGB:
    """The colour of stripes and dots: light on dark things, dark on light ones."""
    return (52, 56, 84) if colour in ("white", "yellow", "orange") else (250, 246, 232)


def _draw_thing(overlay: Image.Image, thing: Thing, centre: Point, radius: int, rng: Random) -> None:
    mask = Image.new("L", overlay.size, 0)
    x, y = centre[0] * _SCALE, centre[1] * _SCALE
    r = radius * _SCALE
    _SHAPES[thing.shape](ImageDraw.Draw(mask), x, y, r)
    box = (int(x - r) - 2, int(y - r) - 2, int(x + r) + 3, int(y + r) + 3)
    _fill_mask(overlay, mask, box, thing.colour, thing.pattern, 4.2 * _SCALE, rng)


def _fill_mask(
    overlay: Image.Image,
    mask: Image.Image,
    box: tuple[int, int, int, int],
    colour: str,
    pattern: str,
    step: float,
    rng: Random,
) -> None:
    """Ink, pattern and a dark outline inside ``mask``; only ``box`` of the overlay is touched."""
    mask = mask.crop(box)
    width, height = mask.size
    ink = _ink(colour, rng)
    layer = Image.new("RGB", mask.size, ink)
    draw = ImageDraw.Draw(layer)
    draw.ellipse((-width * 0.25, -height * 0.35, width * 0.75, height * 0.6), fill=_shade(ink, 1.14))
    _draw_pattern(draw, width, height, pattern, _mark_colour(colour), step, rng)
    # The rest happens where the mask is, and the few pixels around it that the outline looks at.
    left, top, right, bottom = mask.getbbox() or (0, 0, width, height)
    part = (max(0, left - 8), max(0, top - 8), min(width, right + 8), min(height, bottom + 8))
    mask, layer = mask.crop(part), layer.crop(part)
    inner = mask
    for _ in range(2):
        inner = ImageChops.multiply(ImageChops.offset(inner, 2, 0), ImageChops.offset(inner, -2, 0))
        inner = ImageChops.multiply(ImageChops.offset(inner, 0, 2), ImageChops.offset(inner, 0, -2))
    rim = Image.new("RGB", mask.size, _outline_colour(colour))
    rim.paste(layer, (0, 0), inner)
    overlay.paste(rim, (box[0] + part[0], box[1] + part[1]), mask)


def _draw_pattern(
    draw: ImageDraw.ImageDraw, width: int, height: int, pattern: str, ink: RGB, step: float, rng: Random
) -> None:
    if pattern == "striped":
        gap = int(step * 3.4)
        for start in range(-height - rng.randrange(gap), width, gap):
            draw.line((start, height, start + height, 0), fill=ink, width=int(step * 1.0))
    elif pattern == "dotted":
        gap, r = int(step * 3.2), step * 0.85
        for row, y in enumerate(range(rng.randrange(gap // 2), height + gap, gap)):
            for x in range(-(gap // 2) * (row % 2), width + gap, gap):
                draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)


# Shapes: each fills a mask around (x, y) within radius r.


def _polygon(x: float, y: float, r: float, points: list[Point]) -> list[Point]:
    return [(x + r * px, y + r * py) for px, py in points]


def _ball(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=255)


def _star(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    points = [
        (math.sin(math.pi * k / 5) * (1.0, 0.45)[k % 2], -math.cos(math.pi * k / 5) * (1.0, 0.45)[k % 2])
        for k in range(10)
    ]
    draw.polygon(_polygon(x, y, r, points), fill=255)


def _heart(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.pieslice((x - r, y - r * 0.9, x + r * 0.04, y + r * 0.14), 0, 360, fill=255)
    draw.pieslice((x - r * 0.04, y - r * 0.9, x + r, y + r * 0.14), 0, 360, fill=255)
    draw.polygon(_polygon(x, y, r, [(-0.95, -0.22), (0.95, -0.22), (0.0, 1.0)]), fill=255)


def _moon(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    draw.ellipse((x - r * 0.35, y - r * 0.95, x + r * 1.25, y + r * 0.65), fill=0)


def _flower(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    for k in range(6):
        px, py = x + r * 0.58 * math.sin(math.pi * k / 3), y + r * 0.58 * math.cos(math.pi * k / 3)
        draw.ellipse((px - r * 0.4, py - r * 0.4, px + r * 0.4, py + r * 0.4), fill=255)
    draw.ellipse((x - r * 0.4, y - r * 0.4, x + r * 0.4, y + r * 0.4), fill=255)
    draw.ellipse((x - r * 0.16, y - r * 0.16, x + r * 0.16, y + r * 0.16), fill=0)


def _kite(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.polygon(_polygon(x, y, r, [(0, -1), (0.78, -0.25), (0, 1), (-0.78, -0.25)]), fill=255)


def _house(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.polygon(
        _polygon(
            x,
            y,
            r,
            [(0, -1), (1, -0.1), (0.74, -0.1), (0.74, 0.95), (-0.74, 0.95), (-0.74, -0.1), (-1, -0.1)],
        ),
        fill=255,
    )
    draw.rectangle((x - r * 0.2, y + r * 0.35, x + r * 0.2, y + r * 0.96), fill=0)


def _boat(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.polygon(_polygon(x, y, r, [(-1, 0.3), (1, 0.3), (0.6, 0.9), (-0.6, 0.9)]), fill=255)
    draw.polygon(_polygon(x, y, r, [(-0.02, -1), (0.85, 0.14), (-0.02, 0.14)]), fill=255)
    draw.polygon(_polygon(x, y, r, [(-0.2, -0.7), (-0.2, 0.14), (-0.75, 0.14)]), fill=255)


_SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, float, float, float], None]] = {
    "ball": _ball,
    "star": _star,
    "heart": _heart,
    "moon": _moon,
    "flower": _flower,
    "kite": _kite,
    "house": _house,
    "boat": _boat,
}


def _draw_garment(overlay: Image.Image, garment: Garment, rng: Random) -> None:
    mask = Image.new("L", overlay.size, 0)
    draw = ImageDraw.Draw(mask)
    cx, top = (96 + rng.randint(-8, 8)) * _SCALE, (34 + rng.randint(-5, 5)) * _SCALE

    def at(points: list[Point]) -> list[Point]:
        return [(cx + px * _SCALE, top + py * _SCALE) for px, py in points]

    shoulder, waist, hem, bottom = {
        ("dress", "short"): (31, 25, 44, 96),
        ("dress", "long"): (31, 25, 54, 142),
        ("shirt", "short"): (37, 34, 35, 80),
        ("shirt", "long"): (37, 34, 35, 116),
        ("toptee", "short"): (30, 27, 36, 62),
        ("toptee", "long"): (30, 27, 40, 98),
    }[garment.category, garment.length]
    middle = 52 if garment.category == "dress" else bottom * 0.55
    body = [
        (-14, 0),
        (-shoulder, 7),
        (-waist, middle),
        (-hem, bottom),
        (hem, bottom),
        (waist, middle),
        (shoulder, 7),
        (14, 0),
    ]
    draw.polygon(at(body), fill=255)
    reach = {"no": 0, "short": 34, "long": 88}[garment.sleeves]
    for side in (-1, 1) if reach else ():
        lean = 0.42 if garment.sleeves == "long" else 0.62
        sleeve = [
            (side * (shoulder - 3), 5),
            (side * (shoulder + reach * lean + 9), reach),
            (side * (shoulder + reach * lean - 9), reach + 7),
            (side * (shoulder - 6), 36),
        ]
        draw.polygon(at(sleeve), fill=255)
    if garment.neck == "v":
        draw.polygon(at([(-15, -2), (15, -2), (0, 32)]), fill=0)
    else:
        draw.ellipse((*at([(-15, -13)])[0], *at([(15, 12)])[0]), fill=0)
    box = (0, max(0, int(top) - 8), SIDE * _SCALE, SIDE * _SCALE)
    _fill_mask(overlay, mask, box, garment.colour, garment.pattern, 5 * _SCALE, rng)
    if garment.category == "shirt":
        _draw_buttons(
            ImageDraw.Draw(overlay),
            at,
            38 if garment.neck == "v" else 20,
            int(bottom) - 6,
            _outline_colour(garment.colour),
        )


def _draw_buttons(
    draw: ImageDraw.ImageDraw, at: Callable[[list[Point]], list[Point]], start: int, end: int, ink: RGB
) -> None:
    draw.line([*at([(0, start - 6)]), *at([(0, end + 4)])], fill=ink, width=2 * _SCALE)
    for y in range(start, end, 15):
        (x0, y0), (x1, y1) = at([(-3, y - 3), (3, y + 3)])
        draw.ellipse((x0, y0, x1, y1), fill=ink)


# Backgrounds.


def _gradient(top: RGB, bottom: RGB) -> Image.Image:
    last = SIDE - 1
    inks = ((a * (last - y) + b * y) // last for y in range(SIDE) for a, b in zip(top, bottom, strict=True))
    ramp = Image.frombytes("RGB", (1, SIDE), bytes(inks))
    return ramp.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _vary(ink: RGB, rng: Random, by: int = 10) -> RGB:
    shift = rng.randint(-by, by)
    return tuple(min(255, max(0, channel + shift)) for channel in ink)  # pyright: ignore[reportReturnType]


def _speckle(
    draw: ImageDraw.ImageDraw, rng: Random, count: int, top: int, inks: tuple[RGB, ...], size: int
) -> None:
    for _ in range(count):
        x, y, r = rng.randrange(SIDE), rng.randrange(top, SIDE), rng.randint(1, size)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=rng.choice(inks))


def _beach(rng: Random) -> Image.Image:
    image = _gradient(_vary((150, 214, 240), rng), (206, 238, 246))
    draw = ImageDraw.Draw(image)
    horizon = rng.randint(58, 76)
    draw.rectangle((0, horizon, SIDE, horizon + 36), fill=_vary((70, 178, 200), rng))
    draw.line((0, horizon + 36, SIDE, horizon + 36), fill=(244, 250, 248), width=5)
    draw.rectangle((0, horizon + 38, SIDE, SIDE), fill=_vary((238, 214, 160), rng))
    _speckle(draw, rng, 40, horizon + 44, ((222, 194, 134), (248, 230, 186)), 2)
    return image


def _snow(rng: Random) -> Image.Image:
    image = _gradient(_vary((186, 204, 224), rng), (226, 234, 244))
    draw = ImageDraw.Draw(image)
    horizon = rng.randint(96, 120)
    draw.ellipse((-60, horizon - 24, 150, SIDE + 90), fill=(236, 241, 248))
    draw.ellipse((60, horizon, SIDE + 80, SIDE + 90), fill=(224, 232, 243))
    _speckle(draw, rng, 60, 0, ((252, 253, 255), (244, 248, 253)), 3)
    return image


def _meadow(rng: Random) -> Image.Image:
    image = _gradient(_vary((166, 216, 150), rng), _vary((112, 178, 92), rng))
    draw = ImageDraw.Draw(image)
    for _ in range(110):
        x, y, h = rng.randrange(SIDE), rng.randrange(6, SIDE), rng.randint(5, 11)
        draw.line(
            (x, y, x + rng.randint(-3, 3), y - h),
            fill=rng.choice(((86, 150, 70), (140, 200, 110), (100, 166, 84))),
            width=2,
        )
    _speckle(draw, rng, 14, 0, ((250, 240, 160), (246, 220, 236)), 2)
    return image


def _night(rng: Random) -> Image.Image:
    image = _gradient(_vary((18, 22, 58), rng, 6), (56, 50, 104))
    draw = ImageDraw.Draw(image)
    _speckle(draw, rng, 50, 0, ((240, 240, 214), (176, 184, 226)), 1)
    draw.polygon(
        [(0, SIDE), (0, 172), (46, 158), (96, 174), (150, 154), (SIDE, 170), (SIDE, SIDE)], fill=(16, 18, 40)
    )
    return image


def _desert(rng: Random) -> Image.Image:
    image = _gradient(_vary((250, 204, 148), rng), (250, 224, 184))
    draw = ImageDraw.Draw(image)
    shift = rng.randint(-20, 20)
    draw.ellipse((-80 + shift, 70, 150 + shift, 300), fill=_vary((224, 166, 98), rng))
    draw.ellipse((50 + shift, 96, 320 + shift, 340), fill=_vary((208, 146, 80), rng))
    for x in (rng.randint(6, 30), rng.randint(160, 184)):
        y = rng.randint(92, 130)
        draw.line((x, y, x, y + 36), fill=(98, 132, 82), width=6)
        draw.line((x - 9, y + 8, x - 9, y + 20, x, y + 20), fill=(98, 132, 82), width=4)
    return image


def _sea(rng: Random) -> Image.Image:
    image = _gradient(_vary((96, 170, 222), rng), _vary((28, 92, 150), rng))
    draw = ImageDraw.Draw(image)
    for row in range(10, SIDE, 17):
        shift = rng.randrange(30)
        for x in range(-shift, SIDE, 30):
            draw.arc((x, row, x + 30, row + 14), 20, 160, fill=(184, 220, 240), width=2)
    return image


def _brick(rng: Random) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (206, 196, 186))
    draw = ImageDraw.Draw(image)
    shift = rng.randrange(20)
    for row, y in enumerate(range(-rng.randrange(16), SIDE, 17)):
        for x in range(-shift - 18 * (row % 2), SIDE, 37):
            draw.rectangle((x, y, x + 34, y + 14), fill=_vary((168, 92, 74), rng, 14))
    return image


def _wood(rng: Random) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (176, 128, 84))
    draw = ImageDraw.Draw(image)
    for index, y in enumerate(range(-rng.randrange(30), SIDE, 32)):
        draw.rectangle((0, y, SIDE, y + 30), fill=_vary((182, 132, 86), rng, 10))
        for _ in range(5):
            x, line = rng.randrange(-40, SIDE), y + rng.randint(4, 27)
            draw.line((x, line, x + rng.randint(30, 90), line), fill=(158, 110, 68), width=1)
        joint = (index * 71 + rng.randrange(40)) % SIDE
        draw.line((joint, y, joint, y + 30), fill=(120, 80, 48), width=2)
    return image


def _forest(rng: Random) -> Image.Image:
    image = _gradient(_vary((150, 190, 166), rng), _vary((54, 96, 62), rng))
    draw = ImageDraw.Draw(image)
    for _ in range(16):
        x, y, w = rng.randrange(-10, SIDE + 10), rng.randint(60, SIDE), rng.randint(16, 28)
        draw.rectangle((x - 2, y - 4, x + 2, y + 12), fill=(84, 62, 44))
        ink = _vary((44, 98, 60), rng, 16)
        draw.polygon([(x, y - w * 2.4), (x + w, y), (x - w, y)], fill=ink)
    return image


def _city(rng: Random) -> Image.Image:
    image = _gradient(_vary((214, 196, 210), rng), (238, 222, 214))
    draw = ImageDraw.Draw(image)
    x = -rng.randrange(16)
    while x < SIDE:
        width, top = rng.randint(24, 40), rng.randint(30, 110)
        draw.rectangle((x, top, x + width, SIDE), fill=_vary((122, 126, 146), rng, 18))
        for wy in range(top + 8, SIDE - 14, 15):
            for wx in range(x + 5, x + width - 6, 10):
                draw.rectangle(
                    (wx, wy, wx + 4, wy + 7), fill=(240, 220, 150) if rng.random() < 0.4 else (92, 96, 118)
                )
        x += width + 2
    draw.rectangle((0, 178, SIDE, SIDE), fill=(96, 98, 106))
    return image


_BACKGROUNDS: dict[str, Callable[[Random], Image.Image]] = {
    "beach": _beach,
    "snow": _snow,
    "meadow": _meadow,
    "night": _night,
    "desert": _desert,
    "sea": _sea,
    "brick": _brick,
    "wood": _wood,
    "forest": _forest,
    "city": _city,
}
