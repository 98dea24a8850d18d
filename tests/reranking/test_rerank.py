"""Re-ranking tables: both pools, what lies beyond K stays, unreadable images, resumption, and a real
SIGKILL.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch  # noqa: TID253

from setr_lib.content_cache import ContentCache
from setr_lib.errors import SetrError
from setr_lib.hashing import digest_strings, fingerprint_file
from setr_lib.models.multimodal import CANDIDATE, REFERENCE, MultimodalModel, Picture
from setr_lib.pixel_rules import picture_identity
from setr_lib.reranking.fusion import Fusion
from setr_lib.reranking.held_out import pictures_of
from setr_lib.reranking.rerank import CACHE_KIND, judge_pairs, rerank
from setr_lib.reranking.reranker import Reranker
from setr_lib.reranking.scorer import JudgedQuery, ScoreError
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import JudgeSettings
from setr_lib.tables import GALLERY, QUERIES, RANKINGS
from setr_lib.texts.prompts import PromptTemplate, load_prompts
from tests.published_judges import write_published_judge
from tests.tiny_judges import tiny_picture, write_tiny_judge

IMAGES, QUERY_COUNT, DEPTH = 12, 6, 9

REPOSITORY = Path(__file__).parents[2]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def write_world(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Gallery, queries and coarse rankings (a gallery pool of ``DEPTH``, a subset pool of three)."""
    images = []
    for number in range(IMAGES):
        path = folder / f"{number}.png"
        path.write_bytes(tiny_picture(number))
        images.append(
            {
                "image_id": f"i{number}",
                "path": str(path),
                "status": "ok",
                "fingerprint": fingerprint_file(path),
            }
        )
    queries, rows = [], []
    for number in range(QUERY_COUNT):
        query = {
            "query_id": f"q{number}",
            "reference_id": f"i{number}",
            "modification": f"red {number} circle",
        }
        queries.append({**query, "captions": [query["modification"]]})
        order = np.random.default_rng(number).permutation(IMAGES)
        order = order[order != number]
        for pool, members in (("gallery", order[:DEPTH]), ("subset", order[-3:])):
            for rank, image in enumerate(members.tolist(), 1):
                score = 1.0 - rank / 20
                rows.append((f"q{number}", pool, rank, f"i{image}", score, score, None))
    return (
        pl.DataFrame(images, schema=GALLERY),
        pl.DataFrame(queries, schema=QUERIES),
        pl.DataFrame(rows, schema=RANKINGS, orient="row"),
    )


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> YesNoJudge:
    folder = write_tiny_judge("llava", tmp_path_factory.mktemp("judges") / "judge")
    model = MultimodalModel.load(JudgeSettings(name=str(folder), pair_batch_size=16), device="cpu")
    return YesNoJudge(model, load_prompts("miniature").get("judge"))


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path / "cache.sqlite", CACHE_KIND)


def ids(frame: pl.DataFrame, query: str, pool: str) -> list[str]:
    return frame.filter(query_id=query, pool=pool).sort("rank")["image_id"].to_list()


@pytest.mark.parametrize("fusion", ["judge", "cosine_judge", "reciprocal_rank"])
@pytest.mark.parametrize("k", [1, 4, DEPTH, 50])
def test_the_top_k_is_reordered_and_the_rest_stays(
    judge: YesNoJudge, cache: ContentCache, tmp_path: Path, fusion: Fusion, k: int
) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    made = rerank(coarse, queries, gallery, judge, cache, fusion=fusion, k=k)
    assert made.schema == RANKINGS
    assert made.select("query_id", "pool", "rank").equals(coarse.select("query_id", "pool", "rank"))
    for query in queries["query_id"]:
        before, after = ids(coarse, query, "gallery"), ids(made, query, "gallery")
        # Recall at any depth K' >= K is the same, whatever the target: the first K' are the same set.
        for depth in range(min(k, DEPTH), DEPTH + 1):
            assert set(after[:depth]) == set(before[:depth])
        assert after[k:] == before[k:]
        assert set(ids(made, query, "subset")) == set(ids(coarse, query, "subset"))
    keys = ["query_id", "pool", "image_id"]
    assert (
        made.select(*keys, "coarse_score").sort(keys).equals(coarse.select(*keys, "coarse_score").sort(keys))
    )
    judged = made.filter((pl.col("pool") == "subset") | (pl.col("rank") <= k))
    assert judged["judge_score"].null_count() == 0
    assert made.filter((pl.col("pool") == "gallery") & (pl.col("rank") > k))["judge_score"].is_null().all()
    falls = judged.select(pl.col("score").diff().over("query_id", "pool").max()).item()
    assert falls is None or falls <= 0


def test_scores_are_the_scorers(judge: YesNoJudge, cache: ContentCache, tmp_path: Path) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    made = rerank(coarse, queries, gallery, judge, cache, k=5).filter(query_id="q3").drop_nulls()
    pictures = {row["image_id"]: Picture(row["fingerprint"], Path(row["path"])) for row in gallery.to_dicts()}
    candidates = tuple(pictures[image] for image in made["image_id"])
    (wanted,) = judge.score([JudgedQuery(pictures["i3"], "red 3 circle", candidates)])
    assert np.allclose(made["judge_score"].to_numpy(), wanted, atol=1e-4)
    assert made["score"].to_list() == made["judge_score"].to_list()


def test_a_second_run_judges_nothing_and_a_deeper_one_only_the_new(
    judge: YesNoJudge,
    cache: ContentCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[int] = []
    score = YesNoJudge.score

    def counted(judge: YesNoJudge, queries: list[JudgedQuery]):
        judged.append(sum(len(query.candidates) for query in queries))
        return score(judge, queries)

    monkeypatch.setattr(YesNoJudge, "score", counted)
    gallery, queries, coarse = write_world(tmp_path)
    seen: list[tuple[int, int]] = []
    first = rerank(coarse, queries, gallery, judge, cache, k=4, progress=lambda d, t, w: seen.append((d, t)))
    assert sum(judged) == QUERY_COUNT * 7 and seen[-1] == (QUERY_COUNT * 7, QUERY_COUNT * 7)
    judged.clear()
    assert rerank(coarse, queries, gallery, judge, cache, k=4).equals(first)
    assert judged == []
    deeper = rerank(coarse, queries, gallery, judge, cache, k=6)
    pairs = QUERY_COUNT * 2
    overlap = sum(
        len(set(ids(coarse, q, "subset")) & set(ids(coarse, q, "gallery")[4:6])) for q in queries["query_id"]
    )
    assert sum(judged) == pairs - overlap
    assert deeper.height == first.height


LISTED = "<reference>{% for caption in captions %}{{ caption }} . {% endfor %}<candidate>match ?"


def kept_before(
    judge: YesNoJudge, queries: pl.DataFrame, gallery: pl.DataFrame, shown: list[str]
) -> dict[str, str]:
    """A score of 7 for q0 and each image, kept under the key that says the prompt was rendered with
    ``shown``.
    """
    prints = {
        image: picture_identity(fingerprint, "")
        for image, fingerprint in gallery.select("image_id", "fingerprint").iter_rows()
    }
    query = queries.row(0, named=True)
    text = digest_strings([query["modification"], *shown])
    head = (judge.model.id, judge.prompt_hash, prints[query["reference_id"]], text)
    return {ContentCache.key_of(*head, found): "7.0" for found in prints.values()}


def test_scores_that_earlier_runs_kept_are_found_with_a_data_sets_raw_captions(
    judge: YesNoJudge, cache: ContentCache, tmp_path: Path
) -> None:
    gallery, queries, _ = write_world(tmp_path)
    queries = queries.head(1).with_columns(captions=pl.lit(["red", "0 circle"]))
    cache.put_many(kept_before(judge, queries, gallery, ["red", "0 circle"]))
    found = judge_pairs({"q0": ["i1", "i2"]}, queries, gallery, judge, cache)
    assert found == {("q0", "i1"): 7.0, ("q0", "i2"): 7.0}


def test_a_prompt_that_lists_captions_sees_the_modification_text_and_takes_no_score_of_raw_captions(
    judge: YesNoJudge, cache: ContentCache, tmp_path: Path
) -> None:
    gallery, queries, _ = write_world(tmp_path)
    queries = queries.head(1)
    raw = queries.with_columns(captions=pl.lit(["red", "0 circle"]))
    listing = YesNoJudge(judge.model, PromptTemplate(Path("judge.jinja"), LISTED))
    cache.put_many(kept_before(listing, queries, gallery, ["red", "0 circle"]))
    plain = judge_pairs(
        {"q0": ["i1", "i2"]}, queries, gallery, listing, ContentCache(tmp_path / "other.sqlite", CACHE_KIND)
    )
    found = judge_pairs({"q0": ["i1", "i2"]}, raw, gallery, listing, cache)
    assert found == pytest.approx(plain, abs=1e-5)
    assert 7.0 not in found.values()
    assert judge_pairs({"q0": ["i1", "i2"]}, queries, gallery, listing, cache) == found, "the same key"


def test_unreadable_images_are_last_within_k_and_an_unreadable_reference_keeps_the_coarse_order(
    judge: YesNoJudge, cache: ContentCache, tmp_path: Path
) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    lost = ids(coarse, "q1", "gallery")[0]
    broken = ids(coarse, "q1", "gallery")[1]
    assert "i0" not in (lost, broken)
    (tmp_path / f"{broken[1:]}.png").write_bytes(b"broken since it was listed")
    judge.model.vision.memory.clear()
    gallery = gallery.with_columns(
        status=pl.when(pl.col("image_id").is_in([lost, "i0"])).then(pl.lit("broken")).otherwise("status")
    )
    made = rerank(coarse, queries, gallery, judge, cache, k=5)
    assert ids(made, "q1", "gallery")[3:5] == [lost, broken]
    assert made.filter(query_id="q1", pool="gallery")["judge_score"].is_null().sum() == 4 + 2
    assert ids(made, "q0", "gallery") == ids(coarse, "q0", "gallery")


def test_a_model_that_takes_no_vision_outputs_is_run_plainly(
    cache: ContentCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_published_judge("gemma3", tmp_path / "gemma3")
    model = MultimodalModel.load(JudgeSettings(name=str(folder), batch_size=4), device="cpu")
    judge = YesNoJudge(model, load_prompts("miniature").get("judge"))
    gallery, queries, coarse = write_world(tmp_path)
    made = rerank(coarse, queries, gallery, judge, cache, k=3).drop_nulls("judge_score")
    assert "each pair is judged as a whole prompt of its own" in caplog.text
    texts = dict(queries.select("query_id", "modification").iter_rows())
    references = dict(queries.select("query_id", "reference_id").iter_rows())
    pictures = pictures_of(gallery)
    scores = []
    for query_id, image in made.select("query_id", "image_id").iter_rows():
        query = JudgedQuery(pictures[references[query_id]], texts[query_id], (pictures[image],))
        shown = {REFERENCE: query.reference, CANDIDATE: pictures[image]}
        scores.append(float(model.plain_answer_scores([(judge.prompt(query), shown)])[0]))
    assert np.std(scores) > 1e-2
    assert np.allclose(made["judge_score"], scores, atol=1e-4)
    bad = Picture("bad", b"no picture")
    assert [*model.vision.precompute([*pictures.values(), bad])] == [bad.identity]


class Looking(Reranker):
    """Scores by nothing; writes down what it is shown, and what is announced."""

    name, id, pairs_per_batch = "looking", "looking-1", 4

    def __init__(self) -> None:
        self.log: list[tuple[str, set[str]]] = []
        self.seen: set[str] = set()

    def has_seen(self, picture: Picture) -> bool:
        return picture.identity in self.seen

    def see(self, pictures: Sequence[Picture]) -> None:
        self.log.append(("seen", {picture.identity for picture in pictures}))
        self.seen |= self.log[-1][1]

    def announce(self, pictures: Sequence[Picture]) -> None:
        self.log.append(("announced", {picture.identity for picture in pictures}))

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        self.log.append(("scored", set()))
        return [np.zeros(len(query.candidates)) for query in queries]


def test_the_next_batchs_pictures_are_announced_before_this_one_is_scored(
    cache: ContentCache, tmp_path: Path
) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    looking, again = Looking(), Looking()
    rerank(coarse, queries, gallery, looking, cache, k=3)
    announced = [place for place, (what, _) in enumerate(looking.log) if what == "announced"]
    assert announced
    for place in announced:
        assert [what for what, _ in looking.log[place + 1 : place + 3]] == ["scored", "seen"]
        assert looking.log[place + 2][1] == looking.log[place][1]
    shown = [images for what, images in looking.log if what == "seen"]
    assert sum(map(len, shown)) == len(set.union(*shown)), "each once"
    rerank(coarse, queries, gallery, again, cache, k=3)
    assert not again.log, "what is kept is neither scored nor looked at"


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "not a number", ""])
def test_a_kept_score_that_is_no_number_is_judged_anew_and_said_once(
    judge: YesNoJudge,
    cache: ContentCache,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    bad: str,
) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    first = rerank(coarse, queries, gallery, judge, cache, k=4)
    with sqlite3.connect(cache.path) as connection:
        (total,) = connection.execute(f"SELECT count(*) FROM {CACHE_KIND}").fetchone()
        connection.execute(
            f"UPDATE {CACHE_KIND} SET value = ? WHERE key IN (SELECT key FROM {CACHE_KIND} LIMIT 3)", (bad,)
        )
    connection.close()
    seen: list[int] = []
    again = rerank(coarse, queries, gallery, judge, cache, k=4, progress=lambda done, *_: seen.append(done))
    assert (seen[0], seen[-1]) == (total - 3, total), "three are judged now"
    keys = ["query_id", "pool", "image_id"]
    both = first.join(again, on=keys, suffix="_again")
    assert both.height == first.height
    for column in ("rank", "judge_score"):
        np.testing.assert_allclose(both[column].cast(float), both[f"{column}_again"].cast(float), atol=1e-5)
    warnings = [record.getMessage() for record in caplog.records if "anew" in record.getMessage()]
    assert len(warnings) == 1 and f"3 kept {CACHE_KIND} are not finite numbers" in warnings[0]
    caplog.clear()
    assert rerank(coarse, queries, gallery, judge, cache, k=4).equals(again)
    assert not caplog.records


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("caches_are_exact", [True, False])
def test_a_judge_that_gives_no_number_is_stopped_with_the_pair(
    cache: ContentCache, tmp_path: Path, value: float, caches_are_exact: bool
) -> None:
    folder = write_tiny_judge("llava", tmp_path / "judge")
    model = MultimodalModel.load(JudgeSettings(name=str(folder), pair_batch_size=16), device="cpu")
    model.caches_are_exact = caches_are_exact
    judge = YesNoJudge(model, load_prompts("miniature").get("judge"))
    gallery, queries, coarse = write_world(tmp_path)
    rerank(coarse.filter(query_id="q1"), queries, gallery, judge, cache, k=4)
    with torch.no_grad():  # as half precision does where a number outgrows it
        model.model.get_output_embeddings().weight[model.yes_id] = value
    with pytest.raises(ScoreError, match=r"query 'q0' and image 'i\d+'.*models.judge.dtype"):
        rerank(coarse, queries, gallery, judge, cache, k=4)
    pictures = [Picture(row["fingerprint"], Path(row["path"])) for row in gallery.to_dicts()]
    with pytest.raises(ScoreError, match=re.escape(str(tmp_path / "2.png"))):
        judge.score([JudgedQuery(pictures[0], "red circle", tuple(pictures[2:3]))])
    with sqlite3.connect(cache.path) as connection:
        kept = [float(text) for (text,) in connection.execute(f"SELECT value FROM {CACHE_KIND}")]
    connection.close()
    assert kept and np.isfinite(kept).all()


def test_an_unknown_query_is_named(judge: YesNoJudge, cache: ContentCache, tmp_path: Path) -> None:
    gallery, queries, coarse = write_world(tmp_path)
    with pytest.raises(SetrError, match="'q0'"):
        rerank(coarse, queries[1:], gallery, judge, cache)


def run(folder: Path, last_batch: int = 0) -> pl.DataFrame:
    """The re-ranked table of the world in ``folder``; SIGKILLs itself in batch ``last_batch``, before that is
    stored.
    """
    model = MultimodalModel.load(JudgeSettings(name=str(folder / "judge"), pair_batch_size=3), device="cpu")
    judge = YesNoJudge(model, load_prompts("miniature").get("judge"))
    score, log = YesNoJudge.score, folder / "log"

    def logged(judge: YesNoJudge, queries: list[JudgedQuery]) -> list[np.ndarray]:
        scores = score(judge, queries)
        with log.open("a") as file:
            file.write(f"{sum(len(query.candidates) for query in queries)}\n")
        if len(log.read_text().split()) == last_batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return scores

    gallery, queries, coarse = (
        pl.read_parquet(folder / f"{table}.parquet") for table in ("gallery", "queries", "coarse")
    )
    cache = ContentCache(folder / "cache.sqlite", CACHE_KIND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(YesNoJudge, "score", logged)
        return rerank(coarse, queries, gallery, judge, cache)


def test_sigkill_repeats_at_most_one_batch(tmp_path: Path) -> None:
    tables: dict[str, pl.DataFrame] = {}
    judged: dict[str, int] = {}
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        write_tiny_judge("llava", folder / "judge")
        for table, frame in zip(("gallery", "queries", "coarse"), write_world(folder), strict=True):
            frame.write_parquet(folder / f"{table}.parquet")
        if name == "killed":
            code = (
                "from pathlib import Path; from tests.reranking.test_rerank import run; "
                f"run(Path({str(folder)!r}), 2)"
            )
            child = subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY, env=ONE_THREAD)
            assert child.returncode == -signal.SIGKILL
        tables[name] = run(folder)
        judged[name] = sum(int(line) for line in (folder / "log").read_text().split())
    assert tables["killed"].equals(tables["whole"])
    assert 0 < judged["killed"] - judged["whole"] <= 24
