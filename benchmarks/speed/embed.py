"""Speed of embedding a gallery: from a GALLERY frame to rows in LanceDB, against the loop that everybody
writes and against a bound that is counted from its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from random import Random
from shutil import rmtree
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from benchmarks.speed.figure import BenchSetting, Figure, Growth
from benchmarks.speed.timing import in_turns
from setr_lib.datasets import inspect_gallery
from setr_lib.hashing import fingerprint_bytes
from setr_lib.pixels import decode_image, read_file
from setr_lib.settings import EncoderSettings
from setr_lib.spaces import vector_store
from setr_lib.spaces.vector_store import GalleryStore, SyncReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.spaces.open_clip_space import OpenClipSpace

NAMES = ("embed-decode-bound", "embed-model-bound", "grow-1-percent")

_SMALL, _PHOTOS, _PHOTOS_IN_FULL, _STORED = 3200, 160, 700, 200_000
_CLIP = Path(__file__).resolve().parents[2] / "setr_lib" / "miniature" / "weights" / "clip"
_TABLE, _PLAIN_BATCH, _TOLERANCE = "bench", 32, 1e-5
_SAMPLE = 320
"""Pictures that the parts of the bound are measured on."""
_FOUND = ", the batch size found by trying"
_STORED_SHARE = f"{_STORED:,} rows, +1 %, share of the whole at the rate measured"
_MOST_SHARE = 0.03
_SHARE_BEFORE, _UNCHANGED_BEFORE, _WHOLE_BEFORE = 0.017, 0.01, 670 / 560
"""What the code before took of its whole, and its whole of the loop (560 and 670 pictures a second)."""
_MODEL_PART = "model on all threads, core-seconds"


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Measure the named figures.

    Args:
        setting: How.
        names: Some of ``NAMES``.

    Yields:
        Each figure.
    """
    import torch

    torch.set_num_threads(setting.threads)
    small = {"embed-decode-bound", "grow-1-percent"} & set(names)
    if small:
        bench = Embedding(setting, "small", _space(f"local-dir:{_CLIP}", setting), _small_pictures(setting))
        if "embed-decode-bound" in names:
            yield decode_bound(bench)
        if "grow-1-percent" in names:
            yield grown(bench)
    if "embed-model-bound" in names:
        photos = _photo_pictures(setting)
        yield model_bound(Embedding(setting, "photos", _space("ViT-B-32", setting), photos, rounds=2))


@dataclass
class Embedding:
    """A gallery that is embedded in two ways.

    Attributes:
        setting: How it is measured.
        name: Of the folder that tables are written to.
        space: The encoder.
        files: The gallery's pictures.
        gallery: Its GALLERY frame.
        rounds: How often the model alone is timed.
    """

    setting: BenchSetting
    name: str
    space: OpenClipSpace
    files: Sequence[Path]
    rounds: int = 5
    gallery: pl.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        self.gallery = _inspected(self.files)

    @property
    def store(self) -> GalleryStore:
        """The database that SETR writes to."""
        return GalleryStore(self.setting.folder / "embed" / self.name)

    def ours(self, gallery: pl.DataFrame | None = None, *, anew: bool = True) -> SyncReport:
        """Embed by SETR.

        Args:
            gallery: What is embedded; all by default.
            anew: Whether the table is removed first.
        """
        if anew:
            rmtree(self.store.uri, ignore_errors=True)
        return self.store.synchronise(_TABLE, self.gallery if gallery is None else gallery, self.space)

    def plain(self) -> NDArray[np.float32]:
        """Embed by a loop: open, preprocess, encode 32 at a time, append."""
        import lancedb
        import torch
        from PIL import Image

        folder = self.setting.folder / "embed" / f"{self.name}-plain"
        rmtree(folder, ignore_errors=True)
        table, model = lancedb.connect(folder).create_table("plain", schema=self.schema), self.space.model
        made: list[NDArray[np.float32]] = []
        for start in range(0, len(self.gallery), _PLAIN_BATCH):
            rows = self.gallery[start : start + _PLAIN_BATCH]
            pixels = torch.stack(
                [self.space.preprocess(Image.open(path).convert("RGB")) for path in rows["path"]]
            )
            with torch.inference_mode():
                features = model.encode_image(pixels.to(self.space.device))
                made.append(torch.nn.functional.normalize(features, dim=-1).cpu().numpy())
            table.add(self.rows(rows, made[-1]))
        return np.concatenate(made)

    @property
    def schema(self) -> Any:
        """Of both tables."""
        return vector_store._schema(self.space)

    def rows(self, gallery: pl.DataFrame, vectors: NDArray[np.float32]) -> Any:
        """Rows of a table.

        Args:
            gallery: Some rows of the gallery.
            vectors: Theirs, float32 [rows, dimension].
        """
        rows = gallery.select("image_id", identity=pl.col("fingerprint"))
        return vector_store._arrow_rows(rows, vectors, self.schema)

    def difference(self) -> float:
        """The largest difference of a component between both ways, which use other batch sizes."""
        report = self.ours()
        ids, vectors = self.store.read(_TABLE, report.version)
        order = np.argsort(np.array(self.gallery["image_id"].to_list()))
        if ids != sorted(self.gallery["image_id"]):
            return float("inf")
        return float(np.abs(vectors - self.plain()[order]).max())

    def parts(self) -> dict[str, float]:
        """Core-seconds of each part for the whole gallery: each is measured alone on the same pictures, in
        turns with the others, and the least counts.
        """
        sample = [*self.gallery.head(_SAMPLE).iter_rows(named=True)]
        scale, threads = len(self.gallery) / len(sample), self.setting.threads
        how = self.space.input_pixels
        assert how is not None
        contents = [read_file(row["path"]) for row in sample]
        images = [decode_image(content) for content in contents]
        pixels = np.stack([how(image) for image in images])
        step = self.space.batch_size
        batches = [pixels[start : start + step] for start in range(0, len(pixels), step)]
        inputs: list[Any] = [self.space.from_input_pixels(batch) for batch in batches]
        alone = in_turns(
            {
                "read": lambda: [read_file(row["path"]) for row in sample],
                "hash": lambda: [fingerprint_bytes(content) for content in contents],
                "decode": lambda: [decode_image(content) for content in contents],
                "resize and crop": lambda: [how(image) for image in images],
                "normalise": lambda: [self.space.from_input_pixels(batch) for batch in batches],
            },
            5,
        )
        vectors, ran = _least(lambda: [self.space.embed_preprocessed(batch) for batch in inputs], self.rounds)
        return {
            "read, core-seconds": alone["read"].seconds * scale,
            "hash, core-seconds": alone["hash"].seconds * scale,
            "decode, core-seconds": alone["decode"].seconds * scale,
            "resize and crop, core-seconds": alone["resize and crop"].seconds * scale,
            "normalise on all threads, core-seconds": alone["normalise"].seconds * scale * threads,
            _MODEL_PART: ran * scale * threads,
            "one append, core-seconds": self._appended(np.concatenate(vectors), len(self.gallery)),
        }

    def one_thread(self) -> float:
        """Core-seconds of the model for the whole gallery in passes of one thread, measured on one batch: on
        several threads each operation waits for its slowest one.
        """
        import torch

        how, threads = self.space.input_pixels, torch.get_num_threads()
        assert how is not None
        sample = [*self.gallery.head(_PLAIN_BATCH)["path"]]
        pixels = np.stack([how(decode_image(read_file(path))) for path in sample])
        inputs: Any = self.space.from_input_pixels(pixels)
        torch.set_num_threads(1)
        try:
            seconds = _least(lambda: self.space.embed_preprocessed(inputs), self.rounds)[1]
        finally:
            torch.set_num_threads(threads)
        return seconds * len(self.gallery) / len(sample)

    def _appended(self, vectors: NDArray[np.float32], count: int) -> float:
        """Seconds of one append of as many rows as the gallery has."""
        import lancedb

        folder = self.setting.folder / "embed" / f"{self.name}-append"
        rmtree(folder, ignore_errors=True)
        table = lancedb.connect(folder).create_table("append", schema=self.schema)
        rows = self.rows(self.gallery, np.resize(vectors, (count, vectors.shape[1])))
        return _least(lambda: table.add(rows))[1]


def decode_bound(bench: Embedding) -> Figure:
    """Small pictures and a small model: most of the work is reading and decoding.

    Args:
        bench: The gallery.
    """
    work = f"{len(bench.gallery):,} JPEGs of 192 x 192 pixels by the miniature's CLIP into LanceDB{_FOUND}"
    growth = []
    figure = _figure(bench, "embed-decode-bound", work, rounds=3, at_least=1.3, share=0.90)
    for size in (len(bench.gallery) // 4, len(bench.gallery) // 2):
        begun = perf_counter()
        bench.ours(bench.gallery.head(size))
        growth.append((size, perf_counter() - begun))
    growth.append((len(bench.gallery), figure.ours_s))
    sizes, seconds = zip(*growth, strict=True)
    return _with(figure, growth=Growth("gallery images", sizes, seconds))


def model_bound(bench: Embedding) -> Figure:
    """Photographs and ViT-B-32 of random weights: most of the work is the model's.

    Args:
        bench: The gallery.
    """
    origin = "photographs" if bench.setting.photos else "drawn JPEGs of 800 x 600 pixels"
    work = f"{len(bench.gallery):,} {origin} by a random ViT-B-32 into LanceDB{_FOUND}"
    rounds = 1 if bench.setting.full else 3
    return _figure(bench, "embed-model-bound", work, rounds=rounds, at_least=1.0, share=0.92)


def grown(bench: Embedding) -> Figure:
    """A gallery that one picture in a hundred is added to, and one that is unchanged.

    Args:
        bench: The gallery.
    """
    whole = len(bench.gallery)
    before = bench.gallery.head(whole - whole // 100)
    bench.ours()  # warm-up
    begun = perf_counter()
    bench.ours()
    whole_s = perf_counter() - begun
    seconds, unchanged = [], []
    for _ in range(3):
        bench.ours(before)
        for kept in (seconds, unchanged):
            begun = perf_counter()
            bench.ours(anew=False)
            kept.append(perf_counter() - begun)
    plain = in_turns({"plain": bench.plain}, 1)["plain"]
    stored, vectors = bench.store.read(_TABLE)
    order = np.argsort(np.array(bench.gallery["image_id"].to_list()))
    difference = float(np.abs(vectors - plain.output[order]).max()) if len(stored) == whole else float("inf")
    at_stored = _at_stored(bench, whole_s / whole)
    shares = {
        "+1 %, share of the whole": min(seconds) / whole_s,
        "unchanged, share of the whole": min(unchanged) / whole_s,
    }
    return Figure(
        name="grow-1-percent",
        work=f"{whole // 100:,} pictures added to a gallery of {whole - whole // 100:,}",
        ours_s=min(seconds),
        alternative="the plain loop over the whole gallery",
        alternative_s=plain.seconds,
        equal=difference <= _TOLERANCE,
        checked=f"vectors of both, components within {_TOLERANCE:g} (found {difference:.1e})",
        target=f"at most 3 % of the whole embedding, also of {_STORED:,} pictures",
        met=max(min(seconds) / whole_s, at_stored[_STORED_SHARE]) <= _MOST_SHARE,
        whole_s=whole_s,
        also={"unchanged gallery, s": min(unchanged), **shares, **at_stored},
        profile=[
            (
                "the added pictures, in a batch alone: read, decoded, embedded, appended",
                min(seconds) - min(unchanged),
            ),
            ("what an unchanged gallery takes: both lists of ids read and compared, twice", min(unchanged)),
        ],
        note=(
            "The share is of a whole in which decoding, the model and the appends overlap; one batch has "
            "nothing to overlap with. "
            f"Before pictures were decoded by processes, +1 % took {_SHARE_BEFORE:.1%} and an unchanged "
            f"gallery {_UNCHANGED_BEFORE:.0%} of a whole that took {_WHOLE_BEFORE:.2f} times the loop: by "
            f"this run's loop {_SHARE_BEFORE * _WHOLE_BEFORE * plain.seconds:.3f} s and "
            f"{_UNCHANGED_BEFORE * _WHOLE_BEFORE * plain.seconds:.3f} s."
        ),
    )


def _at_stored(bench: Embedding, seconds_each: float) -> dict[str, float]:
    """The same where 200,000 rows are stored: of drawn vectors, as embedding them would only take longer."""
    count, added = _STORED, _STORED // 100
    files = pl.concat([bench.gallery] * -(-(count + added) // len(bench.gallery))).head(count + added)
    gallery = files.with_columns(image_id=pl.format("image-{}", pl.int_range(count + added)))
    store = GalleryStore(bench.setting.folder / "embed" / "stored")
    rmtree(store.uri, ignore_errors=True)
    table = store._open_or_create(_TABLE, bench.space)
    vectors = np.random.default_rng(0).standard_normal((count, bench.space.dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = vector_store._wanted(gallery.head(count))
    for start in range(0, count, 50_000):
        rows, of_rows = wanted[start : start + 50_000], vectors[start : start + 50_000]
        table.add(vector_store._arrow_rows(rows, of_rows, bench.schema))
    timed: dict[str, float] = {}
    for name, of in (("unchanged", gallery.head(count)), ("+1 %", gallery)):
        begun = perf_counter()
        store.synchronise(_TABLE, of, bench.space)
        timed[f"{count:,} rows, {name}, s"] = perf_counter() - begun
    whole = seconds_each * count
    timed[_STORED_SHARE] = timed[f"{count:,} rows, +1 %, s"] / whole
    return timed


def _figure(bench: Embedding, name: str, work: str, *, rounds: int, at_least: float, share: float) -> Figure:
    bench.setting.progress(0, 1, name)
    difference = bench.difference()  # warms both up
    timed = in_turns({"ours": bench.ours, "plain": bench.plain}, rounds)
    parts, one_thread = bench.parts(), bench.one_thread()
    ours, plain = timed["ours"].seconds, timed["plain"].seconds
    bound = sum(parts.values()) / bench.setting.threads
    saved = max(0.0, parts[_MODEL_PART] - one_thread) / bench.setting.threads
    count = len(bench.gallery)
    return Figure(
        name=name,
        work=work,
        ours_s=ours,
        alternative="a loop: open, preprocess, encode 32 at a time, append",
        alternative_s=plain,
        equal=difference <= _TOLERANCE,
        checked=f"ids, and components of vectors within {_TOLERANCE:g} (found {difference:.1e})",
        target=f"at least {at_least:g} x the loop's rate and {share:.0%} of the bound",
        met=plain / ours >= at_least and bound / ours >= share,
        bound_s=bound,
        bound=(
            "core-seconds of read, hash, decode, resize, normalise, model and one append, each measured "
            "alone in this run, over the number of cores"
        ),
        also={
            "SETR, pictures/s": count / ours,
            "loop, pictures/s": count / plain,
            "model alone, pictures/s": count * bench.setting.threads / parts[_MODEL_PART],
            "bound where the model runs in passes of one thread, s": bound - saved,
            "share of that bound": (bound - saved) / ours,
        },
        profile=_profile(parts, ours, bench.setting.threads),
        note=(
            "The rest of the profile is what its parts cost more beside each other, and waiting; it is below "
            "nothing where the model, on the cores that decoding leaves, needs fewer core-seconds than alone "
            "on all threads."
        ),
    )


def _profile(parts: Mapping[str, float], seconds: float, cores: int) -> list[tuple[str, float]]:
    """Wall seconds of each part if all cores had shared it, and the rest, which together are ``seconds``."""
    shared = {
        name.replace("core-seconds", f"shared by {cores} cores"): of / cores for name, of in parts.items()
    }
    rest = seconds - sum(shared.values())
    return [*sorted(shared.items(), key=lambda part: -part[1]), ("the rest (less than none: saved)", rest)]


def _with(figure: Figure, **changes: Any) -> Figure:
    from dataclasses import replace

    return replace(figure, **changes)


def _least(work: Callable[[], Any], rounds: int = 3) -> tuple[Any, float]:
    timing = in_turns({"work": work}, rounds)["work"]
    return timing.output, timing.seconds


def _space(name: str, setting: BenchSetting) -> OpenClipSpace:
    from setr_lib.spaces.open_clip_space import OpenClipSpace

    return OpenClipSpace.load(EncoderSettings(name=name, batch_size="auto"), setting.device)


def _inspected(files: Sequence[Path]) -> pl.DataFrame:
    frame = pl.DataFrame({"image_id": [file.stem for file in files], "path": [str(file) for file in files]})
    return inspect_gallery(frame.with_columns(galleries=pl.lit([""], pl.List(pl.String))))


def _small_pictures(setting: BenchSetting) -> list[Path]:
    """Drawn scenes, each turned and mirrored in eight ways, as JPEG."""
    from PIL import Image

    from setr_lib.miniature.drawing import draw_picture
    from setr_lib.miniature.scenes import random_scene

    folder, count = setting.folder / "embed" / "pictures", _SMALL
    paths = [folder / f"{number:05d}.jpg" for number in range(count)]
    if paths[-1].is_file():
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    rng = Random(0)  # noqa: S311 - drawing
    ways = [None, *Image.Transpose]
    for start in range(0, count, len(ways)):
        scene = draw_picture(random_scene(rng), rng).convert("RGB")
        for path, way in zip(paths[start : start + len(ways)], ways, strict=False):
            (scene if way is None else scene.transpose(way)).save(path, quality=90)
    return paths


def _photo_pictures(setting: BenchSetting) -> list[Path]:
    """Photographs, or drawn scenes with noise at a photograph's size, as JPEG."""
    from PIL import Image

    count = _PHOTOS_IN_FULL if setting.full else _PHOTOS
    if setting.photos is not None:
        found = sorted(setting.photos.rglob("*.jpg"))
        if len({path.stem for path in found[:count]}) == count:
            return found[:count]
    folder = setting.folder / "embed" / "photos"
    paths = [folder / f"{number:05d}.jpg" for number in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for path, small in zip(paths, _small_pictures(setting), strict=False):
        if path.is_file():
            continue
        grain = Image.fromarray(noise.integers(0, 256, (600, 800, 3), dtype=np.uint8))
        large = Image.blend(Image.open(small).resize((800, 600)), grain, 0.1)
        content = BytesIO()
        large.save(content, format="JPEG", quality=90)
        path.write_bytes(content.getvalue())
    return paths
