"""Drawn sheets: the target's mark is in the pixels, damage never raises, previews fit their budget."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageColor

from setr_lib.evaluation import contact_sheet
from setr_lib.evaluation.contact_sheet import (
    PREVIEW_BYTES,
    Strip,
    Tile,
    draw_contact_sheet,
    draw_grid,
    encode_preview,
    judge_words,
    open_thumbnail,
    preview_markdown,
    stack,
    tiles_of,
)
from setr_lib.evaluation.drawn_text import font_for, wrapped
from setr_lib.reranking.order import coarse_order, fused_order
from tests.evaluation.report_data import image_id, make_sample
from tests.nasty import NASTY

GREEN = ImageColor.getrgb(contact_sheet._TARGET)


def count_green(image: Image.Image) -> int:
    return int((np.asarray(image) == GREEN).all(axis=-1).sum())


def plain(colour: str = "navy", size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def noise(side: int) -> Image.Image:
    return Image.frombytes("RGB", (side, side), Random(0).randbytes(side * side * 3))


def test_a_target_is_framed_and_others_are_not() -> None:
    tile = 100
    grid = draw_grid([Tile(plain(), rank=1), Tile(plain(), rank=2, is_target=True)], tile=tile)
    left, right = grid.crop((0, 0, tile, tile)), grid.crop((grid.width - tile, 0, grid.width, tile))
    assert count_green(left) == 0
    assert all(right.getpixel(corner) == GREEN for corner in ((0, 0), (0, tile - 1), (tile - 1, tile - 1)))
    assert count_green(right) >= 4 * tile


def test_a_sheet_marks_each_target_of_each_strip() -> None:
    strips = [
        Strip("coarse", [Tile(plain(), rank, is_target=rank == 3) for rank in range(1, 11)]),
        Strip("adapter", [Tile(plain(), rank, is_target=rank == 1) for rank in range(1, 11)]),
    ]
    unmarked = [Strip(strip.title, [Tile(plain(), tile.rank) for tile in strip.tiles]) for strip in strips]
    one = draw_contact_sheet(plain(), "the same, but red", strips[:1])
    both = draw_contact_sheet(plain(), "the same, but red", strips)
    assert count_green(draw_contact_sheet(plain(), "the same, but red", unmarked)) == 0
    assert count_green(both) == 2 * count_green(one) > 0


def test_tiles_of_a_ranking(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, [3], [1])
    paths = dict(sample.gallery.select("image_id", "path").iter_rows())
    tiles = tiles_of(sample.before.reverse(), paths, target_ids=[image_id(1)], top=4)
    assert [tile.rank for tile in tiles] == [1, 2, 3, 4]
    assert [tile.is_target for tile in tiles] == [False, False, True, False]
    assert tiles[0].caption == "1.000"
    assert tiles_of(sample.after, paths, top=1)[0].caption == "yes +0.5"
    fused, coarse = fused_order("cosine_judge", 0.5), coarse_order()
    assert tiles_of(sample.after, paths, top=1, order=fused)[0].caption == "0.500 · yes +0.5"
    assert tiles_of(sample.before, paths, top=1, order=coarse)[0].caption == "1.000"
    assert tiles_of(sample.before, paths, top=1, order=fused)[0].caption == "1.000 · not judged"
    alone = fused_order("judge")
    assert tiles_of(sample.after, paths, top=1, order=alone)[0].caption == "yes +0.5"


def test_whole_captions_and_titles_are_drawn() -> None:
    tiles = [Tile(plain(), caption="a dog"), Tile(plain(), caption="a dog on the grass beside a fence " * 3)]
    assert draw_grid(tiles, tile=96).height > draw_grid(tiles[:1], tile=96).height + 60
    formula = "1 / (60 + rank by cosine) + 1 / (60 + rank by the judge)"
    said, silent = (draw_contact_sheet(None, "x", [Strip("coarse", [], order)]) for order in (formula, ""))
    assert said.height > silent.height and said.width == silent.width


def test_a_word_that_is_longer_than_a_line_is_broken_and_nothing_of_it_lost() -> None:
    font = font_for(12, "")
    lines = wrapped("see " + "x" * 100, font, 100)
    assert lines[0] == "see" and "".join(lines[1:]) == "x" * 100
    assert all(font.getlength(line) <= 100 for line in lines)


@pytest.mark.parametrize(
    ("score", "words"), [(2.34, "yes +2.3"), (-0.71, "no -0.7"), (0.0, "no +0.00"), (-0.02, "no -0.02")]
)
def test_judge_words(score: float, words: str) -> None:
    assert judge_words(score) == words


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_damaged_file_is_a_tile_and_not_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    assert open_thumbnail(path, 50) is None
    assert draw_contact_sheet(path, "text", [Strip("coarse", [Tile(path, 1), Tile(None, 2)])]).width > 0


def test_a_truncated_photograph_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    noise(300).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    assert open_thumbnail(path, 50) is None


def test_thumbnails_are_upright_opaque_and_never_enlarged(tmp_path: Path) -> None:
    lying = plain("red", (80, 40))
    exif = lying.getexif()
    exif[0x0112] = 6  # "rotate by 90 degrees", as phones write it
    lying.save(tmp_path / "phone.jpg", exif=exif)
    upright = open_thumbnail(tmp_path / "phone.jpg", 40)
    assert upright is not None and upright.size == (20, 40)
    clear = open_thumbnail(Image.new("RGBA", (10, 10), (0, 0, 0, 0)), 40)
    assert clear is not None and clear.size == (10, 10) and clear.getpixel((5, 5)) == (255, 255, 255)
    for mode in ("1", "L", "P", "CMYK", "I;16", "F"):
        converted = open_thumbnail(Image.new(mode, (9, 9)), 40)
        assert converted is not None and converted.mode == "RGB"


@pytest.mark.parametrize(
    "text", ["", "x" * 3000, "word " * 500, "“пример” 日本語 🙂", "line\nbreaks\tand\0nul", NASTY]
)
def test_any_text_can_be_drawn(text: str) -> None:
    sheet = draw_contact_sheet(plain(), text, [Strip(text, [Tile(plain(), 1, text)])], detail=text)
    assert sheet.width < 1000 and sheet.height < 5000, "bounded, however long the text is"


def test_long_strips_wrap_and_empty_ones_stand() -> None:
    short = draw_grid([Tile(plain())] * 10, columns=5, tile=50)
    assert short.size == (5 * 60 - 10, 2 * 60 - 10)
    assert draw_contact_sheet(None, "nothing found", [Strip("coarse", [])]).height > 0
    assert stack([]).size == (1, 1)


def test_previews_fit_their_budget() -> None:
    hard = noise(500)
    assert len(encode_preview(hard)) <= PREVIEW_BYTES
    text = preview_markdown(hard, "best [case]\nof all", max_bytes=20_000)
    assert len(text.encode()) <= 20_000
    assert text.startswith("![best &#91;case&#93; of all](data:image/webp;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(text.partition("base64,")[2].rstrip(")"))))
    assert image.format == "WEBP" and min(image.size) > 50
    with pytest.raises(ValueError, match="bytes"):
        encode_preview(hard, max_bytes=10)
