"""docs/performance.md, made of the measured figures alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.speed.figure import Figure, Step
from benchmarks.speed.machine import COPIED, SIDE, Machine
from benchmarks.speed.results import NAMED, Measured, in_order, ratio, read_results
from setr_lib.files import write_text

PICTURE = "figures/performance.svg"
"""Below the page's folder."""
NONE = "–"
UNITS = ("s", "s a step", "MB", "pictures/s", "pairs/s", "GFLOP/s")
"""What stands after a comma in the names of numbers that are measured besides."""
READING = """Seconds are wall-clock time of the whole work, but for `import` and `help`: processor seconds.
*Of the bound* is the least possible time over SETR's."""
PROFILES = """Where the time goes. Parts that were measured alone, that overlap, or that use several cores at
once (core-seconds) can add up to more than the whole."""
SLOW_S, LARGE_BYTES = 10.0, 2 * 10**9
"""A step of real sizes that takes more is explained, or said not to be."""

INTRODUCTION = f"""# How fast SETR is

Made by `python -m benchmarks.speed` (`make bench`, in less than 20 minutes on two cores; `make bench-full`
with larger sizes, which goes on where it was stopped); not written by hand. Most figures are ratios: SETR and
a named alternative do the same work in the same run, with the same number of threads, and their outputs are
compared. A *bound* is the least time that the counted work can take at rates that were measured in the same
run. The numbers behind the page are in `var/bench.json`.

![Achieved against the bound and against the alternatives]({PICTURE})"""


def write_page(results: Path, page: Path) -> None:
    """Write the page and its picture.

    Args:
        results: ``var/bench.json``.
        page: The page's file; the picture is below its folder.
    """
    from benchmarks.speed.picture import draw

    measured = in_order(read_results(results))
    draw([each.figure for each in measured if each.figure is not None], page.parent / PICTURE)
    write_text(page, page_of(measured))


def page_of(measured: Sequence[Measured]) -> str:
    """The text of the page.

    Args:
        measured: The figures in the order of the page.

    Returns:
        Markdown.
    """
    figures = [each.figure for each in measured if each.figure is not None]
    compared = [figure for figure in figures if not figure.steps]
    parts = [
        INTRODUCTION,
        state(measured),
        _section("The machine", machines(measured)),
        _section("Against the alternatives", overview(compared)),
        _section("What was done", map(described, compared)),
        _section("Targets that are missed", missed_ones(figures)),
        _section("How cost grows", growth(figures)),
        _section("Real sizes, without a model", map(steps_of, (each for each in figures if each.steps))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(heading: str, blocks: Iterable[str]) -> str:
    text = "\n\n".join(block for block in blocks if block)
    return f"## {heading}\n\n{text}" if text else ""


def state(measured: Sequence[Measured]) -> str:
    """What of a whole run there is, what failed, and what differs among the figures.

    Args:
        measured: The figures.

    Returns:
        Sentences.
    """
    figures = [each.figure for each in measured if each.figure is not None]
    names = {figure.name for figure in figures}
    reached = sum(figure.met is True for figure in figures)
    aimed = sum(figure.met is not None for figure in figures)
    lines = [f"{len(figures)} figures{_when(measured)}: {reached} of {aimed} targets are reached."]
    if absent := [name for name in NAMED if name not in names and not _failed(measured, name)]:
        lines.append(f"**This is not a whole run.** Not measured: {', '.join(absent)}.")
    lines += [
        f"**{each.name} could not be measured**: {plain(each.failed)}." for each in measured if each.failed
    ]
    lines += [
        f"**{figure.name}: the outputs differ** ({plain(figure.checked)})."
        for figure in figures
        if not figure.equal
    ]
    if (trees := len({each.digest for each in measured})) > 1:
        lines.append(f"The figures are of {trees} states of code, packages or settings; each says its date.")
    return "\n".join(lines)


def _when(measured: Sequence[Measured]) -> str:
    """When figures were measured, and with which sizes."""
    if not measured:
        return ""
    days = sorted({each.measured_at[:10] for each in measured})
    sizes = sorted({"`make bench-full`" if each.full else "`make bench`" for each in measured})
    return f", measured on {' and '.join(days)} with the sizes of {' and '.join(sizes)}"


def _failed(measured: Sequence[Measured], name: str) -> bool:
    return any(each.name == name and each.failed for each in measured)


def machines(measured: Sequence[Measured]) -> Iterator[str]:
    """What the figures were measured on.

    Args:
        measured: The figures.

    Yields:
        A list for each machine; rates are those of its latest figure.
    """
    latest: dict[tuple[object, ...], Measured] = {}
    for each in sorted(measured, key=lambda each: each.measured_at):
        if (machine := each.machine) is not None:
            key = (machine.processor, machine.cores, machine.threads, machine.accelerator, each.device)
            latest[key] = each
    for each in latest.values():
        assert each.machine is not None
        yield "\n".join(f"- {line}" for line in _machine_lines(each.machine, each.device))


def _machine_lines(machine: Machine, device: str) -> Iterator[str]:
    memory = machine.memory_bytes / 2**30
    yield (
        f"{plain(machine.processor)}, {machine.cores} cores, {memory:.0f} GiB of memory; "
        f"{machine.threads} threads"
    )
    if machine.accelerator:
        rate = (
            ""
            if machine.accelerator_flops is None
            else f", {machine.accelerator_flops / 1e12:.0f} TFLOP/s in bfloat16"
        )
        yield f"{plain(machine.accelerator)}{rate}; models ran on {device}"
    yield (
        f"`F.linear` in float32 at {SIDE}^3: {machine.linear_flops / 1e9:.0f} GFLOP/s; a copy of "
        f"{COPIED >> 20} MiB in memory: {machine.copied_bytes / 1e9:.1f} GB/s, read and written"
    )
    yield ", ".join(f"{name} {version}" for name, version in machine.versions.items())


def overview(figures: Sequence[Figure]) -> Iterator[str]:
    """The table of all figures that are one piece of work.

    Args:
        figures: The figures.

    Yields:
        The table.
    """
    if not figures:
        return
    head = [
        "figure",
        "SETR, s",
        "alternative",
        "its s",
        "SETR is",
        "of the bound",
        "target",
        "",
    ]
    rows = [
        [
            figure.name,
            number(figure.ours_s),
            plain(figure.alternative) or NONE,
            number(figure.alternative_s),
            compared_to(figure.ours_s, figure.alternative_s),
            percent(ratio(figure.bound_s, figure.ours_s)),
            plain(figure.target) or NONE,
            {True: "reached", False: "**missed**", None: ""}[figure.met],
        ]
        for figure in figures
    ]
    yield READING
    yield table(head, rows, right=(1, 3, 4, 5))


def compared_to(ours_s: float, alternative_s: float | None) -> str:
    """How fast SETR is against an alternative.

    Args:
        ours_s: Seconds of SETR.
        alternative_s: Those of the alternative; None where there is none.

    Returns:
        E.g. ``10.8 x faster``, ``1.55 x slower``.
    """
    if alternative_s is None:
        return NONE
    faster = ours_s <= alternative_s
    times = alternative_s / ours_s if faster else ours_s / alternative_s
    return f"{number(times)} x {'faster' if faster else 'slower'}"


def described(figure: Figure) -> str:
    """What a figure is, in a paragraph.

    Args:
        figure: The figure.

    Returns:
        Markdown.
    """
    head = f"**{figure.name}**: {_sentence(figure.work)}"
    lines: list[str] = []
    if figure.alternative:
        lines.append(f"Against: {_sentence(figure.alternative)}")
    if figure.checked:
        lines.append(f"Compared: {'' if figure.equal else '**not equal**; '}{_sentence(figure.checked)}")
    if figure.bound_s is not None:
        lines.append(f"Bound: {_sentence(f'{number(figure.bound_s)} s; {figure.bound}'.rstrip('; '))}")
    if figure.whole_s is not None:
        share = percent(ratio(figure.ours_s, figure.whole_s))
        lines.append(f"The whole takes {number(figure.whole_s)} s; this is {share} of it.")
    if figure.also:
        also = (with_unit(plain(name), value) for name, value in figure.also.items())
        lines.append(f"Measured besides: {'; '.join(also)}.")
    if figure.note:
        lines.append(_sentence(figure.note))
    return "\n\n".join([head, "\n".join(f"- {line}" for line in lines)]) if lines else head


def with_unit(name: str, value: float) -> str:
    """A number that was measured besides, its unit behind it.

    Args:
        name: What it is, with its unit at the end where it has one: ``bare faiss, s``.
        value: The number.

    Returns:
        E.g. ``bare faiss: 0.118 s``.
    """
    what, _, unit = name.rpartition(", ")
    if unit in UNITS:
        return f"{what}: {number(value)} {unit}"
    return f"{name}: {value:,.0f}" if value == int(value) else f"{name}: {number(value)}"


def is_missed(figure: Figure) -> bool:
    """Whether a figure has a target and does not reach it.

    Args:
        figure: The figure.

    Returns:
        Whether.
    """
    return figure.met is False


def missed_ones(figures: Sequence[Figure]) -> Iterator[str]:
    """The figures that miss their targets, each with where its time goes.

    Args:
        figures: All figures.

    Yields:
        How to read it, then each figure.
    """
    found = [missed(figure) for figure in figures if is_missed(figure)]
    if found:
        yield PROFILES
    yield from found


def missed(figure: Figure) -> str:
    """Where the time went of a figure that misses its target.

    Args:
        figure: The figure.

    Returns:
        Markdown.
    """
    first = f"**{figure.name}**: {_sentence(figure.target)}"
    if not figure.profile:
        return f"{first} **There is no profile of it.**"
    rows = [
        [plain(part), number(seconds), percent(seconds / figure.ours_s)] for part, seconds in figure.profile
    ]
    return f"{first}\n\n{table(['part', 's', f'of {number(figure.ours_s)} s'], rows, right=(1, 2))}"


def growth(figures: Sequence[Figure]) -> Iterator[str]:
    """How seconds grow with sizes.

    Args:
        figures: The figures.

    Yields:
        A sentence and the table.
    """
    grown = [(figure.name, figure.growth) for figure in figures if figure.growth is not None]
    if not grown:
        return
    yield (
        "The exponent is the slope of log seconds over log size: 1 where cost grows with the size, 2 with "
        "its square."
    )
    rows = [
        [
            name,
            plain(each.unit),
            " / ".join(f"{size:,}" for size in each.sizes),
            " / ".join(number(seconds) for seconds in each.seconds),
            f"{each.exponent():.2f}",
        ]
        for name, each in grown
    ]
    yield table(["figure", "sizes of", "sizes", "s", "exponent"], rows, right=(4,))


def steps_of(figure: Figure) -> str:
    """The steps of a figure with their seconds and memory.

    Args:
        figure: The figure.

    Returns:
        Markdown.
    """
    rows = [
        [plain(step.name), number(step.seconds), megabytes(step.peak_bytes), _why(step)]
        for step in figure.steps
    ]
    head = ["step", "s", "peak memory, MB", "note"]
    return f"{described(figure)}\n\n{table(head, rows, right=(1, 2))}"


def _why(step: Step) -> str:
    much = step.seconds > SLOW_S or (step.peak_bytes or 0) > LARGE_BYTES
    return plain(step.note) or ("**not explained**" if much else "")


def number(value: float | None) -> str:
    """A number with three digits that count.

    Args:
        value: The number, or None for none.

    Returns:
        E.g. ``0.112``, ``4.53``, ``1,240``.
    """
    if value is None:
        return NONE
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def percent(share: float | None) -> str:
    """A share in percent.

    Args:
        share: The share, or None for none.

    Returns:
        E.g. ``92 %``.
    """
    if share is None:
        return NONE
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def megabytes(size: int | None) -> str:
    """Bytes in megabytes.

    Args:
        size: Bytes, or None where they are not known.

    Returns:
        E.g. ``1,240``.
    """
    return NONE if size is None else f"{size / 1e6:,.0f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table in Markdown.

    Args:
        head: The headings.
        rows: The cells.
        right: Columns whose cells end at the right.

    Returns:
        Its lines.
    """
    rules = ["---:" if column in right else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rules, *rows])


def plain(text: str) -> str:
    """A text of a benchmark as a cell or within a line; what it marks as code stays so.

    Args:
        text: The text; line ends become spaces.

    Returns:
        Markdown.
    """
    return " ".join(text.split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    text = plain(text)
    return text if not text or text[-1] in ".:!?" else f"{text}."
