"""Base of the converters: rules that map files to files, and the run that applies them."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from segkernel.errors import DataError, UsageError
from segplug_datasets.prepare.output import WORK, Job, Manifest, Output, refuse_nesting
from segplug_datasets.prepare.sources import SourceFile, open_files

Step = Callable[[SourceFile, str, Output], None]
"""Converts a file of the download to its target: ``step(file, target, output)``."""

Target = Callable[["re.Match[str]"], "str | None"]
"""Target of a matched name; None if the file is not used."""

Progress = Callable[[int, int], None]
"""Callback with the number of finished jobs and of all jobs."""


@dataclass(frozen=True)
class Rule:
    """Files of the download with the same conversion.

    Args:
        what: Name of the files in messages: ``labels``.
        pattern: Regular expression of the end of their names, from a folder on, case-insensitive.
        target: Path of the result, or a part of it that the step completes.
        step: Conversion of each file that has a target.
        needed: Whether a valid download must have such files.
    """

    what: str
    pattern: str
    target: Target
    step: Step | None = None
    needed: bool = True

    def match(self, name: str) -> re.Match[str] | None:
        """Return the match of a file's name."""
        return re.search(rf"(?:^|/)(?:{self.pattern})$", name, re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """One split of the result, and how many images it has as published.

    Args:
        name: The split.
        images: Folder of the images, with those inside it.
        count: Published numbers of images: one, or one per edition; empty when it depends on the download.
        masks: Folders of the label files, one per edition of which one suffices; empty when there are no labels.
        suffixes: Ends of image and label names; what precedes them is the same.
        listed: A text file with the names of this split; the folders may hold more.
    """

    name: str
    images: str
    count: tuple[int, ...] = ()
    masks: tuple[str, ...] = ()
    suffixes: tuple[str, str] = (".png", ".png")
    listed: str = ""


@dataclass(frozen=True)
class Converter:
    """Converter from the download of a published data set to the layout that its data set class reads.

    Args:
        name: For the command line.
        title: One-line description of the set.
        homepage: Where it is described and offered, as ``host/path``.
        terms: What its licence allows, in a few words; the homepage has the full terms.
        download: What SOURCE must contain.
        reads: The data set classes that read the result.
        rules: Conversion rules; the first that matches a name is used.
        parts: The splits of the result.
        more: Further jobs, of all files that the rules found; a rule whose target is `left_to_more` only finds them.
        in_place: Whether DEST may be SOURCE.
        root: The ``data_root`` of these classes, in the destination.
        arguments: Further arguments that they need, in config syntax.
    """

    name: str
    title: str
    homepage: str
    terms: str
    download: str
    reads: str
    rules: tuple[Rule, ...]
    parts: tuple[Part, ...]
    more: Callable[[Sequence[SourceFile]], Iterator[Job]] | None = None
    in_place: bool = False
    root: str = ""
    arguments: str = ""

    def rule_of(self, name: str) -> tuple[Rule, re.Match[str]] | None:
        """Return the rule that matches a file's name."""
        for rule in self.rules:
            if found := rule.match(name):
                return rule, found
        return None


def left_to_more(match: re.Match[str]) -> None:
    """Target of rules whose files are handled by the converter's ``more``."""


@dataclass
class Report:
    """Result of a conversion.

    Args:
        made: Jobs done now.
        kept: Jobs found done.
        failed: What could not be read or written, one message each.
        counts: Images per split.
        odd: How the result differs from what was published.
    """

    made: int = 0
    kept: int = 0
    failed: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)


def prepare(
    converter: Converter,
    source: str | Path,
    dest: str | Path,
    workers: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Convert a download; finished files of an earlier run are kept.

    Args:
        converter: Converter of the data set.
        source: The folder, or the archive, with the download.
        dest: The folder to write into.
        workers: Number of threads; 0 is one per CPU.
        force: Overwrite finished files.
        progress: Called after each job.

    Raises:
        DataError: When the source is not the set's download.
        UsageError: When ``workers`` is negative.
    """
    if workers < 0:
        raise UsageError(f"workers must be 0 (one per CPU) or more, not {workers}")
    source, dest = Path(source), Path(dest)
    refuse_nesting(source, dest, converter.in_place)
    manifest, work = Manifest(dest, converter.name, force), dest / WORK / converter.name
    with open_files(source, work, lambda name: converter.rule_of(name) is not None, _inside(dest, source)) as files:
        jobs = _jobs(converter, files, source)
        waiting = [job for job in jobs if not manifest.has(job)]
        report = Report(len(waiting), len(jobs) - len(waiting))
        report.failed = _run(waiting, dest, manifest, workers or os.cpu_count() or 1, progress or (lambda *_: None))
    report.made -= len(report.failed)
    if not report.failed:
        shutil.rmtree(work, ignore_errors=True)
    for part in converter.parts:
        names, odd = check(part, dest)
        report.counts[part.name] = names
        report.odd += odd
    return report


def check(part: Part, dest: Path) -> tuple[int, list[str]]:
    """Return the number of images of a split, and differences from the published set."""
    images = _names(dest / part.images, part.suffixes[0])
    if part.listed and not (dest / part.listed).exists():
        return 0, [f"{part.name}: no list {part.listed}"]
    wanted = set((dest / part.listed).read_text("utf-8").split()) if part.listed else images
    odd = []
    if part.count and len(wanted) not in part.count:
        published = " or ".join(map(str, part.count))
        odd.append(f"{part.name}: {len(wanted)} images, {published} were published")
    odd += _missing(wanted - images, f"{part.name}: without an image in {part.images}")
    for folder in [name for name in part.masks if (dest / name).is_dir()] or part.masks[:1]:
        masks = _names(dest / folder, part.suffixes[1])
        odd += _missing(wanted - masks, f"{part.name}: without labels in {folder}")
        odd += _missing(set() if part.listed else masks - images, f"{part.name}: labels without an image in {folder}")
    return len(wanted), odd


def _inside(dest: Path, source: Path) -> Path | None:
    """Return the destination as a path in the source, if it is there."""
    try:
        inner = dest.resolve().relative_to(source.resolve())
    except ValueError:
        return None
    return source / inner if inner.parts else None


def _jobs(converter: Converter, files: Sequence[SourceFile], source: Path) -> list[Job]:
    """Return the jobs, in order; of two files with the same target the first is used."""
    jobs: dict[str, Job] = {}
    used: list[SourceFile] = []
    seen = set()
    for file in files:
        rule, found = converter.rule_of(file.name) or (None, None)
        if rule is None or found is None:
            continue
        seen.add(rule)
        used.append(file)
        target = rule.target(found)
        if target is not None and rule.step is not None:
            jobs.setdefault(target, Job(target, file.stamp, partial(rule.step, file, target)))
    missing = [rule.what for rule in converter.rules if rule.needed and rule not in seen]
    if missing:
        raise DataError(f"holds no {', no '.join(missing)}: {converter.name} needs {converter.download}", source)
    for job in converter.more(used) if converter.more else ():
        jobs.setdefault(job.name, job)
    return list(jobs.values())


def _run(jobs: Sequence[Job], dest: Path, manifest: Manifest, workers: int, progress: Progress) -> list[str]:
    """Run jobs in parallel; return errors in the data. A full disk stops all."""
    failed = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done, message in enumerate(pool.map(lambda job: _do(job, dest, manifest), jobs), 1):
                failed += [message] if message else []
                progress(done, len(jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _do(job: Job, dest: Path, manifest: Manifest) -> str | None:
    output = Output(dest)
    try:
        job.write(output)
    except (DataError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        return f"{job.name}: {error}"
    manifest.add(job, output.written)
    return None


def _names(folder: Path, suffix: str) -> set[str]:
    files = (path for path in folder.rglob(f"*{suffix}") if not path.name.startswith("."))
    return {path.relative_to(folder).as_posix()[: -len(suffix)] for path in files}


def _missing(names: set[str], what: str) -> list[str]:
    if not names:
        return []
    shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"{what}: {shown}"]
