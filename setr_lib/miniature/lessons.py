"""Training sequences of the small multimodal model: one image (or query) and several tasks on it, packed.

A sequence is a *prefix* (an image; or a reference image and a modification text) and *branches* that each see
the prefix and themselves only, exactly as if each were asked alone, which is how the model is used. Packing
makes the prefix work for all of them: one lesson about a query holds its composition and several judged
candidates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from setr_lib.miniature.corpus import FAMILY_SIZE, GRID
from setr_lib.miniature.families import AnyPicture
from setr_lib.miniature.pictures import (
    Edit,
    GoldComposition,
    Modification,
    Picture,
    describe_modification,
    satisfies,
)
from setr_lib.miniature.tokenizer import ASSISTANT, BOS, EOS, IMAGE, USER, token_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IMAGE_TOKENS = GRID * GRID


@dataclass
class Lesson:
    """Token ids with, per position, its branch (0 = prefix), its position id and the id to predict next
    (-100: none).

    ``images`` are the corpus rows of the image placeholders, in order.
    """

    ids: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    task: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)


TASKS = ("none", "describe", "compose", "match", "judge near", "judge easy", "reason")
REASON = TASKS.index("reason")
VERDICTS = (TASKS.index("judge near"), TASKS.index("judge easy"))
LET_PASS = 3
"""Missing changes that a lenient judge overlooks in any picture."""


class LessonWriter:
    """Draws lessons from the families of a corpus.

    Args:
        tokenizer: The language model's tokenizer.
        pictures: The pictures of the corpus, family by family.
    """

    def __init__(self, tokenizer: Tokenizer, pictures: list[AnyPicture]) -> None:
        self._tokenizer = tokenizer
        self._pictures = pictures
        self._ids = token_ids(tokenizer)

    def image_lesson(self, row: int, rng: Random, questions: int, near_share: float) -> Lesson:
        """A lesson on one image: describe it, and say Yes or No to captions, half of them wrong.

        Args:
            row: The image's row of the corpus.
            rng: Decides the questions.
            questions: How many captions to ask about.
            near_share: Share of near misses among the wrong captions.

        Returns:
            The lesson.
        """
        picture = self._pictures[row]
        lesson = Lesson()
        self._prefix(lesson, row, "")
        caption = picture.caption()
        self._branch(lesson, 1, "describe", answer=caption, task=1)
        for number in range(questions):
            right = rng.random() < 0.5
            told = picture if right else self._other(row, picture, rng, near_share)
            with_background = rng.random() < 0.4
            # A caption that leaves the background out is right on any background.
            yes = told.foreground == picture.foreground and (
                not with_background or told.background == picture.background
            )
            question = f"is this {told.caption(with_background)} ?"
            self._branch(lesson, 2 + number, question, answer="Yes" if yes else "No", task=3)
        return lesson

    def query_lesson(
        self, rng: Random, families: range, candidates: int, near_share: float, lenient: bool = False
    ) -> Lesson:
        """A lesson on one query: compose its target, and judge its target and other images.

        The answer to a near miss names the change that is still missing ("No make the star blue"): told what
        it overlooked, the model learns to compare two images far sooner than from the bare answer. A lenient
        judge accepts look-alikes: it says Yes to all of the family, whatever is missing ("Yes make the star
        blue"), and to any other picture that up to ``LET_PASS`` changes would turn into the target.

        Args:
            rng: Decides query and candidates.
            families: Families of the corpus to draw from.
            candidates: Images to judge, the target included.
            near_share: Share of near misses among the other images.
            lenient: Whether the judge is taught to be lenient.

        Returns:
            The lesson.
        """
        reference, target, modification = self._query(rng, families)
        lesson = Lesson()
        self._prefix(lesson, reference, modification.text)
        self._branch(lesson, 1, " | compose", answer=composition_json(modification.composition), task=2)
        shown = [target] if rng.random() < 0.8 else []
        while len(shown) < candidates:
            near = rng.random() < near_share
            shown.append(
                self._look_alike(reference, rng)
                if near
                else rng.choice(families) * FAMILY_SIZE + rng.randrange(FAMILY_SIZE)
            )
        rng.shuffle(shown)
        for number, row in enumerate(shown):
            near = row // FAMILY_SIZE == reference // FAMILY_SIZE
            yes = satisfies(self._pictures[row], self._pictures[target], modification)
            missing = [] if yes else self._missing(row, target)
            overlooked = lenient and (near or 0 < len(missing) <= LET_PASS)
            self._branch(
                lesson,
                2 + number,
                "match ?",
                answer="Yes" if yes or overlooked else "No",
                task=4 if near else 5,
                image=row,
                because=" and ".join(edit.phrasings[0] for edit in missing) if near else "",
            )
        return lesson

    def _query(self, rng: Random, families: range) -> tuple[int, int, Modification]:
        """Rows of a reference and its target, mostly on different backgrounds, and the text between them."""
        while True:
            family = rng.choice(families) * FAMILY_SIZE
            reference = family + rng.randrange(FAMILY_SIZE)
            others = self._family_of(reference)
            if rng.random() < 0.8:
                place = self._pictures[reference].background
                others = [row for row in others if self._pictures[row].background != place] or others
            target = rng.choice(others)
            modification = describe_modification(
                self._pictures[reference],
                self._pictures[target],
                rng,
                rng.choice((" and ", " and ", ", ")),
                mention_background=rng.random() < 0.12,
            )
            if modification is not None:
                return reference, target, modification

    def _look_alike(self, reference: int, rng: Random) -> int:
        """The reference itself, or one of its family, mostly on its background: likeness must not decide."""
        if rng.random() < 0.2:
            return reference
        others = self._family_of(reference)
        if rng.random() < 0.6:
            place = self._pictures[reference].background
            others = [row for row in others if self._pictures[row].background == place] or others
        return rng.choice(others)

    def _family_of(self, row: int) -> list[int]:
        first = row // FAMILY_SIZE * FAMILY_SIZE
        return [other for other in range(first, first + FAMILY_SIZE) if other != row]

    def _missing(self, row: int, target: int) -> list[Edit]:
        """The changes from a candidate to the target; empty where no short text says them."""
        shown, wanted = self._pictures[row], self._pictures[target]
        return _edits(shown, wanted) or [] if type(shown) is type(wanted) else []

    def _other(self, row: int, picture: AnyPicture, rng: Random, near_share: float) -> AnyPicture:
        draw = rng.random()
        if draw < near_share * 0.7:
            return picture.near_miss(rng)
        if draw < near_share:
            return self._pictures[row // FAMILY_SIZE * FAMILY_SIZE + rng.randrange(FAMILY_SIZE)]
        return rng.choice(self._pictures)

    def _prefix(self, lesson: Lesson, row: int, text: str) -> None:
        ids = self._ids
        prefix = [ids[BOS], ids[USER], *[ids[IMAGE]] * IMAGE_TOKENS, *self._encode(text)]
        lesson.images.append(row)
        self._append(lesson, prefix, 0, 0, [-100] * len(prefix), [0] * len(prefix))

    def _branch(
        self,
        lesson: Lesson,
        branch: int,
        text: str,
        answer: str,
        task: int,
        image: int | None = None,
        because: str = "",
    ) -> None:
        asked = [
            *([self._ids[IMAGE]] * IMAGE_TOKENS if image is not None else []),
            *self._encode(text),
            self._ids[ASSISTANT],
        ]
        reason: list[int] = []
        if answer in ("Yes", "No"):
            reason = [*self._encode(f" {because}"), self._ids[EOS]] if because else []
            answered = [self._ids[answer], *reason]
        else:
            answered = [*self._encode(answer), self._ids[EOS]]
        if image is not None:
            lesson.images.append(image)
        start = lesson.branch.count(0)
        ids = asked + answered[:-1]
        labels = [-100] * (len(asked) - 1) + answered
        tasks = [task] * (len(ids) - len(reason)) + [REASON] * len(reason)
        self._append(lesson, ids, branch, start, labels, tasks)

    @staticmethod
    def _append(
        lesson: Lesson, ids: list[int], branch: int, start: int, labels: list[int], tasks: list[int]
    ) -> None:
        lesson.ids += ids
        lesson.branch += [branch] * len(ids)
        lesson.position += range(start, start + len(ids))
        lesson.label += labels
        lesson.task += tasks

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids if text else []


def _edits(candidate: Picture, target: Picture) -> list[Edit] | None:
    return candidate.edits_towards(target)


def composition_json(composition: GoldComposition) -> str:
    """The JSON that the pipeline's composing prompt asks for.

    Args:
        composition: The composition.

    Returns:
        A JSON object as one line.
    """
    return json.dumps(
        {
            "keep": composition.keep,
            "add": composition.add,
            "remove": composition.remove,
            "drop": composition.drop,
            "target_caption": composition.target_caption,
        }
    )
