"""Re-rankers of one's own: how they are found and opened, what they may give, and what is kept of lists."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.content_cache import ContentCache
from setr_lib.hashing import fingerprint_file
from setr_lib.models.multimodal import MultimodalModel, Picture
from setr_lib.pipeline.context import PipelineContext
from setr_lib.reranking.checked_scores import checked_scores
from setr_lib.reranking.rerank import CACHE_KIND, rerank
from setr_lib.reranking.reranker import (
    CATALOGUE,
    JudgedQuery,
    ModelSource,
    Reranker,
    RerankerError,
    as_reranker,
    get_reranker,
    opened,
    register,
    reranker_names,
)
from setr_lib.reranking.scorer import ScoreError
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import RERANKERS, RerankingSettings, Settings
from tests.reranking.test_rerank import ids, write_world


class Numbered(Reranker):
    """Scores by the number in a picture's file name, larger is better."""

    name = "by number"
    id = "by number 1"
    pairs_per_batch = 8

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        self.batches.append([len(query.candidates) for query in queries])
        return [self.of_query(query) for query in queries]

    def of_query(self, query: JudgedQuery) -> np.ndarray:
        return np.array([float(Path(str(picture.source)).stem) for picture in query.candidates])


class Centred(Numbered):
    """The same, less the mean of the list."""

    name = "centred"
    id = "centred 1"
    listwise = True

    def of_query(self, query: JudgedQuery) -> np.ndarray:
        for picture in query.candidates:
            picture.open()
        numbers = super().of_query(query)
        return numbers - numbers.mean()


class Duck:
    """Derives from nothing."""

    name = "duck"
    id = "duck 1"

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        return [np.arange(len(query.candidates)) for query in queries]


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path / "cache.sqlite", CACHE_KIND)


def test_pairs_are_scored_in_batches_of_whole_queries_and_never_twice(
    tmp_path: Path, cache: ContentCache
) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    reranker = Numbered()
    made = rerank(coarse, queries, gallery, reranker, cache, k=4)
    for query in queries["query_id"]:
        numbers = [int(image[1:]) for image in ids(made, query, "gallery")[:4]]
        assert numbers == sorted(numbers, reverse=True)
    assert all(len(batch) == 1 or sum(batch) <= 8 for batch in reranker.batches)
    again = Numbered()
    assert rerank(coarse, queries, gallery, again, cache, k=4).equals(made)
    assert again.batches == []


def test_another_id_keeps_other_scores(tmp_path: Path, cache: ContentCache) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    rerank(coarse, queries, gallery, Numbered(), cache, k=4)
    other = Numbered()
    other.id = "by number 2"
    rerank(coarse, queries, gallery, other, cache, k=4)
    assert other.batches


def test_lists_of_the_gallery_and_of_the_subset_are_scored_apart(tmp_path: Path, cache: ContentCache) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    made = rerank(coarse, queries, gallery, Centred(), cache, k=4)
    for query in queries["query_id"]:
        for pool in ("gallery", "subset"):
            scored = made.filter(query_id=query, pool=pool).drop_nulls("judge_score")
            assert scored.height == (4 if pool == "gallery" else 3)
            numbers = np.array([float(image[1:]) for image in scored["image_id"]])
            np.testing.assert_allclose(scored["judge_score"].to_numpy(), numbers - numbers.mean())


def test_lists_are_kept_whole_and_in_their_order(tmp_path: Path, cache: ContentCache) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    seen: list[tuple[int, int]] = []
    first = rerank(
        coarse, queries, gallery, Centred(), cache, k=4, progress=lambda d, t, w: seen.append((d, t))
    )
    assert seen[0] == (0, 6 * 7) and seen[-1] == (42, 42)
    again = Centred()
    assert rerank(coarse, queries, gallery, again, cache, k=4).equals(first)
    assert again.batches == [], "all kept"
    longer = Centred()
    rerank(coarse, queries, gallery, longer, cache, k=5)
    assert sum(map(len, longer.batches)) == 6, "lists of five are other lists; the subsets' are kept"
    turned = coarse.with_columns(rank=pl.col("rank").reverse().over("query_id", "pool"))
    other_way = Centred()
    rerank(turned, queries, gallery, other_way, cache, k=9)
    rerank(coarse, queries, gallery, other_way, cache, k=9)
    assert sum(map(len, other_way.batches)) == 6 + 6 + 6, "the same images in another order are another list"


def test_an_image_that_cannot_be_read_is_left_out_of_its_list_and_the_list_is_not_kept(
    tmp_path: Path, cache: ContentCache
) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    broken = ids(coarse, "q1", "gallery")[1]
    (tmp_path / f"{broken[1:]}.png").write_bytes(b"broken since it was listed")
    made = rerank(coarse.filter(query_id="q1"), queries, gallery, Centred(), cache, k=4)
    head = made.filter(query_id="q1", pool="gallery").sort("rank").head(4)
    assert head["image_id"][3] == broken and head["judge_score"][3] is None
    numbers = np.array([float(image[1:]) for image in head["image_id"][:3]])
    np.testing.assert_allclose(head["judge_score"][:3].to_numpy(), numbers - numbers.mean())
    again = Centred()
    rerank(coarse.filter(query_id="q1"), queries, gallery, again, cache, k=4)
    assert [4] in again.batches


@pytest.mark.parametrize("kind", [Numbered, Centred])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_refused_with_its_pair(
    tmp_path: Path, cache: ContentCache, kind: type[Numbered], value: float
) -> None:
    class Wrong(kind):
        def of_query(self, query: JudgedQuery) -> np.ndarray:
            return np.full(len(query.candidates), value)

    gallery, queries, coarse = write_world(tmp_path)
    first = ids(coarse, "q0", "gallery")[0]
    with pytest.raises(ScoreError, match=rf"re-ranker '{kind.name}' of query 'q0' and image '{first}'"):
        rerank(coarse, queries, gallery, Wrong(), cache, k=4)


@pytest.mark.parametrize("kind", [Numbered, Centred])
@pytest.mark.parametrize("scores", [np.zeros(2), np.zeros((4, 1)), np.array("abcd"), np.zeros(0)])
def test_scores_of_another_shape_are_refused(
    tmp_path: Path, cache: ContentCache, kind: type[Numbered], scores: np.ndarray
) -> None:
    class Wrong(kind):
        def of_query(self, query: JudgedQuery) -> np.ndarray:
            return scores

    class Fewer(kind):
        def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
            return super().score(queries)[1:]

    gallery, queries, coarse = write_world(tmp_path)
    with pytest.raises(RerankerError, match="one number for each is needed"):
        rerank(coarse, queries, gallery, Wrong(), cache, k=4)
    with pytest.raises(RerankerError, match="one array per query"):
        rerank(coarse, queries, gallery, Fewer(), cache, k=4)


@pytest.mark.parametrize("kind", [Numbered, Centred])
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            lambda _: None,
            "gave NoneType for .* queries: score.queries. gives a list with one array per query",
        ),
        (lambda _: 1.5, "gave float for .* queries"),
        (lambda _: np.float64(1.5), "gave float64 for .* queries"),
        (lambda lists: [None for _ in lists], "gave object.* for [47] candidates of"),
        (lambda lists: [[[1.0], [1.0, 2.0]] for _ in lists], "gave list for [47] candidates .* not an array"),
        (lambda lists: [list("abcd") for _ in lists], "gave <U1.*one number for each is needed"),
        (
            lambda lists: [np.array([1, 2, 3, {}], dtype=object) for _ in lists],
            "gave object.4. for [47] .* one number for each is needed",
        ),
    ],
)
def test_what_is_not_a_list_of_arrays_is_refused_with_the_re_rankers_name(
    tmp_path: Path,
    cache: ContentCache,
    kind: type[Numbered],
    made: Callable[[list[np.ndarray]], object],
    words: str,
) -> None:
    class Wrong(kind):
        def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
            return made(super().score(queries))  # pyright: ignore[reportReturnType]

    gallery, queries, coarse = write_world(tmp_path)
    with pytest.raises(RerankerError, match=f"re-ranker {kind.name!r} {words}"):
        rerank(coarse, queries, gallery, Wrong(), cache, k=4)


def test_a_tensor_is_an_array_unless_it_is_part_of_a_graph(tmp_path: Path, cache: ContentCache) -> None:
    import torch

    class Tensors(Numbered):
        id, needs_grad = "in tensors", False

        def of_query(self, query: JudgedQuery) -> np.ndarray:
            return torch.tensor(super().of_query(query), requires_grad=self.needs_grad)  # pyright: ignore[reportReturnType]

    class InGraph(Tensors):
        id, needs_grad = "in a graph", True

    gallery, queries, coarse = write_world(tmp_path)
    found, wanted = (rerank(coarse, queries, gallery, made(), cache, k=4) for made in (Tensors, Numbered))
    assert found.equals(wanted)
    with pytest.raises(RerankerError, match=r"'by number' gave Tensor for [47] candidates .*detach"):
        rerank(coarse, queries, gallery, InGraph(), cache, k=4)


@pytest.mark.parametrize("kind", [Numbered, Centred])
def test_what_a_re_ranker_raises_is_told_with_its_name(
    tmp_path: Path, cache: ContentCache, kind: type[Numbered]
) -> None:
    class Raising(kind):
        def of_query(self, query: JudgedQuery) -> np.ndarray:
            return {}["y"]

        def open(self, models: ModelSource) -> Reranker:
            raise KeyError("weights")

    class Unmade(kind):
        def __init__(self) -> None:
            raise KeyError("made")

    gallery, queries, coarse = write_world(tmp_path)
    with pytest.raises(RerankerError, match=rf"re-ranker '{kind.name}' raised KeyError: 'y'") as caught:
        rerank(coarse, queries, gallery, Raising(), cache, k=4)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(RerankerError, match=rf"re-ranker '{kind.name}' raised KeyError: 'weights'"):
        opened(Raising(), PipelineContext(Settings(base_dir=tmp_path)).models)
    with pytest.raises(RerankerError, match="the re-ranker at here raised KeyError: 'made'"):
        as_reranker(Unmade, "here")


def test_a_re_ranker_is_registered_replaced_and_accepted_by_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no re-ranker 'by number'.* its path, package\.module:NAME"):
        RerankingSettings(rerankers=["by number"])
    try:
        assert register(Numbered) is Numbered
        assert isinstance(get_reranker("by number"), Numbered)
        assert {"by number", "base judge", "adapter"} <= set(reranker_names())
        settings = Settings(base_dir=tmp_path, reranking=RerankingSettings(rerankers=["by number"]))
        (configured,) = PipelineContext(settings).rerankers.configured
        assert configured.name == "by number"
    finally:
        CATALOGUE._own.pop("by number", None)
        RERANKERS.discard("by number")


def test_an_installed_package_names_its_re_ranker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package_of_a_duck.py").write_text("from tests.reranking.test_reranker import Duck\n")
    folder = tmp_path / "package_of_a_duck-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: package-of-a-duck\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[setr.rerankers]\nduck = package_of_a_duck:Duck\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = Settings(base_dir=tmp_path, reranking=RerankingSettings(rerankers=["adapter", "duck"]))
    named = PipelineContext(settings).rerankers.configured
    assert [reranker.name for reranker in named] == ["adapter", "duck"]


def test_objects_of_another_class_are_adopted() -> None:
    adopted = as_reranker(Duck, "here")
    assert (adopted.name, adopted.id, adopted.listwise, adopted.is_logit) == ("duck", "duck 1", False, False)
    assert opened(adopted, PipelineContext(Settings()).models) is adopted


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"name": None}, "is not a re-ranker"),
        ({"score": None}, "is not a re-ranker"),
        ({"name": "coarse"}, "cannot be called 'coarse'"),
        ({"name": "a/b"}, "cannot be called 'a/b'"),
    ],
)
def test_what_is_no_re_ranker_is_refused_in_words(attributes: dict[str, object], words: str) -> None:
    with pytest.raises(RerankerError, match=words):
        as_reranker(type("Mine", (Duck,), attributes), "here")


def test_open_gives_what_the_class_says(tmp_path: Path) -> None:
    models = PipelineContext(Settings(base_dir=tmp_path)).models

    class Opens:
        name = "opens"
        gives: object = Numbered()

        def open(self, models: ModelSource) -> object:
            return self.gives

    with pytest.raises(RerankerError, match=r"says name = 'opens', and open\(\) gives one with 'by number'"):
        opened(as_reranker(Opens, "here"), models)
    nameless = Numbered()
    nameless.name, nameless.id = "opens", ""
    Opens.gives = nameless
    with pytest.raises(RerankerError, match="has no id"):
        opened(as_reranker(Opens, "here"), models)
    nameless.id = "now 1"
    assert opened(as_reranker(Opens, "here"), models) is nameless


class TrainedDuck(Duck):
    trained = True


class TrainedReranker(Numbered):
    trained = True  # pyright: ignore[reportAssignmentType]


class ForgetfulDuck(Duck):
    trained = "line"


class ForgetfulReranker(Numbered):
    trained = "line"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (TrainedDuck, "says trained = True: name the trained system"),
        (TrainedReranker, "says trained = True: name the trained system"),
        (ForgetfulDuck, r"needs the weights of 'line', and has no with_weights\(weights\)"),
        (ForgetfulReranker, r"needs the weights of 'line', and has no with_weights\(weights\)"),
    ],
)
def test_a_trained_re_ranker_names_its_system_and_loads_weights(
    tmp_path: Path, kind: type, words: str
) -> None:
    with pytest.raises(RerankerError, match=words):
        as_reranker(kind, "here")
    settings = Settings(base_dir=tmp_path)
    with pytest.raises(RerankerError, match=words):
        get_reranker(f"{__name__}:{kind.__name__}", settings)
    assert as_reranker(get_reranker("adapter"), "here").trained == "adapter"


def test_an_id_is_read_after_opening(tmp_path: Path) -> None:
    class Late:
        name = "late"

        def open(self, models: ModelSource) -> object:
            self.id = "late 1"
            return self

        score = Duck.score

    models = PipelineContext(Settings(base_dir=tmp_path)).models
    assert opened(as_reranker(Late, "here"), models).id == "late 1"


@pytest.mark.parametrize("wrong", [None, "", " ", 3])
def test_an_id_that_is_not_a_text_is_refused(tmp_path: Path, wrong: object) -> None:
    models = PipelineContext(Settings(base_dir=tmp_path)).models
    mine = as_reranker(type("Mine", (Duck,), {"id": wrong}), "here")
    with pytest.raises(RerankerError, match=rf"re-ranker 'duck' has no id \(it is {wrong!r}\)"):
        opened(mine, models)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("whole_lists", [False, True])
def test_a_broken_image_does_not_change_the_precision_of_the_others(
    tmp_path: Path, precision: type[np.floating], whole_lists: bool
) -> None:
    class Exact(Numbered):
        listwise = whole_lists

        def of_query(self, query: JudgedQuery) -> np.ndarray:
            for picture in query.candidates:
                picture.open()
            return (super().of_query(query) + 0.1).astype(precision)

    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    pictures = [Picture(fingerprint_file(path), path) for path in paths]
    query = JudgedQuery(pictures[0], "larger", tuple(pictures))
    (whole,) = checked_scores(Exact(), [query])
    (tmp_path / "1.png").write_bytes(b"broken")
    (rest,) = checked_scores(Exact(), [query])
    assert rest.dtype == whole.dtype == precision
    np.testing.assert_array_equal(rest, [whole[0], np.nan, whole[2]])


def test_a_prompt_of_ones_own_is_another_re_ranker_with_the_same_model(tmp_path: Path) -> None:
    from setr_lib.settings import JudgeSettings, ModelSettings
    from setr_lib.texts.prompts import PromptTemplate
    from tests.tiny_judges import write_tiny_judge

    folder = write_tiny_judge("llava", tmp_path / "judge")
    judge = JudgeSettings(name=str(folder), prompts="miniature", pair_batch_size=16)
    settings = Settings(base_dir=tmp_path, models=ModelSettings(device="cpu", judge=judge))
    models = PipelineContext(settings).models

    class Strict(Reranker):
        name = "strict judge"
        is_logit = True

        def open(self, models: ModelSource) -> Reranker:
            text = "<reference>{{ modification }} red circle<candidate>is it ?"
            return YesNoJudge(models.multimodal(), PromptTemplate(Path("mine"), text), name=self.name)

        def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
            raise NotImplementedError

    mine, base = opened(Strict(), models), opened(get_reranker("base judge"), models)
    assert isinstance(mine, YesNoJudge) and isinstance(base, YesNoJudge)
    assert isinstance(mine.model, MultimodalModel) and mine.model is base.model
    assert mine.id != base.id and mine.prompt_hash != base.prompt_hash
    gallery, queries, coarse = write_world(tmp_path)
    cache = ContentCache(tmp_path / "cache.sqlite", CACHE_KIND)
    both = [rerank(coarse, queries, gallery, reranker, cache, k=4) for reranker in (base, mine)]
    assert not both[0]["judge_score"].equals(both[1]["judge_score"])


def test_two_names_of_one_re_ranker_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = "class Mine:\n    name = 'base-judge'\n    id = '1'\n    def score(self, queries): ...\n"
    (tmp_path / "plugin_called_alike.py").write_text(code)
    names = ["base judge", "plugin_called_alike:Mine"]
    settings = Settings(base_dir=tmp_path, reranking=RerankingSettings(rerankers=names))
    with pytest.raises(RerankerError, match=r"are both called 'base-judge'"):
        _ = PipelineContext(settings).rerankers.configured
