"""Models of sentence-transformers as spaces: their vectors against transformers' own, prompts, identity."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.methods.inputs import EncodedQueries, GalleryIndex, encode_queries
from setr_lib.methods.method import get_method
from setr_lib.methods.ranking import rank
from setr_lib.methods.references import ReferencePictures
from setr_lib.pipeline.context import PipelineContext
from setr_lib.settings import load_settings
from setr_lib.spaces.sentence_space import SentenceSpace, load_space
from setr_lib.spaces.space import SpaceError
from tests.methods.worlds import queries_of
from tests.tiny_judges import tiny_picture
from tests.tiny_sentences import INSTRUCTION, write_tiny_embedder, write_tiny_text_model

TEXTS = ["a red dress", "the shirt is blue and striped with a small circle", "dress"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def text_model(folder: Path) -> Path:
    return write_tiny_text_model(folder / "text", prompts={"query": "match : ", "document": "picture : "})


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Path:
    return write_tiny_embedder(folder / "embedder")


@pytest.fixture(scope="module")
def space(embedder: Path) -> SentenceSpace:
    return load_space(model=str(embedder), device="cpu", batch_size=2)


@pytest.fixture(scope="module")
def pictures(folder: Path) -> list[Image.Image]:
    found = []
    for seed, side in enumerate([(48, 40), (32, 32), (40, 64)]):
        (folder / f"{seed}.png").write_bytes(tiny_picture(seed, side))
        found.append(Image.open(folder / f"{seed}.png").convert("RGB"))
    return found


def mean_pooled(folder: Path, texts: list[str]) -> np.ndarray:
    """The reference: each text alone through transformers, the mean of its token vectors."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        tokens = [tokenizer(text, return_tensors="pt") for text in texts]
        rows = [model(**each).last_hidden_state[0].mean(0).numpy() for each in tokens]
    return np.array([row / np.linalg.norm(row) for row in rows])


def last_token(folder: Path, contents: list[list[dict[str, Any]]], instruction: str) -> np.ndarray:
    """The reference: each message alone through transformers, the hidden state of its last token."""
    import torch
    from transformers import AutoModel, AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    rows = []
    with torch.inference_mode():
        for content in contents:
            system = {"role": "system", "content": [{"type": "text", "text": instruction}]}
            inputs = processor.apply_chat_template(
                [system, {"role": "user", "content": content}],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            rows.append(model(**inputs).last_hidden_state[0, -1].numpy())
    return np.array([row / np.linalg.norm(row) for row in rows])


def test_a_text_models_queries_and_captions_have_their_own_prompts(text_model: Path) -> None:
    space = load_space(model=str(text_model), device="cpu", batch_size=2)
    expected = {
        prompt: mean_pooled(text_model, [prompt + text for text in TEXTS])
        for prompt in ("match : ", "picture : ")
    }
    assert space.embed_texts(TEXTS) == pytest.approx(expected["match : "], abs=1e-5)
    assert space.embed_captions(TEXTS) == pytest.approx(expected["picture : "], abs=1e-5)
    given = load_space(model=str(text_model), device="cpu", query_prompt="the ", document_prompt="")
    assert given.embed_texts(TEXTS) == pytest.approx(
        mean_pooled(text_model, [f"the {t}" for t in TEXTS]), abs=1e-5
    )
    assert given.embed_captions(TEXTS) == pytest.approx(mean_pooled(text_model, TEXTS), abs=1e-5)
    assert (space.embeds_texts, space.embeds_queries, space.preprocessing_id) == (True, False, "none")
    assert space.embed_texts([]).shape == (0, space.dimension)


def test_a_default_prompt_of_queries_is_not_that_of_captions(folder: Path) -> None:
    prompts = {"query": "match : ", "document": ""}
    model = write_tiny_text_model(folder / "leaning", prompts=prompts, default_prompt_name="query")
    space = load_space(model=str(model), device="cpu")
    assert (space.query_prompt, space.document_prompt) == ("match : ", "")
    assert space.embed_captions(TEXTS) == pytest.approx(mean_pooled(model, TEXTS), abs=1e-5)


def test_a_text_model_refuses_images(text_model: Path, pictures: list[Image.Image]) -> None:
    space = load_space(model=str(text_model), device="cpu")
    with pytest.raises(SpaceError, match="text model and cannot embed images"):
        space.embed_images(pictures)
    with pytest.raises(SpaceError, match="cannot embed an image and a text"):
        space.embed_queries(pictures, TEXTS)


def test_truncated_texts_are_counted_with_their_prompt(text_model: Path) -> None:
    space = load_space(model=str(text_model), device="cpu", query_prompt="a a ")
    assert space.count_truncated(["a " * 30, "a " * 31, "a"]) == 1, "the model reads 32 tokens"


def test_an_embedder_puts_images_texts_and_queries_into_one_space(
    embedder: Path, space: SentenceSpace, pictures: list[Image.Image]
) -> None:
    def image(picture: Image.Image) -> dict[str, Any]:
        return {"type": "image", "image": picture}

    texts = [{"type": "text", "text": text} for text in TEXTS]
    for made, contents in (
        (space.embed_images(pictures), [[image(picture)] for picture in pictures]),
        (space.embed_texts(TEXTS), [[text] for text in texts]),
        (
            space.embed_queries(pictures, TEXTS),
            [[image(picture), text] for picture, text in zip(pictures, texts, strict=True)],
        ),
    ):
        assert made == pytest.approx(last_token(embedder, contents, INSTRUCTION), abs=1e-5)
    assert space.embeds_texts and space.embeds_queries and not space.embeds_patches


def test_the_instruction_of_queries_is_its_own(embedder: Path, pictures: list[Image.Image]) -> None:
    given = load_space(model=str(embedder), device="cpu", query_prompt="make it red")
    content = [{"type": "image", "image": pictures[0]}, {"type": "text", "text": TEXTS[0]}]
    assert given.embed_queries(pictures[:1], TEXTS[:1]) == pytest.approx(
        last_token(embedder, [content], "make it red"), abs=1e-5
    )
    assert given.document_prompt == INSTRUCTION, "the model's default prompt"


def test_an_id_names_weights_prompts_and_preprocessing(
    folder: Path, embedder: Path, text_model: Path, space: SentenceSpace
) -> None:
    same = load_space(model=str(shutil.copytree(embedder, folder / "elsewhere" / "embedder")), device="cpu")
    assert (same.id, same.preprocessing_id) == (space.id, space.preprocessing_id)
    others = [
        load_space(model=str(embedder), device="cpu", query_prompt="red"),
        load_space(model=str(embedder), device="cpu", document_prompt="red"),
        load_space(model=str(write_tiny_embedder(folder / "second" / "embedder", seed=3)), device="cpu"),
        load_space(model=str(embedder), device="cpu", dtype="bfloat16"),
        load_space(model=str(text_model), device="cpu"),
    ]
    assert len({each.id for each in (space, *others)}) == 6
    file = folder / "elsewhere" / "embedder" / "processor_config.json"
    config = json.loads(file.read_text())
    config["image_processor"]["size"]["longest_edge"] = 24 * 24
    file.write_text(json.dumps(config))
    assert load_space(model=str(file.parent), device="cpu").preprocessing_id != space.preprocessing_id


def test_what_cannot_be_loaded_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(SpaceError, match=r"no model of sentence-transformers loads from there"):
        load_space(model=str(folder / "empty"), device="cpu")
    real = builtins.__import__

    def without(name: str, *args: Any, **keys: Any) -> Any:
        if name == "sentence_transformers":
            raise ImportError("No module named 'sentence_transformers'")
        return real(name, *args, **keys)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SpaceError, match=r"pip install 'sentence-transformers"):
        load_space(model="any", device="cpu")


def test_the_method_searches_with_the_vectors_of_picture_and_text(
    tmp_path: Path, embedder: Path, pictures: list[Image.Image]
) -> None:
    shutil.copytree(embedder, tmp_path / "models" / "embedder")
    config = tmp_path / "setr.toml"
    config.write_text(
        '[models]\ndevice = "cpu"\n[coarse]\nstrategies = ["embedder"]\ndefault = "embedder"\n'
        '[spaces.embedder]\nkind = "sentence_transformers"\noptions = {model = "models/embedder"}\n',
        encoding="utf-8",
    )
    context = PipelineContext(load_settings(config))
    method, space = context.methods.get("embedder"), context.models.space("embedder")
    assert method is get_method("embedder") and context.methods.spaces == ["embedder"]
    ids, paths = ["p", "q", "r"], {}
    for name, picture in zip(ids, pictures, strict=True):
        paths[name] = str(tmp_path / f"{name}.png")
        picture.save(paths[name])
    vectors = space.embed_images(pictures)
    queries = queries_of(["p", "r"])
    encoded: EncodedQueries = encode_queries(
        queries, space, ids, vectors, references=ReferencePictures(space, paths)
    )
    gallery = pl.DataFrame({"image_id": ids, "galleries": [["all"]] * 3})
    found = rank(method, encoded, gallery, GalleryIndex(ids, vectors), 3, remove_reference=False)
    for number, reference in enumerate(("p", "r")):
        text = queries["modification"][number]
        query = space.embed_queries([pictures[ids.index(reference)]], [text])[0]
        expected = {name: float(query @ vector) for name, vector in zip(ids, vectors, strict=True)}
        rows = found.filter(query_id=queries["query_id"][number])
        assert dict(rows.select("image_id", "score").iter_rows()) == pytest.approx(expected, abs=1e-6)
        assert rows["image_id"].to_list() == sorted(expected, key=lambda name: -expected[name])
